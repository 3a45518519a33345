"""What the KubeRay operator 1.7 does with a RayJob that has ended, as its source says (`rayjob_controller.go`)."""

from dataclasses import dataclass

from tests.k8s.rendering import Document


@dataclass(frozen=True)
class End:
    """How an attempt at a RayJob may end."""

    job_status: str
    deployment_status: str
    reason: str = ""


ENDS = (
    End("SUCCEEDED", "Complete"),
    End("STOPPED", "Complete"),  # `job stop`, or Stop in the dashboard
    End("FAILED", "Failed", "AppFailed"),
    End("RUNNING", "Failed", "DeadlineExceeded"),
    End("RUNNING", "Failed", "JobStatusCheckTimeoutExceeded"),
    End("PENDING", "Failed", "SubmissionFailed"),
    End("", "Failed", "PreRunningDeadlineExceeded"),
)
NOT_TRIED_AGAIN = {"DeadlineExceeded", "JobStatusCheckTimeoutExceeded"}


def seconds_until_the_cluster_is_gone(spec: Document, end: End) -> int | None:
    """From a RayJob's last end until its cluster is deleted; None if it never is."""
    if rules := spec.get("deletionStrategy", {}).get("deletionRules"):
        after = [
            rule["condition"].get("ttlSeconds", 0)
            for rule in rules
            if rule["policy"] in ("DeleteCluster", "DeleteSelf")
            and rule["condition"].get("jobStatus", end.job_status) == end.job_status
            and rule["condition"].get("jobDeploymentStatus", end.deployment_status) == end.deployment_status
        ]
        return min(after, default=None)
    return spec.get("ttlSecondsAfterFinished", 0) if spec.get("shutdownAfterJobFinishes") else None


def most_seconds_of_all_attempts(spec: Document, deadline: str) -> int:
    """What a deadline comes to in all attempts: each has it anew, and one that is met may be the last attempt's."""
    return int(spec[deadline]) * (1 + int(spec.get("backoffLimit", 0)))

"""The operations guide: every block of commands says whether it is run by tests, and those that do are run here."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from resnet_dist.ray_metrics import COUNTERS, GAUGES
from tests.image_trees import image_tree, write_directory
from tests.k8s import test_kuberay_rules as rules
from tests.k8s.operator_rules import most_seconds_of_all_attempts
from tests.k8s.rendering import OVERLAYS, ROOT, documents, of_kind, the
from tests.k8s.schemas import KUBERNETES, errors
from tests.tune_jobs.recorded import record_experiment, record_result
from tune_jobs.grid.experiment import load_experiment

GUIDE = ROOT / "docs" / "operations.md"
BLOCK = re.compile(r"^\*(Run by the tests|Not run here):\*\n\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EVERYWHERE = {"base64", "cat", "echo", "export", "fromjson", "git", "grep", "head", "mkdir", "select", "sh", "test"}
"""Programs of every system, and words of jq's."""
PROGRAMS = {"aws", "curl", "docker", "helm", "jq", "kind", "kubectl", "python", "resnet-dist"}
RUN = [text for mark, text in BLOCK.findall(GUIDE.read_text()) if mark == "Run by the tests"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the guide's commands need of a checkout, to be changed by them."""
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    for package in ("cluster", "resnet_dist", "tune_jobs"):
        (tmp_path / package).symlink_to(ROOT / package)
    return tmp_path


def _execute(block: str, checkout: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "RESNET_DIST_STORAGE": str(checkout / "results")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_block_says_whether_it_is_run() -> None:
    assert len(re.findall("^```sh$", GUIDE.read_text(), re.MULTILINE)) == len(BLOCK.findall(GUIDE.read_text())) > 10
    assert len(RUN) == 8, "each has a test below"


def test_the_overlay_of_ones_own_is_valid(checkout: Path) -> None:
    rendered = documents(_execute(RUN[0], checkout))
    job = the(rendered, "RayJob", "grid")
    assert job["spec"]["entrypoint"].split()[:6] == ["python", "-m", "tune_jobs", "grid", "run", "model-size"]
    assert the(rendered, "ConfigMap", "resnet-dist-settings")["data"]["RESNET_DIST_STORAGE"] == "s3://my-bucket/results"
    assert [error for document in rendered for error in errors(document, KUBERNETES[0])] == []
    rules.test_every_grid_is_submitted_by_a_pod_and_its_cluster_ends(rendered)
    rules.test_every_cluster_keeps_the_rules(rendered)
    for document in of_kind(rendered, "RayJob") + of_kind(rendered, "RayCluster"):
        images = re.findall(r"'image': '([^']+)'", str(document))
        assert images and all(image.startswith("registry.example.com/resnet-dist") for image in images)

    # Monitoring is put on top of it.
    monitored = documents(_execute(RUN[5], checkout))
    added = {(d["kind"], d["metadata"]["name"]) for d in monitored if d not in rendered}
    assert added == {
        ("PodMonitor", "ray"),
        ("PrometheusRule", "resnet-dist"),
        ("NetworkPolicy", "metrics"),
        ("ConfigMap", "resnet-dist-dashboard"),
    }

    # The session is the same cluster, with the same patches, and a name of its own.
    session = the(documents(_execute(RUN[6], checkout)), "RayCluster", "session")
    assert errors(session, KUBERNETES[0]) == []
    workers, of_session = job["spec"]["rayClusterSpec"]["workerGroupSpecs"], session["spec"]["workerGroupSpecs"]
    for groups, name in ((workers, "grid"), (of_session, "session")):
        for group in groups:
            assert group["template"]["metadata"]["labels"].pop("app.kubernetes.io/instance") == name
    assert of_session == workers


def test_the_second_grid_is_another_job_and_nothing_else_twice(checkout: Path) -> None:
    second = documents(_execute(RUN[7], checkout))
    assert {(d["kind"], d["metadata"]["name"]) for d in second} == {
        ("RayJob", "grid-preactivation"),
        ("PodDisruptionBudget", "grid-head-preactivation"),
    }
    assert [error for document in second for error in errors(document, KUBERNETES[0])] == []
    assert load_experiment(the(second, "RayJob", "grid-preactivation")["spec"]["entrypoint"].split()[5]).tables


def test_what_the_commands_need_is_said_before_them() -> None:
    wanted, _, rest = GUIDE.read_text().partition("## 1. ")
    commands = "\n".join(text for _, text in BLOCK.findall(rest)).replace("\\\n", " ")
    commands = re.sub(r"<<'END'.*?^END$", "", commands, flags=re.DOTALL | re.MULTILINE)
    used = set(re.findall(r"(?:^|\|\s*|\$\()([a-z][\w-]*)(?= )", commands, re.MULTILINE)) - EVERYWHERE
    assert used == PROGRAMS
    for program in used:
        assert re.search(rf"`{program}`", wanted), program


def test_the_driver_is_one_that_the_build_of_pytorch_runs_with() -> None:
    lines = (ROOT / "constraints.txt").read_text()
    (cuda,) = set(re.findall(r"^nvidia-\w+-cu(\d+)==", lines, re.MULTILINE))
    text = GUIDE.read_text()
    # NVIDIA's release notes: the oldest branch of drivers for each major version of CUDA.
    oldest = {"12": "R525", "13": "R580"}[cuda]
    assert f"R580 or newer, since the image's PyTorch is built for CUDA {cuda}" in " ".join(text.split())
    assert set(re.findall(r"\bR\d{3}\b", text)) == {oldest}


def test_the_bounds_on_the_cost_are_those_of_all_attempts(checkout: Path) -> None:
    spec = the(documents(_execute(RUN[0], checkout)), "RayJob", "grid")["spec"]
    rows = dict(re.findall(r"^\| .* \| `(\w+DeadlineSeconds)` \| (.*) \|$", GUIDE.read_text(), re.MULTILINE))
    for deadline, said in rows.items():
        one, every = (int(hours) * 3600 for hours in re.findall(r"(\d+) h", said))
        assert (one, every) == (spec[deadline], most_seconds_of_all_attempts(spec, deadline))
    assert rows.keys() == {"preRunningDeadlineSeconds", "activeDeadlineSeconds"}
    assert "three days in all" in (ROOT / "k8s" / "base" / "grid" / "rayjob.yaml").read_text() and every == 3 * 86400


def test_the_operator_waits_until_a_cloud_has_replaced_a_lost_node() -> None:
    install = next(text for _, text in BLOCK.findall(GUIDE.read_text()) if "helm install" in text)
    assert "env[0].name=RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS" in install
    seconds = re.search(r"--set-string 'env\[0\]\.value=(\d+)'", install)
    assert seconds and int(seconds[1]) >= 600, "its own 300 s are over before the pod is evicted and the node deleted"


def test_what_is_applied_again_is_deleted_first() -> None:
    texts = [GUIDE, *(ROOT / "k8s").rglob("*.yaml")]
    for text in (" ".join(re.sub(r"^#", "", file.read_text(), flags=re.M).split()) for file in texts):
        for sentence in re.findall(r"[^.:|]*\bapply(?:ing)?\b[^.|]*\b(?:again|once more)\b[^.|]*", text):
            assert "delete" in sentence or "bucket" in sentence, sentence  # the store's Job is gone when it is done


def test_keys_come_from_where_there_are_some_for_s3() -> None:
    assert "Workload Identity" not in GUIDE.read_text(), "Google's and Azure's identities open no S3 storage"


def test_storage_is_checked_and_the_plan_printed(checkout: Path) -> None:
    assert "15 trials" in _execute(RUN[1], checkout)


def test_data_are_put_into_storage(checkout: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("IMAGES", f"folder:{write_directory(checkout / 'images', image_tree())}")
    assert "are now in" in _execute(RUN[2], checkout)


def test_what_is_in_storage_is_told_and_reported(checkout: Path) -> None:
    experiment = load_experiment("model-size")
    storage, planned = record_experiment(checkout, experiment, seeds=1)
    record_result(storage, experiment.name, planned[0], 0.08)
    Path(storage.uri).rename(checkout / "results")
    told = _execute(RUN[3], checkout)
    assert "1 finished" in told and "4 missing" in told
    assert "8.00" in _execute(RUN[4], checkout)
    assert (checkout / "results" / "model-size" / "report" / "report.html").is_file()
    assert len((checkout / "trials.csv").read_text().splitlines()) == 1 + 5


def test_every_metric_is_in_the_guide() -> None:
    named = set(re.findall(r"`ray_(resnet_dist_\w+)`", GUIDE.read_text()))
    assert named == set(GAUGES) | {f"{name}_total" for name in COUNTERS}


def test_what_is_named_exists() -> None:
    text = GUIDE.read_text()
    for path in set(re.findall(r"`((?:k8s|tests|docs)/[\w./-]+)`", text)):
        assert (ROOT / path).exists(), path
    for overlay in re.findall(r"k8s/overlays/([\w-]+)", text):
        assert overlay in [*OVERLAYS, "mine", "mine-session", "second"], overlay


def test_versions_agree_with_the_project() -> None:
    text = GUIDE.read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    ray = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert ray and f"Ray {ray.group(1)}" in text
    assert set(re.findall(r"\d+\.\d+\.\d+-ray\d+\.\d+\.\d+", text)) == {f"{version}-ray{ray.group(1)}"}
    assert set(re.findall(r"-ray(\S+?)-c", (ROOT / "Dockerfile").read_text())) == {ray.group(1)}
    assert f"Kubernetes {KUBERNETES[0]} to {KUBERNETES[1]}" in text
    assert len(set(re.findall(r"(?:--version |ref=v|KubeRay )(\d+\.\d+\.\d+)", text))) == 1

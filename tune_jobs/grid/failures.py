"""What kind of failure an error is. It is asked of runs in one process too, so nothing here loads Ray."""

import re

from resnet_dist.plurals import counted

# What the errors of Ray and torch are called, in whatever they are wrapped.
_MEMORY = re.compile(
    r"OutOfMemoryError|MemoryError|out of memory|running low on memory|(can't|cannot) allocate memory", re.IGNORECASE
)
_DEATH = re.compile(r"(Actor|Worker|Node|Owner)(Died|Crashed|Unavailable)|RayActorError|died unexpectedly")


def failure_of(error: BaseException, attempts: int) -> tuple[str, str]:
    """Kind and reason, one line, of the error that a trial's last attempt ended with.

    `out_of_memory`: of a device, or Ray ended the process because the node's ran low. `killed`: its process or node
    died. `error`: anything else.
    """
    cause = getattr(error, "cause", None) or error
    text = f"{type(error).__name__} {type(cause).__name__} {error}"
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    last = (lines[-1] if lines else type(cause).__name__)[:500]
    if _MEMORY.search(text):
        advice = "a higher data.accumulation takes less, and so do more workers"
        return "out_of_memory", f"out of memory in {counted(attempts, 'attempt')}; {advice}: {last}"
    if _DEATH.search(text):
        return "killed", f"its process or node died in {counted(attempts, 'attempt')}: {last}"
    return "error", last

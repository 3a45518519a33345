"""Where a number comes from: source commit and uncommitted patch, library versions, host, device, data.

Nothing here reads the environment's variables, where credentials live.
"""

import functools
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from resnet_dist.workers import Workers

PATCH_LIMIT = 1_000_000
"""Bytes of uncommitted changes that are kept with a trial."""


def now() -> str:
    """The time, in UTC, to the second: 2026-01-31T12:00:00+00:00."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def source_state(directory: Path | None = None) -> tuple[str | None, str]:
    """Commit of the source tree that this package runs from, and the patch of its uncommitted changes.

    The patch covers tracked changes and new files, never ignored ones. Outside a git checkout: (None, "").
    """
    directory = directory or Path(__file__).resolve().parent.parent
    commit = _git(directory, "rev-parse", "HEAD")
    if commit is None:
        return None, ""
    patch = _git(directory, "diff", "--no-ext-diff", "--binary", "HEAD") or ""
    new = (_git(directory, "ls-files", "--others", "--exclude-standard", "-z") or "").split("\0")
    for name in filter(None, new):
        if (directory / name).is_file() and (directory / name).stat().st_size <= PATCH_LIMIT:
            patch += _git(directory, "diff", "--no-ext-diff", "--binary", "--no-index", "/dev/null", name) or ""
    if len(patch.encode()) > PATCH_LIMIT:
        patch = patch.encode()[:PATCH_LIMIT].decode(errors="ignore") + "\n# cut here: the patch is over 1 MB\n"
    return commit.strip(), patch


@functools.cache
def running_source() -> tuple[str | None, str]:
    """`source_state` when this process first asked.

    A process runs the code that it has imported, so a Tune actor that trains many trials asks git once: it takes a
    process for each new file, and later edits are not what runs here.
    """
    return source_state()


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, text=True, timeout=30, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    differs = "--no-index" in arguments and done.returncode == 1  # what diff answers when it has something to say
    return done.stdout if done.returncode == 0 or differs else None


def describe(workers: Workers, data_fingerprint: str) -> dict[str, Any]:
    """What `provenance.json` says of the code, the libraries and the machine."""
    commit, patch = running_source()
    cuda = workers.device.type == "cuda"
    return {
        "commit": commit,
        "dirty": bool(patch),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "ray": metadata.version("ray"),
        "host": platform.node(),
        "device": torch.cuda.get_device_name(workers.device) if cuda else _processor(),
        "workers": workers.size,
        "threads": torch.get_num_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "data_fingerprint": data_fingerprint,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

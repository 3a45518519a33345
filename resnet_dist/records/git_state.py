"""The source code that this process runs: its commit, and a patch of what has been changed since.

Asked of git where the package lies in a checkout of its own repository. Elsewhere (an image, a wheel) the build has
left `_build.json` in the package: {"commit": "…", "dirty": false}. So has the upload of a job, with the patch in
`_build.patch`.

A patch goes to the same bucket as the results, so it holds nothing that looks like a credential: files whose name or
content does are left out and named. Ignored files, git's configuration and remotes are never read. New files that this
program has written, results and reports, are no change of the code.
"""

import functools
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resnet_dist.credentials import looks_like_a_credential, looks_secret
from resnet_dist.records.outputs import Outputs, is_data

PATCH_LIMIT = 1_000_000
"""Bytes of uncommitted changes that are kept with a trial. A file that does not fit is left out whole, so that the
rest can still be applied."""

FILES_LIMIT = 200
"""Changed files that are looked at: each takes git a few milliseconds."""

BUILD_RECORD = "_build.json"
"""What a build of an image or a wheel, or the upload of a job, writes into the package: the commit it was made from."""

BUILD_PATCH = "_build.patch"
"""The patch of an upload from a checkout with changes."""


# Whatever the user's git is configured to show, the patch is one that `git apply` takes.
_DIFF = (
    *("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--no-relative", "--submodule=short"),
    *("--binary", "--full-index", "--unified=3", "--src-prefix=a/", "--dst-prefix=b/"),
)


@dataclass(frozen=True)
class SourceState:
    """Which source code runs."""

    commit: str | None = None
    """Full hash; None where it is not known."""
    dirty: bool = False
    """Whether files differ from the commit's. New ones count unless git ignores them or this program wrote them."""
    origin: Literal["git", "build"] | None = None
    """Who says so: git, or the build's record."""
    patch: bytes = b""
    """What `git apply` makes of a checkout of the commit to get the code back, but for `left_out`."""
    left_out: tuple[str, ...] = ()
    """`name (reason)` of each changed file that is not in the patch."""


def source_state(package: Path | None = None) -> SourceState:
    """State of the source tree of a package's directory, by default this package's."""
    package = (package or Path(__file__).parents[1]).resolve()
    # A package installed below someone else's repository, in a .venv, say, is not part of that one's commit.
    tracked = ask_git(package, "ls-files", "--error-unmatch", "--", "workers.py")
    top = ask_git(package, "rev-parse", "--show-toplevel")
    commit = ask_git(package, "rev-parse", "--verify", "HEAD")
    if tracked is None or top is None or commit is None:
        return _build_state(package / BUILD_RECORD)
    root = Path(os.fsdecode(top.rstrip(b"\n")))
    changed = _names(ask_git(root, "diff", "--name-only", "--no-renames", "-z", "HEAD"))
    outputs = Outputs(root)
    others = _names(ask_git(root, "ls-files", "--others", "--exclude-standard", "-z"))
    new = [name for name in others if name not in outputs and not is_data(name)]
    patch, left_out = _patch(root, changed, new)
    return SourceState(commit.decode().strip(), bool(changed or new), "git", patch, left_out)


@functools.cache
def running_source() -> SourceState:
    """`source_state` when this process first asked.

    A process runs the code that it has imported, so a Tune actor that trains many trials asks git once: later edits
    are not what runs here.
    """
    return source_state()


def build_files(state: SourceState) -> dict[str, bytes]:
    """Files by which a copy of the package without its repository gives the same state; none if that is not known."""
    if state.commit is None:
        return {}
    record = {"commit": state.commit, "dirty": state.dirty, "left_out": list(state.left_out)}
    files = {BUILD_RECORD: (json.dumps(record) + "\n").encode()}
    return files | ({BUILD_PATCH: state.patch} if state.patch else {})


def _build_state(record: Path) -> SourceState:
    try:
        build = json.loads(record.read_bytes())
        commit = str(build["commit"])
        left_out = tuple(map(str, build.get("left_out", ())))
    except (OSError, ValueError, KeyError, TypeError):
        return SourceState()
    if not re.fullmatch(r"[0-9a-f]{7,64}", commit):
        return SourceState()
    dirty, patch = bool(build.get("dirty")), record.with_name(BUILD_PATCH)
    return SourceState(commit, dirty, "build", patch.read_bytes() if dirty and patch.is_file() else b"", left_out)


def _patch(root: Path, changed: list[str], new: list[str]) -> tuple[bytes, tuple[str, ...]]:
    patch, left_out = b"", []
    for index, name in enumerate([*changed, *new]):
        if index >= FILES_LIMIT:
            left_out.append(f"{name} (more than {FILES_LIMIT} files have changed)")
            continue
        part = _file_patch(root, name, is_new=index >= len(changed))
        if isinstance(part, bytes) and len(patch) + len(part) > PATCH_LIMIT:
            part = f"the patch would exceed {PATCH_LIMIT} bytes"
        if isinstance(part, bytes):
            patch += part
        else:
            left_out.append(f"{name} ({part})")
    return patch, tuple(left_out)


def _file_patch(root: Path, name: str, is_new: bool) -> bytes | str:
    """The patch of one file, or why it is left out."""
    if looks_secret(name):
        return "its name is one for credentials"
    if name.endswith("/"):
        return "a repository of its own"
    path = root / name
    if path.is_file() and not path.is_symlink() and path.stat().st_size > PATCH_LIMIT:
        return f"larger than {PATCH_LIMIT} bytes"
    if is_new:
        part = ask_git(root, *_DIFF, "--no-index", "--", os.devnull, name)
    else:
        part = ask_git(root, *_DIFF, "HEAD", "--", f":(top,literal){name}")
    if not part:
        return "git cannot show it"
    if looks_like_a_credential(part):
        return "it holds what looks like a credential"
    return part


def _names(output: bytes | None) -> list[str]:
    return [os.fsdecode(name) for name in (output or b"").split(b"\0") if name]


def ask_git(directory: Path, *arguments: str) -> bytes | None:
    """What git says, byte for byte; None if it fails or is not there."""
    # A hook or a wrapper may have set GIT_DIR and the like, which would answer for another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # safe.directory: code of this tree is running already, so that another user owns it is no reason not to look.
    command = ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=30, check=False, env=environment | {"GIT_OPTIONAL_LOCKS": "0"}
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    differs = "--no-index" in arguments and done.returncode == 1  # what diff answers when it has something to say
    return done.stdout if done.returncode == 0 or differs else None

"""What a job uploads: the working directory's code, and the record of which commit and patch it is.

`code_files.py` says which files these are. This program is added where it is not among them.
`resnet_dist/_build.json` and `_build.patch` say on the nodes, where there is no `.git`, what
`resnet_dist/records/git_state.py` would have asked git.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.ray_cluster.code_files import code_files, files_of_packages
from resnet_dist.credentials import looks_secret
from resnet_dist.errors import UserError
from resnet_dist.records.git_state import build_files, source_state

LIMIT = 32 * 2**20
"""Bytes of an upload. Ray's own limit is 100 MiB; code has no need of that, and each node fetches a copy."""

# Ray reads ignore files in what it uploads, and would leave the record of the commit out.
_IGNORE_FILES = {".gitignore", ".rayignore"}

_PROGRAM = ("resnet_dist", "tune_jobs", "cluster")
"""The packages of this program."""


@dataclass(frozen=True)
class Package:
    """A directory ready to be uploaded."""

    directory: Path
    names: tuple[str, ...]
    """Files of the working directory, relative to it."""
    bytes: int
    commit: str | None
    """Of this program; None if it is not known."""
    dirty: bool
    added: bool
    """Whether this program was added to what the working directory holds."""
    left_out: tuple[str, ...]
    """`name (reason)` of what stays here and a run here might use, or what looks like credentials."""


def pack(working_dir: Path, into: Path, limit: int = LIMIT) -> Package:
    """Copy what a job needs of `working_dir` to the empty directory `into`.

    Raises a `UserError` that names the largest files if they have more than `limit` bytes together, or the file that
    cannot be copied.
    """
    if not working_dir.is_dir():
        raise UserError(f"--working-dir: there is no directory {working_dir}; give the one that holds your code")
    found = code_files(working_dir)
    names, left_out = [], list(map(str, found.left_out))
    for name in found.names:
        if looks_secret(name):
            left_out.append(f"{name} (its name is one for credentials)")
        elif Path(name).name not in _IGNORE_FILES:
            names.append(name)
    sizes = {name: (working_dir / name).stat().st_size for name in names}
    total = sum(sizes.values())
    if total > limit:
        raise UserError(_too_large(working_dir, sizes, total, limit))
    _copy(working_dir, names, into)
    program = working_dir
    if added := "resnet_dist/workers.py" not in names:
        program = Path(__file__).parents[2]
        own = files_of_packages(program, _PROGRAM)
        _copy(program, own, into)
        total += sum((program / name).stat().st_size for name in own)
    state = source_state(program / "resnet_dist")
    for name, content in build_files(state).items():
        (into / "resnet_dist" / name).write_bytes(content)
        total += len(content)
    return Package(into, tuple(names), total, state.commit, state.dirty, added, tuple(left_out))


def _copy(directory: Path, names: Iterable[str], into: Path) -> None:
    for name in names:
        target = into / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(directory / name, target)
        except OSError as error:
            raise UserError(f"--working-dir: {error.filename or name} cannot be copied: {error.strerror}") from error


def _too_large(directory: Path, sizes: dict[str, int], total: int, limit: int) -> str:
    largest = sorted(sizes.items(), key=lambda item: item[1], reverse=True)[:3]
    shown = ", ".join(f"{name} ({size / 2**20:.1f} MiB)" for name, size in largest)
    return (
        f"--working-dir: {directory} has {total / 2**20:.1f} MiB of files, and a job may have {limit / 2**20:.0f} MiB; "
        f"the largest are {shown}: add them to .gitignore, or stage data with `data stage`"
    )

"""What a job uploads: the working directory's code, and the record of which commit and patch it is.

The files of a git checkout are those that git knows or would add. Elsewhere all are taken but for what every checkout
ignores, and but for data. Results are never taken. This program is added where it is not among them.
`resnet_dist/_build.json` and `_build.patch` say on the nodes, where there is no `.git`, what
`resnet_dist/records/git_state.py` would have asked git.
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from resnet_dist.credentials import looks_secret
from resnet_dist.errors import UserError
from resnet_dist.plurals import counted
from resnet_dist.records.git_state import ask_git, build_files, source_state
from resnet_dist.records.outputs import Outputs

LIMIT = 32 * 2**20
"""Bytes of an upload. Ray's own limit is 100 MiB; code has no need of that, and each node fetches a copy."""

# Ray reads ignore files in what it uploads, and would leave the record of the commit out.
_IGNORE_FILES = {".gitignore", ".rayignore"}
_NOT_CODE = {".git", ".venv", "venv", "__pycache__", "data", "results", "node_modules", "build", "dist"}
"""Folders that are left out wherever they are not under git's care."""

_DATA = re.compile(
    r".*\.(jpe?g|png|bmp|gif|ppm|tiff?|webp|tar|tar\.gz|tgz|tar\.xz|zip|npy|npz|pt|pth|h5|hdf5|parquet|arrow|mat|tfrecord)",
    re.IGNORECASE,
)
"""Names of files of images, arrays and weights, which are left out likewise."""

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
    """`name (reason)` of what stays here, since it looks like credentials or is data."""


def pack(working_dir: Path, into: Path, limit: int = LIMIT) -> Package:
    """Copy what a job needs of `working_dir` to the empty directory `into`.

    Raises a `UserError` that names the largest files if they have more than `limit` bytes together, or the file that
    cannot be copied.
    """
    if not working_dir.is_dir():
        raise UserError(f"--working-dir: there is no directory {working_dir}; give the one that holds your code")
    found, left_out = _files(working_dir)
    names = []
    for name in found:
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
    if added := not (working_dir / "resnet_dist").is_dir():
        program = Path(__file__).parents[2]
        own = [f"{package}/{name}" for package in _PROGRAM for name in _walk(program / package)]
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


def _files(directory: Path) -> tuple[list[str], list[str]]:
    """Names of the files below a directory that are code, relative to it, sorted; and what is left out as data."""
    listed, outputs = ask_git(directory, "ls-files", "-z", "--cached"), Outputs(directory)
    if not listed:  # no git, no checkout, or a folder that the repository around it ignores
        names = [name for name in _walk(directory) if name not in outputs]
        data = Counter(name.partition("/")[0] for name in names if _DATA.fullmatch(name))
        reason = "images, arrays or archives, and this is no git checkout: data are staged (data stage)"
        left_out = [f"{counted(number, 'file')} in {top} ({reason})" for top, number in sorted(data.items())]
        return [name for name in names if not _DATA.fullmatch(name)], left_out
    others = ask_git(directory, "ls-files", "-z", "--others", "--exclude-standard") or b""
    new = [name for name in _names(others) if not _NOT_CODE.intersection(name.split("/")) and name not in outputs]
    found = {name for name in [*_names(listed), *new] if (directory / name).is_file()}
    return sorted(found), []


def _names(output: bytes) -> list[str]:
    return [os.fsdecode(name) for name in output.split(b"\0") if name]


def _walk(directory: Path) -> list[str]:
    found = []
    for folder, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if name not in _NOT_CODE and not name.endswith(".egg-info")]
        found += [str((Path(folder) / name).relative_to(directory)) for name in files if not name.endswith(".pyc")]
    return sorted(name for name in found if (directory / name).is_file())


def _too_large(directory: Path, sizes: dict[str, int], total: int, limit: int) -> str:
    largest = sorted(sizes.items(), key=lambda item: item[1], reverse=True)[:3]
    shown = ", ".join(f"{name} ({size / 2**20:.1f} MiB)" for name, size in largest)
    return (
        f"--working-dir: {directory} has {total / 2**20:.1f} MiB of files, and a job may have {limit / 2**20:.0f} MiB; "
        f"the largest are {shown}: add them to .gitignore, or stage data with `data stage`"
    )

"""Which files of a working directory a job is to have: its code, wherever git keeps it, and what is left out and why.

The files of a git checkout are those that git knows or would add, with those of its submodules, of checkouts inside it
and of folders that it links to. Elsewhere all are taken but for what every checkout ignores, and but for data. Results
are never taken. What a run here might use and a job will not have is named.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from resnet_dist.plurals import counted
from resnet_dist.records.git_state import ask_git
from resnet_dist.records.outputs import Outputs

_TOOLS = {".git", ".venv", "venv", "__pycache__", "node_modules"}
"""Folders of programs, which are left out without a word wherever they are not under git's care."""
_NOT_CODE = {*_TOOLS, "data", "results", "build", "dist"}
"""Folders that are left out likewise, and named."""

_DATA = re.compile(
    r".*\.(jpe?g|png|bmp|gif|ppm|tiff?|webp|tar|tar\.gz|tgz|tar\.xz|zip|npy|npz|pt|pth|h5|hdf5|parquet|arrow|mat|tfrecord)",
    re.IGNORECASE,
)
"""Names of files of images, arrays and weights, which are left out outside of checkouts."""
_CODE = re.compile(r".*\.(py|so|pyd|toml|json|ya?ml|ini|cfg)", re.IGNORECASE)
"""Names of files that code imports or reads: ignored ones are named, since code that runs here may need them."""
_BUILT = re.compile(r"(.*/)?resnet_dist/_build\.\w+")

_LFS = b"version https://git-lfs.github.com/spec/"
"""How a file begins that stands for one which git-lfs has not fetched."""


@dataclass(frozen=True)
class LeftOut:
    """What stays here, although a run here might use it."""

    name: str
    reason: str
    files: int = 0
    """How many, where the name is that of a folder."""

    def __str__(self) -> str:
        files = f"{counted(self.files, 'file')} in " if self.files else ""
        return f"{files}{self.name} ({self.reason})"


@dataclass
class Found:
    """What a directory holds for a job."""

    names: list[str] = field(default_factory=list)
    """Files, relative to the directory."""
    left_out: list[LeftOut] = field(default_factory=list)

    def add(self, prefix: str, other: "Found") -> None:
        """Take over what lies below a folder."""
        self.names += [f"{prefix}/{name}" for name in other.names]
        self.left_out += [replace(one, name=f"{prefix}/{one.name}") for one in other.left_out]


def code_files(directory: Path, above: frozenset[Path] = frozenset()) -> Found:
    """The files below a directory that are code, sorted; `above` are the directories from which links led here."""
    above |= {directory.resolve()}
    listed = ask_git(directory, "ls-files", "-z", "--cached", "--stage")
    # No git, no checkout, or a folder that the repository around it ignores.
    found = _of_checkout(directory, listed, above) if listed else _of_folder(directory, above)
    return Found(sorted(set(found.names)), found.left_out)


def _of_checkout(directory: Path, listed: bytes, above: frozenset[Path]) -> Found:
    found, outputs = Found(), Outputs(directory)
    modes = {name: mode for mode, _, name in (entry.partition("\t") for entry in _names(listed))}
    for name, state in sorted(modes.items()):
        _take(found, directory, name, above, is_submodule=state.startswith("160000"))
    apart: Counter[str] = Counter()
    for name in _names(ask_git(directory, "ls-files", "-z", "--others", "--exclude-standard")):
        parts = name.rstrip("/").split("/")
        if name in outputs or _TOOLS.intersection(parts):
            continue
        if unknown := next((part for part in parts[:-1] if part in _NOT_CODE), None):
            apart["/".join(parts[: parts.index(unknown) + 1])] += 1
        else:
            _take(found, directory, name.rstrip("/"), above, is_submodule=name.endswith("/"))
    reason = "git does not know them, and a folder of that name is taken for data or results; git add sends them"
    found.left_out += [LeftOut(folder, reason, number) for folder, number in sorted(apart.items())]
    found.left_out += _ignored(directory, outputs)
    return found


def _take(found: Found, directory: Path, name: str, above: frozenset[Path], is_submodule: bool = False) -> None:
    """Add what a name of a listing stands for: a file, a checkout inside this one, or what a link leads to."""
    path = directory / name
    if is_submodule:
        if (path / ".git").exists():
            found.add(name, code_files(path, above))
        else:
            found.left_out.append(LeftOut(name, "a submodule that is not checked out: git submodule update --init"))
    elif path.is_symlink() and path.is_dir():
        if path.resolve() in above or any(folder.is_relative_to(path.resolve()) for folder in above):
            found.left_out.append(LeftOut(name, "a link to a folder that it lies in"))
        else:
            found.add(name, code_files(path.resolve(), above))
    elif path.is_file():
        if _is_pointer(path):
            found.left_out.append(LeftOut(name, "git-lfs has not fetched it: git lfs pull"))
        else:
            found.names.append(name)
    elif path.is_symlink():
        found.left_out.append(LeftOut(name, "a link to nothing"))
    # Else git knows it, and it is not here: deleted, or left out of a sparse checkout. Nothing here can use it.


def _is_pointer(path: Path) -> bool:
    try:
        if path.stat().st_size > 1024:
            return False
        with path.open("rb") as file:
            return file.read(len(_LFS)) == _LFS
    except OSError:
        return False  # copying it will say why


def _ignored(directory: Path, outputs: Outputs) -> list[LeftOut]:
    """Files that git ignores and code may need, by the folder or the file that is ignored."""
    listed = _names(ask_git(directory, "ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory"))
    ignored = []
    for name in sorted(listed):
        parts = name.rstrip("/").split("/")
        # Caches and environments begin with a dot; a program's own build is no code of anybody's.
        if any(part in _NOT_CODE or part.startswith(".") or part.endswith(".egg-info") for part in parts):
            continue
        inside = [f"{name}{below}" for below in _walk(directory / name)] if name.endswith("/") else [name]
        code = [file for file in inside if _CODE.fullmatch(file) and file not in outputs and not _BUILT.fullmatch(file)]
        if code:
            number = len(code) if name.endswith("/") else 0
            ignored.append(LeftOut(name.rstrip("/"), "git ignores it; git add --force has it sent", number))
    return ignored


def _of_folder(directory: Path, above: frozenset[Path]) -> Found:
    found, outputs = Found(), Outputs(directory)
    links: list[str] = []
    names = [name for name in _walk(directory, links) if name not in outputs]
    data = Counter(name.partition("/")[0] for name in names if _DATA.fullmatch(name))
    for name in [*(name for name in names if not _DATA.fullmatch(name)), *links]:
        _take(found, directory, name, above)
    reason = "images, arrays or archives, and this is no git checkout: data are staged (data stage)"
    found.left_out += [LeftOut(top, reason, number) for top, number in sorted(data.items())]
    reason = "a folder of that name is taken for data or results, and this is no git checkout; rename it"
    for name in sorted(_NOT_CODE - _TOOLS):
        code = [file for file in _walk(directory / name) if file.endswith(".py") and f"{name}/{file}" not in outputs]
        if code:
            found.left_out.append(LeftOut(name, reason, len(code)))
    return found


def _names(output: bytes | None) -> list[str]:
    return [os.fsdecode(name) for name in (output or b"").split(b"\0") if name]


def _walk(directory: Path, links: list[str] | None = None) -> list[str]:
    """Files below a folder but for what no checkout holds; folders that are linked to are added to `links`."""
    found = []
    for folder, folders, files in os.walk(directory):
        here = Path(folder)
        folders[:] = [name for name in folders if name not in _NOT_CODE and not name.endswith(".egg-info")]
        if links is not None:
            links += [str((here / name).relative_to(directory)) for name in folders if (here / name).is_symlink()]
        found += [str((here / name).relative_to(directory)) for name in files if not name.endswith(".pyc")]
    return sorted(found)


def files_of_packages(directory: Path, packages: Iterable[str]) -> list[str]:
    """The files of packages that lie in a directory, relative to it."""
    return [f"{package}/{name}" for package in packages for name in _walk(directory / package)]

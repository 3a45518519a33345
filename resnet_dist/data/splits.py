"""Which folders of a directory or an archive are the training and the test images.

A folder that holds both is the data set, and nothing beside them is looked at. Without one, a folder below may be it.
"""

import contextlib
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from resnet_dist.errors import DataError

DEPTH = 3
"""Folders that the splits may lie below."""

_TEST = ("test", "valid", "val", "validation")
"""Names of the test images' folder, in lower case. Only of a data set without an earlier one does a later one count."""

_SYSTEM = re.compile(
    r"\..*|__MACOSX|lost\+found|Thumbs\.db|ehthumbs\.db|desktop\.ini|Icon\r|@eaDir|\$RECYCLE\.BIN|"
    r"System Volume Information",
    re.IGNORECASE,
)
_MOST_NAMED = 8

Place = tuple[str, ...]
"""Names of the folders in which something lies; () is the directory or archive itself."""


@dataclass(frozen=True)
class Splits:
    """Where the images lie."""

    top: Place
    """The folder that holds the splits."""
    folders: Mapping[str, str]
    """Name of the folder of each split: {"train": "Train", "test": "val"}; train may be missing."""
    left_out: tuple[str, ...] = ()
    """Folders beside them that could have been the test images."""


def is_system(name: str) -> bool:
    """Whether a name is hidden, or one that operating systems and archivers leave among a user's files."""
    return bool(_SYSTEM.fullmatch(name))


def is_split(name: str) -> bool:
    """Whether a folder of this name holds training or test images."""
    return name.lower() in ("train", *_TEST)


def printable(name: str) -> str:
    """A name for a message, which stays one line: one out of an archive may hold anything."""
    return name if name.isprintable() else ascii(name)


def look_alike(one: str, other: str) -> bool:
    """Whether two names are one to a reader: systems write an accent as part of its letter or after it."""
    return unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)


def choose(path: Path, found: Mapping[Place, Iterable[str]], beside: Iterable[str] = ()) -> Splits:
    """The splits, of the folders in each place that are named like one.

    Raises a `DataError` if that is not clear. `beside` are names that were seen at the top, for the message.
    """
    places = {place: _splits(path, place, sorted(set(names))) for place, names in found.items()}
    whole = [place for place, splits in places.items() if len(splits.folders) == 2]
    some = whole or [place for place, splits in places.items() if splits.folders]
    first = sorted(place for place in some if len(place) == min(map(len, some)))
    if len(first) > 1:
        both = ([*place, next(iter(places[place].folders.values()))] for place in first[:2])
        names = " and ".join(repr("/".join(names)) for names in both)
        one, other = (printable(place[-1]) for place in first[:2])
        raise DataError(
            f"data.source: {path} holds more than one data set, {names}; give one of them, or if {one} and {other} are "
            f"classes, put their images into train/{one}/, train/{other}/, test/{one}/ and test/{other}/"
        )
    if not first:
        raise DataError(f"data.source: {path} has no images in train/ or test/{_instead(path, sorted(set(beside)))}")
    return places[first[0]]


def find(root: Path) -> Splits:
    """The splits below a directory. Raises a `DataError` as `choose` does, an `OSError` if `root` cannot be read."""
    names, files = _folders(root)
    found: dict[Place, list[str]] = {}
    level: dict[Place, list[str]] = {(): names}
    for depth in range(DEPTH + 1):
        found |= {place: [name for name in inside if is_split(name)] for place, inside in level.items()}
        if any(len(_splits(root, place, some).folders) == 2 for place, some in found.items()):
            break
        if depth and len(level) > 1:  # no folder that wraps another: further down would be a search
            break
        above, level = level, {}
        for place in ((*place, name) for place, inside in above.items() for name in inside if not is_split(name)):
            with contextlib.suppress(OSError):  # lost+found of a volume, say
                level[place], _ = _folders(root.joinpath(*place))
    return choose(root, found, [*names, *files])


def _folders(directory: Path) -> tuple[list[str], list[str]]:
    """Names of the folders in a directory, links followed, and of what else is in it."""
    folders: list[str] = []
    others: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if not is_system(entry.name):
                (folders if _is_folder(entry) else others).append(entry.name)
    return sorted(folders), others


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to where this user may not look
        return False


def _splits(path: Path, place: Place, names: list[str]) -> Splits:
    """Of folders in one place that are named like splits, those that are."""
    by_kind: dict[str, str] = {}
    for name in names:
        if (other := by_kind.setdefault(name.lower(), name)) != name:
            both = " and ".join("/".join([*place, one]) for one in (other, name))
            raise DataError(f"data.source: {path} has both {both}; give one of them another name")
    tests = [by_kind[kind] for kind in _TEST if kind in by_kind]
    folders = {"train": by_kind["train"]} if "train" in by_kind else {}
    if tests:
        folders["test"] = tests[0]
    return Splits(place, folders, tuple(tests[1:]))


_OTHERS = (
    (r"\.\.", "leads out of it; pack it again from inside the folder that holds train/ and test/"),
    (
        r"cifar-100-python.*",
        "is CIFAR-100's own archive; give data.source cifar100, which looks for it in downloads/ of the cache "
        "directory before it downloads it",
    ),
    (
        r"cifar-10-batches-(py|bin)|cifar-10-python.*|data_batch_\d.*",
        "is CIFAR-10's own archive; give data.source cifar10, which looks for it in downloads/ of the cache "
        "directory before it downloads it",
    ),
    (
        r".*\.(parquet|arrow|npz|npy|pkl|pickle|pt|h5|hdf5|mat|tfrecord.*|lmdb|csv|jsonl)|.*-(ubyte|idx[13]).*",
        "is no image; files of that kind are read by a source of your own (docs/custom.md)",
    ),
)
"""What people have instead, by name, and what would read it."""


def _instead(path: Path, names: list[str]) -> str:
    """What a message says of a directory or archive without splits, which has these names at its top."""
    shown = ", ".join(map(printable, names[:_MOST_NAMED]))
    found = f"; it holds {shown or 'nothing'}" + (
        f" and {len(names) - _MOST_NAMED} more" if names[_MOST_NAMED:] else ""
    )
    if is_split(path.name):
        return f"{found}. It looks like one of the splits: give the folder above it, {path.parent}"
    for pattern, remedy in _OTHERS:
        for name in (path.name, *names):
            if re.fullmatch(pattern, name, re.IGNORECASE):
                return f"{found}: {name} {remedy}"
    form = "train/<class>/<image> and test/<class>/<image>"
    return f"{found}. It must hold {form}, or give data.split 0.8 to split class folders"

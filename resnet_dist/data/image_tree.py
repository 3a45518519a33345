"""Images of class folders, as the members of a directory or archive come by."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar

from resnet_dist.data.archives import Member
from resnet_dist.data.image_decoding import NotAnImageError
from resnet_dist.data.splits import DEPTH, Place, Splits, choose, is_split, is_system, look_alike, printable
from resnet_dist.errors import DataError
from resnet_dist.file_kinds import IMAGE_SUFFIXES

LOGGER = logging.getLogger(__name__)

T = TypeVar("T")

LARGEST_FILE = 64 * 2**20
"""Bytes; anything larger is taken for no image and not read into memory."""

Images = Mapping[str, Mapping[str, T]]
"""What was taken of each image, by class and file name."""


@dataclass(frozen=True)
class FoundImages(Generic[T]):
    """The images of a data set."""

    train: Images[T]
    test: Images[T]
    classes: tuple[str, ...]
    """Their names, sorted."""


@dataclass
class _Folder(Generic[T]):
    """What has been found in one folder that is named like a split."""

    classes: dict[str, dict[str, T]] = field(default_factory=dict)
    """What was taken of each image, by class and file name."""
    wrong: DataError | None = None
    """The first thing that makes it no folder of images."""


class _WrongMemberError(DataError):
    """A member that no data set can have; it matters if it lies in one."""


class ImageTree(Generic[T]):
    """What has been found so far, of whatever could be a data set; which of it is one shows at the end.

    `take` gives what is kept of an image file. It raises a `NotAnImageError` for what a data set cannot have.
    """

    def __init__(self, path: Path, take: Callable[[Member], T]) -> None:
        self.path = path
        self.take = take
        self.folders: dict[Place, _Folder[T]] = {}
        """By place."""
        self.beside: dict[str, None] = {}
        """Names at the top."""
        self.ignored: list[str] = []
        """Files that are in no class folder."""

    def add(self, member: Member) -> None:
        """Take in one member, which is ignored if it is a system's or no part of a data set."""
        parts = tuple(part for part in PurePosixPath(member.name).parts if part not in ("/", "."))
        if ".." in parts:
            self.beside[".."] = None
            return
        if any(map(is_system, parts)) or not parts:
            return
        self.beside[parts[0]] = None
        folders = parts if member.is_directory else parts[:-1]
        position = next((i for i, part in enumerate(folders[: DEPTH + 1]) if is_split(part)), None)
        if position is None and not (member.special and is_split(parts[-1])):
            if not member.is_directory:
                self.ignored.append(member.name)
            return
        place, inside = (parts, ()) if position is None else (parts[: position + 1], parts[position + 1 :])
        folder = self.folders.setdefault(place, _Folder())
        try:
            self._add(folder, member, place[-1], inside)
        except _WrongMemberError as error:
            folder.wrong = folder.wrong or error

    def _add(self, folder: _Folder[T], member: Member, split: str, inside: Place) -> None:
        if member.special:
            raise self._wrong(member, f"is {member.special}, not an image file")
        if member.is_directory:
            if len(inside) == 1:
                folder.classes.setdefault(inside[0], {})
        elif len(inside) == 2:
            folder.classes.setdefault(inside[0], {})[inside[1]] = self._taken(member)
        elif inside[1:] or member.name.lower().endswith(IMAGE_SUFFIXES):
            raise self._wrong(member, f"is not of the form {split}/<class>/<image>")
        else:
            self.ignored.append(member.name)

    def found(self) -> FoundImages[T]:
        """The images of the data set; a `DataError` if it is none."""
        found: dict[Place, list[str]] = {}
        for *top, name in self.folders:
            found.setdefault(tuple(top), []).append(name)
        splits = choose(self.path, found, self.beside)
        chosen = {split: self.folders[*splits.top, name] for split, name in splits.folders.items()}
        for folder in chosen.values():
            if folder.wrong:
                raise folder.wrong
        self._say(splits)
        empty: _Folder[T] = _Folder()
        train, test = (chosen.get(split, empty).classes for split in ("train", "test"))
        return FoundImages(train, test, _classes(self.path, train, test, splits))

    def _say(self, splits: Splits) -> None:
        shown = {split: "/".join([*splits.top, name]) for split, name in splits.folders.items()}
        if splits.left_out:
            LOGGER.warning(
                "%s: the test images are those of %s/; %s/ is left out",
                self.path,
                shown["test"],
                "/, ".join(splits.left_out),
            )
        elif shown.get("test", "test").lower().endswith(("val", "valid", "validation")):
            LOGGER.warning(
                "%s: has no test/; the images of %s/ are taken to be the test images", self.path, shown["test"]
            )
        if self.ignored:
            LOGGER.info(
                "%s: ignoring %d files in no class folder, the first %r", self.path, len(self.ignored), self.ignored[0]
            )

    def _taken(self, member: Member) -> T:
        if member.size > LARGEST_FILE:
            raise self._wrong(member, f"is {member.size:,} bytes, too large for an image")
        try:
            return self.take(member)
        except NotAnImageError as error:
            raise self._wrong(member, str(error)) from error

    def _wrong(self, member: Member, what: str) -> DataError:
        return _WrongMemberError(f"data.source: {printable(member.name)} in {self.path} {what}")


def _classes(path: Path, train: Images[T], test: Images[T], splits: Splits) -> tuple[str, ...]:
    """Names of the classes, sorted; a `DataError` unless each split has images of the same two or more.

    Where there are test images alone, these have.
    """
    both = {splits.folders.get("train", "train"): train, splits.folders.get("test", "test"): test}
    if not train and any(test.values()):
        both.pop(splits.folders.get("train", "train"))
    for split, images in both.items():
        if not any(images.values()):
            raise DataError(
                f"data.source: {path} has no images in {'/'.join([*splits.top, split])}/; it must hold "
                "train/<class>/<image> and test/<class>/<image>"
            )
    for (split, images), (other, others) in zip(both.items(), reversed(both.items()), strict=True):
        for name, files in sorted(images.items()):
            if name not in others:
                if same := next((one for one in others if one not in images and look_alike(name, one)), None):
                    raise DataError(
                        f"data.source: {path} has the class folders {split}/{name!a} and {other}/{same!a}, one "
                        "name that is written in two ways in Unicode; rename one as the other"
                    )
                raise DataError(
                    f"data.source: {path} has the class folder {split}/{printable(name)} but no "
                    f"{other}/{printable(name)}; both splits must hold the same classes"
                )
            if not files:
                raise DataError(f"data.source: {path} has no images in {split}/{printable(name)}")
    if len(test) < 2:
        raise DataError(f"data.source: {path} has one class, {printable(next(iter(test)))}; at least 2 are needed")
    return tuple(sorted(test))

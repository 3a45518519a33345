"""Images of class folders alone, `<class>/<image>`, which a hash of each image splits into training and test."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Generic

from resnet_dist.data.archives import Member
from resnet_dist.data.image_decoding import NotAnImageError
from resnet_dist.data.image_tree import LARGEST_FILE, FoundImages, T
from resnet_dist.data.splits import Place, is_split, is_system, printable
from resnet_dist.errors import DataError
from resnet_dist.file_kinds import IMAGE_SUFFIXES


class ClassFolders(Generic[T]):
    """What has been found so far; `trains` says of what `take` gives whether it is trained on."""

    def __init__(self, path: Path, take: Callable[[Member], T], trains: Callable[[T], bool]) -> None:
        self.path = path
        self.take = take
        self.trains = trains
        self.folders: dict[Place, dict[str, T]] = {}
        """What was taken of each image, by folder and file name."""

    def add(self, member: Member) -> None:
        """Take in one member, which is ignored if it is a system's or no image."""
        parts = tuple(part for part in PurePosixPath(member.name).parts if part not in ("/", "."))
        if member.is_directory or not parts or any(map(is_system, parts)):
            return
        if member.special:
            raise self._wrong(member, f"is {member.special}, not an image file")
        if not parts[-1].lower().endswith(IMAGE_SUFFIXES):
            return
        if any(map(is_split, parts[:-1])):
            raise DataError(f"data.split: {self.path} has {parts[-2]!a} in a split of its own; leave data.split out")
        if member.size > LARGEST_FILE:
            raise self._wrong(member, f"is {member.size:,} bytes, too large for an image")
        try:
            self.folders.setdefault(parts[:-1], {})[parts[-1]] = self.take(member)
        except NotAnImageError as error:
            raise self._wrong(member, str(error)) from error

    def found(self) -> FoundImages[T]:
        """The images of the data set; a `DataError` unless there are two or more class folders side by side."""
        above = {place[:-1] for place in self.folders if place}
        if len(above) != 1 or () in self.folders or len(self.folders) < 2:
            shown = ", ".join(printable("/".join(place)) or "." for place in sorted(self.folders)[:4]) or "nowhere"
            raise DataError(
                f"data.source: {self.path} has images in {shown}; with data.split it must hold two or more class "
                "folders side by side, <class>/<image>"
            )
        train: dict[str, dict[str, T]] = {}
        test: dict[str, dict[str, T]] = {}
        for place, files in self.folders.items():
            for part, is_train in ((train, True), (test, False)):
                part[place[-1]] = {name: taken for name, taken in files.items() if self.trains(taken) is is_train}
                if not part[place[-1]]:
                    which = "training" if is_train else "test"
                    raise DataError(
                        f"data.split: none of the {len(files)} images of class {printable(place[-1])} falls to the "
                        f"{which} images; give another data.split"
                    )
        return FoundImages(train, test, tuple(sorted(train)))

    def _wrong(self, member: Member, what: str) -> DataError:
        return DataError(f"data.source: {printable(member.name)} in {self.path} {what}")

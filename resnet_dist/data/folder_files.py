"""The files of `folder:PATH` where they lie, to be put into shards. An archive's are unpacked into one file first."""

from pathlib import Path
from typing import IO

from resnet_dist.data.archives import Member
from resnet_dist.data.image_folder import read_folder
from resnet_dist.data.image_tree import Images, ImageTree
from resnet_dist.data.sharding import ImageFile, ImageFiles
from resnet_dist.paths import absolute


def folder_files(place: str, unpacked: IO[bytes]) -> ImageFiles:
    """The files of a directory or an archive, whose content goes to `unpacked`. A `DataError` as in training."""
    root = absolute(place, "folder")

    def take(member: Member) -> ImageFile:
        if root.is_dir():
            return ImageFile(member.name, 0, str(root / member.name), 0, member.size)
        start, data = unpacked.tell(), member.read()
        unpacked.write(data)
        return ImageFile(member.name, 0, unpacked.name, start, len(data))

    found = read_folder(root, ImageTree(root, take))
    unpacked.flush()
    return ImageFiles(_labelled(found.train, found.classes), _labelled(found.test, found.classes), found.classes)


def _labelled(images: Images[ImageFile], classes: tuple[str, ...]) -> list[ImageFile]:
    # By what is below the split alone, so that an archive of a folder has the shards of the folder.
    return [
        file._replace(label=label, name=str(Path(name, image)))
        for label, name in enumerate(classes)
        for image, file in sorted(images.get(name, {}).items())
    ]

"""Images in class folders, `train/<class>/<image>` and `test/<class>/<image>`, in a directory or an archive.

Archives are read from first byte to last and decoded in memory; nothing is extracted to disk. Which folders count is
said in `splits.py`; class folders without splits are split by `data.split`.
"""

import functools
import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_dist.configuration.data import DataConfig
from resnet_dist.data.archives import SUFFIXES, Member, archive_members
from resnet_dist.data.class_folders import ClassFolders
from resnet_dist.data.decoded_images import DecodedImages
from resnet_dist.data.image_decoding import decode_image
from resnet_dist.data.image_tree import FoundImages, Images, ImageTree, T
from resnet_dist.data.splits import DEPTH, Place, find, is_system, printable
from resnet_dist.errors import DataError
from resnet_dist.paths import absolute

LOGGER = logging.getLogger(__name__)


def cache_entry(data: DataConfig, cache: Path) -> tuple[str, Callable[[], DecodedImages]]:
    """Name of the source's entry in the cache directory, and what decodes it."""
    path = Path(data.source.removeprefix("folder:"))
    given = (("", data.size, 32), ("-", data.resize, "none"), ("-split-", data.split, 0))
    settings = "".join(f"-{name}{value}" for name, value, default in given if value != default)
    decode = functools.partial(folder_images, path, data.size, data.resize == "crop", data.split)
    return folder_key(path, split=bool(data.split)) + settings, decode


def folder_key(path: Path, inodes: bool = True, split: bool = False) -> str:
    """Identifies a folder or archive in its present state, without reading the images.

    It is made of the path and the stamp of the archive, or of every file in the directory. Raises `DataError` if there
    is nothing at `path` or it is of another kind.
    """
    path = absolute(path, "data.source")
    digest = hashlib.sha256(f"{path}\n".encode(errors="surrogateescape"))
    try:
        if path.is_dir():
            for member in _directory_members(path, split):
                found = stamp(member.status, inodes) if member.status else ""
                digest.update(f"{member.name}\n{found}\n".encode(errors="surrogateescape"))
        elif not path.exists():
            raise DataError(f"data.source: there is no file or directory at {path}")
        elif not path.is_file() or not path.name.lower().endswith(SUFFIXES):
            raise DataError(f"data.source: {path} is neither a directory nor one of {', '.join(SUFFIXES)}")
        else:
            digest.update(stamp(path.stat(), inodes).encode())
    except OSError as error:
        raise DataError(f"data.source: {error.filename or path} cannot be read ({error.strerror})") from error
    return f"folder-{digest.hexdigest()[:16]}"


def folder_images(path: Path, size: int = 32, crop: bool = False, split: float = 0.0) -> DecodedImages:
    """Decode the folder or archive at `path`, images ordered by class and file name.

    Size, crop and split are as `data.size`, `data.resize` and `data.split` say. A source without train/ has no training
    images. Raises `DataError`, naming the file, for anything else that is not two splits of the same two or more
    classes of images of this size, or class folders to be split.
    """
    path = absolute(path, "data.source")
    decoder = _Decoder(path, size, crop)
    found = read_folder(path, ClassFolders(path, decoder, _Trains(split)) if split else ImageTree(path, decoder), split)
    decoder.say()
    train, test = (_arrays(images, found.classes, size) for images in (found.train, found.test))
    return DecodedImages(*train, *test, classes=found.classes)


def read_folder(path: Path, tree: ImageTree[T] | ClassFolders[T], split: float = 0.0) -> FoundImages[T]:
    """What is in a directory or an archive, which must not change meanwhile, by what takes in its members."""
    # Without inodes: a mount that makes them up (FUSE, FAT) may number the same files anew before the last is read.
    before = folder_key(path, inodes=False, split=bool(split))
    try:
        for member in _directory_members(path, bool(split)) if path.is_dir() else archive_members(path):
            tree.add(member)
    except OSError as error:
        raise DataError(f"data.source: {error.filename or path} cannot be read ({error.strerror or error})") from error
    found = tree.found()
    if folder_key(path, inodes=False, split=bool(split)) != before:
        raise DataError(f"data.source: {path} changed while it was read; start again when it is complete")
    return found


class _Decoder:
    """Decodes members, and remembers what the decoder warned of."""

    def __init__(self, path: Path, size: int, crop: bool) -> None:
        self.path = path
        self.size = size
        self.crop = crop
        self.images = 0
        self.odd: list[str] = []

    def __call__(self, member: Member) -> bytes:
        """Pixels of an image file as bytes [3, size, size]."""
        pixels, warned = decode_image(member.read(), self.size, self.crop)
        if warned:
            self.odd.append(f"{printable(member.name)}: {warned}")
        self.images += 1
        if self.images % 10_000 == 0:
            LOGGER.info("%s: decoded %d images", self.path, self.images)
        return pixels

    def say(self) -> None:
        """Say, once for all images, what the decoder warned of."""
        if self.odd:
            LOGGER.warning("%s: of %d images the decoder warns, the first %s", self.path, len(self.odd), self.odd[0])


class _Trains:
    """Whether an image is one of this part of all that is trained on, by a hash of its pixels alone."""

    def __init__(self, part: float) -> None:
        self.part = part

    def __call__(self, pixels: bytes) -> bool:
        return int.from_bytes(hashlib.sha256(pixels).digest()[:8]) < self.part * 2**64


def _arrays(images: Images[bytes], classes: tuple[str, ...], size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images uint8 [N, 3, size, size] and labels int64 [N] of one split."""
    folders = [images.get(name, {}) for name in classes]
    pixels = b"".join(folder[name] for folder in folders for name in sorted(folder))
    array = np.frombuffer(pixels, np.uint8).reshape(-1, 3, size, size)
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(folder) for folder in folders])
    return array, labels


def stamp(status: os.stat_result, inodes: bool) -> str:
    """Changes when the content does, whoever sets the date of modification back.

    The time of change (ctime), which no program can set, shows a file that was written or renamed; the inode shows one
    that lies in a renamed folder or behind a link that leads elsewhere now.
    """
    inode = status.st_ino if inodes else 0
    return f"{inode} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _directory_members(root: Path, whole: bool = False) -> Iterator[Member]:
    """What lies in the splits below `root`, or in the `whole` of it; links followed, a system's files left out."""

    def visit(directory: Path, parts: Place, depth: int) -> Iterator[Member]:
        yield Member("/".join(parts), True, "", 0, bytes)
        with os.scandir(directory) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        for entry in entries:
            if is_system(entry.name):
                continue
            status = entry.stat()
            if stat.S_ISDIR(status.st_mode):
                if depth < 4:  # of a split, two levels below split/class, to find what lies too deep
                    yield from visit(Path(entry.path), (*parts, entry.name), depth + 1)
                continue
            # Opening a pipe would wait for ever.
            special = "" if stat.S_ISREG(status.st_mode) else "a pipe, socket or device"
            name, read = "/".join([*parts, entry.name]), Path(entry.path).read_bytes
            yield Member(name, False, special, status.st_size, read, status)

    if whole:
        yield from visit(root, (), 4 - DEPTH)
        return
    splits = find(root)
    for name in splits.left_out:  # not what is in it
        yield Member("/".join([*splits.top, name]), True, "", 0, bytes)
    for name in sorted(splits.folders.values()):
        yield from visit(root.joinpath(*splits.top, name), (*splits.top, name), 1)

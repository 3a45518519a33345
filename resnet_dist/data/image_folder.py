"""Images in class folders, `train/<class>/<image>` and `test/<class>/<image>`, in a directory or an archive.

Archives are read from first byte to last and decoded in memory; nothing is extracted to disk. The folders may lie
below one top-level directory.
"""

import functools
import hashlib
import io
import logging
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from resnet_dist.data.archives import SUFFIXES, Member, archive_members
from resnet_dist.data.decoded_images import DecodedImages
from resnet_dist.errors import DataError

LOGGER = logging.getLogger(__name__)

SPLITS = ("train", "test")
SIZE = (32, 32)
LARGEST_FILE = 64 * 2**20
"""Bytes; anything larger is no image of 32x32 pixels and is not read into memory."""

# Raster formats alone: Pillow would start Ghostscript for an EPS file.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp")


def cache_entry(source: str, cache: Path) -> tuple[str, Callable[[], DecodedImages]]:
    """Name of the source's entry in the cache directory, and what decodes it."""
    path = Path(source.removeprefix("folder:"))
    return folder_key(path), functools.partial(folder_images, path)


def folder_key(path: Path, inodes: bool = True) -> str:
    """Identifies a folder or archive in its present state, without reading the images.

    It is made of the path and the stamp of the archive, or of every file in the directory. Raises `DataError` if there
    is nothing at `path` or it is of another kind.
    """
    path = _absolute(path)
    digest = hashlib.sha256(f"{path}\n".encode(errors="surrogateescape"))
    try:
        if path.is_dir():
            for member in _directory_members(path):
                stamp = _stamp(member.status, inodes) if member.status else ""
                digest.update(f"{member.name}\n{stamp}\n".encode(errors="surrogateescape"))
        elif not path.exists():
            raise DataError(f"data.source: there is no file or directory at {path}")
        elif not path.is_file() or not path.name.lower().endswith(SUFFIXES):
            raise DataError(f"data.source: {path} is neither a directory nor one of {', '.join(SUFFIXES)}")
        else:
            digest.update(_stamp(path.stat(), inodes).encode())
    except OSError as error:
        raise DataError(f"data.source: {error.filename or path} cannot be read ({error.strerror})") from error
    return f"folder-{digest.hexdigest()[:16]}"


def folder_images(path: Path) -> DecodedImages:
    """Decode the folder or archive at `path`, images ordered by class and file name.

    A source without train/ has no training images. Raises `DataError`, naming the file, for anything else that is not
    two splits of the same two or more classes of 32x32 images.
    """
    path = _absolute(path)
    # Without inodes: a mount that makes them up (FUSE, FAT) may number the same files anew before the last is read.
    before = folder_key(path, inodes=False)
    tree = _Tree(path)
    try:
        for member in _directory_members(path) if path.is_dir() else archive_members(path):
            tree.add(member)
    except OSError as error:
        raise DataError(f"data.source: {error.filename or path} cannot be read ({error.strerror or error})") from error
    if tree.ignored:
        LOGGER.info("%s: ignoring %d files in no class folder, the first %r", path, len(tree.ignored), tree.ignored[0])
    classes = tree.classes()
    if folder_key(path, inodes=False) != before:
        raise DataError(f"data.source: {path} changed while it was read; start again when it is complete")
    arrays = {split: tree.arrays(split, classes) for split in SPLITS}
    return DecodedImages(*arrays["train"], *arrays["test"], classes=classes)


@dataclass
class _Tree:
    """What has been found so far."""

    path: Path
    top: tuple[str, ...] | None = None
    """The directory that holds the splits, once known: () or one name."""
    images: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=lambda: {split: {} for split in SPLITS})
    """Pixels of each image as bytes [32, 32, 3], by split, class and file name."""
    count: int = 0
    ignored: list[str] = field(default_factory=list)
    """Files that are in no class folder."""

    def add(self, member: Member) -> None:
        """Take in one member, which is ignored if it is hidden or no part of the data set."""
        parts = tuple(part for part in PurePosixPath(member.name).parts if part not in ("/", "."))
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            return
        position = next((i for i, part in enumerate(parts[:2]) if part in SPLITS), None)
        if position is None:
            if not member.is_directory:
                self.ignored.append(member.name)
            return
        top, (split, *inside) = parts[:position], parts[position:]
        if self.top not in (None, top):
            names = " and ".join(repr("/".join([*part, "train"])) for part in (self.top or (), top))
            raise DataError(f"data.source: {self.path} holds more than one data set, {names}; give one of them")
        self.top = top
        if member.special:
            raise self._wrong(member, f"is {member.special}, not an image file")
        if member.is_directory:
            if len(inside) == 1:
                self.images[split].setdefault(inside[0], {})
        elif len(inside) == 2:
            pixels = self._decode(member)
            self.images[split].setdefault(inside[0], {})[inside[1]] = pixels
        elif inside[1:] or member.name.lower().endswith(IMAGE_SUFFIXES):
            raise self._wrong(member, f"is not of the form {split}/<class>/<image>")
        else:
            self.ignored.append(member.name)

    def classes(self) -> tuple[str, ...]:
        """Names of the classes, sorted; a `DataError` unless each split has images of the same two or more.

        Where there is test/ alone, it has.
        """
        splits = SPLITS if self.images["train"] or not any(self.images["test"].values()) else ("test",)
        for split in splits:
            if not any(self.images[split].values()):
                raise DataError(
                    f"data.source: {self.path} has no images in {split}/; it must hold train/<class>/<image> and "
                    f"test/<class>/<image>"
                )
        for split, other in zip(splits, splits[::-1], strict=True):
            for name, files in sorted(self.images[split].items()):
                if name not in self.images[other]:
                    raise DataError(
                        f"data.source: {self.path} has the class folder {split}/{_shown(name)} but no "
                        f"{other}/{_shown(name)}; both splits must hold the same classes"
                    )
                if not files:
                    raise DataError(f"data.source: {self.path} has no images in {split}/{_shown(name)}")
        classes = tuple(sorted(self.images["test"]))
        if len(classes) < 2:
            raise DataError(f"data.source: {self.path} has one class, {_shown(classes[0])}; at least 2 are needed")
        return classes

    def arrays(self, split: str, classes: tuple[str, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images uint8 [N, 3, 32, 32] and labels int64 [N] of one split."""
        folders = [self.images[split].get(name, {}) for name in classes]
        pixels = b"".join(folder[name] for folder in folders for name in sorted(folder))
        images = np.frombuffer(pixels, np.uint8).reshape(-1, *SIZE, 3).transpose(0, 3, 1, 2)
        labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(folder) for folder in folders])
        return np.ascontiguousarray(images), labels

    def _decode(self, member: Member) -> bytes:
        # One thread: decoding so small an image is mostly Python, and two threads took half as long again.
        from PIL import Image

        if member.size > LARGEST_FILE:
            raise self._wrong(member, f"is {member.size:,} bytes, too large for an image of 32x32 pixels")
        data = member.read()
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                size, mode = image.size, image.mode
                # The size stands in the header, so a huge image is never decoded.
                pixels = image.convert("RGB").tobytes() if size == SIZE else b""
        except Exception as error:  # Pillow's decoders raise nearly everything on corrupt files
            raise self._wrong(member, "is not an image that can be decoded") from error
        if size != SIZE:
            raise self._wrong(member, f"is {size[0]}x{size[1]} pixels; every image must be 32x32")
        if mode == "F" or mode.startswith("I"):
            raise self._wrong(member, "has more than 8 bits a channel; convert it to 8 bits")
        self.count += 1
        if self.count % 10_000 == 0:
            LOGGER.info("%s: decoded %d images", self.path, self.count)
        return pixels

    def _wrong(self, member: Member, what: str) -> DataError:
        return DataError(f"data.source: {_shown(member.name)} in {self.path} {what}")


def _stamp(status: os.stat_result, inodes: bool) -> str:
    """Changes when the content does, whoever sets the date of modification back.

    The time of change (ctime), which no program can set, shows a file that was written or renamed; the inode shows one
    that lies in a renamed folder or behind a link that leads elsewhere now.
    """
    inode = status.st_ino if inodes else 0
    return f"{inode} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _shown(name: str) -> str:
    # A name out of an archive may hold anything; the message stays one line.
    return name if name.isprintable() else ascii(name)


def _directory_members(root: Path) -> Iterator[Member]:
    """What lies below `root` that may be part of the data set, links followed, hidden names left out."""

    def visit(directory: str, above: tuple[str, ...]) -> Iterator[Member]:
        with os.scandir(directory) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            status, parts = entry.stat(), (*above, entry.name)
            is_directory = stat.S_ISDIR(status.st_mode)
            # Opening a pipe would wait for ever.
            special = "" if is_directory or stat.S_ISREG(status.st_mode) else "a pipe, socket or device"
            read = Path(entry.path).read_bytes
            yield Member("/".join(parts), is_directory, special, status.st_size, read, None if is_directory else status)
            # One level below top/split/class, to find what lies too deep; and nothing beside the splits.
            if is_directory and len(parts) < 5 and (len(parts) == 1 or set(parts[:2]) & set(SPLITS)):
                yield from visit(entry.path, parts)

    return visit(str(root), ())

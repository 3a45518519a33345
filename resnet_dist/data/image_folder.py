"""Images in class folders, `train/<class>/<image>` and `test/<class>/<image>`, in a directory or an archive.

Archives are read from first byte to last and decoded in memory; nothing is extracted to disk. Which folders count is
said in `splits.py`.
"""

import functools
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from resnet_dist.data.archives import SUFFIXES, Member, archive_members
from resnet_dist.data.decoded_images import DecodedImages
from resnet_dist.data.image_tree import ImageTree
from resnet_dist.data.splits import Place, find, is_system
from resnet_dist.errors import DataError
from resnet_dist.paths import absolute


def cache_entry(source: str, cache: Path, size: int) -> tuple[str, Callable[[], DecodedImages]]:
    """Name of the source's entry in the cache directory, and what decodes it."""
    path = Path(source.removeprefix("folder:"))
    return folder_key(path), functools.partial(folder_images, path)


def folder_key(path: Path, inodes: bool = True) -> str:
    """Identifies a folder or archive in its present state, without reading the images.

    It is made of the path and the stamp of the archive, or of every file in the directory. Raises `DataError` if there
    is nothing at `path` or it is of another kind.
    """
    path = absolute(path, "data.source")
    digest = hashlib.sha256(f"{path}\n".encode(errors="surrogateescape"))
    try:
        if path.is_dir():
            for member in _directory_members(path):
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


def folder_images(path: Path) -> DecodedImages:
    """Decode the folder or archive at `path`, images ordered by class and file name.

    A source without train/ has no training images. Raises `DataError`, naming the file, for anything else that is not
    two splits of the same two or more classes of 32x32 images.
    """
    path = absolute(path, "data.source")
    # Without inodes: a mount that makes them up (FUSE, FAT) may number the same files anew before the last is read.
    before = folder_key(path, inodes=False)
    tree = ImageTree(path)
    try:
        for member in _directory_members(path) if path.is_dir() else archive_members(path):
            tree.add(member)
    except OSError as error:
        raise DataError(f"data.source: {error.filename or path} cannot be read ({error.strerror or error})") from error
    decoded = tree.decoded()
    if folder_key(path, inodes=False) != before:
        raise DataError(f"data.source: {path} changed while it was read; start again when it is complete")
    return decoded


def stamp(status: os.stat_result, inodes: bool) -> str:
    """Changes when the content does, whoever sets the date of modification back.

    The time of change (ctime), which no program can set, shows a file that was written or renamed; the inode shows one
    that lies in a renamed folder or behind a link that leads elsewhere now.
    """
    inode = status.st_ino if inodes else 0
    return f"{inode} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _directory_members(root: Path) -> Iterator[Member]:
    """What lies in the splits below `root`, links followed, a system's files left out."""

    def visit(directory: Path, parts: Place, depth: int) -> Iterator[Member]:
        yield Member("/".join(parts), True, "", 0, bytes)
        with os.scandir(directory) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        for entry in entries:
            if is_system(entry.name):
                continue
            status = entry.stat()
            if stat.S_ISDIR(status.st_mode):
                if depth < 4:  # two levels below split/class, to find what lies too deep
                    yield from visit(Path(entry.path), (*parts, entry.name), depth + 1)
                continue
            # Opening a pipe would wait for ever.
            special = "" if stat.S_ISREG(status.st_mode) else "a pipe, socket or device"
            name, read = "/".join([*parts, entry.name]), Path(entry.path).read_bytes
            yield Member(name, False, special, status.st_size, read, status)

    splits = find(root)
    for name in splits.left_out:  # not what is in it
        yield Member("/".join([*splits.top, name]), True, "", 0, bytes)
    for name in sorted(splits.folders.values()):
        yield from visit(root.joinpath(*splits.top, name), (*splits.top, name), 1)

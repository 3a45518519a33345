"""Members of .tar and .zip archives, read in their order without writing anything to disk.

A damaged archive is an error even where the standard library would take the damage for the archive's end.
"""

import contextlib
import functools
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from resnet_dist.errors import DataError
from resnet_dist.file_kinds import FIRST_BYTES, kind_of

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".zip")
"""Names of archives end in one of these."""


class Member(NamedTuple):
    """A file or directory in an archive or below a directory."""

    name: str
    """Path below the root, with `/` between its parts."""
    is_directory: bool
    special: str
    """What it is if neither a file nor a directory, such as "a link"; else empty."""
    size: int
    """Bytes."""
    read: Callable[[], bytes]
    """Gives the content. Of an archive's member only until the next member is asked for."""
    status: os.stat_result | None = None
    """Of a file below a directory."""


def archive_members(path: Path) -> Iterator[Member]:
    """Every member in the order of the archive; a `DataError` naming the archive if it is damaged."""
    with _damage_named(path):
        yield from (_zip_members if path.name.lower().endswith(".zip") else _tar_members)(path)


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:  # zipfile: an unknown compression; a password
        if "password" in str(error):
            raise DataError(
                f"data.source: {path} is encrypted; unpack it with its password, and give the directory"
            ) from error
        raise DataError(f"data.source: {path} cannot be unpacked ({_one_line(error)})") from error
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        lzma.LZMAError,
        gzip.BadGzipFile,
        zlib.error,
        struct.error,
        EOFError,
        ValueError,
    ) as error:
        kind = _another_kind(path)
        what = f"is {kind}, which its name does not say" if kind else f"is damaged or cut off ({_one_line(error)})"
        raise DataError(f"data.source: {path} {what}") from error


_KINDS = {".zip": "a zip archive", ".tar": "a tar archive", ".xz": "an xz file", "gz": "a gzip file"}


def _another_kind(path: Path) -> str:
    """What the archive is, if its suffix says something else."""
    with path.open("rb") as file:
        kind = kind_of(file.read(FIRST_BYTES))
    name = path.name.lower()
    own = next(kind for suffix, kind in _KINDS.items() if name.endswith(suffix))
    return "" if kind in (own, "empty", "all zeros") else kind


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or "it ends early"


def _tar_members(path: Path, wanted: dict[str, list[str]] | None = None) -> Iterator[Member]:
    """The members of a tar; with `wanted`, only these, each under the names that are given for it."""
    links: dict[str, list[str]] = {}
    suffix = next(suffix for suffix in _DECOMPRESSORS if path.name.lower().endswith(suffix))
    # tarfile steps back a few bytes now and then, which without a buffer would decompress from the start again.
    raw = io.BufferedReader(_DECOMPRESSORS[suffix](path), 2**20)
    with raw as stream, tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:") as archive:
        while info := archive.next():
            if info.islnk():
                links.setdefault(info.linkname, []).append(info.name)
            elif wanted is None or info.name in wanted:
                special = "" if info.isreg() or info.isdir() else "a link or special file"
                read = functools.partial(_read_tar_member, path, archive, info)
                for name in [info.name] if wanted is None else wanted.pop(info.name):
                    yield Member(_slashes(name), info.isdir(), special, info.size, read)
            archive.members.clear()  # type: ignore[attr-defined]  # or it keeps every header
        # tarfile takes a damaged header for the end, so look for the block of zeros that marks it.
        stream.seek(archive.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no valid header after {archive.offset} bytes")
        while stream.read(2**20):  # the checksum stands at the end of the compressed stream
            pass
    if wanted is None and links:
        # A file's other names, which have no content of their own. To keep every file for them would take memory.
        yield from _tar_members(path, links)
    for target, names in (wanted or {}).items():
        yield Member(_slashes(names[0]), False, f"a link to {target}, which the archive lacks", 0, bytes)


_DECOMPRESSORS: dict[str, Callable[[Path], Any]] = {
    ".tar": functools.partial(open, mode="rb", buffering=0),
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.xz": lzma.open,
}


def _read_tar_member(path: Path, archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    with _damage_named(path):
        file = archive.extractfile(info)
        assert file is not None  # a regular file has content
        return file.read()


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            special = "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "a link or special file"
            read = functools.partial(_read_zip_member, path, archive, info)
            name = _slashes(info.filename)
            yield Member(name, name.endswith("/"), special, info.file_size, read)


def _slashes(name: str) -> str:
    """A name as it is meant: some archivers of Windows write `train\\cat\\0.png`."""
    return name if "/" in name else name.replace("\\", "/")


def _read_zip_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with _damage_named(path):
        return archive.read(info)

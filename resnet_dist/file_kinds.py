"""What a file is: from its first bytes, whatever its name says; and which names are those of images."""

import struct
import zipfile
import zlib

ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError)
"""What `zipfile` raises where an archive is damaged."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp")

_MAGIC = (
    (b"version https://git-lfs", "a pointer of git LFS, whose file is fetched with git lfs pull"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"BZh", "a bzip2 file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"PAR1", "a Parquet file"),
)
FIRST_BYTES = 512
"""As many as `kind_of` looks at."""


def kind_of(first: bytes) -> str:
    """In words, with an article; empty if the bytes do not tell."""
    if not first.strip(b"\0"):
        return "empty" if not first else "all zeros"
    for magic, name in _MAGIC:
        if first.startswith(magic):
            return name
    if first[257:262] == b"ustar":
        return "a tar archive"
    if first.lstrip()[:1] == b"<":
        return "a page of HTML or XML, as a server sends that has no such file or asks who you are"
    return ""

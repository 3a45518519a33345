"""Storage by URI: a directory, or S3 (`cluster.storage.s3`), behind the interface that a run knows."""

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator
from io import BufferedWriter
from pathlib import Path
from typing import TypeVar

from cluster.storage.keys import RefusedError, probe, validate_key, validate_prefix
from resnet_dist.errors import StorageError
from resnet_dist.paths import recordable
from resnet_dist.storage.counts import StorageCounts
from resnet_dist.storage.interface import StoredObject

T = TypeVar("T")


class LocalStorage:
    """Objects as files below a directory, which is created by the first write.

    Readers see whole objects: each is written under a hidden name beside its place, synced to disk, and then
    renamed (`put`) or linked (`create`) into place.
    """

    is_remote = False
    """A write is there when it returns."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.root = Path(os.path.abspath(recordable(directory, "storage")))  # noqa: PTH100 - keeps symbolic links
        self.place = self.uri = str(self.root)
        self.counts = StorageCounts()
        """A request is one operation."""

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing an older one. It is on disk when this returns."""
        self.counts.request("put", len(data))
        self._write(key, data, os.replace)

    def grow(self, key: str, data: bytes) -> None:
        """Write an object that begins with what it held before, in place; replace it if it held something else."""
        self.counts.request("put", len(data))
        validate_key(key)
        try:
            with (self.root / key).open("r+b") as file:
                here = file.read()
                if data.startswith(here):
                    file.write(data[len(here) :])
                    file.flush()
                    os.fsync(file.fileno())
                    return
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise self._error("write", key, error) from error
        self._write(key, data, os.replace)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless one is there already. True if this call wrote it."""
        self.counts.request("put", len(data))

        def link(temporary: Path, target: Path) -> bool:
            try:
                os.link(temporary, target)
            except FileExistsError:
                if target.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
                return False
            return True

        return self._write(key, data, link)

    def get(self, key: str) -> bytes | None:
        """Read an object; None if there is none."""
        return self._read(key, Path.read_bytes)

    def get_range(self, key: str, start: int, length: int) -> bytes | None:
        """So many bytes of an object from `start` on, fewer where it ends before; None if there is no object."""

        def part(path: Path) -> bytes:
            with path.open("rb", buffering=0) as file:
                file.seek(start)
                return file.read(length)

        return self._read(key, part)

    def _read(self, key: str, read: Callable[[Path], bytes]) -> bytes | None:
        validate_key(key)
        self.counts.request("get")
        try:
            data = read(self.root / key)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._error("read", key, error) from error
        self.counts.received(len(data))
        return data

    def list(self, prefix: str) -> list[StoredObject]:
        """Every object whose key starts with `prefix`, in key order (that of UTF-8 bytes, as in S3)."""
        validate_prefix(prefix)
        self.counts.request("list")
        folder, _, start = prefix.rpartition("/")
        found = list(self._walk(f"{folder}/" if folder else "", start))
        return sorted(found, key=lambda item: item.key.encode())

    def delete(self, key: str) -> None:
        """Remove an object, and the directories that it leaves empty. One that is not there is no error."""
        validate_key(key)
        self.counts.request("delete")
        target = self.root / key
        try:
            target.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            if target.is_dir():
                return
            raise self._error("delete", key, error) from error
        for parent in target.parents:
            if parent == self.root:
                break
            try:
                parent.rmdir()
            except OSError:
                break  # not empty, or another process was faster

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Names one level below `prefix` (empty, or ending in `/`) that are directories, sorted."""
        validate_prefix(prefix)
        self.counts.request("list")
        names = (entry.name for entry in self._scan(prefix) if entry.is_dir())
        return tuple(sorted(names, key=str.encode))

    def check_writable(self) -> None:
        """Write, read, list and delete a small object; a `StorageError` says what is missing.

        Directories that it makes are removed again: what follows may fail for another reason.
        """
        if self.root.is_file():
            raise StorageError(f"storage {self.uri}: is a file; give a directory, or s3://bucket/prefix")
        new = [path for path in (self.root, *self.root.parents) if not os.path.exists(path)]  # noqa: PTH110 - never raises
        probe(self)
        with contextlib.suppress(OSError):  # another process has begun to write
            for path in new:
                path.rmdir()

    def _write(self, key: str, data: bytes, publish: Callable[[Path, Path], T]) -> T:
        validate_key(key)
        target = self.root / key
        # Without the key's name in it: TensorBoard reads every file whose name contains "tfevents".
        temporary = target.with_name(f".put-{secrets.token_hex(8)}.tmp")
        try:
            file = self._open_new(temporary)
            try:
                with file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                result = publish(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_directory(target.parent)
        except OSError as error:
            raise self._error("write", key, error) from error
        return result

    def _open_new(self, path: Path) -> BufferedWriter:
        # Another process may remove an empty directory (`delete`) between its creation and its first file, and also
        # between being found and being looked at, of which `mkdir` makes a FileExistsError.
        attempts = 20
        while True:
            attempts -= 1
            try:
                _make_directory(path.parent)
                return path.open("xb")
            except (FileNotFoundError, FileExistsError):
                if not attempts:
                    raise

    def _walk(self, folder: str, start: str = "") -> Iterator[StoredObject]:
        for entry in self._scan(folder):
            if not entry.name.startswith(start):
                continue
            key = folder + entry.name
            try:
                if entry.is_dir():
                    yield from self._walk(f"{key}/")
                elif entry.is_file():
                    stat = entry.stat()
                    # The inode tells two writes of one size within one tick of the clock apart.
                    yield StoredObject(key, stat.st_size, f"{stat.st_mtime_ns}-{stat.st_size}-{stat.st_ino}")
            except FileNotFoundError:
                continue  # deleted since
            except OSError as error:
                raise self._error("list", key, error) from error

    def _scan(self, folder: str) -> tuple[os.DirEntry[str], ...]:
        try:
            with os.scandir(self.root / folder) as entries:
                return tuple(entry for entry in entries if _is_ours(entry.name))
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            raise self._error("list", folder, error) from error

    def _error(self, action: str, key: str, error: OSError) -> StorageError:
        remedies = {
            errno.EACCES: "give this user the permission, or choose another storage",
            errno.EPERM: "give this user the permission, or choose another storage",
            errno.EROFS: "remount it for writing, or choose another storage",
            errno.ENOSPC: "free some space, or choose another storage",
            errno.EDQUOT: "free some space, or choose another storage",
            errno.EEXIST: "a part of this path is a file; choose another storage",
            errno.ENOTDIR: "a part of this path is a file; choose another storage",
            errno.EISDIR: "a directory stands where the file should be; remove it",
            errno.ENAMETOOLONG: "choose shorter names",
            errno.EOPNOTSUPP: "the file system lacks hard links; choose another storage",
        }
        remedy = remedies.get(error.errno or 0, "check the directory, or choose another storage")
        broken = next((part for part in (self.root / key).parents if part.is_symlink() and not part.exists()), None)
        if broken and error.errno in (errno.EEXIST, errno.ENOENT):
            remedy = f"{broken} is a link that leads nowhere; make what it leads to, or choose another storage"
        kind = RefusedError if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else StorageError
        return kind(f"cannot {action} {self.root / key}: {error.strerror or error}; {remedy}")


_TEMPORARY = re.compile(r"\.put-[0-9a-f]{16}\.tmp")


def _is_ours(name: str) -> bool:
    """Whether a file of this name can be an object: no half-written one, no name that is not Unicode."""
    try:
        validate_key(name)
    except StorageError:
        return False
    return not _TEMPORARY.fullmatch(name)


def _make_directory(directory: Path) -> None:
    """Create a directory and its parents; what is new is on disk when this returns."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some network file systems cannot
            raise
    finally:
        os.close(descriptor)

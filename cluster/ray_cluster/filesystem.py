"""The file system in which Ray keeps its own state in S3: that of runs (`cluster.storage.s3`), as Arrow asks for it.

Ray would make one from an `s3://` URI by itself, with a client that reads less of the configuration than boto3 does: it
would ask AWS itself for what lies at a profile's endpoint. With this one endpoint, keys, certificates and proxies are
what every other request has, and the permissions of one prefix are enough. Its pickle, which Ray writes into the
bucket, holds the bucket's name alone.

Nothing of ours is read from Ray's state. So a write that fails ends no run: it is said once.
"""

import functools
import io
import logging
import threading
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType, PyFileSystem

from cluster.storage.s3 import S3Storage, timeout_from_environment
from resnet_dist.errors import StorageError

LOGGER = logging.getLogger(__name__)

TIMEOUT = 10.0
"""Seconds for which a request is tried again, at most: Ray stands still meanwhile."""


def bucket_filesystem(bucket: str) -> PyFileSystem:
    """A file system whose paths are `<bucket>/<key>`."""
    return PyFileSystem(_Bucket(bucket))


class _Bucket(FileSystemHandler):  # type: ignore[misc]
    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self.failing = False
        self._one_at_a_time = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.bucket,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bucket) and other.bucket == self.bucket

    def __hash__(self) -> int:
        return hash(self.bucket)

    @functools.cached_property
    def storage(self) -> S3Storage:
        """The whole bucket, opened at first use with this process's environment."""
        return S3Storage(f"s3://{self.bucket}", min(timeout_from_environment(), TIMEOUT))

    def get_type_name(self) -> str:
        return "s3"

    def normalize_path(self, path: str) -> str:
        return path

    def create_dir(self, path: str, recursive: bool) -> None:
        """Nothing: an object needs no folder."""

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> FileInfo:
        key = self._key(path)
        below = self.storage.list(key)
        for item in below:
            if item.key == key:
                return FileInfo(path, FileType.File, size=item.size)
        is_folder = any(item.key.startswith(f"{key}/") for item in below)
        return FileInfo(path, FileType.Directory if is_folder else FileType.NotFound)

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        """What is below a path, folders before what they hold."""
        base = self._key(selector.base_dir) + "/"
        found: dict[str, FileInfo] = {}
        for item in self.storage.list(base):
            folders = item.key.removeprefix(base).split("/")[:-1]
            for depth in range(1, len(folders) + 1):
                folder = "/".join([selector.base_dir.rstrip("/"), *folders[:depth]])
                if depth == 1 or selector.recursive:
                    found.setdefault(folder, FileInfo(folder, FileType.Directory))
            if not folders or selector.recursive:
                path = f"{self.bucket}/{item.key}"
                found[path] = FileInfo(path, FileType.File, size=item.size)
        if not found and not selector.allow_not_found:
            raise FileNotFoundError(f"there is nothing in {selector.base_dir}")
        return list(found.values())

    def delete_dir(self, path: str) -> None:
        def delete() -> None:
            for item in self.storage.list(self._key(path) + "/"):
                self.storage.delete(item.key)

        self._write(delete)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self.delete_dir(path)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("buckets are not deleted")

    def delete_file(self, path: str) -> None:
        self._write(lambda: self.storage.delete(self._key(path)))

    def move(self, src: str, dest: str) -> None:
        self.copy_file(src, dest)
        self.delete_file(src)

    def copy_file(self, src: str, dest: str) -> None:
        data = self._read(src)
        self._write(lambda: self.storage.put(self._key(dest), data))

    def open_input_file(self, path: str) -> Any:
        return pa.BufferReader(self._read(path))

    open_input_stream = open_input_file

    def open_output_stream(self, path: str, metadata: dict[str, str]) -> Any:
        """Write an object, which is there once the stream is closed."""
        key = self._key(path)
        return pa.PythonFile(_Upload(lambda data: self._write(lambda: self.storage.put(key, data))), mode="w")

    def open_append_stream(self, path: str, metadata: dict[str, str]) -> Any:
        raise NotImplementedError("objects are not appended to")

    def _key(self, path: str) -> str:
        return path.removeprefix(f"{self.bucket}/").rstrip("/")

    def _read(self, path: str) -> bytes:
        data = self.storage.get(self._key(path))
        if data is None:
            raise FileNotFoundError(f"there is no {path}")
        return data

    def _write(self, write: Callable[[], object]) -> None:
        failed = None
        try:
            write()
        except StorageError as error:
            failed = error
        with self._one_at_a_time:  # Arrow copies several files at once
            first, self.failing = failed is not None and not self.failing, failed is not None
        if first:
            LOGGER.warning("Ray's own state is not kept for the time being, and nothing depends on it: %s", failed)


class _Upload(io.BytesIO):
    """Bytes that are sent when they are closed."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        super().__init__()
        self._send = send

    def close(self) -> None:
        if not self.closed:
            data = self.getvalue()
            super().close()
            self._send(data)

"""The file system in which Ray keeps its own state in S3.

Ray would make one from an `s3://` URI by itself. This one is that, but works with the permissions of one prefix: it
makes no folders, for which Arrow asks about the whole bucket (HeadBucket), and it lists where a missing object is
answered like a forbidden one. A path may have spaces. Its pickle, which Ray writes into the bucket, holds the bucket's
name alone: endpoint and credentials come from the environment of each process.
"""

import functools
import os
from typing import Any

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileSystemHandler, FileType, PyFileSystem


def bucket_filesystem(bucket: str) -> PyFileSystem:
    """A file system whose paths are `<bucket>/<key>`."""
    return PyFileSystem(_WithoutFolders(bucket))


class _WithoutFolders(FileSystemHandler):  # type: ignore[misc]
    def __init__(self, bucket: str) -> None:
        self.bucket = bucket

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.bucket,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _WithoutFolders) and other.bucket == self.bucket

    def __hash__(self) -> int:
        return hash(self.bucket)

    @functools.cached_property
    def store(self) -> Any:
        """Arrow's own file system, made at first use from this process's environment."""
        # It sends checksums after the data by default, which some stores refuse; ours sends none (cluster.s3).
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
        return FileSystem.from_uri(f"s3://{self.bucket}")[0]

    def get_type_name(self) -> str:
        """Name for messages."""
        return "s3"

    def normalize_path(self, path: str) -> str:
        """As it is."""
        return path

    def create_dir(self, path: str, recursive: bool) -> None:
        """Nothing: an object needs no folder."""

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        """What is at each path."""
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> FileInfo:
        try:
            return self.store.get_file_info(path)
        except OSError as error:
            if "ACCESS_DENIED" not in str(error):
                raise
        # Who may list a prefix alone is denied an object that is missing, like one that is forbidden.
        beside = self.store.get_file_info(FileSelector(path.rpartition("/")[0], allow_not_found=True))
        return next((info for info in beside if info.path == path), FileInfo(path, FileType.NotFound))

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        """What is below a path."""
        return list(self.store.get_file_info(selector))

    def delete_dir(self, path: str) -> None:
        """Delete everything below a path."""
        self.store.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        """Delete everything below a path."""
        self.store.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        """Never: that would be every bucket."""
        raise NotImplementedError("buckets are not deleted")

    def delete_file(self, path: str) -> None:
        """Delete an object."""
        self.store.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        """Copy, then delete."""
        self.store.move(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        """Copy an object."""
        self.store.copy_file(src, dest)

    def open_input_stream(self, path: str) -> Any:
        """Read an object from its beginning."""
        return self.store.open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        """Read an object anywhere."""
        return self.store.open_input_file(path)

    def open_output_stream(self, path: str, metadata: dict[str, str]) -> Any:
        """Write an object, which is there once the stream is closed."""
        return self.store.open_output_stream(path, metadata=metadata)

    def open_append_stream(self, path: str, metadata: dict[str, str]) -> Any:
        """Not in S3."""
        return self.store.open_append_stream(path, metadata=metadata)

"""Storage by URI: a directory, or S3."""

import re
from os import PathLike, fspath

from cluster.storage.keys import BrowsableStorage
from cluster.storage.local import LocalStorage
from resnet_dist.errors import StorageError
from resnet_dist.storage.opening import register

Place = str | PathLike[str]
"""A directory or a file; of a storage also `s3://…`."""


def open_storage(place: Place) -> BrowsableStorage:
    """Storage at a directory (absolute or relative) or at `s3://bucket[/prefix]`.

    Nothing is read or written yet. The object can be pickled to other processes; it holds no credentials.
    """
    try:
        uri = fspath(place)
    except TypeError:
        raise StorageError(f"storage {place!r} is not known; give a directory, or s3://bucket/prefix") from None
    if uri.startswith("s3://"):
        # Imported here because only those who use S3 should pay for boto3, and because it imports this module.
        from cluster.storage.s3 import S3Storage

        return S3Storage(uri)
    if scheme := re.match(r"([sS]3):|([^/]*)://", uri):
        # The rest is not shown: it may hold a password.
        raise StorageError(f"storage {scheme[0]}… is not known; give a directory, or s3://bucket/prefix")
    if not uri.strip() or "\0" in uri:
        raise StorageError(f"storage {uri!r} has no name; give a directory, or s3://bucket/prefix")
    return LocalStorage(uri)


register(open_storage)

"""What a check of storage asks an S3 store beyond the operations of every storage."""

import email.utils
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from cluster.storage.check_outcome import ROUNDS, Finding, median_seconds
from cluster.storage.s3 import S3Storage
from cluster.storage.s3_errors import status_of, storage_error
from cluster.storage.time_limit import bounded
from resnet_dist.errors import StorageError

CLOCK_NOTE, CLOCK_LIMIT = 60.0, 900.0
"""Seconds between the clocks from which a word is due, and from which S3 refuses every request."""


def access_to(storage: S3Storage) -> str:
    """Endpoint, region, addressing and where the credentials come from."""
    place = f"{storage.endpoint()}, region {storage.client().meta.region_name}"
    return f"{place}, {_addressing(storage)} addressing, credentials from {storage.source_of_keys()}"


def steps_of(storage: S3Storage) -> dict[str, Callable[[str], Finding]]:
    """Further steps of a check: each is called with the folder of the objects that the check has written."""
    questions: dict[str, tuple[str, Callable[[_Object], Finding]]] = {
        "head": ("read", _head),
        "parts": ("write", _parts),
        "clock": ("write", _clock),
        "checksums": ("write", _checksums),
        "versions": ("write", _versions),
        "encryption": ("write", _encryption),
    }

    def step(action: str, question: Callable[["_Object"], Finding], folder: str) -> Finding:
        key = folder + "special"
        try:
            return bounded(lambda _: question(_Object(storage, key)), 1.5 * storage.timeout)
        except StorageError:
            raise
        except Exception as error:
            raise storage_error(error, action, f"{storage.uri}/{key}", storage.endpoint()) from None

    return {name: functools.partial(step, action, question) for name, (action, question) in questions.items()}


class _Object:
    """An object that a step may write; the check deletes it."""

    def __init__(self, storage: S3Storage, key: str) -> None:
        self.client = storage.client()
        self.bucket = storage.bucket
        self.name = f"{storage.prefix}/{key}".lstrip("/")

    def put(self, **options: Any) -> Mapping[str, Any]:
        return self.client.put_object(Bucket=self.bucket, Key=self.name, Body=b"1", **options)


def _head(thing: _Object) -> Finding:
    thing.put()
    return Finding(
        seconds=median_seconds(lambda _: thing.client.head_object(Bucket=thing.bucket, Key=thing.name), range(ROUNDS))
    )


def _parts(thing: _Object) -> Finding:
    """An upload in parts, of which the only one is small."""
    client, bucket, key = thing.client, thing.bucket, thing.name
    upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    try:
        part = client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"1")
        client.complete_multipart_upload(
            Bucket=bucket,
            Key=key,
            UploadId=upload,
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
        )
    except ClientError:
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
        raise
    return Finding("objects of 64 MiB and more go in parts")


def _clock(thing: _Object) -> Finding:
    headers = thing.put()["ResponseMetadata"]["HTTPHeaders"]
    apart = abs(time.time() - email.utils.parsedate_to_datetime(headers["date"]).timestamp())
    if apart < CLOCK_NOTE:
        return Finding("agrees with the server's")  # which tells whole seconds
    return Finding(
        f"this machine's and the server's are {apart:.0f} s apart; from {CLOCK_LIMIT:.0f} s on every request is "
        "refused: set the clock",
        state="note",
    )


def _checksums(thing: _Object) -> Finding:
    """An upload with a checksum after the data, as newer clients send it by themselves."""

    def after_the_data(params: dict[str, Any], **_: Any) -> None:
        params["context"]["checksum"]["request_algorithm"]["in"] = "trailer"

    events = thing.client.meta.events
    events.register("before-call.s3.PutObject", after_the_data)
    try:
        thing.put(ChecksumAlgorithm="CRC32")
    except ClientError as error:
        if status_of(error) >= 500:
            raise
        return Finding(
            "the server takes none after the data; this program sends none, but other clients "
            "need AWS_REQUEST_CHECKSUM_CALCULATION=when_required",
            state="note",
        )
    finally:
        events.unregister("before-call.s3.PutObject", after_the_data)
    return Finding("the server takes them after the data, too")


def _versions(thing: _Object) -> Finding:
    if thing.put().get("VersionId", "null") == "null":
        return Finding("what is deleted or replaced is gone")
    return Finding(
        "the bucket keeps what is deleted or replaced, old checkpoints too, and it counts as used space; "
        "give the bucket a lifecycle rule that expires noncurrent versions",
        state="note",
    )


def _encryption(thing: _Object) -> Finding:
    answer = thing.put()
    kind = answer.get("ServerSideEncryption")
    if not kind:
        return Finding("the server names none")
    key = answer.get("SSEKMSKeyId", "").rpartition("/")[2]
    return Finding(f"the bucket encrypts objects with {kind}" + (f", key {key}" if key else ""))


def _addressing(storage: S3Storage) -> str:
    """Whether the bucket stands in the path or in the host name of a request, as a signed URL shows."""
    url = storage.signed_url("k")
    return "virtual-host" if urlsplit(url).netloc.startswith(f"{storage.bucket}.") else "path-style"

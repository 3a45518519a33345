"""Storage in S3 and in what speaks its language (Ceph's gateway, MinIO): objects below `s3://bucket/prefix`.

boto3 is configured by its standard environment variables and profiles (`AWS_ENDPOINT_URL[_S3]`, `AWS_REGION`,
`AWS_PROFILE`, `AWS_CA_BUNDLE`, web identity …); no key is an argument here, and none is pickled.
"""

import io
import os
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from cluster.storage.keys import probe, validate_key, validate_prefix
from cluster.storage.s3_endpoint import malformed, require_endpoint
from cluster.storage.s3_errors import (
    KEYS_REFUSED,
    code_of,
    is_transient,
    require_authorities,
    status_of,
    storage_error,
)
from cluster.storage.s3_keys import PATIENCE, KeysError, Sessions, current_keys, new_sessions, unanswered
from cluster.storage.s3_responses import require_answers
from cluster.storage.time_limit import UnansweredError, bounded
from resnet_dist.environment import seconds_of
from resnet_dist.errors import StorageError
from resnet_dist.storage.counts import StorageCounts
from resnet_dist.storage.interface import StoredObject

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

T = TypeVar("T")
Progress = Callable[[object], None]
"""Called, with anything, by a request that gets on."""

TIMEOUT_VARIABLE = "RESNET_DIST_STORAGE_TIMEOUT"
DEFAULT_TIMEOUT = 60.0
CHECK_TIMEOUT = 10.0
"""Seconds for which `check_writable` retries: nothing has begun yet, and the user waits."""
CONNECT_TIMEOUT, READ_TIMEOUT = 5.0, 60.0
PART_BYTES = 16 * 2**20
MULTIPART_BYTES = 64 * 2**20
"""Objects of this size and more go in parts."""
KEYS_SECONDS = 30.0
"""What gives keys, such as a helper program, may take so long, or as long as the store."""
LEAST_SECONDS = 5.0
"""What any request has, however short the timeout: botocore itself waits a second for the word to send a body."""
CHUNK_BYTES = 64 * 2**10
"""So much of an object that is read is progress."""


class S3Storage:
    """Objects below a prefix of one bucket.

    Every request is tried again, with growing random pauses, while the failure is one that can pass (overload, a
    lost connection, a restarting server) and `timeout` seconds have not gone by; then a `StorageError` says what
    failed. The last try may wait for an answer that does not come, or comes in drops, so an operation ends after 1.5 ×
    `timeout` at the latest, or as long after the last bytes of a large object have gone or come. Keys that cannot be
    had are asked for again for a few seconds only: a run's writes wait on its disk meanwhile, and a user does not.
    """

    is_remote = True
    counts: StorageCounts
    """Every HTTP request, under the name that S3 gives the operation."""
    _opened: Sessions | None

    def __init__(self, uri: str, timeout: float | None = None) -> None:
        self.bucket, self.prefix = parse_s3_uri(uri)
        self.uri = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self.timeout = timeout or timeout_from_environment()
        self._open()

    @property
    def place(self) -> str:
        """The endpoint and the URI: buckets of one name are on many servers."""
        return f"{self.endpoint()} {self.uri}"

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing an older one."""
        name = self._name(key)
        if len(data) < MULTIPART_BYTES:
            self._try("write", key, lambda _: self._client().put_object(Bucket=self.bucket, Key=name, Body=data))
            return
        transfer = TransferConfig(
            multipart_threshold=MULTIPART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4
        )
        # A part that fails is tried again by botocore, so that one slow answer does not send all the others again.
        self._try(
            "write",
            key,
            lambda progress: self._client(attempts=6).upload_fileobj(
                io.BytesIO(data), self.bucket, name, Config=transfer, Callback=progress
            ),
        )

    def grow(self, key: str, data: bytes) -> None:
        """Write an object that begins with what it held before; a store of objects replaces it."""
        self.put(key, data)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless one is there already. True if this call wrote it."""
        name = self._name(key)
        writer = secrets.token_hex(8)
        tries = 0

        def request(_: Progress) -> bool:
            nonlocal tries
            tries += 1
            try:
                self._client().put_object(
                    Bucket=self.bucket, Key=name, Body=data, IfNoneMatch="*", Metadata={"writer": writer}
                )
            except ClientError as error:
                if status_of(error) != 412:
                    raise
                # An earlier try may have written the object although its answer was lost.
                return tries > 1 and self._writer_of(name) == writer
            return True

        return self._try("write", key, request)

    def get(self, key: str) -> bytes | None:
        """Read an object; None if there is none."""
        return self._get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes | None:
        """So many bytes of an object from `start` on, fewer where it ends before; None if there is no object."""
        return self._get(key, Range=f"bytes={start}-{start + length - 1}")

    def _get(self, key: str, **part: Any) -> bytes | None:
        name = self._name(key)

        def read(progress: Progress) -> bytes | None:
            try:
                chunks = []
                body = self._client().get_object(Bucket=self.bucket, Key=name, **part)["Body"]
                for chunk in body.iter_chunks(CHUNK_BYTES):
                    chunks.append(chunk)
                    progress(chunk)
                data = b"".join(chunks)
                self.counts.received(len(data))
                return data
            except ClientError as error:
                if part and status_of(error) == 416:
                    return b""  # it ends before `start`
                if code_of(error) == "NoSuchKey":
                    return None
                raise

        def request(progress: Progress) -> bytes | None:
            try:
                return read(progress)
            except ClientError as error:
                if code_of(error) != "AccessDenied":
                    raise
            # Once more if it is listed: it may have been written since it was denied.
            return None if self._unlisted(name) else read(progress)

        return self._try("read", key, request)

    def _unlisted(self, name: str) -> bool:
        """Whether a listing says that there is no object of this name.

        Who may list a prefix alone is denied an object that is missing, like one that is forbidden.
        """
        try:
            page = self._client().list_objects_v2(Bucket=self.bucket, Prefix=name, MaxKeys=1)
        except ClientError:
            return False
        return all(item["Key"] != name for item in page.get("Contents", ()))

    def list(self, prefix: str) -> list[StoredObject]:
        """Every object whose key starts with `prefix`, in key order.

        Keys that this interface could not have written (such as the `folder/` markers of some consoles) are left
        out.
        """
        validate_prefix(prefix)
        found = []
        for page in self._pages(prefix):
            for item in page.get("Contents", ()):
                key = item["Key"].removeprefix(self._root)
                if _is_valid(key):
                    found.append(StoredObject(key, item["Size"], item["ETag"].strip('"')))
        return found

    def delete(self, key: str) -> None:
        """Remove an object. One that is not there is no error."""
        name = self._name(key)
        self._try("delete", key, lambda _: self._client().delete_object(Bucket=self.bucket, Key=name))

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Names one level below `prefix` (empty, or ending in `/`) that have objects below them, sorted."""
        validate_prefix(prefix)
        start = self._root + prefix
        names = (
            item["Prefix"].removeprefix(start).rstrip("/")
            for page in self._pages(prefix, Delimiter="/")
            for item in page.get("CommonPrefixes", ())
        )
        return tuple(name for name in names if _is_valid(name))

    def check_writable(self) -> None:
        """Write, read, list and delete a small object; a `StorageError` says what is missing."""
        probe(S3Storage(self.uri, min(self.timeout, CHECK_TIMEOUT)))

    def endpoint(self) -> str:
        """URL of the store, without what may be secret in it."""
        self.client()
        return self._endpoint

    def source_of_keys(self) -> str:
        """Where the keys come from, in a word or two."""
        self.client()
        with self._lock:
            credentials = self._sessions().of_botocore.get_credentials()
        method = credentials.method if credentials else "nowhere"
        return "the environment" if method == "env" else str(method)

    def signed_url(self, name: str) -> str:
        """A URL of an object, which tells where it lies and for a while gives access to it."""
        params = {"Bucket": self.bucket, "Key": name}
        return self._try("reach", "", lambda _: self._client().generate_presigned_url("head_object", params))

    def client(self) -> "S3Client":
        """boto3's client, for questions that this interface does not answer; it tries again by itself."""
        return self._try("reach", "", lambda _: self._client(attempts=3))

    @property
    def _root(self) -> str:
        return f"{self.prefix}/" if self.prefix else ""

    def _name(self, key: str) -> str:
        validate_key(key)
        validate_key(self._root + key)  # the two together may be too long
        return self._root + key

    def _writer_of(self, name: str) -> str | None:
        try:
            return self._client().head_object(Bucket=self.bucket, Key=name)["Metadata"].get("writer")
        except ClientError as error:
            if status_of(error) == 404:
                return None
            raise

    def _pages(self, prefix: str, **options: Any) -> Iterator[Any]:
        while True:
            page: Any = self._try(
                "list",
                prefix,
                lambda _: self._client().list_objects_v2(Bucket=self.bucket, Prefix=self._root + prefix, **options),
            )
            yield page
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken")
            if not token or token == options.get("ContinuationToken"):
                raise StorageError(
                    f"cannot list {self.uri}/{prefix} at {self._endpoint}: the store says that its listing goes on, "
                    "and not where; use one that lists all there is"
                )
            options["ContinuationToken"] = token

    def _try(self, action: str, key: str, request: Callable[[Progress], T]) -> T:
        began = time.monotonic()
        longest_pause = 0.1
        target = f"{self.uri}/{key}".rstrip("/")
        while True:
            keys = None
            pause = random.uniform(0, longest_pause)
            try:
                keys = bounded(lambda _: self._ready(), max(KEYS_SECONDS, self.timeout))
                left = began + 1.5 * self.timeout - time.monotonic()
                return bounded(request, max(left, self.timeout / 2, LEAST_SECONDS))
            except KeysError as error:
                self._forget(None)
                if not error.can_pass or time.monotonic() + pause > began + min(PATIENCE, self.timeout):
                    raise StorageError(f"cannot {action} {target}: {error}") from error.__cause__
            except StorageError:
                raise
            except UnansweredError as error:
                if keys is None:
                    said = unanswered(self._opened, error.seconds)
                    raise StorageError(f"cannot {action} {target}: {said}") from None
                raise storage_error(error, action, target, self._endpoint) from None
            except Exception as error:  # botocore passes on what Python and others raise below it
                again = is_transient(error) or (code_of(error) in KEYS_REFUSED and self._forget(keys))
                if not again or time.monotonic() + pause > began + self.timeout:
                    raise storage_error(error, action, target, self._endpoint) from None
            time.sleep(pause)
            self.counts.retry()
            longest_pause = min(2 * longest_pause, 5.0)

    def _ready(self) -> Any:
        """The keys, and a client that has them."""
        keys = self._keys()
        self._client()
        return keys

    def _keys(self) -> Any:
        """The keys, before each request: what is wrong with them is then known to be no answer of the store."""
        with self._lock:
            session = self._sessions().of_botocore
        return current_keys(session)

    def _forget(self, keys: Any) -> bool:
        """Find keys anew from now on, as in a file that has been replaced. Whether they are others than `keys`."""
        with self._lock:
            self._opened = None
            self._clients.clear()
        if keys is None:
            return False
        try:
            return bool(self._keys() != keys)
        except KeysError:
            return False

    def _sessions(self) -> Sessions:
        """Those at hand, or new ones; the caller has the lock."""
        if self._opened is None:
            self._opened = new_sessions(_settings(self.timeout, attempts=1))
        return self._opened

    def _client(self, attempts: int = 1) -> "S3Client":
        """The client that sends each request at most `attempts` times; made at first use, shared by threads."""
        with self._lock:
            if attempts not in self._clients:
                self._clients[attempts] = _new_client(self._sessions(), self.timeout, attempts)
                events = self._clients[attempts].meta.events
                events.register("before-send.s3", self._count)
                require_answers(events)
                self._endpoint = _without_user(self._clients[attempts].meta.endpoint_url)
            return self._clients[attempts]

    def _count(self, event_name: str, request: Any, **_: Any) -> None:
        """Called by boto3 before each HTTP request, those included that it makes again by itself."""
        headers = {name.lower(): str(value) for name, value in request.headers.items()}
        self.counts.request(event_name.rpartition(".")[2], int(headers.get("content-length", 0)))
        attempt = re.search(r"attempt=(\d+)", headers.get("amz-sdk-request", ""))
        if attempt and int(attempt[1]) > 1:
            self.counts.retry()

    def _open(self) -> None:
        self._lock = threading.Lock()
        self.counts = StorageCounts()
        self._opened = None
        self._clients: dict[int, S3Client] = {}
        self._endpoint = "the configured endpoint"

    def __getstate__(self) -> dict[str, Any]:
        """Without clients, which hold credentials: the other process has an environment of its own."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """With no client yet."""
        vars(self).update(state)
        self._open()


def parse_s3_uri(uri: str) -> tuple[str, str]:
    """Bucket and prefix (without a slash at either end, possibly empty) of `s3://bucket[/prefix]`."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if "@" in bucket:  # not shown: it may hold a password
        raise StorageError("storage s3://…@…: keys do not belong in a URI; set the AWS_* variables or a profile")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]", bucket):
        raise StorageError(f"storage s3://{bucket}: {bucket!r} is no bucket name; give s3://bucket/prefix")
    if "?" in prefix:
        raise StorageError(
            f"storage s3://{bucket}/…?…: settings do not belong in a URI; set AWS_ENDPOINT_URL, AWS_REGION …"
        )
    prefix = prefix.rstrip("/")
    if prefix:
        validate_key(prefix)
    return bucket, prefix


def timeout_from_environment() -> float:
    """Seconds for which an operation is tried again: `RESNET_DIST_STORAGE_TIMEOUT`, or 60."""
    return seconds_of(TIMEOUT_VARIABLE, DEFAULT_TIMEOUT, least=0.01, most=86_400)


def _settings(timeout: float, attempts: int, **more: Any) -> Config:
    return Config(
        connect_timeout=min(CONNECT_TIMEOUT, timeout / 2),
        read_timeout=min(READ_TIMEOUT, timeout / 2),
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=32,
        **more,
    )


def _new_client(sessions: Sessions, timeout: float, attempts: int) -> "S3Client":
    configured = sessions.of_botocore.get_scoped_config()
    if not isinstance(configured.get("s3", {}), dict):
        raise StorageError("the profile has settings beside `s3 =`; write each below `s3 =`, indented")
    # The newer default, trailing checksums, is refused by some stores.
    checksums = {
        name: "when_required"
        for name in ("request_checksum_calculation", "response_checksum_validation")
        if f"AWS_{name.upper()}" not in os.environ and name not in configured
    }
    require_endpoint(sessions.of_botocore)
    try:
        return sessions.of_boto3.client(
            "s3",
            region_name=sessions.of_boto3.region_name or "us-east-1",
            verify=require_authorities(sessions.of_botocore.get_config_variable("ca_bundle")),
            config=_settings(timeout, attempts, **checksums),
        )
    except ValueError:  # its text is left out: an endpoint may hold a password
        raise StorageError(malformed(sessions.of_botocore)) from None


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/")))


def _is_valid(key: str) -> bool:
    try:
        validate_key(key)
    except StorageError:
        return False
    return True

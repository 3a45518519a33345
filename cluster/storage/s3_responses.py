"""Whether what answers a request speaks S3: login pages, proxies and web servers say 200 too.

A page would be taken for an object's content, an empty answer for a write that was done or a bucket with nothing in it.
"""

from collections.abc import Mapping
from typing import Any

from botocore.handlers import BUILTIN_HANDLERS

_EVENT = "before-parse.s3.*"


class NotS3Error(Exception):
    """The answer is none of S3's. The text says what came."""


class BrokenOffError(Exception):
    """The answer ends in the middle."""


_WITH_ETAG = {"PutObject", "UploadPart", "GetObject", "HeadObject"}
"""Whose answers name the object's version in a header."""

_ROOTS = {
    "ListObjectsV2": b"ListBucketResult",
    "CreateMultipartUpload": b"InitiateMultipartUploadResult",
}
"""The outermost element of answers that have a body."""


def require_answers(events: Any) -> None:
    """Have a client of boto3, of which these are the events, raise `NotS3Error` and `BrokenOffError`."""
    # Before botocore's own, one of which takes a page for an overloaded store.
    own = [entry[1] for entry in BUILTIN_HANDLERS if entry[0] == _EVENT]
    for handler in own:
        events.unregister(_EVENT, handler)
    for handler in (_require_answer, *own):
        events.register(_EVENT, handler)


def _require_answer(operation_model: Any, response_dict: Mapping[str, Any], **_: Any) -> None:
    status, headers = response_dict["status_code"], response_dict["headers"]
    body = response_dict["body"] if isinstance(response_dict["body"], bytes) else b""
    if status not in range(200, 300) or b"<Error>" in body:
        return
    operation = operation_model.name
    root = _ROOTS.get(operation)
    if operation in _WITH_ETAG:
        sound = "etag" in {name.lower() for name in headers}
    elif root:
        sound = b"<" + root in body
    else:
        sound = operation != "DeleteObject" or not body
    if not sound:
        kind = headers.get("Content-Type", "").partition(";")[0].strip()[:60] or "no stated type"
        size = int(headers.get("Content-Length") or len(body))
        raise NotS3Error(
            f"status {status} with "
            + (f"{size} bytes of {kind}" if size else "nothing in it")
            + (" and no ETag" if operation in _WITH_ETAG else "")
        )
    if root and b"</" + root not in body:
        raise BrokenOffError

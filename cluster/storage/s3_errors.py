"""What an S3 client's error means, in one line for the user, and whether trying again can help."""

import re
import ssl
from collections.abc import Mapping

from botocore import exceptions as boto
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import LocationValueError

from cluster.storage.keys import RefusedError
from cluster.storage.s3_endpoint import proxy_for
from cluster.storage.s3_responses import BrokenOffError, NotS3Error
from cluster.storage.time_limit import UnansweredError
from resnet_dist.errors import StorageError

TRANSIENT_CODES = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "TooManyRequests",
        "RequestTimeout",
        "ConditionalRequestConflict",
        "OperationAborted",
    }
)
"""Error codes below 500 (and SlowDown, which is 503) that go away by themselves."""

KEYS_REFUSED = frozenset({"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"})
"""Codes after which keys are looked for anew: others may lie there by now."""

_OF_THIS_REQUEST = frozenset({"AccessDenied", "NotImplemented", "MethodNotAllowed", "InvalidPart"})
"""Codes that say nothing of other operations."""

SET_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_ENDPOINT = "check AWS_ENDPOINT_URL_S3 / AWS_ENDPOINT_URL and that the server runs"

_PROXY = "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
_PROXY_WANTS_PASSWORD = (
    "the proxy wants a password; write HTTPS_PROXY, HTTP_PROXY as http://user:password@host:port, or name the server "
    "in NO_PROXY"
)

_BY_CODE: Mapping[str, str] = {
    "NoSuchBucket": "the bucket does not exist; create it, or correct its name",
    "InvalidBucketName": "the bucket's name is not a valid one; correct it",
    "InvalidAccessKeyId": f"the access key is not known there; {SET_KEYS}",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key; correct AWS_SECRET_ACCESS_KEY",
    "InvalidToken": "the session token is not valid; renew the credentials",
    "ExpiredToken": "the session token has expired; renew the credentials",
    "RequestTimeTooSkewed": "this machine's clock and the server's differ too much; set the clock",
    "RequestExpired": "this machine's clock and the server's differ too much; set the clock",
    "AuthorizationHeaderMalformed": "the bucket is in another region; set AWS_REGION to the bucket's",
    "PermanentRedirect": "the bucket is in another region or at another endpoint; set AWS_REGION",
    "IllegalLocationConstraintException": "the bucket is in another region; set AWS_REGION to the bucket's",
    "QuotaExceeded": "the quota is used up; delete something, or have it raised",
    "InsufficientStorage": "the store is full; delete something, or have it enlarged",
    "XMinioStorageFull": "the store is full; delete something, or have it enlarged",
    "InvalidObjectState": "the object is in an archive; restore it, or take the rule that moves objects there from the "
    "bucket",
    "KMS.DisabledException": "the bucket's encryption key is disabled; have it enabled",
    "InvalidPart": "the store does not know a part of an object by the version (ETag) that its own answer named; have "
    "what changes answers between it and this machine looked at",
    "KeyTooLongError": "the key is too long; choose a shorter prefix or shorter names",
    "NotImplemented": "the server lacks a feature (writing only if absent?); use a newer server",
    "MissingContentLength": "the server wants no trailing checksums; set "
    "AWS_REQUEST_CHECKSUM_CALCULATION=when_required",
    "XAmzContentSHA256Mismatch": "the server rejects the checksum; set AWS_REQUEST_CHECKSUM_CALCULATION=when_required",
}

_PERMISSIONS = {
    "read": "s3:GetObject (and s3:ListBucket, without which a missing object answers the same)",
    "list": "s3:ListBucket for this prefix",
    "write": "s3:PutObject",
    "delete": "s3:DeleteObject",
}


def status_of(error: Exception) -> int:
    """HTTP status of a server's answer; 0 where there was none."""
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: Exception) -> str:
    """S3's error code; empty where there was none."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed later: overload, a lost connection, a server that restarts."""
    if isinstance(error, ClientError):
        status = status_of(error)
        return code_of(error) in TRANSIENT_CODES or status == 429 or (status >= 500 and status != 501)
    if isinstance(error, boto.SSLError):
        return not (_is_plain_http(error) or _is_untrusted(error))
    return isinstance(
        error,
        (
            boto.ConnectionError,
            boto.ConnectionClosedError,
            boto.ReadTimeoutError,
            boto.ResponseStreamingError,
            boto.IncompleteReadError,
            BrokenOffError,
        ),
    )


def storage_error(error: Exception, action: str, target: str, endpoint: str) -> StorageError:
    """One line: what (`action`, one of read, list, write, delete) failed at `target`, why, and what to do.

    The texts that servers send are left out: some repeat the access key.
    """
    kind = RefusedError if code_of(error) in _OF_THIS_REQUEST else StorageError
    return kind(f"cannot {action} {target} at {endpoint}: {_cause(error, action, endpoint)}")


def _cause(error: Exception, action: str, endpoint: str) -> str:
    if isinstance(error, ClientError):
        return _answer(error, action)
    inner = getattr(error, "kwargs", {}).get("error")  # of an error that the HTTP library did not foresee
    if type(error).__name__.startswith("Invalid"):  # of a setting, which the text names
        return f"the configuration is not valid: {' '.join(str(error).split())}"
    causes: list[tuple[type[Exception] | tuple[type[Exception], ...], str]] = [
        (boto.SSLError, _tls_cause(error)),
        (boto.ConnectTimeoutError, f"no connection in time; {_ENDPOINT}"),
        (boto.ReadTimeoutError, f"the server accepts connections but does not answer in time; {_ENDPOINT}"),
        (boto.ProxyConnectionError, _proxy_cause(inner)),
        (boto.EndpointConnectionError, f"the server cannot be reached; {_ENDPOINT}"),
        (UnansweredError, f"the server does not answer in time: {error}; {_ENDPOINT}"),
        (
            (boto.ResponseStreamingError, boto.IncompleteReadError, BrokenOffError),
            "the answer breaks off: the server, or a proxy before it, ends the connection in the middle; have that "
            "looked at",
        ),
        (NotS3Error, f"what answers there is not S3, but a login page or a proxy perhaps: {error}; {_ENDPOINT}"),
        (
            boto.ConnectionClosedError,
            "the server ends the connection before it has answered in full; "
            + (f"does it want https:// ? {_ENDPOINT}" if endpoint.startswith("http://") else _ENDPOINT),
        ),
        (ResponseParserError, f"what answers there is not S3; {_ENDPOINT}"),
        # botocore takes each redirection for one to the bucket's region, and asks for that where it was redirected.
        (
            RecursionError,
            f"what answers there sends requests elsewhere, as a login page does, or is not S3; {_ENDPOINT}",
        ),
        (boto.EndpointResolutionError, "the endpoint is malformed; correct AWS_ENDPOINT_URL_S3 / AWS_ENDPOINT_URL"),
        (LocationValueError, f"the proxy's address is malformed: {proxy_for(endpoint)}; correct it"),
    ]
    for kinds, cause in causes:
        if isinstance(error, kinds) or isinstance(inner, kinds):
            return cause
    return f"{type(inner or error).__name__}; check the AWS_* settings"


def _answer(error: ClientError, action: str) -> str:
    code, status = code_of(error), status_of(error)
    if code in _BY_CODE:
        return _BY_CODE[code]
    if status == 407:
        return _PROXY_WANTS_PASSWORD
    if status == 403:
        return _denial(error, action)
    said = f"{code}, status {status}" if code not in ("", str(status)) else f"status {status}"
    if is_transient(error):
        return f"the server is overloaded or out of order ({said}); try again later"
    if status == 404:
        return f"what answers there knows no such bucket, or is not S3; {_ENDPOINT}"
    return f"the server refuses ({said}); check the bucket, the region and the endpoint"


def _denial(error: ClientError, action: str) -> str:
    text = str(error.response.get("Error", {}).get("Message", ""))
    if not code_of(error):  # no error of S3's, but a page for people
        return f"access is denied by something that is not S3, such as a proxy or a firewall; {_PROXY}, {_ENDPOINT}"
    if "object lock" in text.lower():
        return "an object lock protects what is there; use a bucket without one"
    if key_permission := re.search(r"\bkms:[A-Za-z]+", text):
        return f"access is denied; these credentials need {key_permission[0]} for the bucket's encryption key"
    return f"access is denied; these credentials need {_PERMISSIONS[action]}"


def _proxy_cause(error: object) -> str:
    refusal = re.search(r"Tunnel connection failed: (\d{3})", str(error))
    if refusal is None:
        return f"the proxy cannot be reached; {_PROXY}"
    if refusal[1] == "407":
        return _PROXY_WANTS_PASSWORD
    return f"the proxy refuses to connect (status {refusal[1]}); {_PROXY}"


def require_authorities(bundle: str | None) -> str | bool:
    """The file of certificate authorities that the configuration names, or True. A `StorageError` if it holds none."""
    if bundle:
        fault = ""
        try:
            ssl.create_default_context(cafile=bundle)
        except ssl.SSLError:
            fault = "holds no certificate in PEM"
        except OSError as error:
            fault = f"cannot be read: {error.strerror}"
        if fault:
            raise StorageError(f"AWS_CA_BUNDLE, or ca_bundle of the profile: {bundle} {fault}; correct it")
    return bundle or True


def _tls_cause(error: Exception) -> str:
    if _is_plain_http(error):
        return "the server speaks plain HTTP; write the endpoint with http://"
    if "doesn't match" in str(error):
        return f"its certificate is for another host; {_ENDPOINT}"
    if "certificate has expired" in str(error):
        return "its certificate has expired; renew it, and see that this machine's clock is right"
    if _is_untrusted(error):
        return "its certificate is not trusted; name the authority's file in AWS_CA_BUNDLE, or correct the host"
    return f"no secure connection; {_ENDPOINT}"


def _is_plain_http(error: Exception) -> bool:
    return any(sign in str(error).upper() for sign in ("WRONG_VERSION_NUMBER", "RECORD_LAYER", "RECORD LAYER"))


def _is_untrusted(error: Exception) -> bool:
    signs = ("CERTIFICATE", "DOESN'T MATCH", "NO SUCH FILE")  # the last one: of authorities
    return any(sign in str(error).upper() for sign in signs)

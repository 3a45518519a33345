"""What stores, proxies and login pages answer, and the line that a user reads then."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from botocore.exceptions import ProxyConnectionError, SSLError

from cluster.storage.s3 import TIMEOUT_VARIABLE, S3Storage
from cluster.storage.s3_errors import is_transient, storage_error
from resnet_dist.errors import StorageError

PAGE = "<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in</body></html>"


def xml(code: str, message: str) -> str:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"


@pytest.fixture
def answering(s3_environment: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, str], None]]:
    """Sets what a server, which stands in the store's place, answers to every request."""
    given = [(500, "")]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # which says that it waits for what is to be written

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.do_GET()

        def do_GET(self) -> None:
            status, body = given[0]
            self.send_response(status)
            if status in (301, 302, 307):
                self.send_header("Location", f"http://{self.headers['Host']}/login")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        def do_HEAD(self) -> None:
            self.do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield lambda status, body: given.__setitem__(0, (status, body))
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (301, PAGE, "what answers there sends requests elsewhere"),
        (302, "", "what answers there sends requests elsewhere"),
        (307, "", "what answers there sends requests elsewhere"),
        (400, PAGE, "the server refuses (status 400)"),
        (403, PAGE, "access is denied by something that is not S3"),
        (407, PAGE, "the proxy wants a password"),
        (429, PAGE, "overloaded or out of order (status 429)"),
        (500, "", "overloaded or out of order (status 500)"),
        (503, xml("SlowDown", "less"), "overloaded or out of order (SlowDown, status 503)"),
        (507, xml("InsufficientStorage", "full"), "the store is full"),
        (403, xml("AccessDenied", "Access Denied"), "these credentials need s3:PutObject"),
        (403, xml("AccessDenied", "not authorized to perform: kms:GenerateDataKey on"), "need kms:GenerateDataKey for"),
        (403, xml("AccessDenied", "because object protected by object lock."), "an object lock protects what is there"),
    ],
)
def test_what_refuses_a_write_is_named(
    answering: Callable[[int, str], None], status: int, body: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if status == 429 or status >= 500:  # which are tried again
        monkeypatch.setenv(TIMEOUT_VARIABLE, "2")
    answering(status, body)
    with pytest.raises(StorageError) as caught:
        S3Storage("s3://bucket/x").put("a", b"1")
    assert words in str(caught.value)


def test_an_object_in_an_archive_is_not_a_matter_of_permissions(answering: Callable[[int, str], None]) -> None:
    answering(403, xml("InvalidObjectState", "The operation is not valid for the object's storage class"))
    with pytest.raises(StorageError, match="the object is in an archive; restore it"):
        S3Storage("s3://bucket/x").get("a")


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ("Tunnel connection failed: 407 Proxy Authentication Required", "the proxy wants a password"),
        ("Tunnel connection failed: 403 Forbidden", "the proxy refuses to connect (status 403)"),
        ("Connection refused", "the proxy cannot be reached"),
    ],
)
def test_a_proxy_that_refuses_is_not_one_that_cannot_be_reached(refusal: str, words: str) -> None:
    error = ProxyConnectionError(proxy_url="http://proxy", error=OSError(refusal))
    assert words in str(storage_error(error, "write", "s3://bucket/a", "https://store"))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("hostname 'store' doesn't match 'other.example'", "its certificate is for another host"),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired",
            "has expired; renew it",
        ),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate in certificate chain", "is not trusted"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_said_and_does_not_pass(fault: str, words: str) -> None:
    error = SSLError(endpoint_url="https://store", error=OSError(fault))
    assert words in str(storage_error(error, "write", "s3://bucket/a", "https://store"))
    assert not is_transient(error)


def test_a_directory_of_authorities_is_refused_before_anything_is_asked(
    s3_environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path))
    with pytest.raises(StorageError, match=f"AWS_CA_BUNDLE, .*: {tmp_path} cannot be read: Is a directory"):
        S3Storage("s3://bucket").put("a", b"1")


def test_settings_of_s3_on_the_line_of_their_heading_are_explained(
    s3_environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text("[default]\ns3 = addressing_style = virtual\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(StorageError, match="write each below `s3 =`, indented"):
        S3Storage("s3://bucket").put("a", b"1")

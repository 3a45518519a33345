"""Answers that are none of S3's, stop in the middle or come in drops: what came is said, and nothing is believed."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cluster.storage import s3_check
from cluster.storage.s3 import TIMEOUT_VARIABLE, S3Storage
from resnet_dist.errors import StorageError

PAGE = b"<html><body>Sign in<br></body></html>"
WELL_FORMED = b"<html><body>Sign in</body></html>"
LISTING = (
    b"<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated><Contents><Key>x/a</Key><Size>1</Size>"
    b"<ETag>e</ETag></Contents></ListBucketResult>"
)

OPERATIONS: dict[str, Callable[[S3Storage], object]] = {
    "write": lambda storage: storage.put("a", b"1"),
    "write if absent": lambda storage: storage.create("a", b"1"),
    "read": lambda storage: storage.get("a"),
    "list": lambda storage: storage.list(""),
    "folders": lambda storage: storage.folders(""),
}


class Server:
    """Answers every request with `status`, `headers` and `body`, byte by byte, with no end, if it `drips`."""

    status = 200
    headers: dict[str, str]
    body = b""
    missing = 0
    """Bytes that the answer announces and does not have."""
    drips = False

    def __init__(self) -> None:
        self.headers = {}
        self.over = threading.Event()


@pytest.fixture
def server(s3_environment: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Stands in the place of the store."""
    given = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.close_connection = True
            if given.drips and not given.body:
                self.drip(b"HTTP/1.1 200 OK\r\nX-Header: ")
            self.send_response(given.status)
            for name, value in given.headers.items():
                self.send_header(name, value)
            size = 10**6 if given.drips else len(given.body) + given.missing
            self.send_header("Content-Length", str(size))
            self.end_headers()
            if given.drips:
                self.drip(given.body)
            elif self.command != "HEAD":
                self.wfile.write(given.body)

        def drip(self, begin: bytes) -> None:
            self.wfile.write(begin)
            while not given.over.wait(0.02):
                self.wfile.write(b"x")

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815 - names that http.server looks for

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                super().handle()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.server_port}")
        monkeypatch.setenv(TIMEOUT_VARIABLE, "2")
        yield given
        given.over.set()
        running.shutdown()


def said(operation: Callable[[S3Storage], Any]) -> str:
    with pytest.raises(StorageError) as caught:
        operation(S3Storage("s3://bucket/x"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("operation", [*OPERATIONS.values(), lambda storage: storage.delete("a")])
@pytest.mark.parametrize("page", [PAGE, WELL_FORMED])
def test_a_page_with_status_200_is_no_answer_of_a_store(
    page: bytes, operation: Callable[[S3Storage], object], server: Server
) -> None:
    server.body, server.headers = page, {"Content-Type": "text/html; charset=utf-8"}
    assert f"is not S3, but a login page or a proxy perhaps: status 200 with {len(page)} bytes of text/html" in said(
        operation
    )


@pytest.mark.parametrize("operation", OPERATIONS.values())
def test_nothing_at_all_is_no_answer_either(operation: Callable[[S3Storage], object], server: Server) -> None:
    assert "is not S3, but a login page or a proxy perhaps: status 200 with nothing in it" in said(operation)


def test_a_store_that_speaks_s3_is_believed(server: Server) -> None:
    server.body, server.headers = LISTING, {"ETag": '"e"'}
    assert [item.key for item in S3Storage("s3://bucket/x").list("")] == ["a"]
    assert S3Storage("s3://bucket/x").get("a") == LISTING


@pytest.mark.parametrize("token", [b"", b"<NextContinuationToken>again</NextContinuationToken>"])
def test_a_listing_that_never_ends_is_no_listing(token: bytes, server: Server) -> None:
    server.body = LISTING.replace(b"false", b"true").replace(b"<Contents>", token + b"<Contents>")
    assert "the store says that its listing goes on, and not where" in said(OPERATIONS["list"])


def test_an_error_with_status_200_is_the_stores_own_and_tried_again(server: Server) -> None:
    server.body = b"<Error><Code>InternalError</Code></Error>"
    assert "the server is overloaded or out of order (InternalError, status 500)" in said(OPERATIONS["list"])


@pytest.mark.parametrize(("operation", "missing"), [("read", 30), ("list", 30), ("list", 0), ("folders", 0)])
def test_an_answer_that_stops_in_the_middle_is_said_to(operation: str, missing: int, server: Server) -> None:
    server.body, server.missing, server.headers = LISTING[:-30], missing, {"ETag": '"e"'}
    assert "the answer breaks off" in said(OPERATIONS[operation])


@pytest.mark.parametrize(("operation", "begin"), [("write", b""), ("read", b"<"), ("list", b"<")])
def test_a_store_that_answers_in_drops_is_given_up(
    begin: bytes, operation: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.storage.s3.LEAST_SECONDS", 0.0)
    monkeypatch.setenv(TIMEOUT_VARIABLE, "1")
    server.drips, server.body, server.headers = True, begin, {"ETag": '"e"'}
    assert "the server does not answer in time: nothing is complete within" in said(OPERATIONS[operation])


def test_so_is_it_by_the_questions_of_a_check(server: Server) -> None:
    server.drips = True
    storage = S3Storage("s3://bucket/x")
    step = s3_check.steps_of(storage)["head"]
    assert "the server does not answer in time" in said(lambda _: step("folder/"))


def test_a_version_that_the_store_does_not_know_again_is_one_operations_matter(server: Server) -> None:
    server.status, server.body = 400, b"<Error><Code>InvalidPart</Code></Error>"
    assert "does not know a part of an object by the version (ETag) that its own" in said(OPERATIONS["write"])

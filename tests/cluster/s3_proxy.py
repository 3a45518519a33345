"""A proxy before an S3 server: it remembers requests, answers some in the server's place, and may speak TLS."""

import contextlib
import datetime
import http.client
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
DENIED = b"<Error><Code>AccessDenied</Code></Error>"


class Request(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    """With the query."""
    headers: Mapping[str, str]


Answer = tuple[int, bytes]
"""Status and body."""


class Proxy:
    """Forwards to `upstream` what `intercept` does not answer."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream.removeprefix("http://")
        self.url = ""
        self.requests: list[Request] = []
        self.intercept: Callable[[Request], Answer | None] = lambda request: None


@contextlib.contextmanager
def proxied(upstream: str, certificate: Path | None = None) -> Iterator[Proxy]:
    """A proxy on a free port; with a `certificate` (and its key, one file) it speaks TLS."""
    proxy = Proxy(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
            proxy.requests.append(request)
            answer = proxy.intercept(request)
            if answer is not None:
                self.answer(answer[0], {"Content-Type": "application/xml"}, answer[1])
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            with contextlib.closing(http.client.HTTPConnection(proxy.upstream, timeout=60)) as connection:
                connection.request(self.command, self.path, body, headers)  # the Host that was signed stands in them
                response = connection.getresponse()
                self.answer(response.status, dict(response.getheaders()), response.read())

        def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
            if status != 204:
                self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward  # noqa: N815

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.handle_error = lambda *_: None  # type: ignore[method-assign] # clients that distrust it hang up
        threading.Thread(target=server.serve_forever, daemon=True).start()
        proxy.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
        try:
            yield proxy
        finally:
            server.shutdown()


def self_signed(file: Path) -> Path:
    """Write a key and a certificate for 127.0.0.1, its own authority, into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test store")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return file

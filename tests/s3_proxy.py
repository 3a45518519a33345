"""An HTTP proxy before an S3 server: counts what passes, fails or hangs when told to, and may speak TLS."""

import datetime
import functools
import http.client
import ipaddress
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class S3Proxy:
    """What passed so far, and what is to happen to what comes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: Counter[str] = Counter()
        """By HTTP method."""
        self.headers: set[str] = set()
        """Names of all headers that came, in lower case."""
        self.sent = 0
        """Bytes of the requests' bodies."""
        self.flowing = threading.Event()
        """While it is cleared, requests hang, and get no answer in the end."""
        self.flowing.set()
        self.refuse: Callable[[str, str], int] = lambda method, path: 0
        """HTTP status with which a request is answered instead of being passed on; 0 passes it on."""
        self.withhold: Callable[[str, str], bool] = lambda method, path: False
        """Whether a request gets no answer, and is passed on later: by `arrive`."""
        self.withheld: list[Callable[[], object]] = []

    def arrive(self) -> None:
        """Pass on what has been withheld, in order."""
        while self.withheld:
            self.withheld.pop(0)()


@contextmanager
def s3_proxy(endpoint: str, certificate: Path | None = None) -> Iterator[S3Proxy]:
    """Run a proxy before the server at `endpoint`; with a `certificate` and its key, in one file, it speaks TLS."""
    proxy = S3Proxy("")
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with lock:
                proxy.requests[self.command] += 1
                proxy.headers.update(name.lower() for name in self.headers)
                proxy.sent += len(body)
                status = proxy.refuse(self.command, self.path)
                if proxy.withhold(self.command, self.path):
                    proxy.withheld.append(functools.partial(self.pass_on, body))
                    self.close_connection = True
                    return
            if not proxy.flowing.is_set():
                proxy.flowing.wait(30)
                self.close_connection = True
                return
            if status:
                self.answer(status, {}, b"<Error><Code>Refused</Code></Error>")
                return
            self.answer(*self.pass_on(body))

        def pass_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            with closing(http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=30)) as connection:
                path = self.path[self.path.index("/", 8) :] if self.path.startswith("http://") else self.path
                connection.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("expect", "connection"):
                        connection.putheader(name, value)
                connection.endheaders(body)
                with connection.getresponse() as response:
                    return response.status, dict(response.getheaders()), response.read()

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("connection", "content-length", "transfer-encoding", "server", "date"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
            if status != 204:
                self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815 - names that http.server looks for

        def handle(self) -> None:
            with suppress(ConnectionError, TimeoutError, ssl.SSLError):  # the client has given up
                super().handle()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # Without a handshake at once, which would be the accepting thread's, one client could hold up all others.
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        proxy.url = f"{'http' if certificate is None else 'https'}://127.0.0.1:{server.server_port}"
        try:
            yield proxy
        finally:
            proxy.flowing.set()
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

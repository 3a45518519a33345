"""Run moto's S3: prints its port, ends when its input does.

`moto_server.py [ADDRESS [PORT]]` serves on 127.0.0.1 and a free port if not told otherwise. With a port, each request
is a line of the standard output: the client's address, the method, the path, the protocol.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class OneAtATime:
    """A WSGI application that answers one request after the other: moto's conditional writes are not atomic."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self.application = application
        self.lock = threading.Lock()

    def __call__(self, environment: Any, start_response: Any) -> Iterable[bytes]:
        with self.lock:
            return list(self.application(environment, start_response))


class Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


class Told(Quiet):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        line = f"{self.address_string()} {self.requestline}\n"
        os.write(sys.stdout.fileno(), line.encode())  # whole: `print` writes each part by itself, other threads between


def main() -> None:
    application = OneAtATime(DomainDispatcherApplication(create_backend_app))
    host = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    server = make_server(host, port, application, threaded=True, request_handler=Told if port else Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()

"""Is the container healthy? Exit code 0 if what it serves answers, 1 if not. Kubernetes has probes of its own.

What is served is read from the command of process 1: TensorBoard, or a Ray node. Anything else, such as a grid, is no
service, and is healthy while it runs.
"""

import http.client
import re
import sys
from pathlib import Path

TENSORBOARD = (6006, "/data/environment")
RAY_NODE = (52365, "/api/local_raylet_healthz")  # the agent of any Ray node, `--dashboard-agent-listen-port`


def served(command: str) -> tuple[int, str] | None:
    """Port and path that a container with this command answers at; None if it serves nothing."""
    words = command.split()
    if "tensorboard" in words and "--mirror-to" not in words:
        port = re.search(r"--port[ =](\d+)", command)
        return (int(port.group(1)) if port else TENSORBOARD[0], TENSORBOARD[1])
    return RAY_NODE if "ray start" in command else None


def answers(port: int, path: str, seconds: float = 5.0) -> bool:
    """Whether this machine answers with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    endpoint = served(Path("/proc/1/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    sys.exit(0 if endpoint is None or answers(*endpoint) else 1)

"""`docs/clusters.md`: its commands, in their order, on a cluster that `cluster up` starts and `cluster down` ends."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.processes import Process, of_session
from resnet_dist.source import source_state
from tests.image_trees import image_tree, write_directory

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "clusters.md"
BLOCK = re.compile(r"^\*(Run by the tests|Not run here):\*\n\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(GUIDE.read_text())
UP, STAGE, SUBMIT, PACK, STOP = [text for mark, text in BLOCKS if mark == "Run by the tests"]


class Shell:
    """Runs commands as a user of the guide does, and keeps all that they say."""

    def __init__(self, scratch: Path) -> None:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = variables | {
            # The command is there, and the `python` of jobs is the cluster's: it need not be this one.
            "PATH": f"{scratch / 'bin'}:{os.environ['PATH']}",
            "RESNET_DIST_CACHE": str(scratch / "cache"),
            "STORAGE": str(scratch / "results"),
            "IMAGES": str(write_directory(scratch / "images", image_tree(train=8, test=4))),
            "SCRATCH": str(scratch),
            "RAY_worker_niceness": "0",
        }
        (scratch / "bin").mkdir()
        for name in ("resnet-dist", "ray"):
            (scratch / "bin" / name).symlink_to(Path(sys.executable).parent / name)
        self.said = ""

    def run(self, command: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=ROOT,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        self.said += done.stdout + done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def refused(self, command: str, code: int = 1, **variables: str) -> str:
        """The one line that a wrong command says."""
        (line,) = self.run(command, code, **variables).stderr.splitlines()
        return line


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    user = Shell(tmp_path)
    try:
        yield user
    finally:
        user.run("resnet-dist cluster down")


def test_every_block_says_whether_it_is_run() -> None:
    assert len(re.findall("^```sh$", GUIDE.read_text(), re.MULTILINE)) == len(BLOCKS)


def test_the_guide_from_cluster_up_to_cluster_down(shell: Shell, tmp_path: Path) -> None:
    no_cluster = shell.refused("resnet-dist job status --address http://127.0.0.1:9")
    assert no_cluster.startswith("error: no job server answers at http://127.0.0.1:9; ")
    assert "is relative to a job's upload" in shell.refused("resnet-dist submit -- grid run demo --storage results")

    shell.run(UP)
    record = json.loads((tmp_path / "cache" / "cluster.json").read_text())
    token = Path(record["directory"], "token")
    assert token.stat().st_mode & 0o077 == 0
    sessions = [Process(*node) for node in record["nodes"]]
    running = [process for leader in sessions for process in of_session(leader)]
    assert len(sessions) == 2 and len(running) > 8
    assert "a cluster runs already" in shell.refused("resnet-dist cluster up")

    shell.run(STAGE)
    shell.run(f"mv {shell.environment['IMAGES']} {tmp_path / 'gone'}")  # nodes have not got the folder …
    shell.run(f"rm -r {tmp_path / 'cache'}/folder-*")  # … nor what was decoded of it
    output = shell.run(SUBMIT).stdout
    assert "SUCCEEDED" in output and "Test error after epoch 2" in output
    (trial,) = (tmp_path / "results" / "train" / "trials").iterdir()
    provenance: dict[str, Any] = json.loads((trial / "provenance.json").read_text())
    here = source_state()
    assert (provenance["commit"], provenance["commit_from"]) == (here.commit, "build")
    assert provenance["dirty"] == here.dirty
    assert (trial / "source.patch").exists() == bool(here.patch)

    variables = {"RAY_ADDRESS": record["dashboard"], "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    assert "5 trials" in shell.run(PACK, **variables).stdout

    unknown = shell.refused("resnet-dist job logs nosuch")
    assert unknown.startswith("error: there is no job nosuch at ")
    stranger = shell.refused("resnet-dist job status", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
    assert "wants a token" in stranger
    assert (
        "give another --id"
        in shell.refused(f"resnet-dist submit --id first -- grid plan demo --storage {tmp_path}", code=1).splitlines()[
            -1
        ]
    )

    assert "job long: STOPPED" in shell.run(STOP).stdout
    assert not any(process.is_alive for process in running)
    assert not any(of_session(leader) for leader in sessions)
    assert not Path(record["directory"]).exists()
    assert "No cluster" in shell.run("resnet-dist cluster down").stdout
    assert not re.search(r"\b[0-9a-f]{64}\b", shell.said), "a token was printed"

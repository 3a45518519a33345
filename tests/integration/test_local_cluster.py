"""The README's lines for clusters and those of `docs/clusters.md`, in their order, on one cluster of `cluster up`."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.processes import Process, of_session
from resnet_dist.records.git_state import source_state
from tests.image_trees import image_tree, write_directory
from tests.integration.hosts import wait_until

pytestmark = [pytest.mark.clusters, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "clusters.md"
BLOCK = re.compile(r"^\*(Run by the tests|Not run here):\*\n\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(GUIDE.read_text())
UP, STAGE, TRAIN, PACK, READ, STOP = [text for mark, text in BLOCKS if mark == "Run by the tests"]

LINE = re.compile(r"^    ((?:ray|resnet-dist (?:cluster|data stage|submit|job)) .*?) *(?:#.*)?$", re.MULTILINE)
README = LINE.findall((ROOT / "README.md").read_text())
TOKEN = re.compile(r"\b[0-9a-f]{64}\b")
EPOCHS = 12
DEMO = f"""name = "demo"
title = "Demo"
[recipe]
data = {{ source = "synthetic", train_limit = 64, test_limit = 16, batch_size = 64 }}
network = {{ depth = 8 }}
schedule = {{ kind = "constant" }}
run = {{ epochs = {EPOCHS}, checkpoint_epochs = 1 }}
[[table]]
name = "workers"
title = "Workers"
[[table.cell]]
label = "one"
[[table.cell]]
label = "two"
set = {{ "network.depth" = 14, "run.workers" = 2 }}
"""
"""The demo of the user's checkout: a trial on one worker and one on two, both of them small."""


class Shell:
    """Runs commands as a user does, in a checkout of the user's own, and keeps all that they say."""

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
        # Ray has the path of Python without quotes in lines for a shell.
        python = scratch / "ein Ördner" / "bin" / "python"
        (scratch / "ein Ördner").symlink_to(sys.prefix)
        for name, module in (("resnet-dist", "tune_jobs"), ("ray", "ray.scripts.scripts")):
            script = scratch / "bin" / name
            begin = f"#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''"  # as pip does where a path has spaces
            script.write_text(f"{begin}\nimport runpy\nrunpy.run_module({module!r}, run_name='__main__')\n")
            script.chmod(0o755)
        self.checkout = clone(scratch / "checkout")
        (self.checkout / "tune_jobs" / "experiments" / "demo.toml").write_text(DEMO)
        self.said = ""
        self.started: list[subprocess.Popen[str]] = []

    def start(self, command: str, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.checkout,
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def end(self, process: subprocess.Popen[str], code: int) -> tuple[str, str]:
        """What a command has printed, and what of its errors."""
        output, errors = process.communicate(timeout=900)
        self.said += output + errors
        assert process.returncode == code, output + errors
        return output, errors

    def run(self, command: str, code: int = 0, **variables: str) -> str:
        return self.end(self.start(command, **variables), code)[0]

    def refused(self, command: str, **variables: str) -> str:
        """The one line that a wrong command says."""
        (line,) = self.end(self.start(command, **variables), 1)[1].splitlines()
        return line


def clone(directory: Path) -> Path:
    """A checkout of this commit, changed as this one is."""
    git = ["git", "-C", str(ROOT)]
    subprocess.run(["git", "clone", "--quiet", "--shared", str(ROOT), str(directory)], check=True, capture_output=True)
    changed = subprocess.check_output([*git, "diff", "--name-only", "HEAD"], text=True)
    new = subprocess.check_output([*git, "ls-files", "--others", "--exclude-standard"], text=True)
    for name in (changed + new).splitlines():
        (directory / name).unlink(missing_ok=True)
        if (ROOT / name).exists():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, directory / name)
    return directory


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    user = Shell(tmp_path)
    try:
        yield user
    finally:
        user.run("resnet-dist cluster down")
        for process in user.started:
            process.kill()


def test_every_block_says_whether_it_is_run() -> None:
    assert len(re.findall("^```sh$", GUIDE.read_text(), re.MULTILINE)) == len(BLOCKS)


def test_the_readme_and_the_guide_from_cluster_up_to_cluster_down(shell: Shell, tmp_path: Path) -> None:
    grid_of_ray, up, stage, grid, status, follow, stop, down = README
    no_cluster = shell.refused("resnet-dist job status --address http://127.0.0.1:9")
    assert no_cluster.startswith("error: no job server answers at http://127.0.0.1:9; ")
    assert "is relative to a job's upload" in shell.refused("resnet-dist submit -- grid run demo --storage results")

    assert up == UP.strip(), "one cluster serves both"
    first, *told, export = re.findall("^  (.*)$", shell.run(UP), re.MULTILINE)
    assert told == [status, down]
    record = json.loads((tmp_path / "cache" / "cluster.json").read_text())
    token = Path(record["directory"], "token")
    assert token.stat().st_mode & 0o077 == 0 and TOKEN.fullmatch(token.read_text())
    sessions = [Process(*node) for node in record["nodes"]]
    running = [process for leader in sessions for process in of_session(leader)]
    assert len(sessions) == 3 and len(running) > 12
    assert "a cluster runs already" in shell.refused("resnet-dist cluster up")

    # The line that `cluster up` prints for a newcomer.
    said = shell.run(words(first, {"/absolute/path": '"$STORAGE"'}))
    assert "2 trials, 0 finished already, 2 to run" in said and "2 trials, 1 seed a row: 2 finished" in said
    uploads = [
        len(list(Path(record["directory"], node).glob("session_2*/*/working_dir_files/_ray_pkg_*/"))) for node in "012"
    ]
    assert uploads == [1, 1, 1], "each node has fetched the upload for itself"

    with (shell.checkout / "resnet_dist" / "launch.py").open("a") as code:
        code.write("# An edit.\n")
    readme_stage = words(stage, {"cifar10": '"folder:$IMAGES"', "s3://bucket/results": '"$STORAGE"'})
    assert "are now in" in shell.run(STAGE) and "were already in" in shell.run(readme_stage)
    shell.run(f"mv {shell.environment['IMAGES']} {tmp_path / 'gone'}")  # nodes have not got the folder …
    shell.run(f"rm -r {tmp_path / 'cache'}/folder-*")  # … nor what was decoded of it
    said = shell.run(TRAIN)
    assert "SUCCEEDED" in said and "Test error after epoch 2" in said
    (trial,) = (tmp_path / "results" / "train" / "trials").iterdir()
    provenance: dict[str, Any] = json.loads((trial / "provenance.json").read_text())
    assert (provenance["commit"], provenance["commit_from"]) == (source_state().commit, "build")
    assert provenance["dirty"] and "+# An edit." in (trial / "source.patch").read_text()

    assert "2 trials" in shell.run(f"{export}\n{PACK}")

    smaller = {"study": "demo", "5": "2", "s3://bucket/results": '"$STORAGE"'}
    grid, grid_of_ray = words(grid, smaller), words(grid_of_ray, smaller)
    launches = leases(tmp_path)
    submission = shell.start(grid)
    wait_until(lambda: leases(tmp_path) != launches, "the second submission is at work")
    (job,) = re.findall(r"^(\S+) +RUNNING", shell.run(status), re.MULTILINE)
    following = shell.start(words(follow, {"ID": job}))
    wait_until(lambda: bool(half_done(tmp_path)), "a trial of it has an epoch on record")
    assert f"job {job}: STOPPED" in shell.run(words(stop, {"ID": job}))
    for process in (submission, following):
        output, errors = shell.end(process, 1)
        assert "4 trials, 2 finished already, 2 to run" in output and f"error: job {job} is STOPPED: " in errors
    before = len(finished(tmp_path))
    assert before < 4
    said = shell.run(grid)
    assert f"4 trials, {before} finished already, {4 - before} to run" in said
    assert "4 trials, 2 seeds a row: 4 finished" in said
    for trial in finished(tmp_path):
        lines = [json.loads(line) for line in (trial / "metrics.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    assert "4 trials, 4 finished already, 0 to run" in shell.run(f"{export}\n{grid_of_ray}")
    assert "4 finished" in shell.run(READ)

    unknown = shell.refused("resnet-dist job logs nosuch")
    assert unknown.startswith("error: there is no job nosuch at ")
    stranger = shell.refused("resnet-dist job status", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
    assert "wants a token" in stranger
    assert "give another --id" in shell.refused(f"resnet-dist submit --id first -- grid plan demo --storage {tmp_path}")

    assert "job long: STOPPED" in shell.run(STOP)
    assert not any(process.is_alive for process in running)
    assert not any(of_session(leader) for leader in sessions)
    assert not Path(record["directory"]).exists()
    assert "No cluster" in shell.run(down)
    assert not TOKEN.search(shell.said), "a token was printed"


def words(command: str, others: dict[str, str]) -> str:
    """A command of the README with other words in the places of some, each of which is there once."""
    found = command.split()
    assert all(found.count(word) == 1 for word in others), command
    return " ".join(others.get(word, word) for word in found)


def finished(scratch: Path) -> list[Path]:
    """The trials of the grid that have a result."""
    return [path.parent for path in scratch.glob("results/demo/trials/*/result.json")]


def half_done(scratch: Path) -> list[Path]:
    """The trials of the grid that have an epoch on record, and no result."""
    begun = (path.parent for path in scratch.glob("results/demo/trials/*/metrics.jsonl"))
    return [trial for trial in begun if not (trial / "result.json").exists()]


def leases(scratch: Path) -> set[str]:
    """The records of the grid's launches: another one with each launch."""
    return {path.name for path in scratch.glob("results/demo/.lease/*.json")}

"""Ray, its job server and a grid work with the file system that the manifests give a pod: a root that is read-only."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.k8s.rendering import ROOT, Document, the

Rendered = Callable[[str], list[Document]]

EXPERIMENT = """
name = "tiny"
title = "Tiny"
description = "One step."

[recipe.network]
depth = 8

[recipe.data]
source = "synthetic"
train_limit = 64
test_limit = 32
batch_size = 32

[recipe.schedule]
milestones = []

[recipe.run]
epochs = 1

[[table]]
name = "tiny"
title = "Tiny"

[[table.cell]]
label = "one"
"""


def _may_mount() -> bool:
    programs = ("unshare", "mount", "setpriv", "ip")
    if os.geteuid() or not all(shutil.which(program) for program in programs):
        return False
    return not subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], check=False).returncode


@pytest.mark.integration
@pytest.mark.skipif(not _may_mount(), reason="needs root, to mount a read-only root in a namespace of its own")
def test_a_grid_runs_where_only_the_volumes_can_be_written(rendered: Rendered) -> None:
    job = the(rendered("local"), "RayJob", "grid")["spec"]["rayClusterSpec"]
    settings = the(rendered("local"), "ConfigMap", "resnet-dist-settings")["data"]
    # One node does what head and worker do, so it has a CPU.
    start = job["headGroupSpec"]["rayStartParams"] | {"num-cpus": "1"}
    options = " ".join(f"--{name}" if value == "true" else f"--{name}={value}" for name, value in start.items())
    script = f"""
    if touch /etc/written 2> /dev/null; then echo the root can be written; exit 1; fi
    ln -s {shlex.quote(sys.prefix)} /tmp/python  # Ray has the path of Python without quotes in lines for a shell
    PATH=/tmp/python/bin:$PATH
    python -m ray.scripts.scripts start --head {options} > /tmp/start.log || {{ cat /tmp/start.log; exit 1; }}
    printf %s {shlex.quote(EXPERIMENT)} > /tmp/tiny.toml
    python -m ray.scripts.scripts job submit --address http://127.0.0.1:8265 -- \
        python -m tune_jobs grid run /tmp/tiny.toml --storage /mnt/cache/results --run.device cpu
    cat /mnt/cache/results/tiny/report/report.md
    """
    environment = settings | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/home/ray",
        "RESNET_DIST_CACHE": "/mnt/cache",
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": job["authOptions"]["mode"],
        "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
    }
    namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
    command = [str(Path(__file__).with_name("read_only_root.sh")), sys.prefix, str(ROOT), "bash", "-euc", script]
    done = subprocess.run([*namespaces, *command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# Tiny" in done.stdout

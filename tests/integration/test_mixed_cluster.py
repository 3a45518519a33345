"""Grids on a cluster of which one node has GPUs: what Ray gives out as such, rehearsed by processors."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resnet_dist.gpus import REHEARSAL

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::ResourceWarning")]

HEAD = """
name = "mixed"
title = "A grid on a mixed cluster"

[recipe]
data = { source = "synthetic", train_limit = 80, test_limit = 20, batch_size = 20 }
network = { depth = 8, width = 4 }
schedule = { milestones = [] }
run = { epochs = 1 }

[[table]]
name = "architecture"
title = "Architecture"
"""
CELLS = """
[[table.cell]]
label = "One worker: %(device)s"
set = { "solver.kind" = "watched:Solver", "solver.learning_rate" = %(rate)s, "run.device" = "%(device)s" }

[[table.cell]]
label = "Two workers: %(device)s"
set = { "network.relu_after_addition" = false, "solver.kind" = "watched:Solver", "solver.learning_rate" = %(rate)s, \
"run.device" = "%(device)s", "run.workers" = 2 }
"""
ON_GPUS, ON_PROCESSORS = 0.1, 0.05
"""Learning rates, by which the trials of two devices are told apart."""

SOLVER = """
import json, os, pathlib, ray, torch, torch.distributed as dist

class Solver(torch.optim.SGD):
    def __init__(self, parameters, solver):
        super().__init__(parameters, lr=solver.learning_rate)
        if ray.is_initialized():  # else it is only tried, before the grid
            self.note(solver, pathlib.Path(%r))

    def note(self, solver, folder):
        context = ray.get_runtime_context()
        seen = {
            "rate": solver.learning_rate,
            "gpus": context.get_accelerator_ids()["GPU"],
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "node": context.get_node_id(),
            "workers": dist.get_world_size() if dist.is_initialized() else 1,
            "backend": dist.get_backend() if dist.is_initialized() else None,
        }
        (folder / f"{os.getpid()}-{id(self)}.json").write_text(json.dumps(seen))
"""


class MixedCluster:
    """A head without GPUs, on which no trial has room, and one node with GPUs at a time."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster()
        self._add(num_cpus=0, include_dashboard=False)
        self.options: dict[str, Any] = {}
        self.node: Any = None

    def node_with(self, **options: Any) -> str:
        """The id of the node of these options, which takes the place of any other."""
        if self.options != options:
            if self.node:
                self.cluster.remove_node(self.node)
            self.node, self.options = self._add(**options), options
        return str(self.node.node_id)

    def _add(self, attempts: int = 3, **options: Any) -> Any:
        try:
            return self.cluster.add_node(**options)
        except Exception:  # on a busy machine Ray's half a minute is not enough
            if attempts == 1:
                raise
            return self._add(attempts - 1, **options)


@pytest.fixture(scope="module")
def mixed_cluster() -> Iterator[MixedCluster]:
    mixed = MixedCluster()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", mixed.cluster.address)
        try:
            yield mixed
        finally:
            mixed.cluster.shutdown()


@pytest.fixture
def gpu_node(mixed_cluster: MixedCluster) -> str:
    """A node with two GPUs, rehearsed."""
    return mixed_cluster.node_with(num_cpus=3, num_gpus=2, env_vars={REHEARSAL: "1"})


@pytest.fixture
def unfit_node(mixed_cluster: MixedCluster) -> str:
    """A node of which Ray says that it has two GPUs."""
    return mixed_cluster.node_with(num_cpus=3, num_gpus=2)


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    (tmp_path / "seen").mkdir()
    (tmp_path / "watched.py").write_text(SOLVER % str(tmp_path / "seen"))
    (tmp_path / "mixed.toml").write_text(HEAD + CELLS % {"device": "auto", "rate": ON_GPUS})
    return tmp_path / "mixed.toml"


def grid(
    experiment: Path, *arguments: str, action: str = "run", program: tuple[str, ...] = ("-m", "tune_jobs")
) -> tuple[int, str, str]:
    """Exit code and outputs of a launch."""
    storage = str(experiment.parent / "results")
    command = [sys.executable, *program, "grid", action, str(experiment), "--storage", storage, "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def seen(experiment: Path) -> list[dict[str, Any]]:
    """What each worker of each trial saw."""
    return [json.loads(file.read_text()) for file in (experiment.parent / "seen").iterdir()]


NO_DRIVER = "Ray offers {} GPU{}, and there is no NVIDIA driver; install it, or give run.device cpu"
without_cuda = pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="this machine has CUDA")


@without_cuda
@pytest.mark.usefixtures("unfit_node")
def test_a_grid_on_gpus_that_cannot_be_used_is_refused_in_one_line_and_nothing_is_written(experiment: Path) -> None:
    code, _, err = grid(experiment)
    assert code == 1
    (line,) = err.splitlines()
    assert NO_DRIVER.format(2, "s") in line
    assert not seen(experiment)
    written = [file for file in (experiment.parent / "results").rglob("*") if file.is_file()]
    assert all(".lease" in file.parts for file in written)


@without_cuda
@pytest.mark.usefixtures("unfit_node")
def test_nor_are_step_times_measured_on_them(experiment: Path) -> None:
    code, _, err = grid(experiment, action="plan")
    assert code == 1
    (line,) = err.splitlines()
    assert NO_DRIVER.format(1, "") in line


UNASKED = """
import sys, cluster.ray_cluster.preflight as preflight
preflight.check_nodes = lambda *_: None
from tune_jobs.command_line import main
sys.exit(main(sys.argv[1:]))
"""


@without_cuda
@pytest.mark.usefixtures("unfit_node")
def test_on_a_node_that_comes_later_with_such_gpus_each_trial_fails_once_and_in_one_line(experiment: Path) -> None:
    code, out, err = grid(experiment, program=("-c", UNASKED))
    assert code == 1
    assert err == ""
    for trial in json.loads(out)["trials"]:
        assert trial["state"] == "failed" and NO_DRIVER.format(1, "") in trial["reason"]
    for file in (experiment.parent / "results").rglob("failure.json"):
        assert json.loads(file.read_text())["attempts"] == 1
    assert not seen(experiment)


def test_a_grid_trains_on_the_gpus_that_ray_gives_and_leaves_them_alone_where_it_asks_for_none(
    gpu_node: str, experiment: Path
) -> None:
    """Both GPUs are the workers': a driver that took one would leave them to wait for ever."""
    cells = CELLS % {"device": "cuda", "rate": ON_GPUS} + CELLS % {"device": "cpu", "rate": ON_PROCESSORS}
    experiment.write_text(HEAD + cells)
    code, out, err = grid(experiment)
    assert code == 0, err
    assert [trial["state"] for trial in json.loads(out)["trials"]] == ["finished"] * 4
    assert [one["gpus"] for one in seen(experiment) if one["rate"] == ON_PROCESSORS] == [[]] * 3
    found = [one for one in seen(experiment) if one["rate"] == ON_GPUS]
    assert {one["node"] for one in found} == {gpu_node}, "the head has none"
    (alone,) = [one for one in found if one["workers"] == 1]
    assert alone["visible"] == alone["gpus"][0] and alone["backend"] is None
    together = [one for one in found if one["workers"] == 2]
    assert sorted(one["gpus"] for one in together) == [["0"], ["1"]]
    # The workers of a node see each other's GPUs, and gloo is what their devices, processors, compute with.
    assert [(one["visible"], one["backend"]) for one in together] == [("0,1", "gloo")] * 2


@pytest.mark.usefixtures("gpu_node", "cache")
def test_a_plan_counts_the_places_of_its_device(experiment: Path) -> None:
    code, out, err = grid(experiment, "--device", "cuda", action="plan")
    assert code == 0, err
    assert json.loads(out)["slots"] == 2

"""Grids on a cluster of which one node has GPUs: what Ray gives out as such, rehearsed by processors."""

import contextlib
import functools
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.ray_cluster import preflight
from cluster.storage.local import LocalStorage
from resnet_dist.gpus import REHEARSAL
from resnet_dist.launch import Job, run_in_process
from tests.integration.test_hung_worker import numbers
from tests.killed_runs import epochs_kept, require_kept
from tests.plain_python import plain_python
from tune_jobs.command_line import main
from tune_jobs.grid.plan import make_plan

pytestmark = [pytest.mark.clusters, pytest.mark.filterwarnings("default")]  # Ray warns of itself

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
ONE_WORKER = """
[[table.cell]]
label = "One worker: %(device)s"
set = { "solver.kind" = "watched:Solver", "solver.learning_rate" = %(rate)s, "run.device" = "%(device)s" }
"""
TWO_WORKERS = """
[[table.cell]]
label = "Two workers: %(device)s"
set = { "network.relu_after_addition" = false, "solver.kind" = "watched:Solver", "solver.learning_rate" = %(rate)s, \
"run.device" = "%(device)s", "run.workers" = 2 }
"""
CELLS = ONE_WORKER + TWO_WORKERS
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
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "executable", plain_python())
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


def grid(experiment: Path, *arguments: str, action: str = "run") -> tuple[int, str, str]:
    """Exit code and outputs of a launch."""
    storage = str(experiment.parent / "results")
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(["grid", action, str(experiment), "--storage", storage, "--json", *arguments])
    return code, out.getvalue(), err.getvalue()


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


@without_cuda
@pytest.mark.usefixtures("unfit_node")
def test_on_a_node_that_comes_later_with_such_gpus_each_trial_fails_once_and_in_one_line(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "check_nodes", lambda *_: [])
    code, out, err = grid(experiment)
    assert code == 1
    assert err == ""
    trials = json.loads(out)["trials"]
    assert [trial["state"] for trial in trials] == ["failed"] * 2
    assert all(NO_DRIVER.format(1, "") in trial["reason"] for trial in trials)
    failures = [json.loads(file.read_text()) for file in (experiment.parent / "results").rglob("failure.json")]
    assert [failure["attempts"] for failure in failures] == [1] * 2
    assert not seen(experiment)


def test_a_grid_trains_on_the_gpus_that_ray_gives_and_leaves_them_alone_where_it_asks_for_none(
    gpu_node: str, experiment: Path
) -> None:
    """Both GPUs are the workers': a driver that took one would leave them to wait for ever."""
    cells = CELLS % {"device": "cuda", "rate": ON_GPUS} + ONE_WORKER % {"device": "cpu", "rate": ON_PROCESSORS}
    experiment.write_text(HEAD + cells)
    code, out, err = grid(experiment)
    assert code == 0, err
    assert [trial["state"] for trial in json.loads(out)["trials"]] == ["finished"] * 3
    assert [one["gpus"] for one in seen(experiment) if one["rate"] == ON_PROCESSORS] == [[]]
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


BESIDE = (
    HEAD.replace("epochs = 1", "epochs = 60, checkpoint_epochs = 5")
    + """
[[table.cell]]
label = "Ordinary"

[[table.cell]]
label = "RMSprop"
set = { "solver.kind" = "rmsprop", "solver.learning_rate" = 1e-3 }

[[table.cell]]
label = "Diverges"
set = { "solver.learning_rate" = 1e30 }
"""
)


def gpu_processes(mixed: MixedCluster) -> list[int]:
    """The processes of its node in which runs are side by side."""
    raylet = mixed.node.all_processes["raylet"][0].process.pid
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            words = stat.read_text().rpartition(")")[2].split()
            if int(words[1]) == raylet and words[0] != "Z" and "GpuProcess" in (stat.parent / "cmdline").read_text():
                found.append(int(stat.parent.name))
    return found


def until(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.usefixtures("gpu_node")
def test_trials_side_by_side_have_the_numbers_that_each_has_alone_through_ctrl_c_and_kills_of_their_processes(
    mixed_cluster: MixedCluster, tmp_path: Path
) -> None:
    (tmp_path / "mixed.toml").write_text(BESIDE)
    command = [sys.executable, "-m", "tune_jobs", "grid", "run", str(tmp_path / "mixed.toml"), "--json"]
    command += ["--storage", str(tmp_path / "results"), "--side-by-side", "2"]
    start = functools.partial(subprocess.Popen, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def checkpoints() -> set[Path]:
        return {*tmp_path.glob("results/mixed/trials/*/checkpoints/*/manifest.json")}

    with start() as process:
        until(checkpoints, process)
        assert 1 <= len(gpu_processes(mixed_cluster)) <= 2
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert (process.returncode, err) == (130, "interrupted; the same command goes on from the last checkpoint\n")
    while gpu_processes(mixed_cluster):  # they end with the launch
        time.sleep(0.05)
    before, interrupted = checkpoints(), epochs_kept(tmp_path / "results" / "mixed")
    assert interrupted
    with start() as process:
        until(lambda: checkpoints() - before, process)
        killed = epochs_kept(tmp_path / "results" / "mixed")
        assert killed
        for pid in gpu_processes(mixed_cluster):
            os.kill(pid, signal.SIGKILL)
        out, err = process.communicate()
    assert process.returncode == 1 and "Traceback" not in err, err
    trials = {trial["trial"]: trial for trial in json.loads(out)["trials"]}
    assert sorted(trial["state"] for trial in trials.values()) == ["failed", "finished", "finished"]
    attempts = []
    for planned in make_plan(str(tmp_path / "mixed.toml"), LocalStorage(tmp_path / "results"), 1, None, {}).trials:
        trial_id, config = planned.trial.trial_id, planned.trial.config
        folder = tmp_path / "results" / "mixed" / "trials" / trial_id
        if trials[trial_id]["state"] == "failed":
            assert config.solver.learning_rate == 1e30 and "diverged" in (folder / "failure.json").read_text()
            continue
        run_in_process(Job(config, "mixed", "alone", functools.partial(LocalStorage, tmp_path / "alone")))
        for name in ("metrics.jsonl", "model.pt"):
            assert numbers(folder / name) == numbers(tmp_path / "alone" / "mixed" / "trials" / trial_id / name)
        provenance = json.loads((folder / "provenance.json").read_text())
        assert provenance["side_by_side"] == 2
        attempts.append(len(provenance["attempts"]))
    assert 3 in attempts
    require_kept(interrupted)
    require_kept(killed)
    while gpu_processes(mixed_cluster):
        time.sleep(0.05)

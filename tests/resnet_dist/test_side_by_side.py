"""Runs side by side on one GPU, which is pretended: each has the bits that it has alone, whatever becomes of others."""

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from resnet_dist import launch, logs, side_by_side
from resnet_dist.errors import DataError, DivergedError, StorageError
from resnet_dist.launch import Job
from resnet_dist.side_by_side import GpuProcess, GpuProcesses, beginning, do_beside, gpu_is_lost
from resnet_dist.storage.sending import SpooledStorage
from resnet_dist.training import update
from resnet_dist.training.captured import WARM
from resnet_dist.training.numerics import own_stream
from tests import pretended_cuda
from tests.gpu_process_runs import GPU, alone, assert_bits_of_each_alone, gpu_process, heard, job, numbers, together
from tests.unreliable_storage import UnreliableStorage

DIVERGES = {"solver__learning_rate": 1e30, "run__precision": "float32"}


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU is pretended."""
    monkeypatch.setattr(update, "told_by_host", lambda device: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pretended_cuda.pretended_cuda():
        yield


@pytest.fixture
def process() -> Iterator[GpuProcess]:
    """The process of the GPU, without Ray."""
    with gpu_process() as found:
        yield found


def test_unlike_runs_have_the_bits_that_each_has_alone(process: GpuProcess, tmp_path: Path) -> None:
    assert_bits_of_each_alone(process, tmp_path)
    record = json.loads((tmp_path / "beside" / job(tmp_path).keys.provenance).read_text())
    assert record["side_by_side"] == record["attempts"][0]["side_by_side"] == 6
    assert record["cudnn_deterministic"] and not record["cudnn_benchmark"]


def test_what_happens_to_a_run_happens_to_it_alone(
    process: GpuProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One diverges, one is out of the GPU's memory, one lacks data, one storage, and one is stopped by its trial."""
    trains, broken = launch._train_first, UnreliableStorage(tmp_path / "broken")
    broken.broken = True

    def fail(work: Job, *rest: Any) -> Any:
        if work.config.run.seed == 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if work.config.run.seed == 21:
            raise DataError("there is no file")
        return trains(work, *rest)

    monkeypatch.setattr(launch, "_train_first", fail)

    finished = asyncio.Event()

    async def ordinary() -> Any:
        answer = await heard(process, job(tmp_path))
        finished.set()
        return answer

    async def stopped() -> str:
        work = job(tmp_path, run__seed=22, run__epochs=1000)
        await process.begin("stopped", ("0", work), os.getpid())
        for _ in range(2):
            assert (await process.hear("stopped"))[0] == "line"
        await finished.wait()
        await process.stop("stopped")
        return (tmp_path / work.keys.metrics).read_text()

    diverged, memory, data, storage, lines, answer = together(
        heard(process, job(tmp_path, **DIVERGES)),
        heard(process, job(tmp_path, run__seed=20)),
        heard(process, job(tmp_path, run__seed=21)),
        heard(process, job(tmp_path, lambda: broken, run__seed=23)),
        stopped(),
        ordinary(),
    )
    assert [*map(type, (diverged, data, storage, answer))] == [DivergedError, DataError, StorageError, type(None)]
    assert type(memory) is RuntimeError and str(memory) == "OutOfMemoryError: CUDA out of memory"
    assert len(lines.splitlines()) == 2, "it went on before it was stopped"
    assert json.loads((tmp_path / job(tmp_path, **DIVERGES).keys.failure).read_text())["kind"] == "diverged"
    alone(tmp_path / "alone")
    assert numbers(tmp_path) == numbers(tmp_path / "alone")
    assert process._runs == {} and not side_by_side._BEGINS.locked()


def test_a_run_whose_trial_has_lost_its_process_is_stopped(
    process: GpuProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "INTERVAL", 0.01)

    async def of_a_dead_trial() -> None:
        with subprocess.Popen([sys.executable, "-c", ""]) as ended:
            pass
        await process.begin("lost", ("0", job(tmp_path, run__seed=22, run__epochs=1000)), ended.pid)
        run = process._runs["lost"]
        await run.ended.wait()
        assert "lost" not in process._runs and run.is_stopped

    together(of_a_dead_trial(), heard(process, job(tmp_path)))
    alone(tmp_path / "alone")
    assert numbers(tmp_path) == numbers(tmp_path / "alone")


def test_runs_begin_one_after_another_and_end_when_they_like() -> None:
    begun: list[str] = []

    def run(name: str, steps: int) -> None:
        with beginning() as on_step:
            begun.append(name)
            for step in range(steps):
                on_step(step, None)

    with contextlib.suppress(ZeroDivisionError), beginning():
        raise ZeroDivisionError  # nobody waits for what has failed
    with beginning() as on_step:
        other = threading.Thread(target=run, args=("other", 1000))
        other.start()
        for step in range(100, 100 + WARM + 1):  # of a run that goes on: its own count decides
            on_step(step, None)
        other.join(0.05)
        assert begun == []
        on_step(100 + WARM + 1, None)
        other.join()
        assert begun == ["other"]
    assert not side_by_side._BEGINS.locked()


def test_no_two_runs_are_ever_on_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch gives out 32 streams and then the first one again."""
    made: list[Any] = []
    current: list[Any] = []

    class Stream(pretended_cuda._Stream):
        def __init__(self, device: Any = None) -> None:
            made.append(self)

    @contextlib.contextmanager
    def on(stream: Any) -> Iterator[None]:
        current.append(stream)
        yield

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", on)
    with own_stream(GPU, exact=False):
        for _ in range(40):
            with own_stream(GPU, exact=False):
                pass
    long, *short = current
    assert long not in short and len(made) == 2


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [(None, False), (torch.OutOfMemoryError("CUDA out of memory"), False), (RuntimeError("an illegal access"), True)],
)
def test_a_process_that_can_compute_no_more_is_told_from_one_whose_gpu_is_full(
    error: Exception | None, is_lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ones(*_: Any, **__: Any) -> torch.Tensor:
        if error:
            raise error
        return torch.zeros(2)

    assert not gpu_is_lost(), "no GPU was in use"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch, "ones", ones)
    assert gpu_is_lost() == is_lost


def test_log_lines_of_neighbours_name_their_own_trials(
    process: GpuProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of the threads that a run starts, such as the one that sends its records."""
    upload = SpooledStorage._upload

    def upload_and_say(storage: SpooledStorage) -> None:
        logging.getLogger("resnet_dist").info("sends %s", storage._fence_key)
        upload(storage)

    monkeypatch.setattr(SpooledStorage, "_upload", upload_and_say)
    said: list[dict[str, Any]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(json.loads(logs.JsonLines().format(record)))

    caplog.set_level(logging.INFO, "resnet_dist")
    handler = Handler()
    logging.getLogger("resnet_dist").addHandler(handler)
    try:
        runs = [job(tmp_path, lambda: UnreliableStorage(tmp_path), run__seed=seed) for seed in (0, 1)]
        together(*(heard(process, run) for run in runs))
    finally:
        logging.getLogger("resnet_dist").removeHandler(handler)
    for run in runs:
        mine = [line["message"] for line in said if line["trial"] == run.keys.trial_id]
        assert f"sends {run.keys.provenance}" in mine and len([line for line in mine if "epoch 2" in line]) == 1
    assert all(line["trial"] for line in said)


def test_the_last_attempt_at_a_trial_is_made_in_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before it share the GPU's, which is started again if it has died."""
    started: list[Any] = []

    class Actor:
        lives = True

        def __getattr__(self, name: str) -> Any:
            return self

        def options(self, **_: Any) -> Any:
            return self

        def remote(self, *arguments: Any) -> Any:
            if arguments:
                started.append(arguments)
                return Actor()
            return self.answer()

        async def answer(self) -> bool:
            if not self.lives:
                raise ray.exceptions.ActorDiedError
            return True

    monkeypatch.setattr(ray, "remote", lambda **_: lambda kind: Actor())
    places = GpuProcesses(launch._train_beside, 1)

    async def place(trial: str, gpu: str = "0") -> Any:
        return await places.place(trial, "ab" * 28, gpu, "0")

    async def exchange() -> None:
        first = await place("a")
        assert await place("b") is first and await place("c", gpu="1") is not first
        first.lives = False
        second, again = await asyncio.gather(place("a"), place("b"))
        assert second is again is not first and len(started) == 3
        assert await place("a") is None and await place("d") is second

    asyncio.run(exchange())


def test_a_run_beside_others_hands_on_what_is_said_and_stops_with_its_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    answers: list[Any] = []

    class Process:
        def __getattr__(self, name: str) -> Any:
            def remote(*_: Any) -> Any:
                calls.append(name)
                return answers.pop(0) if name == "hear" else process if name == "place" else None

            return SimpleNamespace(remote=remote)

    process: Any = Process()
    context = SimpleNamespace(get_accelerator_ids=lambda: {"GPU": ["0"]}, get_node_id=lambda: "node")
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    lines: list[Any] = []
    answers[:] = [("line", {"epoch": 1}), ("answer", None)]
    assert do_beside(process, "trial", "work", lines.append)
    assert lines == [{"epoch": 1}] and calls == ["place", "begin", "hear", "hear", "stop"]
    answers[:] = [("answer", DivergedError("a loss is not finite"))]
    with pytest.raises(DivergedError, match="a loss is not finite"):
        do_beside(process, "trial", "work", lines.append)

    def stop(line: Any) -> None:
        raise SystemExit  # as Ray Tune does

    answers[:], calls[:] = [("line", {"epoch": 1})], []
    with pytest.raises(SystemExit):
        do_beside(process, "trial", "work", stop)
    assert calls == ["place", "begin", "hear", "stop"]

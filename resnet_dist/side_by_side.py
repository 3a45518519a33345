"""One process for each GPU, which trains several runs side by side, each in a thread with a stream of its own.

A small network leaves most of a GPU idle. Processes that share it take turns on it and gain nothing; the threads of one
process do not, since a captured update is a single call (docs/performance.md). What a run sets in its process is the
same for all whose updates can be captured; trials with other `run.threads` do not share a process.

Ray Tune's process of each trial asks for a part of the GPU, gives its run to the GPU's process, and hands on what that
says of it. What happens to a run happens to it alone; if the process dies, all its runs go on from their checkpoints,
as if each had had a process that died. One that hangs is ended with the process, since a thread cannot be.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from resnet_dist.errors import UserError

LOGGER = logging.getLogger(__name__)

ATTEMPTS_TOGETHER = 2
"""Attempts at a trial that share a process. The next is in the trial's own: a run that ends its process each time ends
its neighbours' twice at most, which then train where it cannot reach them."""
INTERVAL = 1.0
"""Seconds between two looks whether the processes of trials are still there."""

Say = Callable[[dict[str, Any]], None]
OnStep = Callable[[int, Any], None]
Do = Callable[[Any, Say, OnStep], Any]
"""What a thread does with a piece of work: it says lines meanwhile, and tells of each step. Lines are heard by the
trial's process before the call returns, which does not if the trial has been stopped."""

_BEGINS = threading.Lock()


@contextlib.contextmanager
def beginning() -> Iterator[OnStep]:
    """Let the runs of this process begin one after another: what is yielded is told of each step, and lets the next.

    A run has begun when its update is captured. For that it waits for all of the GPU, which no other may do meanwhile;
    and what runs begin with, such as their images, is loaded once.
    """
    from resnet_dist.training.captured import WARM

    steps, ended = itertools.count(1), False

    def end() -> None:
        nonlocal ended
        if not ended:
            ended = True
            _BEGINS.release()

    def on_step(step: int, loss: Any) -> None:
        if next(steps) > WARM + 1:
            end()

    _BEGINS.acquire()
    try:
        yield on_step
    finally:
        end()


class _Run:
    """One run of a process, as its thread and the process's loop see it."""

    def __init__(self, process: int) -> None:
        self.process = process
        """Of the trial."""
        self.loop = asyncio.get_running_loop()
        self.said: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.ended = asyncio.Event()
        self.is_stopped = False
        self._may_go_on = threading.Semaphore(0)
        self._is_waiting = False

    def say(self, line: dict[str, Any]) -> None:
        """In the thread: say a line, and wait until it is heard."""
        self.loop.call_soon_threadsafe(self.said.put_nowait, ("line", line))
        self._may_go_on.acquire()
        self.look()

    def look(self) -> None:
        """In the thread: end it, if the trial has been stopped."""
        if self.is_stopped:
            raise SystemExit  # as Ray Tune does in its own threads

    async def hear(self) -> tuple[str, Any]:
        """In the loop: a line, or the answer; who asks for more has heard the last line."""
        if self._is_waiting:
            self._may_go_on.release()
        said = await self.said.get()
        self._is_waiting = said[0] == "line"
        return said

    def stop(self) -> None:
        """In the loop: end the thread, at its next step."""
        self.is_stopped = True
        self._may_go_on.release()


class GpuProcess:
    """Trains runs side by side: a Ray actor."""

    def __init__(self, do: Do, threads: int, visible: str | None) -> None:
        """`visible`: what CUDA_VISIBLE_DEVICES is in the processes of the trials."""
        if visible is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
        from resnet_dist.training.numerics import settings_of_run
        from resnet_dist.workers import on_threads

        # Of the process: the first of the runs to end must not take them back.
        self._settings = contextlib.ExitStack()
        self._settings.enter_context(on_threads(threads))
        self._settings.enter_context(settings_of_run(exact=False))
        self._do = do
        self._runs: dict[str, _Run] = {}
        self._watch: asyncio.Task[None] | None = None

    async def is_alive(self) -> bool:
        """Whether there is somebody to answer."""
        return True

    async def begin(self, name: str, work: Any, process: int) -> None:
        """Begin a run, under a name of its own, for the trial whose process this is, on the same machine."""
        self._watch = self._watch or asyncio.create_task(self._look_on())
        run = self._runs[name] = _Run(process)
        threading.Thread(target=self._train, args=(name, run, work), name=f"run-{name}", daemon=True).start()

    async def hear(self, name: str) -> tuple[str, Any]:
        """What a run says next: `line` and the line, or `answer` and what it failed with, None if it did not."""
        kind, what = await self._runs[name].hear()
        if kind == "answer":
            del self._runs[name]
        return kind, what

    async def stop(self, name: str) -> None:
        """Stop a run, and wait until its thread has ended."""
        if run := self._runs.pop(name, None):
            run.stop()
            await run.ended.wait()

    async def _look_on(self) -> None:
        """Stop the runs of trials whose processes have died: nobody would hear them."""
        while True:
            await asyncio.sleep(INTERVAL)
            for name, run in list(self._runs.items()):
                if not _lives(run.process):
                    LOGGER.warning("the process %d of a trial has died; its run is stopped", run.process)
                    self._runs.pop(name).stop()

    def _train(self, name: str, run: _Run, work: Any) -> None:
        answer: BaseException | None = None
        try:
            with beginning() as begun:

                def on_step(step: int, loss: Any) -> None:
                    begun(step, loss)
                    run.look()

                self._do(work, run.say, on_step)
        except SystemExit:
            answer = RuntimeError("it was stopped")
        except UserError as error:
            answer = error
        except BaseException as error:
            LOGGER.exception("a run failed, and those beside it go on")
            answer = RuntimeError(f"{type(error).__name__}: {error}")  # which can be sent, whatever it is
            if gpu_is_lost():
                os._exit(1)

        def end() -> None:
            run.said.put_nowait(("answer", answer))
            run.ended.set()

        run.loop.call_soon_threadsafe(end)


def gpu_is_lost() -> bool:
    """Whether this process can compute no more on its GPU, as after a kernel that failed: it is to be replaced."""
    import torch

    if not torch.cuda.is_initialized():
        return False
    with _BEGINS:  # nothing is captured now
        try:
            torch.ones(2, device="cuda").sum().item()
        except torch.OutOfMemoryError:
            return False
        except RuntimeError:
            return True
    return False


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class GpuProcesses:
    """Starts a process for each GPU on which a trial begins: a Ray actor beside the launcher, with which all end."""

    def __init__(self, do: Do, threads: int) -> None:
        self._do, self._threads = do, threads
        self._by_gpu: dict[tuple[str, str], Any] = {}
        self._attempts: Counter[str] = Counter()

    async def place(self, trial: str, node: str, gpu: str, visible: str | None) -> Any:
        """The process of a GPU, for another attempt at a trial; None if that is to be made in the trial's own."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._attempts[trial] += 1
        if self._attempts[trial] > ATTEMPTS_TOGETHER:
            return None
        known = self._by_gpu.get((node, gpu))
        if known is not None:
            try:
                await known.is_alive.remote()
            except ray.exceptions.RayError:
                if self._by_gpu.get((node, gpu)) is known:  # another trial may have seen it first
                    del self._by_gpu[node, gpu]
        if (node, gpu) not in self._by_gpu:
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            # The GPU is that of the trials, each of which has asked for a part.
            actor = ray.remote(num_cpus=0)(GpuProcess).options(scheduling_strategy=there)
            self._by_gpu[node, gpu] = actor.remote(self._do, self._threads, visible)
        return self._by_gpu[node, gpu]


def gpu_processes(do: Do, threads: int) -> Any:
    """A handle of `GpuProcesses` on this node, which ends with this process.

    `do` is given the name that Ray has for the GPU, and the work.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(GpuProcesses).options(scheduling_strategy=here).remote(do, threads)


def do_beside(processes: Any, trial: str, work: Any, on_line: Say) -> bool:
    """Do a piece of work in the process of the GPU of which this one has a part, and hand on what is said meanwhile.

    Returns False if the work is to be done here. Raises what it failed with, or Ray's error if that process died.
    """
    import ray

    context = ray.get_runtime_context()
    (gpu, *_) = context.get_accelerator_ids()["GPU"]
    place = processes.place.remote(trial, context.get_node_id(), gpu, os.environ.get("CUDA_VISIBLE_DEVICES"))
    process, name = ray.get(place), uuid.uuid4().hex
    if process is None:
        return False
    ray.get(process.begin.remote(name, (gpu, work), os.getpid()))
    try:
        while True:
            kind, what = ray.get(process.hear.remote(name))
            if kind == "line":
                on_line(what)
            elif what is None:
                return True
            else:
                raise what
    finally:
        with contextlib.suppress(ray.exceptions.RayError):  # it has died
            ray.get(process.stop.remote(name))

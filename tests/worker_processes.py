"""Runs a function on N processes of this machine, gloo's or NCCL's, as Ray Train would on N workers."""

import multiprocessing
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

# A fork of a server that has imported torch starts in milliseconds; importing it anew takes seconds.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.forkserver_preload"])


def run_workers(
    function: Callable[..., Any], size: int, *arguments: Any, timeout: float = 900, backend: str = "gloo"
) -> list[Any]:
    """`function(*arguments)` on each of `size` workers of one process group; their results in rank order."""
    with tempfile.TemporaryDirectory() as directory:
        pipes, processes = [], []
        for rank in range(size):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=_worker,
                args=(sender, Path(directory), rank, size, backend, pickle.dumps((function, arguments))),
                daemon=True,
            )
            process.start()
            sender.close()
            pipes.append(receiver)
            processes.append(process)
        try:
            results = []
            for rank, pipe in enumerate(pipes):
                if not pipe.poll(timeout):
                    raise TimeoutError(f"worker {rank} of {size} gave no result in {timeout} s")
                try:
                    kind, value = pickle.loads(pipe.recv_bytes())
                except EOFError:
                    raise RuntimeError(f"worker {rank} of {size} died") from None
                if kind == "error":
                    raise RuntimeError(f"worker {rank} of {size} failed:\n{value}")
                results.append(value)
            return results
        finally:
            for process in processes:
                process.join(10)
                process.kill()


def _worker(sender: Any, directory: Path, rank: int, size: int, backend: str, call: bytes) -> None:
    # Tensors go by value: multiprocessing's own pickler would share memory that dies with the worker.
    import torch
    import torch.distributed as dist

    from resnet_dist.workers import take_turns

    try:
        torch.set_num_threads(1)
        take_turns()
        dist.init_process_group(
            backend, init_method=f"file://{directory}/store", rank=rank, world_size=size, timeout=timedelta(minutes=15)
        )
        try:
            function, arguments = pickle.loads(call)
            sender.send_bytes(pickle.dumps(("result", function(*arguments))))
        finally:
            dist.destroy_process_group()
    except BaseException:
        sender.send_bytes(pickle.dumps(("error", traceback.format_exc())))

"""Settings of the process that decide how numbers round."""

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"

_IDLE: defaultdict[str, list[torch.cuda.Stream]] = defaultdict(list)
"""By device, streams of runs that have ended. PyTorch makes 32 and then gives out the first again, which a run beside
may still be on: what one captures, the other's updates would be part of."""


@contextmanager
def own_stream(device: torch.device, exact: bool) -> Iterator[None]:
    """Give a run that updates may be captured of a stream of its own, on a GPU: on the default one nothing can be.

    Exact mode's threads are not on it, and it captures nothing.
    """
    if device.type != "cuda" or exact:
        yield
        return
    idle = _IDLE[str(device)]
    stream = idle.pop() if idle else torch.cuda.Stream(device)
    try:
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            yield
        stream.synchronize()  # whoever goes on with what was computed is on another stream
    finally:
        idle.append(stream)


@contextmanager
def settings_of_run(exact: bool) -> Iterator[None]:
    """Set for one run, and take back after it, whatever of this process its bits depend on.

    A process trains many runs one after another, and the code of each may change what it likes. An ordinary run has the
    threads that the process has, an exact one a single thread an operation. On GPUs each gives the same bits again
    (law 2), and float32 is float32, which cuDNN would round to ten binary digits in its convolutions.
    """
    threads, workspace = torch.get_num_threads(), os.environ.get(CUBLAS_WORKSPACE)
    deterministic = torch.get_deterministic_debug_mode()
    default_dtype, matmul = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    # cuBLAS is deterministic with it alone, and reads it once: it is there before the process's first run.
    os.environ[CUBLAS_WORKSPACE] = ":4096:8"
    try:
        if exact:
            torch.set_num_threads(1)
        # `use_deterministic_algorithms` sets the same, and imports torch's compiler to tell it.
        torch.set_deterministic_debug_mode("error" if exact else "default")
        torch.set_float32_matmul_precision("highest")
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(deterministic)
        torch.set_default_dtype(default_dtype)
        torch.set_float32_matmul_precision(matmul)
        if workspace is None:
            os.environ.pop(CUBLAS_WORKSPACE, None)
        else:
            os.environ[CUBLAS_WORKSPACE] = workspace

"""Threads for what goes on beside a run."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context

LOGGER = logging.getLogger(__name__)


def helper_thread(target: Callable[[], None], name: str) -> threading.Thread:
    """A thread whose log lines name the trial of the one that makes it. It does not keep the process from ending."""
    return threading.Thread(target=copy_context().run, args=(target,), name=name, daemon=True)


@contextmanager
def repeated(
    call: Callable[[], None],
    seconds: float,
    name: str,
    trouble: str,
    first_after: float = 0.0,
    patience: float | None = None,
) -> Iterator[None]:
    """Call something again and again during the block, in a thread, with so many seconds between.

    No run depends on it: what it fails with is logged as `trouble`, once until it works again. The block's end waits
    for a call that is under way, `patience` seconds if they are given.
    """
    stop, failing = threading.Event(), False

    def go_on() -> None:
        nonlocal failing
        pause = first_after
        while not stop.wait(pause):
            pause = seconds
            try:
                call()
                failing = False
            except Exception as error:
                if not failing and not stop.is_set():
                    LOGGER.warning("%s, trying again: %r", trouble, error)
                failing = True

    thread = helper_thread(go_on, name)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(patience)

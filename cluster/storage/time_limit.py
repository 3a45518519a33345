"""A call that ends in time, whatever a server does.

A server that sends a byte now and then keeps each read of the HTTP library alive, for ever: that bounds the pauses
between two bytes, and not what comes of them. A helper program that is to print keys is bounded by nobody else.
"""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class UnansweredError(Exception):
    """Nothing has come of a call."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"nothing is complete within {seconds:.0f} s")
        self.seconds = seconds


def bounded(call: Callable[[Callable[[object], None]], T], seconds: float) -> T:
    """What `call` returns, or raises; an `UnansweredError` once it has made no progress for `seconds`.

    What it is called with it calls in turn, with anything, whenever it has made some. It runs in a thread of its own,
    which is left to itself then, and ends with its connection.
    """
    ended = threading.Event()
    outcome: list[T] = []
    failure: list[BaseException] = []
    newest = time.monotonic()

    def progress(_: object) -> None:
        nonlocal newest
        newest = time.monotonic()

    def run() -> None:
        try:
            outcome.append(call(progress))
        except BaseException as error:  # whatever it is, it is the caller's
            failure.append(error)
        ended.set()

    threading.Thread(target=run, daemon=True, name="storage").start()
    while not ended.wait(max(0.0, newest + seconds - time.monotonic())):
        if time.monotonic() >= newest + seconds:
            raise UnansweredError(seconds)
    if failure:
        raise failure[0]
    return outcome[0]

"""Processes of this machine by number and start time, so that a number that has been given away again is no mistake."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """One process, for as long as the machine runs."""

    pid: int
    started: int
    """Clock ticks since the machine's start."""

    @property
    def is_alive(self) -> bool:
        """Whether it runs; one that has ended and not been waited for does not."""
        return start_time(self.pid) == self.started


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine's start; None if there is none (or no /proc)."""
    fields = _stat(pid)
    return fields[1] if fields else None


def of_session(leader: Process) -> list[Process]:
    """The processes of the session that `leader` began, and all that descend from them; the leader may have ended."""
    current = start_time(leader.pid)
    if current is not None and current != leader.started:
        return []  # the number is another process's now, and so is the session of this number
    everyone = _everyone()
    found = {pid for pid, fields in everyone.items() if fields[2] == leader.pid}
    return _with_descendants(found, everyone)


def below(pid: int) -> list[Process]:
    """The processes that descend from process `pid`."""
    everyone = _everyone()
    return _with_descendants({child for child, fields in everyone.items() if fields[3] == pid}, everyone)


def _everyone() -> dict[int, tuple[str, int, int, int]]:
    proc = Path("/proc")  # which not every system has
    numbers = [int(entry.name) for entry in (proc.iterdir() if proc.is_dir() else ()) if entry.name.isdigit()]
    found = {pid: _stat(pid) for pid in numbers}
    return {pid: fields for pid, fields in found.items() if fields}


def _with_descendants(found: set[int], everyone: dict[int, tuple[str, int, int, int]]) -> list[Process]:
    while True:
        more = {pid for pid, fields in everyone.items() if fields[3] in found} - found
        if not more:
            return [Process(pid, everyone[pid][1]) for pid in sorted(found)]
        found |= more


def end(processes: Iterable[Process], patience: float = 10.0) -> None:
    """Ask processes to end, and after `patience` seconds kill those that have not."""
    left = list(processes)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in left:
            if process.is_alive:
                with contextlib.suppress(ProcessLookupError):  # it has ended since
                    os.kill(process.pid, number)
        deadline = time.monotonic() + patience
        while left := [process for process in left if process.is_alive]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)


def _stat(pid: int) -> tuple[str, int, int, int] | None:
    """State, start time, session and parent of a process that has not ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else (fields[0], int(fields[19]), int(fields[3]), int(fields[1]))

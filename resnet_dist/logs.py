"""Log lines: text for people, or one JSON object a line that says which trial and worker it speaks of.

`RESNET_DIST_LOG_FORMAT` is `text` (the default: warnings, errors, and that images are being decoded) or `json` (also
what a trial is doing). Ray keeps the lines of each of its worker processes in a file of its own; those of the command
itself go to standard error.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TextIO

from resnet_dist.errors import ConfigurationError

VARIABLE = "RESNET_DIST_LOG_FORMAT"
FORMATS = ("text", "json")
PACKAGES = ("resnet_dist", "cluster", "tune_jobs")

_NOTHING = MappingProxyType({"experiment": None, "trial": None, "worker": None})
_about: ContextVar[Mapping[str, Any]] = ContextVar("about", default=_NOTHING)
"""What this thread is at work on: on a GPU a process may train several trials, each in a thread."""


class JsonLines(logging.Formatter):
    """A record as one line of JSON. A mapping given as `extra={"fields": …}` adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **_about.get(),
            "logger": record.name,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class StandardError(logging.StreamHandler[TextIO]):
    """Standard error as it is at each line: while a bar is shown, lines go above it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        self.stream = sys.stderr
        super().emit(record)


def structured() -> bool:
    """Whether lines are to be JSON. Raises a `ConfigurationError` if the variable says neither."""
    chosen = os.environ.get(VARIABLE) or FORMATS[0]
    if chosen not in FORMATS:
        raise ConfigurationError(f"{VARIABLE}={chosen!r} is not allowed; it must be {' or '.join(FORMATS)}")
    return chosen == "json"


def configure() -> None:
    """Set up the log of this process: a command, or a worker process of Ray's. The second call changes nothing."""
    handler = StandardError()
    handler.setFormatter(JsonLines() if structured() else logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    if not structured():
        logging.getLogger("resnet_dist.data.cache").setLevel(logging.INFO)  # else a command is silent for a minute
        return
    for logger in map(logging.getLogger, PACKAGES):
        if not logger.handlers:
            # Not left to the root, to which Ray Train has given a handler of its own.
            logger.addHandler(handler)
            logger.propagate = False
            logger.setLevel(logging.INFO)


@contextmanager
def about(experiment: str, trial: str, worker: int) -> Iterator[None]:
    """Name the trial and the worker's rank on every line that this thread logs during the block.

    So do the threads that it starts by `threads.helper_thread`.
    """
    before = _about.set({"experiment": experiment, "trial": trial, "worker": worker})
    try:
        yield
    finally:
        _about.reset(before)

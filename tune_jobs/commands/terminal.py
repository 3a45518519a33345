"""The console that commands print on: a terminal's width where there is one, and unbroken lines in a pipe or a file."""

import sys

from rich.console import Console

PIPE_WIDTH = 10_000
"""Columns of output that is no terminal: a line there is for grep or a log, and is never broken."""


def make_console(quiet: bool = False) -> Console:
    """A console on standard output. `quiet`: it prints nothing, for `--json`."""
    return Console(quiet=quiet, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)

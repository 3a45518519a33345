"""The console that commands print on: a terminal's width where there is one, and unbroken lines in a pipe or a file."""

import sys
import textwrap
from typing import Any

from rich.console import Console

from tune_jobs.commands.output import print_json

PIPE_WIDTH = 10_000
"""Columns of output that is no terminal: a line there is for grep or a log, and is never broken."""

WIDTH = 100
"""Columns that a paragraph fits into, wherever it is printed."""


class Terminal(Console):
    """A console that prints lines as they are, too."""

    def say(self, text: str = "", style: str | None = None) -> None:
        """Print a line of which nothing is markup, and which no terminal breaks at its words."""
        self.print(text, style=style, markup=False, soft_wrap=True)

    def say_in_paragraphs(self, *texts: str, indent: str = "  ") -> None:
        """Print texts in lines of `WIDTH` columns, each text's further lines with an indent."""
        for text in texts:
            self.say("\n".join(textwrap.wrap(text, WIDTH, subsequent_indent=indent)))

    def answers(self, value: Any) -> bool:
        """Print a command's answer as JSON if that was asked for; nothing else that it prints is seen then."""
        if self.quiet:
            print_json(value)
        return self.quiet


def make_console(quiet: bool = False) -> Terminal:
    """A console on standard output. `quiet`: JSON was asked for, and nothing else."""
    return Terminal(quiet=quiet, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)

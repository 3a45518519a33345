"""What the tests of the report read it with."""

import io
import re
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser

from rich.console import Console

from resnet_dist.storage.interface import Storage
from tune_jobs.grid.experiment import Trial
from tune_jobs.report.write import Report

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
ERRORS = [0.101, 0.099, 0.1, 0.0605, 0.0595, 0.06]
VOID = {"meta", "link", "br", "path", "use", "rect", "img"}


class Page(HTMLParser):
    """Elements, addresses and text of a page; fails on elements that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


def text_of(storage: Storage, path: str, experiment: str = "two-rows") -> str:
    data = storage.get(f"{experiment}/report/{path}")
    assert data is not None, path
    return data.decode()


def rows_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def shown(report: Report) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(report.terminal)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


Finished = Callable[..., tuple[Storage, tuple[Trial, ...]]]

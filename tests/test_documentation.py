"""What the documentation names is there: pages, headings, files, modules to run, commands and their options."""

import argparse
import importlib.util
import re
from pathlib import Path

import pytest

from tune_jobs.command_line import COMMANDS, _Command, make_parser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
ELSEWHERE = {"pets.toml"}
"""Files that readers write."""


def anchors(text: str) -> set[str]:
    """The anchors of a page: those that it sets, and those of its headings, as GitHub makes them."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", outside, re.MULTILINE)
    return set(re.findall(r'<a (?:id|name)="([^"]+)"', text)) | {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles
    }


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_to_pages_and_headings(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("page", TEXTS)
def test_files_that_are_named_exist(page: str) -> None:
    for name in set(re.findall(r"`([\w./-]+\.(?:py|toml|yaml|ipynb|md))`", TEXTS[page])):
        within = any(next((ROOT / top).rglob(name), None) for top in ("resnet_dist", "tune_jobs", "cluster", "tests"))
        assert within or (ROOT / name).exists() or (ROOT / "docs" / name).exists() or Path(name).name in ELSEWHERE, name


@pytest.mark.parametrize("page", TEXTS)
def test_modules_that_are_run_exist(page: str) -> None:
    for name in set(re.findall(r"python -m ((?:benchmarks|tests|tune_jobs|resnet_dist)[\w.]*)", TEXTS[page])):
        assert importlib.util.find_spec(name.rstrip(".")), name


def parser_of(words: list[str]) -> argparse.ArgumentParser:
    """The parser of the command that words begin with."""
    parser: argparse.ArgumentParser = make_parser()
    for word in words:
        if isinstance(parser, _Command):
            parser.load()
        children = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not children:
            return parser
        assert word in children[0], f"{word} of: {' '.join(words)}"
        parser = children[0][word]
    if isinstance(parser, _Command):
        parser.load()
    return parser


@pytest.mark.parametrize("page", TEXTS)
def test_commands_have_the_options_that_are_given_them(page: str) -> None:
    text = TEXTS[page].replace("\\\n", " ")
    for line in re.findall(r"(?:resnet-dist|-m tune_jobs) ((?:[a-z]+ )*[a-z]+\b[^`\n#|]*)", text):
        for command in line.split(" -- ") if "submit" in line else [line]:
            words = command.split()
            if words[0] not in COMMANDS:
                continue  # of the program itself, or words about it
            parser = parser_of(words)
            for option in re.findall(r"(?<!\S)(--[\w.-]*\w)", command):
                assert option in parser._option_string_actions, f"{option} of: {command}"

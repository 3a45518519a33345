"""What is said to whoever called a function: it names no option of the command line, and is one line."""

import argparse
import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resnet_dist import UserError, train
from tests.tune_jobs.test_command_line import leaves
from tune_jobs import plan_grid, read_results, run_grid
from tune_jobs.command_line import make_parser

ROOT = Path(__file__).parents[2]
BELOW = ("resnet_dist", "tune_jobs/actions", "tune_jobs/grid", "tune_jobs/report", "tune_jobs/results")
FROM_CALLS = ("cluster/storage", "cluster/ray_cluster/connection.py", "cluster/ray_cluster/preflight.py")
OF_A_COMMAND = ("hand_over.py", "to_mlflow.py", "to_wandb.py", "model_formats.py", "sharding.py")
"""`results --to`, `export` and `data shard` have no function."""


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """Each string of a module that is no docstring, with its line."""
    tree = ast.parse(file.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


def options() -> set[str]:
    """Every option of every command."""

    def of(parser: argparse.ArgumentParser) -> Iterator[str]:
        yield from (name for action in parser._actions for name in action.option_strings if name.startswith("--"))

    return {name for parser in leaves(make_parser()) for name in of(parser)}


# What is an argument of git's or Ray's alone, or a whole command to run, is no such name.
def test_functions_name_arguments_and_settings_and_no_options() -> None:
    known, places = options(), [ROOT / place for place in (*BELOW, *FROM_CALLS)]
    assert {"--seeds", "--data.source", "--classes-by-position"} <= known
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*.py"))]
    said = [
        f"{file.relative_to(ROOT)}:{line}: {text}"
        for file in files
        if file.name not in OF_A_COMMAND
        for line, text in texts(file)
        if known & set(re.findall(r"(?<!\()--[\w.-]*\w", text)) and " " in text
    ]
    assert [line for line in said if "resnet-dist grid" not in line] == []


PLAIN: Any = {"network.depth": 8}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: plan_grid(PLAIN, "r"), "experiment: a value of type dict is not allowed; give a name, the path of a"),
        (lambda: run_grid(PLAIN, "r"), "experiment: a value of type dict is not allowed"),
        (lambda: read_results(PLAIN, "r"), "experiment: a value of type dict is not allowed"),
        (lambda: read_results("demo", PLAIN), "storage {'network.depth': 8} is not known; give a directory"),
        (lambda: train(PLAIN, "r"), "config: a value of type dict is not allowed; TrainingConfig().override({…})"),
    ],
)
def test_arguments_of_another_kind_are_one_line(call: Callable[[], object], says: str) -> None:
    with pytest.raises(UserError) as raised:
        call()
    assert str(raised.value).startswith(says)

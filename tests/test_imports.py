"""Imports run one way: tune_jobs → cluster, resnet_dist; resnet_dist imports neither of the others."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {"resnet_dist": {"cluster", "tune_jobs"}, "cluster": {"tune_jobs"}}


def imported_packages(file: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.split(".")[0])
    return packages


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_follow_the_arrows(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        if file.name == "__main__.py":  # puts the program together
            continue
        assert not imported_packages(file) & FORBIDDEN[package], file


def test_no_file_has_more_than_500_lines() -> None:
    for file in ROOT.rglob("*.py"):
        if not {".venv", "build"} & set(file.parts):
            assert len(file.read_text().splitlines()) <= 500, file

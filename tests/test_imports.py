"""Every import runs down the floors below, whether it stands at a file's top, in a function or for types alone."""

import ast
import functools
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = """
tune_jobs.command_line
tune_jobs.commands
tune_jobs.actions
tune_jobs.grid tune_jobs.report
tune_jobs.results
cluster.ray_cluster cluster.tensorboard
cluster.storage
cluster.processes cluster.signals
resnet_dist.launch
resnet_dist.worker_group resnet_dist.side_by_side
resnet_dist.ray_metrics resnet_dist.heartbeat resnet_dist.process_group
resnet_dist.training
resnet_dist.extension
resnet_dist.records
resnet_dist.networks resnet_dist.summaries
resnet_dist.data
resnet_dist.custom_code
resnet_dist.configuration
resnet_dist.storage
resnet_dist.workers resnet_dist.gpus resnet_dist.logs resnet_dist.cache_directory resnet_dist.installed_packages
resnet_dist.credentials resnet_dist.file_kinds resnet_dist.threads
resnet_dist.paths resnet_dist.environment
resnet_dist.errors resnet_dist.plurals resnet_dist.nearest_name resnet_dist.durations
"""
"""From the top: a room may import rooms of lower lines, not its neighbours. The same picture is in architecture.md."""

PACKAGES = ("resnet_dist", "cluster", "tune_jobs")

ENTRANCES = {"tune_jobs.__main__", "resnet_dist.__main__", "resnet_dist", "tune_jobs"}
"""They put the program together, or hand on what is public, and are imported by nobody."""

FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for package in PACKAGES
    for file in (ROOT / package).rglob("*.py")
}
FLOOR = {room: floor for floor, line in enumerate(FLOORS.strip().splitlines()) for room in line.split()}


def imported(file: Path) -> set[str]:
    """Names of the project's files that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{file}: imports here are absolute"
            assert not node.level, f"{file}: imports here are absolute"
            found |= {name if (name := f"{node.module}.{alias.name}") in FILES else node.module for alias in node.names}
    return {name for name in found if name.partition(".")[0] in PACKAGES}


def room(name: str) -> str:
    """`resnet_dist.data.batches` → `resnet_dist.data`."""
    return ".".join(name.split(".")[:2])


@functools.cache
def graph() -> dict[str, set[str]]:
    return {name: imported(file) for name, file in FILES.items()}


def test_each_file_belongs_to_a_room() -> None:
    assert {room(name) for name in FILES if name not in ENTRANCES | set(PACKAGES)} == set(FLOOR)


@pytest.mark.parametrize("name", sorted(set(FILES) - ENTRANCES))
def test_imports_run_down_the_floors(name: str) -> None:
    for other in graph()[name]:
        assert other not in ENTRANCES, f"{name} imports {other}, which is for programs of other people"
        assert other in FILES, f"{name} imports {other}, which is not there"
        if room(name) != room(other):
            assert FLOOR[room(name)] < FLOOR[room(other)], f"{name} imports {other}, which is not below it"


def test_no_imports_make_a_circle() -> None:
    try:
        graphlib.TopologicalSorter(graph()).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_a_rooms_init_hands_on_nothing() -> None:
    for name, file in FILES.items():
        if file.name == "__init__.py":
            assert not graph()[name] or name in ENTRANCES, file
            assert ast.get_docstring(ast.parse(file.read_text())), f"{file} does not say what the room is for"


def test_no_file_has_more_than_500_lines() -> None:
    for folder in (*PACKAGES, "tests", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= 500, file

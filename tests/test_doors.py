"""What can be added is named in one place, and all that is there already is registered so (docs/architecture.md)."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.storage.keys import BrowsableStorage
from cluster.storage.opening import open_storage
from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.data import SOURCES, DataConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.configuration.network_families import FAMILIES
from resnet_dist.configuration.solver import SOLVER_DEFAULTS, SolverConfig
from resnet_dist.networks.construction import make_network
from resnet_dist.training.solvers import OPTIMIZERS, make_solver
from tests.test_imports import FLOORS
from tune_jobs.command_line import COMMANDS

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_of_networks_is_made_by_what_its_line_names(family: str) -> None:
    module, _, name = FAMILIES[family].partition(":")
    depth, width, size = (18 if family.startswith("imagenet") else 8), (6 if family == "caffenet" else 2), 64
    network = NetworkConfig(depth=depth, width=width, family=family)
    made = make_network(network, BatchNormConfig(), 3, size=size)
    assert type(made) is getattr(importlib.import_module(module), name)
    assert made(torch.zeros(2, 3, size, size)).shape == (2, 3)


@pytest.mark.parametrize("kind", SOURCES)
def test_a_data_source_has_an_entry_in_the_cache(kind: str, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    source = f"folder:{tmp_path}" if kind == "folder" else kind
    assert DataConfig(source=source).source == source
    key, decode = importlib.import_module(SOURCES[kind]).cache_entry(DataConfig(source=source), tmp_path)
    assert key and callable(decode)


@pytest.mark.parametrize("kind", SOLVER_DEFAULTS)
def test_a_solver_takes_its_settings_and_no_others(kind: str) -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    (group,) = make_solver(SolverConfig(kind=kind), [weight]).param_groups
    settings = dict(SOLVER_DEFAULTS[kind])
    expected: dict[str, Any] = {"lr": settings.pop("learning_rate")}
    if "beta1" in settings:
        expected["betas"] = (settings.pop("beta1"), settings.pop("beta2"))
    assert expected | settings == {name: group[name] for name in expected | settings}


def test_solvers_are_those_that_have_settings() -> None:
    assert set(OPTIMIZERS) == set(SOLVER_DEFAULTS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_a_module_that_adds_its_options(command: str) -> None:
    module = importlib.import_module(f"tune_jobs.commands.{command}")
    assert list(inspect.signature(module.add_arguments).parameters) == ["parser"]


def test_a_storage_is_opened_by_its_uri(tmp_path: Path) -> None:
    opened: list[BrowsableStorage] = [open_storage(str(tmp_path)), open_storage("s3://bucket/prefix")]
    assert {type(storage).__module__ for storage in opened} == {"cluster.storage.local", "cluster.storage.s3"}


def test_the_doors_that_the_document_names_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for name in ("FAMILIES", "SOURCES", "OPTIMIZERS", "SOLVER_DEFAULTS", "Column", "COMMANDS", "open_storage"):
        assert f"`{name}`" in text


def test_the_document_draws_the_floors_that_imports_are_held_to() -> None:
    lines = (ROOT / "docs" / "architecture.md").read_text().splitlines()
    begin = next(place for place, line in enumerate(lines) if line.startswith("    tune_jobs "))
    package, drawn = "", []
    for line in lines[begin : lines.index("", begin)]:
        package = line[:19].strip() or package
        names = line[19:].strip().partition("  ")[0]
        drawn.append([f"{package}.{name.strip()}" for name in names.split("·")])
    assert drawn == [floor.split() for floor in FLOORS.strip().splitlines()]

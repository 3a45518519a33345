"""Experiment files: TOML read strictly into experiments. The format is described in `experiments/demo.toml`."""

import itertools
import math
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from resnet_dist.configuration.sections import choices
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import ConfigurationError
from resnet_dist.paths import require_no_device
from resnet_dist.plurals import counted
from tune_jobs.results.html_table import html_table

TOP_KEYS = ("name", "title", "description", "seeds", "include", "preset", "recipe", "reference", "table")
TABLE_KEYS = ("name", "title", "caption", "baseline", "paired", "cell", "grid")
CELL_KEYS = ("label", "set", "reference", "paper")
LEVEL_KEYS = ("label", "set")

MOST_TRIALS = 50_000
"""Of an experiment; a plan of so many takes half a minute."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")  # part of storage keys and of file names


@dataclass(frozen=True)
class Cell:
    """One row of a table: a configuration, repeated with every seed."""

    label: str
    """What the row is called in the report."""
    config: TrainingConfig
    """The configuration, with seed 0."""
    reference: float | None = None
    """Top-1 test error, as a fraction, that the source document gives for this row."""
    paper: float | None = None
    """Top-1 test error, as a fraction, that the original paper gives for this row."""


@dataclass(frozen=True)
class Table:
    """Cells that belong side by side."""

    name: str
    title: str
    caption: str
    cells: tuple[Cell, ...]
    baseline: str = ""
    """Label of the cell that the others are tested against; empty: the first."""
    paired: bool = False
    """Whether cells with one seed share their training, so that they are compared in pairs."""
    reference_settings: tuple[tuple[str, Any], ...] = ()
    """Settings with which the reference numbers were measured, beyond what each cell declares."""


@dataclass(frozen=True)
class Deviation:
    """A setting that is not what the experiment's recipe or its reference numbers say."""

    setting: str
    recipe: tuple[Any, ...]
    """Distinct values that the recipe has, over the cells concerned."""
    actual: tuple[Any, ...]
    """Distinct values that this experiment runs with."""


@dataclass(frozen=True, repr=False)
class Experiment:
    """Tables to fill."""

    name: str
    title: str
    description: str
    tables: tuple[Table, ...]
    seeds: int = 1
    """Seeds that the author of the experiment recommends."""
    deviations: tuple[Deviation, ...] = ()
    """What overrides and shortening changed, and where the recipe departs from the references' conditions."""

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Experiment":
        """An experiment from what its TOML file would hold, as Python's values; docs/experiments.md has the keys.

        `recipe` may be a `TrainingConfig`.

        Raises a `UserError` of one line that names table, cell and setting.
        """
        return _experiment(dict(plain), Path.cwd(), registry(), ())

    @classmethod
    def from_file(cls, name_or_path: "str | PathLike[str]") -> "Experiment":
        """A registered experiment by its name, or a TOML file's. Raises a `UserError` of one line."""
        name, known = fspath(name_or_path), registry()
        path = known.get(name)
        if path is None:
            if not (name.endswith(".toml") or "/" in name or is_file(name)):
                choices("experiment", name, ("FILE.toml", *known))
            path = Path(name)
        return read_experiment_file(path, known)

    def __repr__(self) -> str:
        rows = sum(len(table.cells) for table in self.tables)
        return f"<experiment {self.name}: {counted(rows, 'row')} in {counted(len(self.tables), 'table')}>"

    def _repr_html_(self) -> str:
        rows = [(table.title, cell.label) for table in self.tables for cell in table.cells]
        return html_table(("table", "row"), rows, self.title)


def require_possible(number: int, what: str, things: str) -> None:
    """Refuse more than an experiment can have: a slip that would take all memory and hours before anything is said."""
    if number > MOST_TRIALS:
        raise ConfigurationError(f"{what} {number:,} {things}, and an experiment has {MOST_TRIALS:,} at most")


def registry() -> dict[str, Path]:
    """Files of the packaged experiments, by name."""
    folder = Path(str(resources.files("tune_jobs"))) / "experiments"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def is_file(name: str) -> bool:
    """Whether there is a file of this name; none has one that is too long for the system."""
    try:
        return Path(name).is_file()
    except OSError:
        return False


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Put `place` before the message of any `ConfigurationError` raised inside."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"{place}: {error}") from None


def with_configs(experiment: Experiment, change: Callable[[TrainingConfig], TrainingConfig]) -> Experiment:
    """The experiment with each cell's configuration changed. A `ConfigurationError` names table and cell."""
    tables = []
    for table in experiment.tables:
        cells = []
        for cell in table.cells:
            with naming(f"table {table.name!r}, cell {cell.label!r}"):
                cells.append(replace(cell, config=change(cell.config)))
        tables.append(replace(table, cells=tuple(cells)))
    return replace(experiment, tables=tuple(tables))


def read_experiment_file(path: Path, find: "Mapping[str, Path]", parents: tuple[Path, ...] = ()) -> Experiment:
    """The experiment that a file declares, its includes resolved; `find` maps registered names to files.

    Every mistake is a `ConfigurationError` of one line that names the file and, where it applies, the line, the
    table, the cell and the setting.
    """
    require_no_device(path, str(path))
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: is not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigurationError(f"{path}: is nested too deeply") from None
    with naming(str(path)):
        return _experiment(raw, path.parent, find, (*parents, path.resolve()))


def _experiment(raw: dict[str, Any], folder: Path, find: "Mapping[str, Path]", files: tuple[Path, ...]) -> Experiment:
    """The experiment of a file's content; `files` are the file itself and those that include it."""
    _known_keys(raw, TOP_KEYS)
    tables: list[Table] = []
    for include in _list(raw, "include", str):
        target = find.get(include) or folder / include
        if target.resolve() in files:
            raise ConfigurationError(f"include: {include!r} includes itself; remove it")
        if include not in find and not target.is_file():
            if include.endswith(".toml") or "/" in include:
                raise ConfigurationError(f"include: {include!r} is not there: {target} is no file")
            choices("include", include, tuple(find))
        tables += read_experiment_file(target, find, files).tables
    recipe = _recipe(raw)
    references = _settings(raw, "reference")
    with naming("reference"):
        TrainingConfig().override(references)
    for table in _list(raw, "table", dict):
        tables.append(_table(table, recipe, references))
    if not tables:
        raise ConfigurationError("table: there is none; add [[table]] with cells, or include = [...]")
    _unique("table", [table.name for table in tables])
    seeds = raw.get("seeds", 1)
    if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1:
        raise ConfigurationError(f"seeds: {seeds!r} is not allowed; it must be a whole number from 1")
    name = _name(raw)
    return Experiment(
        name, _text(raw, "title", name) or name, _text(raw, "description", ""), tuple(tables), seeds=seeds
    )


def _recipe(raw: dict[str, Any]) -> TrainingConfig:
    with naming("recipe"):
        plain = raw.get("recipe", {})
        if isinstance(plain, TrainingConfig):  # of `from_dict`
            _refuse_seed(["run.seed"] if plain.run.seed else [])
            return plain
        if not (name := _text(raw, "preset", "")) or any(not isinstance(keys, dict) for keys in plain.values()):
            config = TrainingConfig.from_dict(plain)
        else:
            given = {f"{section}.{key}": value for section, keys in plain.items() for key, value in keys.items()}
            config = TrainingConfig.preset(name).override(given)
        _refuse_seed([f"run.{key}" for key in plain.get("run", {})])
        return config


def _table(raw: dict[str, Any], recipe: TrainingConfig, references: dict[str, Any]) -> Table:
    with naming(f"table {raw.get('name', '?')!r}"):
        _known_keys(raw, TABLE_KEYS)
        name = _name(raw)
        cells = [_cell(cell, recipe) for cell in _list(raw, "cell", dict)]
        if "grid" in raw:
            cells += _grid(raw["grid"], recipe)
        if not cells:
            raise ConfigurationError("cell: there is none; add [[table.cell]] or [table.grid]")
        _unique("cell", [cell.label for cell in cells])
        baseline = _text(raw, "baseline", "")
        if baseline:
            choices("baseline", baseline, tuple(cell.label for cell in cells))
        return Table(
            name,
            _text(raw, "title", name) or name,
            _text(raw, "caption", ""),
            tuple(cells),
            baseline=baseline,
            paired=_flag(raw, "paired"),
            reference_settings=tuple(references.items()),
        )


def _cell(raw: dict[str, Any], recipe: TrainingConfig) -> Cell:
    with naming(f"cell {raw.get('label', '?')!r}"):
        _known_keys(raw, CELL_KEYS)
        label = _text(raw, "label", None)
        config = recipe.override(_settings(raw, "set"))
        return Cell(label, config, _fraction(raw, "reference"), _fraction(raw, "paper"))


def _grid(raw: Any, recipe: TrainingConfig) -> list[Cell]:
    """Cross product of axes; the last axis varies fastest."""
    if not isinstance(raw, dict):
        raise ConfigurationError(f"grid: {raw!r} is not allowed; it must be a table of axes")
    axes: list[list[tuple[str, dict[str, Any]]]] = []
    for axis, levels in raw.items():
        if not isinstance(levels, list) or not levels:
            raise ConfigurationError(f"grid: {axis}: {levels!r} is not allowed; it must be a list of values")
        axes.append([_level(axis, level) for level in levels])
    if not axes:
        raise ConfigurationError('grid: has no axes; give "section.field" = [values]')
    require_possible(math.prod(map(len, axes)), "grid: its axes make", "cells")
    cells = []
    for levels in itertools.product(*axes):
        label = ", ".join(text for text, _ in levels)
        settings: dict[str, Any] = {}
        for _, part in levels:
            if twice := settings.keys() & part.keys():
                raise ConfigurationError(f"grid: {min(twice)} is set by two axes; leave it out of one")
            settings |= part
        with naming(f"cell {label!r}"):
            cells.append(Cell(label, recipe.override(settings)))
    return cells


def _level(axis: str, level: Any) -> tuple[str, dict[str, Any]]:
    """One value of an axis as (label, settings)."""
    with naming(f"grid: {axis}"):
        if isinstance(level, dict):
            _known_keys(level, LEVEL_KEYS)
            return _text(level, "label", None), _settings(level, "set")
        if "." not in axis:
            raise ConfigurationError(
                f"{level!r} is not allowed; name the axis section.field, or give levels as {{ label, set }}"
            )
        _refuse_seed([axis])
        return f"{axis.partition('.')[2].replace('_', ' ')} {level}", {axis: level}


def _settings(raw: dict[str, Any], key: str) -> dict[str, Any]:
    settings = raw.get(key, {})
    if not isinstance(settings, dict):
        raise ConfigurationError(f'{key}: {settings!r} is not allowed; it must be a table like {{ "run.epochs" = 2 }}')
    _refuse_seed(settings)
    return settings


def _refuse_seed(settings: "Mapping[str, Any] | list[str]") -> None:
    if "run.seed" in settings:
        raise ConfigurationError("run.seed: an experiment does not set it; a launch is told how many seeds to run")


def _known_keys(raw: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in raw:
        choices("key", key, known)


def _list(raw: dict[str, Any], key: str, kind: type) -> list[Any]:
    items = raw.get(key, [])
    if not isinstance(items, list) or not all(isinstance(item, kind) for item in items):
        form = "a list of names" if kind is str else f"given as [[{'table.' if key == 'cell' else ''}{key}]]"
        raise ConfigurationError(f"{key}: {items!r} is not allowed; it must be {form}")
    return items


def _text(raw: dict[str, Any], key: str, default: str | None) -> str:
    text = raw.get(key, default)
    if text is None:
        raise ConfigurationError(f"{key}: is missing; add it")
    if not isinstance(text, str) or (default is None and not text.strip()):
        more = " that is not empty" if isinstance(text, str) else ""
        raise ConfigurationError(f"{key}: {text!r} is not allowed; it must be text{more}")
    text = " ".join(text.split())
    if not text.isprintable():
        raise ConfigurationError(f"{key}: {text!r} is not allowed; it must be text without control characters")
    return text


def _name(raw: dict[str, Any]) -> str:
    name = _text(raw, "name", None)
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"name: {name!r} is not allowed; it must be of lower-case letters, digits, '-' and '_', 64 at most"
        )
    return name


def _fraction(raw: dict[str, Any], key: str) -> float | None:
    value = raw.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ConfigurationError(f"{key}: {value!r} is not allowed; it must be a fraction from 0 to 1, as in 0.0829")
    return float(value)


def _flag(raw: dict[str, Any], key: str) -> bool:
    value = raw.get(key, False)
    if not isinstance(value, bool):
        raise ConfigurationError(f"{key}: {value!r} is not allowed; it must be true or false")
    return value


def _unique(kind: str, names: list[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise ConfigurationError(f"{kind} {name!r} is declared {count} times; rename one")

"""Names of trials: what varies in an experiment, in a fixed order. TensorBoard sorts and filters by them."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from resnet_dist.configuration.identity import ADDED
from resnet_dist.configuration.training import TrainingConfig


def _number(value: float | str | None) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _solver(config: TrainingConfig) -> str:
    solver = config.solver
    kind = "nesterov" if solver.nesterov else solver.kind
    if solver.kind == "adadelta" and solver.learning_rate == 1.0:
        return kind  # it has no learning rate of its own; 1 is the neutral one
    return f"{kind}-{_number(solver.learning_rate)}"


def _fixed_seeds(config: TrainingConfig) -> str:
    names = ("initialisation", "order", "augmentation")
    fixed = [name for name in names if getattr(config.run, f"seed_{name}") is not None]
    return "-".join(("fixed", *fixed)) if fixed else "all-seeds-vary"


# What a reader looks for first. Anything else joins a name only where two trials would share it otherwise.
COMPONENTS: tuple[Callable[[TrainingConfig], str], ...] = (
    lambda c: c.data.source.rpartition("/")[2].removeprefix("folder:"),
    lambda c: f"depth-{c.network.depth}",
    lambda c: c.network.family,
    lambda c: c.network.block or "study-block",
    lambda c: "relu" if c.network.relu_after_addition else "no-relu",
    lambda c: f"bn-{c.network.batch_norm_position}",
    lambda c: f"shortcut-{c.network.shortcut}",
    lambda c: f"width-{c.network.width}",
    _solver,
    lambda c: "cosine" if c.schedule.kind == "cosine" else "no-cosine",
    lambda c: f"bn-momentum-{_number(c.batch_norm.momentum)}",
    lambda c: f"batch-{c.data.batch_size}",
    lambda c: c.run.precision,
    _fixed_seeds,
)


def _with_places(config: TrainingConfig) -> TrainingConfig:
    """The configuration with the places of what it begins from as their fingerprints, where these are not known yet."""
    network, solver = config.network, config.solver
    if not network.weights and not solver.state:
        return config
    return replace(
        config,
        network=replace(network, weights_fingerprint=network.weights_fingerprint or network.weights),
        solver=replace(solver, state_fingerprint=solver.state_fingerprint or solver.state),
    )


def settings_identity(config: TrainingConfig) -> dict[str, Any]:
    """Flat `{"section.field": value}` of what determines the numbers, but for the seed.

    Unlike `TrainingConfig.identity` it accepts a folder whose fingerprint is not known yet.
    """
    if config.data.identified_by_content and not config.data.fingerprint:
        config = config.with_fingerprint(config.data.source)
    config = _with_places(config)
    flat = {
        f"{section}.{key}": value
        for section, values in config.identity().items()
        if isinstance(values, dict)
        for key, value in values.items()
    }
    del flat["run.seed"]
    return flat


def trial_names(configs: Sequence[TrainingConfig]) -> list[str]:
    """One name for each configuration, unique if their identities are; the seed is left to the caller.

    Names are safe as parts of storage keys and are empty when nothing varies.
    """
    columns = [_aligned([_safe(component(config)) for config in configs]) for component in COMPONENTS]
    varying = [column for column in columns if len(set(column)) > 1]
    names = ["/".join(parts) for parts in zip(*varying, strict=True)] if varying else [""] * len(configs)
    groups: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        groups[name].append(index)
    for members in groups.values():
        if len(members) > 1:
            _tell_apart(members, [settings_identity(configs[index]) for index in members], names)
    return names


def _aligned(column: list[str]) -> list[str]:
    """Names that end in whole numbers, padded with zeros so that they sort as the numbers do."""
    parts = [re.fullmatch(r"(\D+)(\d+)", name) for name in column]
    if not all(parts):
        return column
    split = [(part[1], part[2]) for part in parts if part]
    width = max(len(digits) for _, digits in split)
    return [word + digits.zfill(width) for word, digits in split]


def _tell_apart(members: list[int], identities: list[dict[str, Any]], names: list[str]) -> None:
    """Add settings that differ, one after the other, until the members' names are distinct."""
    distinct = len({repr(identity) for identity in identities})
    # A setting may be left out of an identity at its default.
    every = dict.fromkeys(key for identity in identities for key in identity)
    identities = [{key: identity.get(key, ADDED.get(key)) for key in every} for identity in identities]
    keys = [key for key in every if len({repr(identity[key]) for identity in identities}) > 1]
    for key in keys:
        if len({names[index] for index in members}) == distinct:
            return
        field = key.partition(".")[2].replace("_", "-")
        for index, identity in zip(members, identities, strict=True):
            names[index] = "/".join(filter(None, (names[index], _safe(f"{field}-{identity[key]}"))))
    if len({names[index] for index in members}) < distinct:  # they differ in what no name can hold: `a+b` and `a b`
        order = list(dict.fromkeys(map(repr, identities)))
        for index, identity in zip(members, identities, strict=True):
            names[index] += f"-{1 + order.index(repr(identity))}"


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "unnamed"

"""Configuration of one training run: nested frozen dataclasses, checked when they are made.

The defaults are the recipe of the study's 20-layer run. `TrainingConfig.identity()` is what determines the
numbers of a run, and `trial_id()` its hash.
"""

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from typing import Any

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.code import CodeConfig, is_custom
from resnet_dist.configuration.data import DataConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.configuration.run import RunConfig
from resnet_dist.configuration.schedule import ScheduleConfig
from resnet_dist.configuration.sections import build, choices, to_plain
from resnet_dist.configuration.solver import SolverConfig
from resnet_dist.errors import ConfigurationError

IDENTITY_VERSION = 1
"""Part of every hash. Raise it when a change of the code changes the numbers of the same configuration."""


# Settings that came after trials had been stored. At these values, which say what the code did without them, they are
# left out of the identity, so that those trials keep theirs.
ADDED: dict[str, Any] = {
    "solver.beta1": None,
    "solver.beta2": None,
    "network.block": "",
    "code.fingerprint": "",
    "run.seed_initialisation": None,
    "run.seed_order": None,
    "run.seed_augmentation": None,
}

# Settings that cannot change the numbers of a run, with the reason. Every other field is part of the hash.
NOT_IDENTITY: dict[str, str] = {
    "data.source": "where the images lie; the fingerprint of their content stands for them (see identity())",
    "run.workers": "law 1: worker count does not change the result",
    "run.threads": "recorded in provenance; differs by rounding, as workers do",
    "run.device": "recorded in provenance; differs by rounding, as the hardware does",
    "run.checkpoint_epochs": "law 2: an interruption does not change the result",
    "run.checkpoint_steps": "law 2: an interruption does not change the result",
    "run.summary_steps": "logging",
    "run.histogram_epochs": "logging: weights and gradients are looked at, and nothing is drawn or changed",
}


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that one training run is told."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch_norm: BatchNormConfig = field(default_factory=BatchNormConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    run: RunConfig = field(default_factory=RunConfig)
    code: CodeConfig = field(default_factory=CodeConfig)

    def __post_init__(self) -> None:
        if self.run.exact and (self.network.block or is_custom(self.network.family)):
            raise ConfigurationError(
                "run.exact: exact mode is proven for the networks of this package, in which never more than two "
                "gradients meet; leave it out with a network or block of your own",
                setting="run.exact",
            )

    @classmethod
    def from_dict(cls, plain: Any) -> "TrainingConfig":
        """Build from nested plain values, as JSON and TOML give them; absent settings take their defaults."""
        return build(cls, plain)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for JSON."""
        return {item.name: to_plain(getattr(self, item.name)) for item in fields(self)}

    def to_flat_dict(self) -> dict[str, Any]:
        """The same as {"section.field": value}."""
        return {
            f"{section}.{name}": value for section, values in self.to_dict().items() for name, value in values.items()
        }

    def override(self, settings: dict[str, Any]) -> "TrainingConfig":
        """A copy with settings replaced, given as {"section.field": value}; values may be text.

        Changing `solver.kind` resets the solver's other settings to that solver's defaults, unless they are
        given too.
        """
        plain = self.to_dict()
        kind = settings.get("solver.kind")
        if kind is not None and kind != self.solver.kind:
            plain["solver"] = {}
        for name, value in settings.items():
            section, _, key = name.partition(".")
            choices("section", section, tuple(plain))
            if not key:
                raise ConfigurationError(f"{name}: is a section, not a setting; write {name}.<field>")
            plain[section][key] = value
        return TrainingConfig.from_dict(plain)

    def identity(self) -> dict[str, Any]:
        """What determines the numbers of the run, as plain values.

        Built-in and downloaded sources are identified by name, since their content is fixed; a folder by the
        fingerprint of its content, which must have been filled in.
        """
        plain = self.to_dict()
        for name in NOT_IDENTITY:
            section, _, key = name.partition(".")
            del plain[section][key]
        if self.data.identified_by_content:
            assert self.data.fingerprint, "load the data before asking for the identity of a run on it"
        else:
            plain["data"]["fingerprint"] = self.data.source
        if not self.run.exact:
            del plain["run"]["virtual_shards"]
        for name, value in ADDED.items():
            section, _, key = name.partition(".")
            if plain[section][key] == value:
                del plain[section][key]
        if not plain["code"]:
            del plain["code"]
        if self.schedule.kind != "step":
            del plain["schedule"]["milestones"], plain["schedule"]["gamma"]
        if not self.schedule.warmup_iterations:
            del plain["schedule"]["warmup_learning_rate"]
        return {"version": IDENTITY_VERSION, **plain}

    def trial_id(self) -> str:
        """Hash of the identity: 16 hexadecimal digits, the same on every machine."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def with_fingerprint(self, fingerprint: str) -> "TrainingConfig":
        """The same run, bound to data of this content."""
        return replace(self, data=replace(self.data, fingerprint=fingerprint))

    def shortened(self, epochs: int) -> "TrainingConfig":
        """The same run over fewer or more epochs, its milestones scaled with it."""
        scale = epochs / self.run.epochs
        scaled = sorted({max(1, round(m * scale)) for m in self.schedule.milestones})
        milestones = tuple(m for m in scaled if m < epochs)
        return replace(
            self,
            run=replace(self.run, epochs=epochs),
            schedule=replace(self.schedule, milestones=milestones),
        )

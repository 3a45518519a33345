"""Configuration of one training run: nested frozen dataclasses, checked when they are made.

The defaults are the recipe of the study's 20-layer run. `TrainingConfig.identity()` is what determines the
numbers of a run, and `trial_id()` its hash (`identity.py`).
"""

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.code import CodeConfig, is_custom
from resnet_dist.configuration.data import DataConfig
from resnet_dist.configuration.identity import hash_of, identity_of
from resnet_dist.configuration.loss import LossConfig
from resnet_dist.configuration.network import NetworkConfig, default_width
from resnet_dist.configuration.presets import preset_settings
from resnet_dist.configuration.run import RunConfig
from resnet_dist.configuration.schedule import ScheduleConfig
from resnet_dist.configuration.sections import build, choices, to_plain
from resnet_dist.configuration.solver import OF_EVERY_SOLVER, SolverConfig
from resnet_dist.errors import ConfigurationError


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that one training run is told."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch_norm: BatchNormConfig = field(default_factory=BatchNormConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    loss: LossConfig = field(default_factory=LossConfig)
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
        if self.network.family == "caffenet" and self.data.size < 63:
            raise ConfigurationError(
                f"network.family: 'caffenet' takes images of 63 pixels or more, not {self.data.size}; give data.size",
                setting="network.family",
            )
        sized = self.network.family == "caffenet" or self.network.stem_and_head == "script"
        if sized and self.data.test_crops == "scales":
            raise ConfigurationError(
                "data.test_crops: 'scales' takes a network for images of any size, and this one ends in layers for one "
                "size; give ten or one",
                setting="data.test_crops",
            )
        if self.network.stem_and_head == "script" and not 193 <= self.data.size <= 224:
            raise ConfigurationError(
                f"network.stem_and_head: 'script' takes images of 193 to 224 pixels, not {self.data.size}; "
                "give data.size 224",
                setting="network.stem_and_head",
            )

    @classmethod
    def from_dict(cls, plain: Any) -> "TrainingConfig":
        """Build from nested plain values, as JSON and TOML give them; absent settings take their defaults."""
        return build(cls, plain)

    @classmethod
    def preset(cls, name: str) -> "TrainingConfig":
        """The recipe of this name: `paper` or `torchvision`."""
        return cls().override(preset_settings(name))

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

        Changing `solver.kind` resets the settings that not every solver has to that solver's defaults, unless they
        are given too; changing `network.family` takes a width that is the former family's default to the new one's.
        """
        if not settings:
            return self
        plain = self.to_dict()
        kind = settings.get("solver.kind")
        if kind is not None and kind != self.solver.kind:
            plain["solver"] = {name: plain["solver"][name] for name in OF_EVERY_SOLVER}
        family = settings.get("network.family", self.network.family)
        if self.network.width == default_width(self.network.family) and isinstance(family, str):
            plain["network"]["width"] = default_width(family)
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
        return identity_of(self.to_dict(), self.data.identified_by_content)

    def trial_id(self) -> str:
        """Hash of the identity: 16 hexadecimal digits, the same on every machine."""
        return self._trial_id

    @cached_property
    def _trial_id(self) -> str:  # asked for at every turn of a plan of thousands
        return hash_of(self.identity())

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

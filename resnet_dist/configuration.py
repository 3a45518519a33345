"""Configuration of one training run: nested frozen dataclasses, checked when they are made.

The defaults are the recipe of the study's 20-layer run. `TrainingConfig.identity()` is what determines the
numbers of a run, and `trial_id()` its hash.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from resnet_dist.errors import ConfigurationError
from resnet_dist.sections import Section, build, choices, to_plain

IDENTITY_VERSION = 1
"""Part of every hash. Raise it when a change of the code changes the numbers of the same configuration."""


_CUSTOM = re.compile(r"(?!folder:)[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_custom(value: str) -> bool:
    """Whether a setting names code of the user's own: `module:callable` (docs/custom.md)."""
    return bool(_CUSTOM.fullmatch(value))


def _choose(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if not is_custom(value):
        choices(name, value, (*allowed, "module:callable"))


# Settings that a family of networks has no use for, with the only value that they may have there.
WITHOUT_EFFECT: dict[str, dict[str, Any]] = {
    "plain": {"shortcut": "A", "batch_norm_position": "before"},
    "preactivation": {"relu_after_addition": True, "batch_norm_position": "before", "initialisation": "published"},
}


@dataclass(frozen=True)
class NetworkConfig(Section):
    """The network."""

    depth: int = 20
    """Layers with weights: 6n+2 for n >= 1 (the study: 20, 32, 44, 56, 110)."""
    family: str = "residual"
    """`residual`; `plain`: the same layers without shortcuts (the paper's control); `preactivation`: batch norm and
    ReLU before each convolution instead of after it (He et al. 2016, arXiv:1603.05027); or a network of your own, as
    `module:callable`."""
    relu_after_addition: bool = True
    """Whether a ReLU follows the addition at the end of each block."""
    batch_norm_position: Literal["before", "after"] = "before"
    """Where the second batch norm of each block stands: before or after the addition."""
    shortcut: Literal["A", "B", "C"] = "A"
    """A: strided identity padded with zero channels; B: 1x1 convolution where shapes change; C: everywhere."""
    width: int = 16
    """Channels of the first group; the second and third have twice and four times as many."""
    initialisation: Literal["published", "head"] = "published"
    """`published`: batch-norm scales from N(1, 0.002). `head`: the source repository's last revision, which
    draws the scales of the stem and of each block's second batch norm from U(0, 1)."""
    block: str = ""
    """A block of your own in place of the residual network's, as `module:callable`."""

    def check(self) -> None:
        """Refuse a depth that is not 6n+2 and settings that have no effect."""
        _choose("network.family", self.family, ("residual", "plain", "preactivation"))
        if is_custom(self.family):
            self.require("depth", self.depth >= 1, "at least 1")
        elif self.depth < 8 or (self.depth - 2) % 6:
            below = max(8, self.depth - (self.depth - 2) % 6)
            raise ConfigurationError(
                f"network.depth: {self.depth} is not 6n+2 for any n >= 1; the nearest are {below} and {below + 6}"
            )
        self.require("width", self.width >= 1, "at least 1")
        for name, default in WITHOUT_EFFECT.get(self.family, {}).items():
            if getattr(self, name) != default:
                raise ConfigurationError(
                    f"network.{name}: {getattr(self, name)!r} has no effect on a {self.family} network; leave it out"
                )

        if self.block:
            _choose("network.block", self.block, ())
            self.require("block", self.family == "residual", "left out, unless network.family is 'residual'")
        if self.block or is_custom(self.family):
            self.require("initialisation", self.initialisation == "published", "'published' for code of your own")

    @property
    def blocks_per_group(self) -> int:
        """The study's n: depth = 6n + 2."""
        return (self.depth - 2) // 6


@dataclass(frozen=True)
class DataConfig(Section):
    """Images, their order and their augmentation."""

    source: str = "synthetic"
    """`synthetic` (built in), `cifar10`, `cifar100` (downloaded), or `folder:PATH`, a directory or a .tar,
    .tar.gz, .tar.xz or .zip archive with train/<class>/ and test/<class>/ images of 32x32 pixels; or a source of your
    own, as `module:callable`."""
    fingerprint: str = ""
    """Hash of the decoded images and labels. Filled in when the data is loaded; give it to insist on it."""
    train_limit: int = 0
    """Use only the first so many training images (they are interleaved by class); 0 means all."""
    test_limit: int = 0
    """Use only the first so many test images; 0 means all."""
    holdout: int = 0
    """Training images held out as a validation set, whose error is reported beside the test error (the paper
    held out 5000)."""
    batch_size: int = 128
    """Images per update of the weights, over all workers together."""
    accumulation: int = 1
    """Sub-batches that a batch is split into to save memory; batch norm sees one sub-batch at a time."""
    sampling: Literal["replacement", "permutation"] = "replacement"
    """`replacement`: every batch drawn uniformly from the training set, as the study did. `permutation`: each
    image once an epoch, in a new order each time."""
    shift: int = 4
    """Training images are shifted by up to so many pixels each way, the gap filled with zeros."""
    flip: bool = True
    """Whether training images are flipped horizontally with probability one half."""

    def check(self) -> None:
        """Refuse unknown sources and impossible sizes."""
        kind, _, path = self.source.partition(":")
        if kind == "folder":
            if not path:
                raise ConfigurationError("data.source: 'folder:' needs a path, as in folder:/data/cifar10.tar.xz")
            # Workers have another working directory than whoever wrote the path.
            object.__setattr__(self, "source", f"folder:{Path(os.path.expanduser(path)).absolute()}")  # noqa: PTH111
        else:
            _choose("data.source", self.source, ("synthetic", "cifar10", "cifar100", "folder:PATH"))
        for name in ("train_limit", "test_limit", "holdout"):
            self.require(name, getattr(self, name) >= 0, "at least 0")
        self.require("batch_size", self.batch_size >= 2, "at least 2 (batch norm needs two images)")
        self.require(
            "accumulation",
            1 <= self.accumulation <= self.batch_size // 2,
            f"from 1 to {self.batch_size // 2} (batch norm needs two images in each sub-batch)",
        )
        self.require("shift", 0 <= self.shift <= 31, "from 0 to 31")

    @property
    def identified_by_content(self) -> bool:
        """Whether a hash of the images, and not the source's name, says what they are."""
        return self.source.startswith("folder:") or is_custom(self.source)

    @property
    def caveat(self) -> str | None:
        """A sentence to stand beside every number from this data that readers may take for one on CIFAR-10."""
        if is_custom(self.source):
            return "These images come from a source of the user's own: errors on them compare with no published ones."
        if not self.source.startswith("folder:"):
            return None
        return (
            "These images were read from a folder or archive: errors on them are not comparable with published ones. "
            "CIFAR-10 re-encoded as JPEG, for one, is a harder task than CIFAR-10 itself."
        )


@dataclass(frozen=True)
class BatchNormConfig(Section):
    """Batch norm, synchronised over workers."""

    momentum: float | Literal["dynamic"] = 0.1
    """Weight of the newest batch in the running statistics, from 0 to 1, or `dynamic`: 1 / (1 + k), where k
    counts the batches since the epoch's start."""
    eps: float = 1e-5
    """Added to the variance."""

    def check(self) -> None:
        """Refuse a momentum outside [0, 1]."""
        if isinstance(self.momentum, float):
            self.require("momentum", 0.0 <= self.momentum <= 1.0, "from 0 to 1, or 'dynamic'")
        self.require("eps", self.eps > 0, "greater than 0")


# What each solver takes, with the study's settings (Torch7's optim of January 2016, which had no weight decay
# in RMSprop, Adagrad and Adadelta). torch's own defaults differ: RMSprop's alpha is 0.99 there. Adam and AdamW are not
# in the study: theirs are the papers' (arXiv:1412.6980; arXiv:1711.05101, with torch's weight decay).
SOLVER_DEFAULTS: dict[str, dict[str, float | bool]] = {
    "sgd": {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4},
    "rmsprop": {"learning_rate": 1e-2, "alpha": 0.9, "eps": 1e-8, "weight_decay": 0.0},
    "adagrad": {"learning_rate": 1e-1, "eps": 1e-10, "weight_decay": 0.0},
    "adadelta": {"learning_rate": 1.0, "rho": 0.3, "eps": 1e-6, "weight_decay": 0.0},
    "adam": {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0},
    "adamw": {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 1e-2},
}


@dataclass(frozen=True)
class SolverConfig(Section):
    """The solver. A setting left out takes the study's value for the chosen solver."""

    kind: str = "sgd"
    """The update rule: `sgd`, `rmsprop`, `adagrad`, `adadelta`, `adam`, `adamw`; or one of your own, as
    `module:callable`, which may use any of these settings."""
    learning_rate: float | None = None
    """Step size before the schedule acts: by default 0.1 for sgd and adagrad, 0.01 for rmsprop, 1 for adadelta,
    0.001 for adam and adamw."""
    momentum: float | None = None
    """Momentum of sgd: 0.9 by default."""
    nesterov: bool | None = None
    """Nesterov's form of momentum, for sgd: on by default. Dampening is 0."""
    weight_decay: float | None = None
    """L2 penalty on every parameter, biases and batch norm included: by default 1e-4 for sgd, 0 for others. For adamw
    it is no penalty in the gradient: each update takes learning_rate x weight_decay of the weights (0.01)."""
    alpha: float | None = None
    """Smoothing constant of rmsprop: 0.9 by default."""
    rho: float | None = None
    """Smoothing constant of adadelta: 0.3 by default."""
    eps: float | None = None
    """Keeps the division of rmsprop, adam, adamw (1e-8), adagrad (1e-10) and adadelta (1e-6) finite."""
    beta1: float | None = None
    """Smoothing constant of the gradients' mean in adam and adamw: 0.9 by default."""
    beta2: float | None = None
    """Smoothing constant of their squares in adam and adamw: 0.999 by default."""

    def check(self) -> None:
        """Fill in the solver's defaults; refuse settings that it does not have."""
        _choose("solver.kind", self.kind, tuple(SOLVER_DEFAULTS))
        if is_custom(self.kind):
            self.require("learning_rate", self.learning_rate is not None, "given: a solver of your own has no default")
        defaults = SOLVER_DEFAULTS.get(self.kind, {})
        for item in () if is_custom(self.kind) else fields(self)[1:]:
            if item.name in defaults:
                if getattr(self, item.name) is None:
                    object.__setattr__(self, item.name, defaults[item.name])
            elif getattr(self, item.name) is not None:
                raise ConfigurationError(
                    f"solver.{item.name}: {getattr(self, item.name)!r} has no effect with solver.kind "
                    f"{self.kind!r}, which takes {', '.join(defaults)}; leave it out"
                )
        for name in ("learning_rate", "eps"):
            value = getattr(self, name)
            self.require(name, value is None or value > 0, "greater than 0")
        for name in ("momentum", "alpha", "rho", "beta1", "beta2"):
            value = getattr(self, name)
            self.require(name, value is None or 0 <= value < 1, "at least 0 and less than 1")
        self.require("weight_decay", (self.weight_decay or 0) >= 0, "at least 0")
        if self.nesterov and not self.momentum:
            raise ConfigurationError(
                "solver.nesterov: True needs solver.momentum greater than 0; set nesterov to false"
            )


@dataclass(frozen=True)
class ScheduleConfig(Section):
    """The learning rate over time."""

    kind: Literal["step", "constant", "cosine"] = "step"
    """`step`: multiply by `gamma` at each milestone. `constant`: never change. `cosine`: fall from the full rate after
    the warm-up to zero at the run's end, along half a cosine, at every update (arXiv:1608.03983, without restarts)."""
    milestones: tuple[int, ...] = (80, 160)
    """Epochs, counted from 0, at whose start the learning rate drops."""
    gamma: float = 0.1
    """Factor of each drop."""
    warmup_iterations: int = 0
    """Updates at the start that use `warmup_learning_rate` (the study's 110-layer run: 400)."""
    warmup_learning_rate: float = 0.001
    """Learning rate during the warm-up."""

    def check(self) -> None:
        """Refuse milestones out of order."""
        increasing = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        self.require("milestones", increasing and all(m > 0 for m in self.milestones), "increasing epochs from 1")
        self.require("gamma", 0 < self.gamma <= 1, "greater than 0 and at most 1")
        self.require("warmup_iterations", self.warmup_iterations >= 0, "at least 0")
        self.require("warmup_learning_rate", self.warmup_learning_rate > 0, "greater than 0")


@dataclass(frozen=True)
class RunConfig(Section):
    """How the run is carried out."""

    seed: int = 0
    """Determines the initial weights, the order of samples and the augmentation."""
    epochs: int = 200
    """Passes over the training set. Milestones of the schedule stay where they are."""
    precision: Literal["float64", "float32", "bfloat16"] = "float32"
    """Arithmetic of the network; `bfloat16` is autocast with float32 weights and statistics."""
    workers: int = 1
    """Processes that share each batch. It changes the result by rounding at most; with `exact`, not at all."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where there is one."""
    exact: bool = False
    """Give the same bits on any number of workers up to `virtual_shards`, on one kind of processor."""
    virtual_shards: int = 8
    """Shards of exact mode, a power of two. Part of the result: another number rounds differently."""
    checkpoint_epochs: int = 1
    """Epochs between checkpoints; the last epoch always has one until the result is written."""
    checkpoint_steps: int = 0
    """Updates between checkpoints inside an epoch; 0 means none."""
    summary_steps: int = 10
    """Updates between points of TensorBoard's training curves."""
    histogram_epochs: int = 0
    """Epochs between TensorBoard's histograms of weights and gradients by layer; 0 means none."""

    def check(self) -> None:
        """Refuse impossible counts."""
        self.require("seed", 0 <= self.seed < 2**63, "from 0 to 2^63 - 1")
        for name in ("epochs", "workers", "checkpoint_epochs", "summary_steps"):
            self.require(name, getattr(self, name) >= 1, "at least 1")
        shards = self.virtual_shards
        self.require("virtual_shards", shards >= 1 and shards & (shards - 1) == 0, "a power of two")
        if self.exact:
            self.require("workers", self.workers <= shards, f"at most run.virtual_shards, {shards}, in exact mode")
        for name in ("checkpoint_steps", "histogram_epochs"):
            self.require(name, getattr(self, name) >= 0, "at least 0")


@dataclass(frozen=True)
class CodeConfig(Section):
    """Code of your own that other settings name as module:callable."""

    fingerprint: str = ""
    """Hash of its text. Filled in when the code is read; give it to insist on it."""


# Settings that came after trials had been stored. At these values, which say what the code did without them, they are
# left out of the identity, so that those trials keep theirs.
ADDED: dict[str, Any] = {
    "solver.beta1": None,
    "solver.beta2": None,
    "network.block": "",
    "code.fingerprint": "",
}

# Settings that cannot change the numbers of a run, with the reason. Every other field is part of the hash.
NOT_IDENTITY: dict[str, str] = {
    "data.source": "where the images lie; the fingerprint of their content stands for them (see identity())",
    "run.workers": "law 1: worker count does not change the result",
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

"""What of a configuration concerns the solver, with each solver's defaults."""

from dataclasses import dataclass, fields

from resnet_dist.configuration.code import choose, is_custom
from resnet_dist.configuration.sections import Section
from resnet_dist.errors import ConfigurationError

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


OF_EVERY_SOLVER = ("reference_batch", "gradient_clip", "average_decay")
"""Settings that mean the same with any solver."""


@dataclass(frozen=True)
class SolverConfig(Section):
    """The solver. A setting left out takes the study's value for the chosen solver."""

    kind: str = "sgd"
    """The update rule: `sgd`, `rmsprop`, `adagrad`, `adadelta`, `adam`, `adamw`; or one of your own, as
    `module:callable`, which may use any of these settings."""
    learning_rate: float | None = None
    """Step size before the schedule acts: by default 0.1 for sgd and adagrad, 0.01 for rmsprop, 1 for adadelta,
    0.001 for adam and adamw."""
    reference_batch: int = 0
    """Batch size for which `learning_rate` is meant: at another `data.batch_size` it is multiplied by their ratio
    (the linear scaling rule, arXiv:1706.02677: 256). 0 takes it as it is."""
    gradient_clip: float = 0.0
    """Largest Euclidean norm of all gradients together; larger ones are scaled down to it. 0 means none."""
    average_decay: float = 0.0
    """Evaluate and keep, in place of the newest weights, their exponential moving average and that of the running
    statistics, with this decay at each update (0.9999, say). 0 means no average."""
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

    state: str = ""
    """What the solver has kept of another run, its momentum say, to go on with: a trial that has a checkpoint, or the
    state.pt of one, in a file or at an address in storage. With `network.weights` of the same it continues that run
    under the settings of this one."""
    state_fingerprint: str = ""
    """Hash of that state. Filled in when it is read; give it to insist on it."""

    def check(self) -> None:
        """Fill in the solver's defaults; refuse settings that it does not have."""
        choose("solver.kind", self.kind, tuple(SOLVER_DEFAULTS))
        if is_custom(self.kind):
            self.require("learning_rate", self.learning_rate is not None, "given: a solver of your own has no default")
        defaults = SOLVER_DEFAULTS.get(self.kind, {})
        for item in () if is_custom(self.kind) else fields(self):
            if item.name in ("kind", "state", "state_fingerprint", *OF_EVERY_SOLVER):
                continue
            if item.name in defaults:
                if getattr(self, item.name) is None:
                    object.__setattr__(self, item.name, defaults[item.name])
            elif getattr(self, item.name) is not None:
                raise ConfigurationError(
                    f"solver.{item.name}: {getattr(self, item.name)!r} has no effect with solver.kind "
                    f"{self.kind!r}, which takes {', '.join(defaults)}; leave it out"
                )
        if self.state and self.kind in ("adam", "adamw"):
            raise ConfigurationError(
                f"solver.state: is of no use to {self.kind}, which counts updates from each run's first; leave it out"
            )
        for name in ("learning_rate", "eps"):
            value = getattr(self, name)
            self.require(name, value is None or value > 0, "greater than 0")
        for name in ("momentum", "alpha", "rho", "beta1", "beta2"):
            value = getattr(self, name)
            self.require(name, value is None or 0 <= value < 1, "at least 0 and less than 1")
        for name in ("reference_batch", "gradient_clip"):
            self.require(name, getattr(self, name) >= 0, "at least 0")
        self.require("average_decay", 0 <= self.average_decay < 1, "at least 0 and less than 1")
        self.require("weight_decay", (self.weight_decay or 0) >= 0, "at least 0")
        if self.nesterov and not self.momentum:
            raise ConfigurationError(
                "solver.nesterov: True needs solver.momentum greater than 0; set nesterov to false"
            )

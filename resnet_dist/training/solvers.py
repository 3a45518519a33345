"""The study's solvers, Adam and AdamW: torch's optimizers with Torch7's settings, or one of the user's own."""

import functools
import inspect
from collections.abc import Callable, Iterable

import torch
from torch import nn

from resnet_dist.configuration.code import is_custom
from resnet_dist.configuration.solver import SOLVER_DEFAULTS, SolverConfig
from resnet_dist.custom_code import call
from resnet_dist.errors import ConfigurationError

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": functools.partial(torch.optim.SGD, dampening=0),
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
"""What is called with each solver's settings, of which `SOLVER_DEFAULTS` has the names."""


def _keep_compiler_out() -> None:
    """Let torch's optimizers run without importing torch's compiler, which takes longer than starting a run otherwise.

    They are wrapped to import it at their first call, in order to be left out of what it compiles. Each wrapper asks
    its function for a replacement first. The compiler itself stays as it is, for whoever asks for it.
    """
    for method in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        function = inspect.unwrap(getattr(torch.optim.Optimizer, method))
        setattr(function, "__dynamo_disable", function)


_keep_compiler_out()


def step_of(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """The update of one of torch's own optimizers, without what announces it to the compiler and the profiler."""
    return torch.no_grad()(functools.partial(inspect.unwrap(type(optimizer).step), optimizer))


def make_solver(config: SolverConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """torch's optimizer with the settings written out; they follow Torch7's formulas where defaults differ.

    Weight decay acts on every parameter, biases and batch norm included, as in the study: as an L2 penalty in the
    gradient, except in AdamW, which takes learning rate x decay of the weights themselves at each update.
    """
    assert config.learning_rate is not None
    if is_custom(config.kind):
        made = call("solver.kind", config.kind, parameters=parameters, solver=config)
        if not isinstance(made, torch.optim.Optimizer):
            raise ConfigurationError(
                f"solver.kind: {config.kind!r} gives a value of type {type(made).__name__}, no torch.optim.Optimizer",
                "solver.kind",
            )
        return made
    given = {name: getattr(config, name) for name in SOLVER_DEFAULTS[config.kind]}
    if "beta1" in given:
        given["betas"] = (given.pop("beta1"), given.pop("beta2"))
    return OPTIMIZERS[config.kind](parameters, given.pop("learning_rate"), **given)

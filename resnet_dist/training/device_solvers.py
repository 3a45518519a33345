"""The built-in solvers' updates with the learning rate on the device, as a captured CUDA graph needs it.

torch's optimizers take a learning rate from the host. The formulas are theirs, over all parameters at once; state and
checkpoints are those of torch's optimizer. What follows the number of the step is computed on the host, and enters as
numbers, too.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from resnet_dist.configuration.solver import SolverConfig

Tensors = list[Tensor]
Numbers = Callable[[SolverConfig, float, int], tuple[float, ...]]
"""What changes from update to update, from the learning rate and the updates so far, this one included."""
Rule = Callable[[SolverConfig, Tensor, Tensors, Tensors, list[Tensors]], Tensors]
"""From the numbers, weights, gradients and states: what the first number, as a factor, takes from the weights."""


class DeviceSolver:
    """Updates those parameters of one of torch's optimizers that have a gradient."""

    def __init__(self, config: SolverConfig, optimizer: torch.optim.Optimizer) -> None:
        self.config = config
        self.optimizer = optimizer
        self.parameters: Tensors = [p for group in optimizer.param_groups for p in group["params"]]
        self.names, self._numbers, self._rule = RULES[config.kind]
        if config.kind == "sgd" and not config.momentum:
            self.names = ()

    def numbers(self, rate: float, step: int) -> tuple[float, ...]:
        """What `apply` needs to know of the update at `step`, counted from 0."""
        return self._numbers(self.config, rate, step + 1)

    @torch.no_grad()
    def apply(self, numbers: Sequence[float] | Tensor) -> None:
        """One update, with its numbers on the device: no host waits, and nothing depends on their values."""
        assert isinstance(numbers, Tensor)
        # One of the user's own network may have none: torch leaves it as it is.
        parameters: Tensors = [p for p in self.parameters if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        states = [[self._state(parameter, name) for parameter in parameters] for name in self.names]
        if self.config.weight_decay and self.config.kind != "adamw":
            gradients = _list(torch._foreach_add(gradients, parameters, alpha=self.config.weight_decay))
        taken = self._rule(self.config, numbers, parameters, gradients, states)
        torch._foreach_sub_(parameters, torch._foreach_mul(taken, numbers[0]))

    def settle(self, step: int) -> None:
        """Put the number of updates so far where torch's optimizers keep it."""
        if self.config.kind == "sgd":
            return
        for parameter in self.parameters:
            if state := self.optimizer.state.get(parameter):
                state["step"] = torch.tensor(float(step), dtype=torch.float32)

    def _state(self, parameter: Tensor, name: str) -> Tensor:
        state = self.optimizer.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        found: Tensor = state[name]
        return found


def _list(tensors: Sequence[Tensor]) -> Tensors:
    return list(tensors)


def _rate(config: SolverConfig, rate: float, step: int) -> tuple[float, ...]:
    return (rate,)


def _sgd(config: SolverConfig, numbers: Tensor, weights: Tensors, gradients: Tensors, states: list[Tensors]) -> Tensors:
    if not config.momentum:
        return gradients
    (averages,) = states  # zeros at first, which the first gradient replaces: 0.9 × 0 + gradient
    torch._foreach_mul_(averages, config.momentum)
    torch._foreach_add_(averages, gradients)
    return _list(torch._foreach_add(gradients, averages, alpha=config.momentum)) if config.nesterov else averages


def _rmsprop(
    config: SolverConfig, numbers: Tensor, weights: Tensors, gradients: Tensors, states: list[Tensors]
) -> Tensors:
    (squares,) = states
    assert config.alpha is not None and config.eps is not None
    _average(squares, gradients, config.alpha)
    return _quotients(gradients, squares, config.eps)


def _adagrad(
    config: SolverConfig, numbers: Tensor, weights: Tensors, gradients: Tensors, states: list[Tensors]
) -> Tensors:
    (squares,) = states
    assert config.eps is not None
    torch._foreach_addcmul_(squares, gradients, gradients, 1.0)
    return _quotients(gradients, squares, config.eps)


def _adadelta(
    config: SolverConfig, numbers: Tensor, weights: Tensors, gradients: Tensors, states: list[Tensors]
) -> Tensors:
    squares, moved = states
    assert config.rho is not None and config.eps is not None
    _average(squares, gradients, config.rho)
    deltas, std = (_list(torch._foreach_add(values, config.eps)) for values in (moved, squares))
    torch._foreach_sqrt_(deltas)
    torch._foreach_sqrt_(std)
    torch._foreach_div_(deltas, std)
    torch._foreach_mul_(deltas, gradients)
    _average(moved, deltas, config.rho)
    return deltas


def _adam_numbers(config: SolverConfig, rate: float, step: int) -> tuple[float, ...]:
    assert config.beta1 is not None and config.beta2 is not None and config.weight_decay is not None
    kept = 1 - rate * config.weight_decay if config.kind == "adamw" else 1.0
    return rate / (1 - config.beta1**step), math.sqrt(1 - config.beta2**step), kept


def _adam(
    config: SolverConfig, numbers: Tensor, weights: Tensors, gradients: Tensors, states: list[Tensors]
) -> Tensors:
    means, squares = states
    assert config.beta1 is not None and config.beta2 is not None and config.eps is not None
    torch._foreach_lerp_(means, gradients, 1 - config.beta1)
    _average(squares, gradients, config.beta2)
    if config.kind == "adamw":
        torch._foreach_mul_(weights, numbers[2])
    divisors = _list(torch._foreach_sqrt(squares))
    torch._foreach_div_(divisors, numbers[1])
    torch._foreach_add_(divisors, config.eps)
    return _list(torch._foreach_div(means, divisors))


def _average(averages: Tensors, values: Tensors, constant: float) -> None:
    """averages ← constant × averages + (1 - constant) × values²"""
    torch._foreach_mul_(averages, constant)
    torch._foreach_addcmul_(averages, values, values, 1 - constant)


def _quotients(values: Tensors, squares: Tensors, eps: float) -> Tensors:
    """values / (√squares + eps)"""
    divisors = _list(torch._foreach_sqrt(squares))
    torch._foreach_add_(divisors, eps)
    return _list(torch._foreach_div(values, divisors))


RULES: dict[str, tuple[tuple[str, ...], Numbers, Rule]] = {
    "sgd": (("momentum_buffer",), _rate, _sgd),
    "rmsprop": (("square_avg",), _rate, _rmsprop),
    "adagrad": (("sum",), _rate, _adagrad),
    "adadelta": (("square_avg", "acc_delta"), _rate, _adadelta),
    "adam": (("exp_avg", "exp_avg_sq"), _adam_numbers, _adam),
    "adamw": (("exp_avg", "exp_avg_sq"), _adam_numbers, _adam),
}
"""Names of the states that torch's optimizers keep, what changes from step to step, and the update."""

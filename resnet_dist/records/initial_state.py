"""What a run begins from, where it does not begin from drawn weights: weights and a solver's state in storage.

    <storage>/.data/weights/<fingerprint>.pt

They were put there when the run was launched, so every worker finds them, and so does who goes on with it elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import ConfigurationError
from resnet_dist.records import checkpoints
from resnet_dist.storage.interface import Storage, weights_key


@dataclass(frozen=True)
class InitialState:
    """What a run begins from; None for what it draws itself."""

    network: Mapping[str, Tensor] | None = None
    """Weights and running statistics by our names."""
    solver: Mapping[str, Any] | None = None
    """{"state": what torch's optimizer keeps of each parameter}."""


def fetch(config: TrainingConfig, storage: Storage) -> InitialState:
    """What a bound configuration says that its run begins from. Raises a `ConfigurationError` if it is not there."""

    def get(setting: str, fingerprint: str) -> dict[str, Any] | None:
        if not fingerprint:
            return None
        data = storage.get(weights_key(fingerprint))
        if data is None:
            raise ConfigurationError(
                f"{setting}: {storage.uri}/{weights_key(fingerprint)} is missing; launch the run again"
            )
        return checkpoints.decode(data)

    return InitialState(
        get("network.weights", config.network.weights_fingerprint), get("solver.state", config.solver.state_fingerprint)
    )


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], config: TrainingConfig) -> None:
    """Put weights by our names into a network that has been initialised.

    With `network.reset` the linear layer keeps what was drawn. Biases of convolutions that the weights lack become
    zeros. Raises a `ConfigurationError` that names the first layer that differs.
    """
    place = f"network.weights: {config.network.weights or config.network.weights_fingerprint}"
    kept = "linear." if config.network.reset == "linear" else None
    state = {name: value for name, value in network.state_dict().items() if not (kept and name.startswith(kept))}
    lacking = [name for name in state if name not in weights and not _is_convolutions_bias(network, name)]
    unknown = [name for name in weights if name not in state and not (kept and name.startswith(kept))]
    if lacking or unknown:
        said = f"it lacks {lacking[0]}" if lacking else f"its {unknown[0]} has no place there"
        of = f"a {config.network.family} network of {config.network.depth} layers"
        raise ConfigurationError(f"{place}: is of another network than {of} as configured: {said}")
    with torch.no_grad():
        for name, value in state.items():
            if name not in weights:
                value.zero_()
            elif weights[name].shape != value.shape:
                _refuse_shape(place, name, weights[name], value)
            else:
                value.copy_(weights[name])


def load_solver(solver: torch.optim.Optimizer, held: Mapping[str, Any], config: TrainingConfig) -> None:
    """Let a solver go on from another run's state, with the settings of this one."""
    place = f"solver.state: {config.solver.state or config.solver.state_fingerprint}"
    parameters = [parameter for group in solver.param_groups for parameter in group["params"]]
    shapes = {index: parameter.shape for index, parameter in enumerate(parameters)}
    for index, kept in held["state"].items():
        tensors = [value for value in kept.values() if isinstance(value, Tensor) and value.ndim]
        if any(value.shape != shapes.get(index) for value in tensors):
            raise ConfigurationError(f"{place}: is of a run of another network than the configured one")
    try:
        solver.load_state_dict({"state": held["state"], "param_groups": solver.state_dict()["param_groups"]})
    except (KeyError, ValueError) as error:
        raise ConfigurationError(f"{place}: is of another solver: {error}") from None


def _is_convolutions_bias(network: nn.Module, name: str) -> bool:
    layer, _, kind = name.rpartition(".")
    return kind == "bias" and isinstance(network.get_submodule(layer), nn.Conv2d)


def _refuse_shape(place: str, name: str, given: Tensor, wanted: Tensor) -> None:
    remedy = "; give network.reset linear to begin that layer anew" if name.startswith("linear.") else ""
    raise ConfigurationError(
        f"{place}: its {name} has the shape {list(given.shape)}, and this network's {list(wanted.shape)}{remedy}"
    )

"""Weights and solver states that runs begin from: read, bound to configurations by content, and put into storage.

`network.weights` and `solver.state` are a file here, an address in storage (`s3://…`), or a trial in the results' own
storage, as EXPERIMENT/ID or the beginning of an id.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.storage.keys import BrowsableStorage
from cluster.storage.opening import open_storage
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.configuration.solver import SolverConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import ConfigurationError, UserError
from resnet_dist.storage.interface import Storage, TrialKeys, weights_key
from tune_jobs.grid.experiment_file import Experiment, with_configs


def bind_initial_state(config: TrainingConfig, storage: BrowsableStorage) -> TrainingConfig:
    """The configuration with the fingerprints of what its run begins from. What has one is in storage, or is read.

    Raises a `UserError` of one line if it cannot be found or read, or is not what the fingerprint says.
    """
    if not (found := _found(config, storage)):
        return config
    network, solver = config.network, config.solver
    if "weights" in found:
        network = replace(network, weights_fingerprint=_required("network.weights", network.weights_fingerprint, found))
    if "state" in found:
        solver = replace(solver, state_fingerprint=_required("solver.state", solver.state_fingerprint, found))
    return replace(config, network=network, solver=solver)


def bind_experiment_state(experiment: Experiment, storage: BrowsableStorage) -> Experiment:
    """The same for every cell of an experiment."""
    read: dict[tuple[NetworkConfig, SolverConfig], tuple[NetworkConfig, SolverConfig]] = {}

    def bound(config: TrainingConfig) -> TrainingConfig:
        asked = config.network, config.solver
        if asked not in read:  # many cells begin from one file
            found = bind_initial_state(config, storage)
            read[asked] = found.network, found.solver
        network, solver = read[asked]
        return replace(config, network=network, solver=solver)

    return with_configs(experiment, bound)


def begins_from(config: TrainingConfig) -> tuple[str, str]:
    """Fingerprints of what a bound configuration's run begins from; empty for what it draws."""
    return config.network.weights_fingerprint, config.solver.state_fingerprint


def require_fit(config: TrainingConfig, storage: BrowsableStorage, classes: int) -> None:
    """Raise a `ConfigurationError` of one line if weights are not of the configured network with so many classes."""
    if not config.network.weights_fingerprint:
        return
    from resnet_dist.networks.construction import make_network
    from resnet_dist.records.checkpoints import decode
    from resnet_dist.records.initial_state import load_weights

    network = config.network
    stored = storage.get(weights_key(network.weights_fingerprint))
    if stored is None and not network.weights:
        raise _missing(network.weights_fingerprint, storage)
    weights = decode(stored) if stored is not None else _weights(network.weights, network, storage)[1]
    load_weights(make_network(network, config.batch_norm, classes, size=config.data.size), weights, config)


def put_initial_state(config: TrainingConfig, source: BrowsableStorage, storage: Storage) -> None:
    """Have in `storage` what a bound configuration's run begins from, read as `bind_initial_state` does."""
    wanted = {*begins_from(config)} - {""}
    missing = [fingerprint for fingerprint in sorted(wanted) if storage.get(weights_key(fingerprint)) is None]
    if not missing:
        return
    from resnet_dist.records import checkpoints

    read = dict(_found(config, source).values())
    for fingerprint in missing:
        data = (
            source.get(weights_key(fingerprint)) if fingerprint not in read else checkpoints.encode(read[fingerprint])
        )
        if data is None:
            raise _missing(fingerprint, source)
        storage.put(weights_key(fingerprint), data)


def _missing(fingerprint: str, storage: Storage) -> UserError:
    return UserError(f"{storage.uri}/{weights_key(fingerprint)}: is missing, and so is the file that it was made of")


def _found(config: TrainingConfig, storage: BrowsableStorage) -> dict[str, tuple[str, dict[str, Any]]]:
    """Fingerprint and content of the weights and of the solver's state that have to be read."""
    found = {}
    network, solver = config.network, config.solver
    if network.weights and not _is_there(network.weights_fingerprint, storage):
        found["weights"] = _weights(network.weights, network, storage)
    if solver.state and not _is_there(solver.state_fingerprint, storage):
        found["state"] = _solver(solver.state, storage)
    return found


def _is_there(fingerprint: str, storage: Storage) -> bool:
    return bool(fingerprint) and storage.get(weights_key(fingerprint)) is not None


def _required(setting: str, insisted: str, found: dict[str, tuple[str, dict[str, Any]]]) -> str:
    fingerprint, _ = found[setting.rpartition(".")[2]]
    if insisted not in ("", fingerprint):
        raise ConfigurationError(f"{setting}_fingerprint: what is there has {fingerprint}, not {insisted}")
    return fingerprint


def _weights(place: str, network: NetworkConfig, storage: BrowsableStorage) -> tuple[str, dict[str, Any]]:
    from resnet_dist.networks.state_dicts import from_any
    from resnet_dist.records.weights_file import fingerprint, read_weights

    weights = from_any(read_weights(_content("network.weights", place, storage), f"network.weights: {place}"), network)
    return fingerprint(weights), weights


def _solver(place: str, storage: BrowsableStorage) -> tuple[str, dict[str, Any]]:
    from resnet_dist.records.weights_file import fingerprint, read_solver

    state = read_solver(_content("solver.state", place, storage), f"solver.state: {place}")
    return fingerprint(state), state


def _content(setting: str, place: str, storage: BrowsableStorage) -> bytes:
    """The bytes of a file, an object or a trial's record."""
    if place.startswith("s3://"):
        folder, _, name = place.rpartition("/")
        data = open_storage(folder).get(name)
        if data is None:
            raise UserError(f"{setting}: {place}: there is no such object")
        return data
    path = Path(place)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"{setting}: {place}: cannot be read: {error.strerror or error}") from None
    if path.suffix or place.startswith((".", "/")):
        raise UserError(f"{setting}: {place}: there is no such file")
    return _of_trial(setting, place, storage)


def _of_trial(setting: str, place: str, storage: BrowsableStorage) -> bytes:
    from resnet_dist.records.checkpoints import Checkpoints
    from tune_jobs.results.recorded_trial import find_trial

    try:
        trial = find_trial(storage, place)
    except UserError as error:
        raise UserError(f"{setting}: {error} (nor is there a file of this name)") from None
    if setting == "network.weights" and trial.model is not None:
        return trial.require_sound_model()
    keys = TrialKeys(trial.experiment, trial.trial_id)
    newest = Checkpoints(storage, keys.checkpoints, trial.config.identity()).latest()
    if newest is None:
        gone = "; it is finished, and its checkpoints are gone" if trial.result else ""
        raise UserError(f"{setting}: trial {trial.trial_id} has no checkpoint{gone}")
    return newest.data

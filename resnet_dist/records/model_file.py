"""Final weights with all that is needed to use them: `model.pt` of a trial, or the archive that holds it.

Tensors and plain values only, read without running any code in them: {"network": state_dict, "config": settings,
"classes": names, "mean": float64 [3, 32, 32], "std": number}, the last two those that standardise images. The weights
have the names that `nn.BatchNorm2d` gives, its count of batches among them, which ours does without.
"""

import json
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.custom_code import collect, install, named, required_fingerprint
from resnet_dist.data.dataset import Dataset
from resnet_dist.data.epochs import EpochPlan
from resnet_dist.errors import ConfigurationError, UserError
from resnet_dist.file_kinds import FIRST_BYTES, kind_of
from resnet_dist.networks.registry import make_network
from resnet_dist.records import checkpoints, trial_record

MODEL, RESULT = "model.pt", "result.json"

_STATISTIC, _COUNT = "running_var", "num_batches_tracked"


@dataclass(frozen=True)
class Model:
    """A trained network, on the CPU, and what belongs to it."""

    network: nn.Module
    config: TrainingConfig
    classes: tuple[str, ...]
    """Name of each class; empty in files that do not tell."""
    class_count: int
    mean: Tensor | None
    """float64 [3, 32, 32]: mean of the training images, which is subtracted; None in files that do not tell."""
    std: float
    """Standard deviation by which the rest is divided."""


def encode_model(network: nn.Module, config: TrainingConfig, dataset: Dataset) -> bytes:
    """The content of `model.pt`."""
    return checkpoints.encode(
        {
            "network": _with_counts(network, _batches(config, dataset)),
            "config": config.to_dict(),
            "classes": list(dataset.classes),
            "mean": dataset.mean.clone(),
            "std": dataset.std,
        }
    )


def read_model(path: Path, run_code: bool = False) -> Model:
    """The model in a file: a trial's `model.pt`, or an archive that `resnet-dist export` made.

    With `run_code`, code of the trial's author that is in the archive may run; else what a model needs of it must lie
    beside the file, or in the current directory. Raises a `UserError` of one line if it is no such file, or if the
    code is not there.
    """
    try:
        held = checkpoints.decode(_content(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except checkpoints.DamagedError as error:
        raise UserError(f"{path}: is damaged ({error}); copy it again from where it was made") from None
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError):
        raise _not_a_model(path, _what_it_is(path)) from None
    try:
        config = TrainingConfig.from_dict(held["config"])
    except ConfigurationError as error:
        raise UserError(f"{path}: was made by another version of this program: {error}") from None
    except KeyError:
        raise _not_a_model(path, "it lacks weights or settings") from None
    _install_code(path, config, run_code)
    try:
        weights, classes = held["network"], tuple(held.get("classes", ()))
        count = len(classes) or len(weights["linear.bias"])
        network = make_network(config.network, config.batch_norm, count)
        # Not with the versions of layers that torch keeps beside the weights: a plain dict, as of averages, has none.
        state = network.state_dict()
        if {name for name in weights if name in state or not name.endswith(_COUNT)} != set(state):
            raise RuntimeError("other names")
        state.update({name: weights[name] for name in state})
        network.load_state_dict(state)
        mean = held.get("mean")
        assert mean is None or mean.shape == (3, 32, 32)
        return Model(network, config, classes, count, mean, float(held.get("std", 1.0)))
    except ConfigurationError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, AssertionError):
        raise _not_a_model(path, "it lacks weights or settings") from None
    except RuntimeError:  # load_state_dict's, which fills many lines
        raise _not_a_model(path, "its weights are not those of the network in its settings") from None


def _batches(config: TrainingConfig, dataset: Dataset) -> int:
    """Batches that each batch norm has seen in training."""
    plan = EpochPlan(len(dataset.train_images), config.data.batch_size, config.data.sampling)
    return plan.first_step(config.run.epochs) * config.data.accumulation


def _with_counts(network: nn.Module, batches: int) -> dict[str, Tensor]:
    """The network's state, with the count of batches beside the statistics of each batch norm."""
    state = network.state_dict()
    for name in [name for name in state if name.endswith(f".{_STATISTIC}")]:
        state[name.removesuffix(_STATISTIC) + _COUNT] = torch.tensor(batches)
    return state


def _what_it_is(path: Path) -> str:
    """Of a file that torch cannot read, or reads only by running code in it."""
    data = path.read_bytes()
    kind = kind_of(data[:FIRST_BYTES] if data.strip(b"\0") else data)
    if kind == "a zip archive":
        if not zipfile.is_zipfile(path):
            return "it is cut off; copy it again from where it was made"
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("data.pkl") for name in archive.namelist()):
                return "it is a zip archive without a model in it"
    elif kind:
        return f"it is {kind}"
    if data[:64].isascii() and data[:64].decode().isprintable():
        return f"it is text that begins with {data[:32].decode()!r}"
    return "it holds something other than tensors and plain values"


def _content(path: Path) -> bytes:
    """The bytes of `model.pt`, which torch writes as a ZIP archive too; held to the result beside it, if there is one.

    Raises a `DamagedError` if they are not those that were written.
    """
    try:
        content, result = _exported(path, MODEL), _exported(path, RESULT)
    except checkpoints.ARCHIVE_ERRORS as error:
        raise checkpoints.DamagedError(str(error)) from None
    if content is None:
        content, beside = path.read_bytes(), path.with_name(RESULT)
        result = beside.read_bytes() if path.name == MODEL and beside.is_file() else None
    said = trial_record.parse(result) if result else {}
    if not trial_record.is_the_results(said, MODEL, content):
        raise checkpoints.DamagedError(f"its SHA-256 is not the one in {RESULT}")
    return content


def _exported(path: Path, record: str) -> bytes | None:
    """A record of a trial in the archive that was exported; None if the file is another one."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.rpartition("/")[2] == record:
                    return archive.read(name)
    return None


def _install_code(path: Path, config: TrainingConfig, run_code: bool) -> None:
    """Let the user's own code that a model needs be imported, if it is the code that the model was trained with.

    Raises a `ConfigurationError` if the network cannot be made without it.
    """
    names = named(config)
    if not names:
        return
    archived = json.loads(_exported(path, "provenance.json") or b"{}").get("code", {}).get("modules")
    try:
        modules = archived if run_code and archived else collect(names, [path.absolute().parent, Path.cwd()])
        required_fingerprint(config, modules)
    except ConfigurationError:
        if not any(setting.startswith("network.") for setting in names):
            return
        if archived and not run_code:
            files = ", ".join(sorted(archived))
            raise ConfigurationError(
                f"{path}: its network is made by code of the trial's author ({files}), whose text is in its "
                "provenance.json; read it, and give --run-code to run it"
            ) from None
        raise
    install(modules)


def _not_a_model(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: is no model file ({reason}); give a trial's {MODEL}, or what resnet-dist export wrote")

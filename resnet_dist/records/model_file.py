"""Final weights with all that is needed to use them: `model.pt` of a trial, or the archive that holds it.

Tensors and plain values only, read without running any code in them: {"network": state_dict, "config": settings,
"classes": names, "mean": float64 [3, H, W], "std": number}, the last two those that standardise images. The weights
have the names that `nn.BatchNorm2d` gives, its count of batches among them, which ours does without.
"""

import io
import json
import math
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.custom_code import collect, install, named, required_fingerprint
from resnet_dist.data.dataset import Dataset
from resnet_dist.data.epochs import EpochPlan
from resnet_dist.data.sharded import ShardedDataset
from resnet_dist.errors import ConfigurationError, UserError
from resnet_dist.file_kinds import FIRST_BYTES, ZIP_ERRORS, kind_of
from resnet_dist.networks.construction import make_network
from resnet_dist.records import checkpoints, trial_record

MODEL, RESULT = "model.pt", "result.json"

_STATISTIC, COUNT = "running_var", "num_batches_tracked"


@dataclass(frozen=True)
class Model:
    """A trained network, on the CPU, and what belongs to it."""

    network: nn.Module
    config: TrainingConfig
    classes: tuple[str, ...]
    """Name of each class; empty in files that do not tell."""
    class_count: int
    mean: Tensor | None
    """float64 [3, H, W]: mean of the training images, which is subtracted; None in files that do not tell."""
    std: float
    """Standard deviation by which the rest is divided."""


def encode_model(network: nn.Module, config: TrainingConfig, dataset: Dataset | ShardedDataset) -> bytes:
    """The content of `model.pt`."""
    return checkpoints.encode(
        {
            "network": with_counts(network, _batches(config, dataset)),
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
    if path.exists() and not path.is_file() and not path.is_dir():  # it could be read for ever
        raise UserError(f"{path}: is a pipe, socket or device; give a file")
    try:
        held = checkpoints.decode(_content(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except checkpoints.DamagedError as error:
        raise UserError(f"{path}: is damaged ({error}); copy it again from where it was made") from None
    except checkpoints.NotAStateError as error:
        raise _not_a_model(path, str(error)) from None
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError):
        raise _not_a_model(path, what_it_is(path.read_bytes())) from None
    try:
        config = TrainingConfig.from_dict(held["config"])
    except ConfigurationError as error:
        raise UserError(f"{path}: was made by another version of this program: {error}") from None
    except KeyError:
        raise _not_a_model(path, "it lacks weights or settings") from None
    _install_code(path, config, run_code)
    try:
        weights, classes = held["network"], tuple(held.get("classes", ()))
        if not all(isinstance(name, str) for name in classes) or isinstance(held.get("classes"), str):
            raise _UnfitError("its names of classes are not a list of text")
        mean, std = _standardisation(held, config.data.size)
        count = len(classes) or len(weights["linear.bias"])
        network = make_network(config.network, config.batch_norm, count, size=config.data.size)
        # Not with the versions of layers that torch keeps beside the weights: a plain dict, as of averages, has none.
        state = network.state_dict()
        if differs := _difference(state, weights):
            raise _UnfitError(f"its weights are not those of the network in its settings: {differs}")
        state.update({name: weights[name] for name in state})
        network.load_state_dict(state)
        return Model(network, config, classes, count, mean, std)
    except ConfigurationError:
        raise
    except _UnfitError as error:
        raise _not_a_model(path, str(error)) from None
    except (KeyError, TypeError, AttributeError, ValueError):
        raise _not_a_model(path, "it lacks weights or settings") from None


class _UnfitError(Exception):
    """What is in a file does not make a model; the message says why."""


def _difference(state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """In what weights are not those of a network, whose state is given; empty if they fit."""
    for name in weights:
        if name not in state and not name.endswith(COUNT):
            return f"they have {name!r}, which it lacks"
    for name, own in state.items():
        if name not in weights:
            return f"they lack {name!r}"
        given = weights[name]
        if given.shape != own.shape:
            return f"{name!r} is {list(given.shape)}, and not {list(own.shape)}"
        if given.layout != own.layout or (own.is_floating_point() and not given.is_floating_point()):
            kind = given.layout if given.layout != own.layout else given.dtype
            return f"{name!r} is of {str(kind).removeprefix('torch.')}, and not of floating-point numbers"
    return ""


def _standardisation(held: Mapping[str, Any], size: int) -> tuple[Tensor | None, float]:
    """The training images' mean and deviation; None and 1 in files of earlier versions, which have neither."""
    mean, std = held.get("mean"), held.get("std")
    if mean is None and std is None:
        return None, 1.0
    if not isinstance(mean, Tensor) or mean.shape != (3, size, size) or not bool(mean.isfinite().all()):
        raise _UnfitError(f"its mean of the training images is not [3, {size}, {size}] finite numbers")
    if not isinstance(std, float) or not 0 < std < math.inf:
        raise _UnfitError("its deviation of the training images is not a number above 0")
    return mean, std


def _batches(config: TrainingConfig, dataset: Dataset | ShardedDataset) -> int:
    """Batches that each batch norm has seen in training."""
    plan = EpochPlan(len(dataset.train_labels), config.data.batch_size, config.data.sampling)
    return plan.first_step(config.run.epochs) * config.data.accumulation


def with_counts(network: nn.Module, batches: int) -> dict[str, Tensor]:
    """The network's state, with the count of batches beside the statistics of each batch norm."""
    state = network.state_dict()
    for name in [name for name in state if name.endswith(f".{_STATISTIC}")]:
        state[name.removesuffix(_STATISTIC) + COUNT] = torch.tensor(batches)
    return state


def what_it_is(data: bytes) -> str:
    """Of a file that torch cannot read, or reads only by running code in it, in words."""
    kind = kind_of(data[:FIRST_BYTES] if data.strip(b"\0") else data)
    if kind == "a zip archive":
        if not zipfile.is_zipfile(io.BytesIO(data)):
            return "it is cut off; copy it again from where it was made"
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
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
    content, result = exported(path, MODEL), exported(path, RESULT)
    if content is None:
        content, beside = path.read_bytes(), path.with_name(RESULT)
        result = beside.read_bytes() if path.name == MODEL and beside.is_file() else None
    said = trial_record.parse(result) if result else {}
    if not trial_record.is_the_results(said, MODEL, content):
        raise checkpoints.DamagedError(f"its SHA-256 is not the one in {RESULT}")
    return content


def exported(file: Path | io.BytesIO, record: str) -> bytes | None:
    """A record of a trial in the archive that was exported; None if the file is another one.

    Raises a `DamagedError` if the archive is damaged.
    """
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for name in archive.namelist():
                    if name.rpartition("/")[2] == record:
                        return archive.read(name)
    except ZIP_ERRORS as error:
        raise checkpoints.DamagedError(str(error)) from None
    return None


def _install_code(path: Path, config: TrainingConfig, run_code: bool) -> None:
    """Let the user's own code that a model needs be imported, if it is the code that the model was trained with.

    Raises a `ConfigurationError` if the network cannot be made without it.
    """
    names = named(config)
    if not names:
        return
    archived = json.loads(exported(path, "provenance.json") or b"{}").get("code", {}).get("modules")
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
                "provenance.json; read it, and give run_code (--run-code) to run it"
            ) from None
        raise
    install(modules)


def _not_a_model(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: is no model file ({reason}); give a trial's {MODEL}, or what resnet-dist export wrote")

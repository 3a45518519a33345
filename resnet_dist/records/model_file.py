"""Final weights with all that is needed to use them: `model.pt` of a trial, or the archive that holds it.

Tensors and plain values only, read without running any code in them: {"network": state_dict, "config": settings,
"classes": names, "mean": float64 [3, 32, 32], "std": number}, the last two those that standardise images.
"""

import json
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.custom_code import collect, install, named, required_fingerprint
from resnet_dist.data.dataset import Dataset
from resnet_dist.errors import ConfigurationError, UserError
from resnet_dist.networks.registry import make_network
from resnet_dist.records import checkpoints, trial_record

MODEL, RESULT = "model.pt", "result.json"


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
            "network": network.state_dict(),
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
        raise _not_a_model(path, "it holds something other than tensors and plain values") from None
    try:
        config = TrainingConfig.from_dict(held["config"])
    except ConfigurationError as error:
        raise UserError(f"{path}: was made by another version of this program: {error}") from None
    except KeyError:
        raise _not_a_model(path, "it lacks weights or settings") from None
    _install_code(path, config, run_code)
    try:
        # As it is, with the versions of layers that torch keeps beside the weights: a copy would lack them.
        state, classes = held["network"], tuple(held.get("classes", ()))
        count = len(classes) or len(state["linear.bias"])
        network = make_network(config.network, config.batch_norm, count)
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

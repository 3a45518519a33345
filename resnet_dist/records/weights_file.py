"""Weights in files of many makes, read without running code in them.

Our own `model.pt`, an archive of `export`, a checkpoint's `state.pt`; what `torch.save` wrote of a state dict, by
itself or under a name that trainers give it; safetensors. Names may begin with `module.`, as DataParallel leaves them.
"""

import hashlib
import io
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from resnet_dist.errors import UserError
from resnet_dist.records import checkpoints
from resnet_dist.records.model_file import COUNT, MODEL, exported, what_it_is

HOLDERS = ("network", "state_dict", "model_state_dict", "model")
"""Names under which a file may hold its state dict: ours, then those of other trainers."""

STANDARDISATION = "standardise."
"""Names of tensors that a safetensors file of ours has beside the weights begin so."""


def read_weights(data: bytes, place: str) -> dict[str, Tensor]:
    """The tensors of a file, by name, on the CPU, without counts of batches.

    Raises a `UserError` of one line that begins with `place` if it holds no weights, is damaged, or has code in it.
    """
    held = _held(data, place)
    for name in HOLDERS:
        if isinstance(held.get(name), Mapping):
            held = held[name]
            break
    weights = {name: value for name, value in held.items() if isinstance(value, Tensor)}
    if not weights or len(weights) < len(held):
        raise UserError(f"{place}: holds no weights; give a state dict of tensors by name")
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    return {
        name: value
        for name, value in weights.items()
        if not name.endswith(COUNT) and not name.startswith(STANDARDISATION)
    }


def read_solver(data: bytes, place: str) -> dict[str, Any]:
    """The solver's state in a checkpoint's `state.pt`, as torch's optimizers give it."""
    held = _held(data, place).get("solver")
    if not isinstance(held, Mapping) or not isinstance(held.get("state"), Mapping):
        raise UserError(f"{place}: holds no state of a solver; give the state.pt of a checkpoint")
    return {"state": held["state"]}


def fingerprint(values: Mapping[Any, Any]) -> str:
    """Hash of nested names, tensors and numbers, whatever the file's format: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    _add(digest, values)
    return digest.hexdigest()[:16]


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for name in sorted(value, key=str):
            digest.update(f"{name}\n".encode())
            _add(digest, value[name])
    elif isinstance(value, Tensor):
        digest.update(f"{value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    else:
        digest.update(f"{value!r}\n".encode())


def _held(data: bytes, place: str) -> dict[str, Any]:
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data):
        import safetensors.torch

        try:
            return dict(safetensors.torch.load(data))
        except safetensors.SafetensorError as error:
            raise UserError(f"{place}: is damaged ({error}); copy it again from where it was made") from None
    try:
        return checkpoints.decode(exported(io.BytesIO(data), MODEL) or data)
    except checkpoints.DamagedError as error:
        raise UserError(f"{place}: is damaged ({error}); copy it again from where it was made") from None
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, LookupError, AttributeError, TypeError):
        raise UserError(f"{place}: holds no weights ({what_it_is(data)}; no code in it is run)") from None

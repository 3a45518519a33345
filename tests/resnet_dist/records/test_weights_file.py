"""Weights are read from files of many makes, none of whose code is run."""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from resnet_dist.errors import UserError
from resnet_dist.records import checkpoints
from resnet_dist.records.weights_file import fingerprint, read_solver, read_weights

WEIGHTS = {"conv1.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.ones(2)}
COUNTED = {**WEIGHTS, "bn1.num_batches_tracked": torch.tensor(3)}


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("0123/model.pt", content)
        archive.writestr("0123/result.json", "{}")
    return buffer.getvalue()


FILES: dict[str, bytes] = {
    "a state dict": saved(COUNTED),
    "of torch's former format": saved(COUNTED, _use_new_zipfile_serialization=False),
    "under a trainer's name": saved({"state_dict": COUNTED, "best_prec1": 91.73, "epoch": 180}),
    "of DataParallel": saved({"state_dict": {f"module.{name}": value for name, value in COUNTED.items()}}),
    "our own": saved({"network": COUNTED, "config": {}, "classes": ["a"], "mean": torch.zeros(1), "std": 1.0}),
    "an archive of export": zipped(saved({"network": COUNTED, "config": {}})),
    "safetensors": safetensors.torch.save({**WEIGHTS, "standardise.mean": torch.zeros(3)}),
}


@pytest.mark.parametrize("make", FILES)
def test_weights_are_read_whatever_the_file(make: str) -> None:
    weights = read_weights(FILES[make], "w")
    assert weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(weights[name], value) for name, value in WEIGHTS.items())


def test_the_fingerprint_is_of_the_content_whatever_the_file() -> None:
    assert len({fingerprint(read_weights(data, "w")) for data in FILES.values()}) == 1
    changed: dict[str, Tensor] = {**WEIGHTS, "fc.bias": torch.tensor([1.0, 1.0 + 2**-23])}
    renamed = {name.replace("fc", "linear"): value for name, value in WEIGHTS.items()}
    reshaped = {**WEIGHTS, "conv1.weight": WEIGHTS["conv1.weight"].view(3, 2)}
    assert len({fingerprint(values) for values in (WEIGHTS, changed, renamed, reshaped)}) == 4


class Evil:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.touched),)


def bad_files(tmp_path: Path) -> dict[str, tuple[bytes, str]]:
    evil = Evil(tmp_path / "touched")
    whole, tensors = saved(WEIGHTS), safetensors.torch.save(WEIGHTS)
    return {
        "a whole network": (
            saved(torch.nn.Linear(2, 2)),
            "holds no weights (it holds something other than tensors and plain values; no code in it is run)",
        ),
        "code": (
            saved({"state_dict": {**WEIGHTS, "x": evil}}),
            "holds no weights (it holds something other than tensors and plain values; no code in it is run)",
        ),
        "a bare pickle": (pickle.dumps(evil), "w: "),
        "cut off": (whole[:-40], "w: "),
        "flipped": (whole.replace(torch.ones(2).numpy().tobytes(), b"flipped!"), "is damaged"),
        "a flipped archive of export": (
            zipped(whole.replace(torch.ones(2).numpy().tobytes(), b"flipped!")),
            "is damaged",
        ),
        "an archive of export that is damaged itself": (
            zipped(whole).replace(torch.ones(2).numpy().tobytes(), b"flipped!"),
            "is damaged",
        ),
        "cut-off safetensors": (tensors[:-4], "is damaged"),
        "empty": (b"", "holds no weights"),
        "text": (b"<!DOCTYPE html><html>no such page", "holds no weights (it is"),
        "numbers": (saved({"epoch": 3}), "holds no weights; give a state dict"),
        "a list": (saved([torch.zeros(1)]), "holds no weights"),
    }


@pytest.mark.parametrize("name", bad_files(Path()))
def test_what_holds_no_weights_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    data, said = bad_files(tmp_path)[name]
    with pytest.raises(UserError) as caught:
        read_weights(data, "w")
    assert said in str(caught.value) and str(caught.value).startswith("w: ") and "\n" not in str(caught.value)
    assert not (tmp_path / "touched").exists()


def test_a_solvers_state_is_a_checkpoints() -> None:
    solver = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    assert read_solver(checkpoints.encode({"network": {}, "solver": solver}), "s")["state"].keys() == {0}
    with pytest.raises(UserError, match="s: holds no state of a solver"):
        read_solver(saved(WEIGHTS), "s")

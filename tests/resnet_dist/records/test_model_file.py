"""Final weights are of use elsewhere: in torch's own layers, and from a plain dict of averages."""

from pathlib import Path

import pytest
import torch
from torch import nn

from resnet_dist.networks.batch_norm import SynchronisedBatchNorm
from resnet_dist.networks.registry import make_network
from resnet_dist.records import checkpoints
from resnet_dist.records.model_file import encode_model, read_model
from tests.small_runs import small_config, small_dataset

CONFIG = small_config(data__accumulation=2)
DATASET = small_dataset()


@pytest.fixture
def trained() -> nn.Module:
    network = make_network(CONFIG.network, CONFIG.batch_norm, len(DATASET.classes))
    for value in network.state_dict().values():
        value.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture
def file(trained: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    path.write_bytes(encode_model(trained, CONFIG, DATASET))
    return path


def torchs_own(network: nn.Module) -> nn.Module:
    for name, child in network.named_children():
        if isinstance(child, SynchronisedBatchNorm):
            setattr(network, name, nn.BatchNorm2d(child.num_features, eps=child.eps))
        else:
            torchs_own(child)
    return network.eval()


def test_weights_load_strictly_into_torchs_own_batch_norm(file: Path, trained: nn.Module) -> None:
    weights = torch.load(file, weights_only=True)["network"]
    images = torch.randn(2, 3, 32, 32)
    expected = trained(images)
    network = torchs_own(trained)
    network.load_state_dict({name: torch.zeros_like(value) for name, value in network.state_dict().items()})
    network.load_state_dict(weights, strict=True)
    assert torch.equal(network(images), expected)
    counts = {int(value) for name, value in weights.items() if name.endswith("num_batches_tracked")}
    steps = -(-CONFIG.run.epochs * len(DATASET.train_images) // CONFIG.data.batch_size)
    assert counts == {steps * CONFIG.data.accumulation}


@pytest.mark.parametrize("counts", [True, False], ids=["as written now", "as written by earlier versions"])
def test_averages_in_a_plain_dict_are_a_model(file: Path, trained: nn.Module, counts: bool) -> None:
    held = checkpoints.decode(file.read_bytes())
    average = {
        name: (value + value) / 2 if value.is_floating_point() else value
        for name, value in held["network"].items()
        if counts or value.is_floating_point()
    }
    file.write_bytes(checkpoints.encode(held | {"network": average}))
    network = read_model(file).network.eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(images), trained(images))

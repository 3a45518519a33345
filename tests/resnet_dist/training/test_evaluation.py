from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.data import DataConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.data.batches import Standardiser
from resnet_dist.data.dataset import open_dataset
from resnet_dist.data.sharded import ShardedDataset
from resnet_dist.data.streamed_images import decoded
from resnet_dist.networks.cifar import ResidualNetwork
from resnet_dist.networks.construction import make_network
from resnet_dist.networks.initialisation import initialise
from resnet_dist.training.evaluation import BATCH, Evaluation, ImageSet
from resnet_dist.workers import Workers, alone, current
from tests.imagenet_layout import small_shards
from tests.worker_processes import run_workers

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Task:
    """Random images and labels, a network, and its logits for all of the images at once, in float64."""

    images: torch.Tensor
    labels: torch.Tensor
    standardise: Standardiser
    network: nn.Module
    logits: NDArray[np.float64]

    def image_set(self, workers: Workers, virtual_shards: int = 1) -> ImageSet:
        return ImageSet(self.images, self.labels, self.standardise, workers, virtual_shards)


def task(images: int, classes: int = 10, network: nn.Module | None = None) -> Task:
    random = np.random.Generator(np.random.PCG64(images))
    pixels = torch.from_numpy(random.integers(0, 256, (images, 3, 32, 32), dtype=np.uint8))
    mean = torch.from_numpy(random.uniform(100, 150, (3, 32, 32)))
    if network is None:
        linear = nn.Linear(3 * 32 * 32, classes)
        linear.load_state_dict(
            {name: torch.from_numpy(random.normal(size=p.shape) / 40) for name, p in linear.state_dict().items()}
        )
        network = nn.Sequential(nn.Flatten(), linear)
    network = network.double().eval()
    with torch.no_grad():
        logits = network((pixels.double() - mean) / 60).numpy()
    labels = torch.from_numpy(random.integers(0, classes, images))
    return Task(pixels, labels, Standardiser(mean, 60.0, torch.float64, CPU), network, logits)


def evaluated(image_set: ImageSet, network: nn.Module) -> Evaluation:
    return image_set.evaluate(network, torch.autocast("cpu", enabled=False))


def reference(of: Task) -> Evaluation:
    """Errors and loss, one image after another."""
    losses, first, five = [], 0, 0
    for logits, label in zip(of.logits, of.labels.tolist(), strict=True):
        ranking = sorted(range(len(logits)), key=lambda c: -logits[c])
        first += label != ranking[0]
        five += label not in ranking[:5]
        losses.append(np.log(np.exp(logits - logits.max()).sum()) - (logits[label] - logits.max()))
    return Evaluation(float(np.mean(losses)), first / len(of.labels), five / len(of.labels))


def assert_equal(evaluation: Evaluation, expected: Evaluation) -> None:
    assert evaluation.loss == pytest.approx(expected.loss, rel=1e-12)
    assert evaluation.top1_error == pytest.approx(expected.top1_error, abs=1e-15)
    assert evaluation.top5_error == pytest.approx(expected.top5_error, abs=1e-15)


@pytest.mark.parametrize("images", [1, *(BATCH["cpu"] + more for more in (-1, 0, 1)), 2 * BATCH["cpu"] + 7])
def test_errors_are_those_counted_one_by_one(images: int) -> None:
    of = task(images)
    expected = reference(of)
    if images > 1:
        assert 0.8 < expected.top1_error < 1 and 0.4 < expected.top5_error < 0.6
    assert_equal(evaluated(of.image_set(alone("cpu")), of.network), expected)


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("images", [3, 23, 1201])
def test_workers_together_count_each_image_once(images: int, size: int) -> None:
    of = task(images)
    parts = []
    for rank in range(size):
        image_set = of.image_set(Workers(rank, size, CPU))
        # This worker's part of the sums alone: they are added below, instead of by a collective.
        image_set.workers = alone("cpu")
        parts.append(evaluated(image_set, of.network))
    together = Evaluation(
        sum(part.loss for part in parts), sum(part.top1_error for part in parts), sum(p.top5_error for p in parts)
    )
    assert_equal(together, reference(of))


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("images", [3, 23])
def test_virtual_shards_count_each_image_once(images: int, size: int) -> None:
    of = task(images)
    parts = []
    for rank in range(size):
        image_set = of.image_set(Workers(rank, size, CPU), virtual_shards=8)
        image_set.workers = alone("cpu")
        parts.append(evaluated(image_set, of.network))
    together = Evaluation(
        sum(part.loss for part in parts), sum(part.top1_error for part in parts), sum(p.top5_error for p in parts)
    )
    assert_equal(together, reference(of))


@pytest.mark.parametrize("virtual_shards", [1, 8])
@pytest.mark.parametrize("size", [1, 3])
def test_workers_together_find_the_class_of_each_image(size: int, virtual_shards: int) -> None:
    of = task(1700)  # more than one batch on each of three workers
    expected = torch.from_numpy(of.logits.argmax(1))
    together = torch.zeros_like(expected)
    for rank in range(size):
        image_set = ImageSet(of.images, of.labels, of.standardise, Workers(rank, size, CPU), virtual_shards, True)
        image_set.workers = alone("cpu")
        evaluation = evaluated(image_set, of.network)
        assert evaluation.found is not None
        together += evaluation.found  # what a worker does not hold is 0
    assert torch.equal(together, expected)


def test_with_five_classes_or_fewer_no_image_is_outside_the_first_five() -> None:
    of = task(40, classes=3)
    evaluation = evaluated(of.image_set(alone("cpu")), of.network)
    assert evaluation.top5_error == 0 and 0 < evaluation.top1_error < 1


def residual_network() -> ResidualNetwork:
    config = NetworkConfig(depth=8, width=4)
    network = ResidualNetwork(config, BatchNormConfig(), classes=10).double()
    initialise(network, config, seed=1)
    with torch.no_grad():
        network(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    return network


def test_a_residual_network_is_evaluated_with_its_running_statistics_and_left_as_it_was() -> None:
    of = task(23, network=residual_network())
    network = of.network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert_equal(evaluated(of.image_set(alone("cpu")), network), reference(of))
    assert network.training and all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("norm.running_var", torch.inf),  # it makes an output of 0, as finite as any
        ("norm.running_mean", torch.nan),
        ("linear.bias", -torch.inf),  # of the last class, which no image has: the loss is finite
    ],
)
@pytest.mark.parametrize("size", [1, 8])
def test_every_worker_tells_that_a_network_is_not_finite(name: str, value: float, size: int) -> None:
    of = task(3, network=residual_network())
    assert 9 not in of.labels and evaluated(of.image_set(alone("cpu")), of.network).finite
    of.network.state_dict()[name][-1] = value
    for rank in range(size):  # some of eight hold no image
        image_set = of.image_set(Workers(rank, size, CPU))
        image_set.workers = alone("cpu")
        assert not evaluated(image_set, of.network).finite


class Reciprocals(nn.Module):
    """Ten outputs that are not finite for a black image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 1 / images.flatten(1)[:, :10]


def test_an_output_that_is_not_finite_on_one_worker_is_told_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Standardiser(torch.zeros(3, 32, 32, dtype=torch.float64), 1.0, torch.float64, CPU)
    images = torch.ones(4, 3, 32, 32, dtype=torch.uint8)
    images[0] = 0
    image_sets = [ImageSet(images, torch.arange(4), raw, Workers(rank, 2, CPU)) for rank in range(2)]
    sent: list[torch.Tensor] = []

    def collect(_: Workers, sums: torch.Tensor) -> torch.Tensor:
        sent.append(sums.clone())
        return sums

    monkeypatch.setattr(Workers, "sum", collect)
    assert [evaluated(image_set, Reciprocals()).finite for image_set in image_sets] == [False, True]
    monkeypatch.setattr(Workers, "sum", lambda *_: sent[0] + sent[1])
    assert [evaluated(image_set, Reciprocals()).finite for image_set in image_sets] == [False, False]


def test_an_images_result_does_not_depend_on_its_neighbours() -> None:
    of = task(23, network=residual_network())
    one_by_one = [
        evaluated(
            replace(of, images=of.images[i : i + 1], labels=of.labels[i : i + 1]).image_set(alone("cpu")), of.network
        )
        for i in range(23)
    ]
    together = evaluated(of.image_set(alone("cpu")), of.network)
    assert np.mean([part.loss for part in one_by_one]) == pytest.approx(together.loss, rel=1e-12)
    assert np.mean([part.top1_error for part in one_by_one]) == pytest.approx(together.top1_error)


def evaluated_by_this_worker(images: int) -> Evaluation:
    of = task(images)
    return evaluated(of.image_set(current("cpu")), of.network)


@pytest.mark.integration
@pytest.mark.parametrize("size", [2, 3])
def test_every_real_worker_knows_the_error_over_all_images(size: int) -> None:
    of_one = reference(task(23))  # 23 images divide by neither
    for evaluation in run_workers(evaluated_by_this_worker, size, 23):
        assert_equal(evaluation, of_one)


def test_several_views_count_by_their_mean_probability_as_one_by_one(tmp_path: Path) -> None:
    """Ten crops and whole images at five scales, against plain loops."""
    shards = small_shards(tmp_path)
    for crops in ("ten", "scales"):
        data = DataConfig(source=f"shards:{shards}", size=32, augmentation="paper", test_crops=crops)
        tests = open_dataset(replace(data, batch_size=2))
        assert isinstance(tests, ShardedDataset)
        torch.manual_seed(0)
        shape = NetworkConfig(family="imagenet-residual", depth=18, width=4)
        network = make_network(shape, BatchNormConfig(), 3, 0, 32).double().eval()
        standardise = Standardiser(tests.mean, tests.std, torch.float64, CPU)
        said: list[torch.Tensor] = []
        images = ImageSet(tests.test_images, tests.test_labels, standardise, alone("cpu"))
        found = images.evaluate(network, torch.autocast("cpu", enabled=False), said.append)
        network.eval()
        expected = [
            plain_probabilities(decoded(tests.test_images.reader, n), crops, network, standardise) for n in range(12)
        ]
        torch.testing.assert_close(torch.cat(said).exp(), torch.stack(expected), rtol=1e-9, atol=1e-9)
        losses = [-probabilities[label].log() for probabilities, label in zip(expected, tests.test_labels, strict=True)]
        assert found.loss == pytest.approx(float(torch.stack(losses).mean()))
        several = (torch.stack(expected).argmax(1) != tests.test_labels).double().mean()
        assert found.top1_error == pytest.approx(float(several))


def plain_probabilities(
    pixels: torch.Tensor, crops: str, network: nn.Module, standardise: Standardiser
) -> torch.Tensor:
    """Of one image, one view after another: float64 [classes]."""
    height, width = pixels.shape[1:]
    short = min(height, width)
    if crops == "ten":
        side = round(short * 7 / 8)
        places = [(top, left) for top in (0, height - side) for left in (0, width - side)]
        places.append(((height - side) // 2, (width - side) // 2))
        parts = [pixels[:, top : top + side, left : left + side] for top, left in places]
        seen = [scaled_to(part, 32, 32) for part in parts]
    else:
        sides = [round(32 * side / 224) for side in (224, 256, 384, 480, 640)]
        seen = [scaled_to(pixels, round(height * side / short), round(width * side / short)) for side in sides]
    mean = standardise.mean[0, 0][:, None, None]
    total = torch.zeros(3, dtype=torch.float64)
    for view in (image for one in seen for image in (one, one[:, :, range(one.shape[2])[::-1]])):
        with torch.no_grad():
            total += network((view.double() - mean)[None] * standardise.scale)[0].softmax(0)
    return total / 10


def scaled_to(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return nn.functional.interpolate(pixels[None], (height, width), mode="bilinear", antialias=True)[0]

"""What a run refuses before its first step."""

from typing import Any

import pytest

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import ConfigurationError
from resnet_dist.training.state import Training
from resnet_dist.workers import alone
from tests.small_runs import small_config, small_dataset

# At 32 pixels a network for ImageNet ends with one pixel, at 33 with four.
IMAGENET = {"network__family": "imagenet-residual", "network__depth": 18, "data__size": 32}
CAFFENET = {
    "network__family": "caffenet",
    "network__depth": 8,
    "network__width": 6,
    "network__fully_connected": 4,
    "network__activation_batch_norm": "after",
    "data__size": 64,
}


def training(images: int, **settings: Any) -> Training:
    config: TrainingConfig = small_config(data__sampling="permutation", **settings)
    return Training(config, small_dataset(images, 4, size=config.data.size), alone("cpu"))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("network", [IMAGENET, CAFFENET])
def test_a_last_batch_of_one_value_a_channel_is_refused(network: dict[str, Any], exact: bool) -> None:
    with pytest.raises(ConfigurationError) as caught:
        training(9, data__batch_size=4, run__exact=exact, **network)
    assert str(caught.value) == (
        "data.batch_size: 4 leaves 1 of 9 images for the last batch of an epoch, too few for this network's batch "
        "norm, as one value has no variance; give another data.batch_size or data.train_limit, or data.sampling "
        "replacement"
    )


@pytest.mark.parametrize(("images", "accumulation"), [(10, 2), (11, 2), (9, 2)])
def test_so_is_one_with_a_part_of_one_image(images: int, accumulation: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"{images - 8} of {images} .* epoch, in {accumulation} parts, too"):
        training(images, data__batch_size=4, data__accumulation=accumulation, **IMAGENET)


@pytest.mark.parametrize(
    ("images", "settings"),
    [
        (10, IMAGENET),
        (8, IMAGENET),
        (9, IMAGENET | {"data__size": 33}),
        (9, CAFFENET | {"network__activation_batch_norm": "none"}),
        (9, {"network__width": 2, "data__size": 9}),
        (12, IMAGENET | {"data__batch_size": 8, "data__accumulation": 2}),
    ],
)
def test_others_make_the_last_step_of_an_epoch(images: int, settings: dict[str, Any]) -> None:
    run = training(images, **({"data__batch_size": 4} | settings))
    run.start_epoch()
    assert run.network.training
    while run.epoch == 0:
        assert run.update().item() > 0


def test_with_replacement_every_batch_is_whole() -> None:
    config = small_config(data__batch_size=4, **IMAGENET)
    assert config.data.sampling == "replacement"
    Training(config, small_dataset(9, 4), alone("cpu"))

"""Each point of a run's curves has the number of its name, at the step that it stands for."""

from pathlib import Path
from typing import Any

import pytest

from cluster.storage.local import LocalStorage
from resnet_dist.storage.interface import TrialKeys
from resnet_dist.summaries.curves import write_epoch
from resnet_dist.summaries.dashboards import CHARTS
from resnet_dist.summaries.event_files import EventFiles

LINE = {
    "epoch": 2,
    "step": 14,
    "learning_rate": 0.5,
    "train_loss": 3.0,
    "test_loss": 4.0,
    "top1_error": 0.5,
    "top5_error": 0.25,
    "validation_error": 0.125,
    "seconds": 10.0,
    "images_per_second": 1000.0,
}
LOSSES = [1.0, 2.0, 6.0, 8.0, 16.0, 0.0, 5.0]
RATES = [0.5, 0.25, 0.125, 0.0625, 2.0, 4.0, 8.0]


def curves(folder: Path, line: dict[str, Any], every: int) -> dict[str, dict[int, float]]:
    """What stands in the event file of an epoch: values by curve and step."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    storage = LocalStorage(folder)
    write_epoch(EventFiles(storage, TrialKeys("grid", "0" * 16), "name", 2), line, LOSSES, RATES, every)
    (item,) = storage.list("")
    found: dict[str, dict[int, float]] = {}
    for event in EventFileLoader(str(folder / item.key)).Load():
        for value in event.summary.value:
            assert event.step not in found.setdefault(value.tag, {})
            found[value.tag][event.step] = value.tensor.float_val[0]
    return found


def test_an_epochs_numbers_stand_at_its_last_step_each_by_its_own_name(tmp_path: Path) -> None:
    found = curves(tmp_path, LINE, every=7)
    assert {tag: points for tag, points in found.items() if tag not in ("train/loss", "train/learning_rate")} == {
        "test/top1_error": {14: 0.5},
        "test/top5_error": {14: 0.25},
        "test/loss": {14: 4.0},
        "validation/top1_error": {14: 0.125},
        "train/epoch_loss": {14: 3.0},
        "train/images_per_second": {14: 1000.0},
    }


@pytest.mark.parametrize(
    ("every", "losses", "rates"),
    [
        (1, dict(zip(range(8, 15), LOSSES, strict=True)), dict(zip(range(8, 15), RATES, strict=True))),
        (3, {10: 3.0, 13: 8.0, 14: 5.0}, {10: 0.125, 13: 4.0, 14: 8.0}),
        (100, {14: 38 / 7}, {14: 8.0}),
    ],
)
def test_a_point_of_the_loss_is_the_mean_since_the_last_one_and_of_the_rate_its_own_steps(
    every: int, losses: dict[int, float], rates: dict[int, float], tmp_path: Path
) -> None:
    found = curves(tmp_path, LINE, every)
    assert found["train/loss"] == pytest.approx(losses, rel=1e-7)
    assert found["train/learning_rate"] == rates


def test_an_error_of_zero_is_a_point_and_one_that_was_not_measured_is_none(tmp_path: Path) -> None:
    line = {name: value for name, value in LINE.items() if name != "validation_error"}
    found = curves(tmp_path, line | {"top1_error": 0.0, "top5_error": None}, every=7)
    assert found["test/top1_error"] == {14: 0.0}
    assert not {"test/top5_error", "validation/top1_error"} & found.keys()


def test_the_charts_lay_over_each_other_what_their_titles_say() -> None:
    assert dict(CHARTS) == {
        "training loss and test error": ("train/epoch_loss", "test/top1_error"),
        "training loss and test loss": ("train/epoch_loss", "test/loss"),
        "test error: top-1 and top-5": ("test/top1_error", "test/top5_error"),
        "learning rate": ("train/learning_rate",),
    }

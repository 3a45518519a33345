"""What TensorBoard shows of a trial besides its curves is what the run did."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
from tensorboard.plugins.hparams.metadata import (
    parse_session_end_info_plugin_data,
    parse_session_start_info_plugin_data,
)
from tensorboard.util.tensor_util import make_ndarray

from cluster.storage.local import LocalStorage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.dataset import Dataset
from resnet_dist.records.recorder import Recorder
from resnet_dist.summaries.dashboards import hyperparameters
from resnet_dist.summaries.pictures import COLUMNS, GAP, SAMPLES, confusion_picture, sample_grid
from resnet_dist.training.loop import train
from resnet_dist.training.state import Training
from resnet_dist.workers import alone
from tests.small_runs import small_config, small_dataset

DATASET = small_dataset(train=48, test=30)


def pixels(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def samples(config: TrainingConfig, dataset: Dataset = DATASET) -> list[NDArray[np.uint8]]:
    """The images of the grid of a run's training samples, [32, 32, 3] each."""
    grid = pixels(sample_grid(Training(config, dataset, alone("cpu")).batches).png)
    size = 32 + GAP
    return [
        grid[GAP + row : GAP + row + 32, GAP + column : GAP + column + 32]
        for row in range(0, grid.shape[0] - GAP, size)
        for column in range(0, COLUMNS * size, size)
    ]


def test_training_samples_without_augmentation_are_the_images_drawn() -> None:
    config = small_config(data__shift=0, data__flip=False, data__batch_size=40, run__precision="float32")
    drawn = Training(config, DATASET, alone("cpu")).batches.order.draw(0).indices[:SAMPLES]
    shown = samples(config)
    assert len(shown) == SAMPLES
    for image, index in zip(shown, drawn, strict=True):
        assert np.array_equal(image, DATASET.train_images[index].permute(1, 2, 0).numpy())


def test_training_samples_are_shifted_and_flipped_as_the_network_sees_them() -> None:
    config = small_config(data__batch_size=40)
    draw = Training(config, DATASET, alone("cpu")).batches.order.draw(0)
    colour = DATASET.mean.mean((1, 2)).round().numpy().astype(np.uint8)
    for index, image in enumerate(samples(config)):
        original = DATASET.train_images[draw.indices[index]].permute(1, 2, 0).numpy()
        back = image[:, ::-1] if draw.flips[index] else image
        down, right = draw.shifts[index]
        moved = np.roll(original, (down, right), (0, 1))
        inside = (slice(max(down, 0), 32 + min(down, 0)), slice(max(right, 0), 32 + min(right, 0)))
        assert np.array_equal(back[inside], moved[inside])
        gap = np.ones((32, 32), bool)
        gap[inside] = False
        assert (back[gap] == colour).all()


def test_a_batch_smaller_than_the_grid_leaves_it_white() -> None:
    shown = samples(small_config(data__batch_size=9))
    assert len(shown) == 2 * COLUMNS
    assert all((image == 255).all() for image in shown[9:])
    assert not any((image == 255).all() for image in shown[:9])


def test_a_confusion_matrix_is_darker_where_more_images_are() -> None:
    confusion = torch.tensor([[8, 0, 2], [0, 0, 10], [1, 1, 8]])
    names = ["", "", ""]
    shown = pixels(confusion_picture(confusion, names).png)
    margin, cell = 8, 25
    assert shown.shape == (margin + 3 * cell,) * 2 + (3,)
    corner = shown[margin + 3 :: cell, margin + 3 :: cell, 0].astype(int)  # beside the number, in each cell
    assert corner.shape == (3, 3)
    assert corner[1, 2] < corner[0, 0] == corner[2, 2] < corner[0, 2] < corner[2, 0] == corner[2, 1] < 255
    assert corner[0, 1] == corner[1, 0] == corner[1, 1] == 255


def test_each_cell_of_a_confusion_matrix_holds_its_per_cent_of_the_row() -> None:
    shown = pixels(confusion_picture(torch.tensor([[3, 1, 0], [0, 0, 4], [1, 3, 16]]), ["", "", ""]).png)
    margin, cell = 8, 25
    for (row, column), text in {(0, 0): "75", (0, 1): "25", (1, 2): "100", (2, 0): "5", (2, 1): "15"}.items():
        found = shown[margin + cell * row :, margin + cell * column :][:cell, :cell]
        alone = Image.new("RGB", (cell, cell), tuple(found[2, 2].tolist()))
        colour = "white" if int(text) > 50 else "black"
        ImageDraw.Draw(alone).text((cell // 2, cell // 2), text, colour, ImageFont.load_default(11), "mm")
        assert np.array_equal(found, np.asarray(alone)), (row, column)
    assert (shown[margin : margin + cell, margin + 2 * cell :] == 255).all(), "a cell of none is empty"


@pytest.mark.parametrize("named", [0, 2])
def test_names_stand_beside_their_row_and_above_their_column(named: int) -> None:
    names = ["", "", ""]
    names[named] = "a long name"
    shown = pixels(confusion_picture(torch.zeros(3, 3, dtype=torch.int64), names).png)
    dark = shown[:, :, 0] < 128
    margin, cell = shown.shape[0] - 3 * 25, 25
    rows = [dark[margin + cell * i : margin + cell * (i + 1), :margin].any() for i in range(3)]
    columns = [dark[:margin, margin + cell * i : margin + cell * (i + 1)].any() for i in range(3)]
    assert rows == columns == [i == named for i in range(3)]


def test_many_classes_are_colours_alone() -> None:
    shown = pixels(confusion_picture(torch.eye(100, dtype=torch.int64), ["class"] * 100).png)
    assert shown.shape == (600, 600, 3)
    assert (shown[:6, :6] < 128).any() and (shown[:6, 6:] == 255).all()


def values(folder: Path) -> Iterator[tuple[int, Any]]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    for file in sorted(folder.rglob("*tfevents*")):
        for event in EventFileLoader(str(file)).Load():
            yield from ((event.step, value) for value in event.summary.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingConfig, list[tuple[int, Any]]]:
    """The summaries of a run of four epochs, histograms after every second one."""
    folder = tmp_path_factory.mktemp("results")
    config = small_config(run__epochs=4, run__histogram_epochs=2, run__precision="float32")
    train(config, DATASET, alone("cpu"), Recorder(LocalStorage(folder), "grid", "trial", config))
    return config, list(values(folder))


def test_steps_do_not_go_back(run: tuple[TrainingConfig, list[tuple[int, Any]]]) -> None:
    last: dict[str, int] = {}
    for step, value in run[1]:
        assert step > last.get(value.tag, -1), value.tag
        last[value.tag] = step


def test_the_curve_of_learning_rates_has_the_rate_of_each_updates_own_epoch(
    run: tuple[TrainingConfig, list[tuple[int, Any]]],
) -> None:
    """Three updates an epoch, a point at the last of them; 0.1 is divided by 10 as the second epoch begins."""
    rates = {step: float(make_ndarray(v.tensor)) for step, v in run[1] if v.tag == "train/learning_rate"}
    assert rates == pytest.approx({3: 0.1, 6: 0.01, 9: 0.01, 12: 0.01})


def test_settings_are_told_once_and_the_end_at_the_end(run: tuple[TrainingConfig, list[tuple[int, Any]]]) -> None:
    config, found = run
    ((step, start),) = [(s, v) for s, v in found if v.tag == "_hparams_/session_start_info"]
    assert step == 0
    told = parse_session_start_info_plugin_data(start.metadata.plugin_data.content)
    shown = {name: getattr(v, str(v.WhichOneof("kind"))) for name, v in told.hparams.items()}
    assert shown == hyperparameters(config) and told.group_name == config.trial_id()
    assert (shown["data.holdout"], shown["schedule.warmup_iterations"], shown["run.exact"]) == (0, 0, False)
    assert shown["schedule.milestones"] == "1" and shown["solver.nesterov"] is True and shown["run.workers"] == 1
    assert not {"data.fingerprint", "run.histogram_epochs", "solver.alpha"} & shown.keys()
    ((step, end),) = [(s, v) for s, v in found if v.tag == "_hparams_/session_end_info"]
    assert step == 12
    assert parse_session_end_info_plugin_data(end.metadata.plugin_data.content).status == STATUS_SUCCESS


def test_curves_stand_before_pictures_and_histograms(run: tuple[TrainingConfig, list[tuple[int, Any]]]) -> None:
    """On TensorBoard's first page, which is in the order of tags."""
    tags: dict[str, set[str]] = {"scalars": {"validation/top1_error"}, "images": set(), "histograms": set()}
    for _, value in run[1]:
        name = value.metadata.plugin_data.plugin_name
        tags.get(name, set()).add(value.tag)
    assert len(tags["scalars"]) == 8 and len(tags["images"]) == 2 and tags["histograms"]
    assert max(tags["scalars"]) < min(tags["images"] | tags["histograms"])


def test_every_curve_of_the_layout_is_one_that_a_run_has(run: tuple[TrainingConfig, list[tuple[int, Any]]]) -> None:
    (layout,) = [value for _, value in run[1] if value.tag == "custom_scalars__config__"]
    charts = Layout.FromString(make_ndarray(layout.tensor).item()).category[0].chart
    wanted = {tag for chart in charts for tag in chart.multiline.tag}
    assert wanted and wanted <= {f"^{value.tag}$" for _, value in run[1]}


def test_histograms_count_every_weight_and_gradient(run: tuple[TrainingConfig, list[tuple[int, Any]]]) -> None:
    config, found = run
    network = Training(config, DATASET, alone("cpu")).network
    expected = {
        f"view_{kind}/{name.removesuffix('.weight')}": parameter.numel()
        for name, parameter in network.named_parameters()
        if parameter.ndim >= 2
        for kind in ("weights", "gradients")
    }
    assert len(expected) == 16
    histograms = [(step, v) for step, v in found if v.metadata.plugin_data.plugin_name == "histograms"]
    assert {step for step, _ in histograms} == {6, 12}
    for step in (6, 12):
        counted = {v.tag: int(make_ndarray(v.tensor)[:, 2].sum()) for at, v in histograms if at == step}
        assert counted == expected


def test_no_histograms_unless_asked_for(tmp_path: Path) -> None:
    config = small_config(run__epochs=1, schedule__milestones=[], run__precision="float32")
    train(config, DATASET, alone("cpu"), Recorder(LocalStorage(tmp_path), "grid", "trial", config))
    kinds = [value.metadata.plugin_data.plugin_name for _, value in values(tmp_path)]
    assert "histograms" not in kinds and kinds.count("images") == 2

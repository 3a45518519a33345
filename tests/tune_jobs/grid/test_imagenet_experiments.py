"""The experiments on ImageNet: the paper's numbers, the conditions they were had under, and that every row trains."""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.storage.local import LocalStorage
from resnet_dist.configuration.data import IMAGENET
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.known_sets import KNOWN_SETS, KnownSet
from resnet_dist.data.shard_index import read_index
from resnet_dist.errors import ConfigurationError, DataError
from resnet_dist.training.state import Training
from resnet_dist.workers import alone
from tests.imagenet_layout import small_shards
from tests.small_runs import small_dataset
from tune_jobs.actions.grid import plan_grid, run_grid
from tune_jobs.command_line import main
from tune_jobs.grid import calibration
from tune_jobs.grid.calibration import Calibration, Cost
from tune_jobs.grid.experiment import load_experiment, trials
from tune_jobs.grid.plan import make_plan

# Top-1 errors: He et al. 2015, tables 2 and 3 (ten crops); of CaffeNet, of the page that the document names.
PAPERS: dict[str, list[float | None]] = {
    "imagenet-depth": [0.2794, 0.2854, 0.2788, 0.2503, 0.2788, 0.2503, 0.2285, 0.2175, 0.2143],
    "imagenet-shortcut": [0.2503, 0.2452, 0.2419],
    "imagenet-blocks": [0.2503, None, None, None, None],
    "caffenet-batchnorm": [1 - 0.471, 1 - 0.478, 1 - 0.493],
    "caffenet-activation": [
        *(1 - 0.471, None, 1 - 0.469, 1 - 0.485, 1 - 0.478, 1 - 0.488, 1 - 0.470, 1 - 0.486),
        *(1 - 0.401, 1 - 0.423, 1 - 0.417, None, 1 - 0.517, 1 - 0.389),
    ],
}


def cells(name: str) -> list[Any]:
    return [cell for table in load_experiment(name).tables for cell in table.cells]


@pytest.mark.parametrize("name", PAPERS)
def test_rows_have_the_papers_numbers_and_its_recipe(name: str) -> None:
    found = cells(name)
    assert [cell.paper for cell in found] == pytest.approx(PAPERS[name])
    assert {cell.reference for cell in found} == {None}  # the document has words alone
    for cell in found:
        caffenet = name.startswith("caffenet")
        assert (cell.config.data.batch_size, cell.config.data.size) == (256, 128 if caffenet else 224)
        assert cell.config.solver.weight_decay == (5e-4 if caffenet else 1e-4)
        bottlenecks = cell.config.network.depth >= 50
        assert caffenet or name == "imagenet-shortcut" or (cell.config.network.shortcut == "B") == bottlenecks
    for table in load_experiment(name).tables:
        assert dict(table.reference_settings)["data.source"] == "imagenet:ILSVRC2012"


def test_a_row_that_stands_in_two_tables_is_one_trial() -> None:
    assert len(trials(load_experiment("imagenet-depth"), 1)) == 7


def reduced(config: TrainingConfig) -> TrainingConfig:
    """The same row on few and small images, with few channels."""
    caffenet = config.network.family == "caffenet"
    size = 224 if config.network.stem_and_head == "script" else 67 if caffenet else 32
    few: dict[str, Any] = {
        "data.source": "synthetic",
        "data.augmentation": "shift",
        "data.test_crops": "one",
        "network.width": 6 if caffenet else 2,
        "data.size": size,
        "data.batch_size": 4,
        "run.epochs": 1,
    }
    few |= {
        "solver.learning_rate": 1e-4,
        "batch_norm.momentum": 1,
    }  # or 152 layers evaluate to infinity after one update
    return config.override(few | ({"network.fully_connected": 8} if caffenet else {}))


@pytest.mark.parametrize("name", PAPERS)
def test_every_row_trains_at_reduced_size(name: str) -> None:
    losses = []
    for config in {cell.config: None for cell in cells(name)}:
        small = reduced(config)
        training = Training(small, small_dataset(train=8, test=4, size=small.data.size), alone("cpu"))
        before = [parameter.clone() for parameter in training.network.parameters()]
        training.start_epoch()
        losses.append(training.update().sum().item())
        assert any(not torch.equal(*pair) for pair in zip(before, training.network.parameters(), strict=True))
        assert training.test.evaluate(training.network, training.autocast()).finite
    assert all(0 < loss < 1000 for loss in losses) and len(set(losses)) == len(losses)


def test_shards_of_imagenet_itself_stand_beside_the_papers_numbers_and_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = small_shards(tmp_path)
    settings = {"data.source": f"shards:{shards}"}

    def deviating() -> list[str]:
        found = plan_grid("imagenet-shortcut", tmp_path / "results", settings=settings, measure=False)
        return [deviation.setting for deviation in found.experiment.deviations]

    assert deviating() == ["data.source"]
    index = read_index(LocalStorage(shards))
    assert index is not None
    names = hashlib.sha256(json.dumps(sorted(index.classes)).encode()).hexdigest()
    whole = int(index.train.length.sum()), int(index.test.length.sum())
    monkeypatch.setitem(KNOWN_SETS, IMAGENET, KnownSet(names, (24, 12), whole))
    assert deviating() == []
    for other in (
        KnownSet(names[::-1], (24, 12), whole),
        KnownSet(names, (25, 12), whole),  # an image was left out
        KnownSet(names, (24, 12), (2 * whole[0], whole[1])),  # a copy of smaller images
    ):
        monkeypatch.setitem(KNOWN_SETS, IMAGENET, other)
        assert deviating() == ["data.source"]


@pytest.mark.parametrize("name", [*PAPERS, "imagenet-torchvision"])
def test_imagenet_is_planned_before_it_is_at_hand_and_not_run(name: str, tmp_path: Path) -> None:
    plan = plan_grid(name, tmp_path / "results", seeds=1, measure=False)
    assert plan.experiment.deviations == () and not (tmp_path / "results").exists()
    epochs = plan.trials[0].trial.config.run.epochs
    assert {trial.steps for trial in plan.trials} == {epochs * -(-1_281_167 // 256)}
    with pytest.raises(DataError, match=r"is a name in recipes; make shards of the data set \(resnet-dist data shard"):
        run_grid(name, tmp_path / "results", seeds=1)


@pytest.mark.parametrize(("crops", "views"), [("one", 1), ("ten", 10), ("scales", 36)])
def test_hours_have_each_view_of_each_test_image(crops: str, views: int, tmp_path: Path) -> None:
    costs = Calibration("x", 1, lambda config: Cost(1.0, 0, 0))
    settings = {"data.test_crops": crops, "run.evaluation_epochs": 1}
    plan = make_plan("imagenet-shortcut", LocalStorage(tmp_path), 1, 1, settings, costs)
    # A test image costs a third of one to train on.
    share = 1 + views / 3 * 50_000 / 1_281_167
    assert plan.trials[0].hours == pytest.approx(-(-1_281_167 // 256) * share / 3600)


def test_a_plan_says_how_many_cores_decode_what_a_step_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibration, "_decoding", lambda data: 0.004 if data.is_streamed else 0.0)
    settings = ["--data.source", f"shards:{small_shards(tmp_path)}", "--data.size=32", "--data.batch_size=4"]
    settings += ["--network.width=2", "--network.depth=18", "--epochs=1", "--device=cpu", "--seeds=1"]
    small = 'name = "small"\npreset = "paper"\n[[table]]\nname = "t"\n[[table.cell]]\nlabel = "one"\n'
    (tmp_path / "small.toml").write_text(small)
    command = ["grid", "plan", str(tmp_path / "small.toml"), "--storage", str(tmp_path / "results"), *settings]
    assert main([*command, "--json"]) == 0
    (trial,) = json.loads(capsys.readouterr().out)["trials"]
    assert main(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    found = re.search(r"takes a core 4.0 ms: (\d+) cores? feed one .* in the fastest row, at ([\d,]+) images/s", said)
    assert found and int(found[1]) == math.ceil(trial["decoding_cores"])
    assert trial["decoding_cores"] == pytest.approx(0.004 * int(found[2].replace(",", "")), rel=0.02)


def test_decoding_is_timed_on_the_shards_themselves(tmp_path: Path) -> None:
    data = TrainingConfig.preset("paper").override({"data.source": f"shards:{small_shards(tmp_path)}"}).data
    assert 0 < calibration._decoding(data) < 1
    assert calibration._decoding(TrainingConfig().data) == 0


def test_presets_are_the_recipes_of_their_sources() -> None:
    paper, torchvision = TrainingConfig.preset("paper"), TrainingConfig.preset("torchvision")
    for recipe in (paper, torchvision):
        assert (recipe.solver.learning_rate, recipe.solver.momentum, recipe.solver.nesterov) == (0.1, 0.9, False)
        assert (recipe.data.batch_size, recipe.solver.weight_decay, recipe.data.size) == (256, 1e-4, 224)
    assert paper.run.epochs * 1_281_167 // 256 == pytest.approx(600_000, rel=0.01)
    assert (torchvision.run.epochs, torchvision.schedule.milestones) == (90, (30, 60))
    with pytest.raises(ConfigurationError, match=r"preset: 'papers' is not known; .* did you mean 'paper'"):
        TrainingConfig.preset("papers")

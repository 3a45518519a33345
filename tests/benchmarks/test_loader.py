import json
import sys
from pathlib import Path

import pytest

from benchmarks import forecast, loader
from benchmarks.gpu import imagenet
from tune_jobs.grid.experiment import load_experiment, trials


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "IMAGES", 16)
    monkeypatch.setattr(loader, "BATCH", 8)


def test_both_loaders_are_measured_in_turns(capsys: pytest.CaptureFixture[str]) -> None:
    targets = loader.measure(workers=1, rounds=2, seconds=0.05)
    assert [target.name for target in targets] == [
        "loader",
        "loader, images by processor time",
        "loader, growth of memory",
    ]
    assert all(target.reached is not None for target in targets)
    assert targets[0].reached is not None and targets[0].reached > 0
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[:2]] == list(loader.CONTENDERS)


def test_imagenet_on_a_gpu_is_rehearsed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["imagenet", "--rehearse", "--loaders", "1", "--steps", "1", "--rounds", "1"])
    imagenet.main()
    found = json.loads(capsys.readouterr().out)
    assert all(found[name]["images_per_second"] > 0 for name in ("synthetic", "shards", "torchvision"))


@pytest.mark.parametrize(("name", "count"), [("mixed depths", 6), ("many trials", 12), ("two workers", 4)])
def test_the_grids_that_are_foreseen_can_be_run(name: str, count: int, tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(forecast.RECIPE.format(name=name.replace(" ", "-"), **forecast.GRIDS[name]))
    experiment = load_experiment(str(file))
    assert experiment.seeds is not None
    assert len(trials(experiment, experiment.seeds)) == count

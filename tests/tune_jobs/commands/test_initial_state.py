"""Runs that begin from weights, and from a solver's state: `--network.weights`, `--network.reset`, `--solver.state`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.storage.local import LocalStorage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import ConfigurationError
from resnet_dist.extension import DecodedImages
from resnet_dist.records import checkpoints
from resnet_dist.records.initial_state import InitialState, fetch
from resnet_dist.records.recorder import Recorder
from resnet_dist.storage.interface import TrialKeys, weights_key
from resnet_dist.training.loop import train
from resnet_dist.training.state import Training
from resnet_dist.workers import alone
from tests.resnet_dist.networks.test_state_dicts import AkamastersNetwork, randomised
from tests.small_runs import small_config, small_dataset
from tune_jobs.command_line import main
from tune_jobs.grid.plan import make_plan

SMALL = ["--network.depth", "8", "--network.width", "4", "--data.batch_size", "20", "--schedule.milestones", ""]


def two_colours(classes: int = 10) -> DecodedImages:
    random = np.random.Generator(np.random.PCG64(5))
    labels = np.arange(60) % classes
    images = (random.integers(0, 150, (60, 3, 32, 32)) + 10 * labels[:, None, None, None]).astype(np.uint8)
    return DecodedImages(images[:40], labels[:40], images[40:], labels[40:], tuple(map(str, range(classes))))


@pytest.fixture(autouse=True)
def images(monkeypatch: pytest.MonkeyPatch, cache: Path) -> list[int]:
    """Small images in place of the built-in ones, of so many classes."""
    classes = [10]
    monkeypatch.setattr("resnet_dist.data.synthetic.synthetic_images", lambda size: two_colours(classes[0]))
    return classes


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """akamaster's file of an 8-layer network."""
    network = randomised(AkamastersNetwork(1, 4)).float()
    file = tmp_path / "resnet8.th"
    torch.save({"state_dict": {f"module.{name}": v for name, v in network.state_dict().items()}, "best": 1.0}, file)
    return file


def trained(storage: Path, *options: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    command = ["train", "--storage", str(storage), *SMALL, "--epochs", "1", "--json", *options]
    assert main(command) == 0, capsys.readouterr().err
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def network_of(storage: Path, trial: str) -> dict[str, torch.Tensor]:
    data = (storage / "train" / "trials" / trial / "model.pt").read_bytes()
    held: dict[str, torch.Tensor] = checkpoints.decode(data)["network"]
    return held


def test_a_run_begins_from_weights_and_is_another_trial_than_one_that_does_not(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = ["--solver.learning_rate", "1e-30", "--solver.weight_decay", "0"]
    drawn = trained(tmp_path / "r", *still, capsys=capsys)
    begun = trained(tmp_path / "r", *still, "--network.weights", str(weights), capsys=capsys)
    assert begun["trial"] != drawn["trial"]
    theirs = torch.load(weights, weights_only=True)["state_dict"]
    network = network_of(tmp_path / "r", begun["trial"])
    assert torch.equal(network["conv.weight"], theirs["module.conv1.weight"])
    assert network["conv.bias"].abs().max() < 1e-30
    config = json.loads((tmp_path / "r" / "train" / "trials" / begun["trial"] / "config.json").read_text())["config"]
    assert (tmp_path / "r" / weights_key(config["network"]["weights_fingerprint"])).is_file()
    # A trial of ours gives the same weights under another name, and the file is not needed any more.
    weights.unlink()
    place = f"train/{begun['trial']}"
    again = trained(tmp_path / "r", *still, "--network.weights", place, capsys=capsys)
    assert again["trial"] not in (begun["trial"], drawn["trial"])
    assert torch.equal(network_of(tmp_path / "r", again["trial"])["conv.weight"], network["conv.weight"])


def test_weights_that_are_not_those_of_the_trials_result_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (trained(tmp_path / "r", "--seed", seed, capsys=capsys)["trial"] for seed in "12")
    models = [tmp_path / "r" / "train" / "trials" / trial / "model.pt" for trial in (one, other)]
    models[0].write_bytes(models[1].read_bytes())
    assert main(["train", "--storage", str(tmp_path / "r"), *SMALL, "--network.weights", f"train/{one}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"train/trials/{one}/model.pt: is damaged or replaced: it is not the file" in line


def test_fine_tuning_draws_the_last_layer_for_other_classes(
    weights: Path, images: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images[0] = 4
    arguments = ["train", "--storage", str(tmp_path / "r"), *SMALL, "--epochs", "1", "--network.weights", str(weights)]
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "its linear.weight has the shape [10, 16], and this network's [4, 16]" in line
    assert line.endswith("give network.reset linear to begin that layer anew")
    assert not (tmp_path / "r" / "train").exists()
    result = trained(tmp_path / "r", "--network.weights", str(weights), "--network.reset", "linear", capsys=capsys)
    assert network_of(tmp_path / "r", result["trial"])["linear.weight"].shape == (4, 16)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("nothing.pth", "network.weights: nothing.pth: there is no such file"),
        ("train/0123", "network.weights: train/0123: no such trial in"),
        (
            "wrong.pth",
            "network.weights: wrong.pth: holds no weights (it is text that begins with 'hello'; no code in it is run)",
        ),
    ],
)
def test_weights_that_are_not_there_are_one_line(
    place: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong.pth").write_text("hello")
    assert main(["train", "--storage", str(tmp_path / "r"), *SMALL, "--network.weights", place]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and not (tmp_path / "r" / "train").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--network.weights_fingerprint", "ab" * 8], f".data/weights/{'ab' * 8}.pt: is missing, and so is the file"),
        (["--network.weights", "right.pth", "--network.weights_fingerprint", "ab" * 8], f"not {'ab' * 8}"),
        (["--network.weights", "folder.pth"], "network.weights: folder.pth: cannot be read: Is a directory"),
        (["--solver.kind", "adam", "--solver.state", "x"], "solver.state: is of no use to adam"),
        (["--network.reset", "linear"], "network.reset"),
    ],
)
def test_what_a_run_cannot_begin_from_is_one_line(
    options: list[str],
    said: str,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    weights.rename("right.pth")
    Path("folder.pth").mkdir()
    assert main(["train", "--storage", str(tmp_path / "r"), *SMALL, *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and not (tmp_path / "r" / "train").exists()


def test_what_was_put_into_storage_and_is_gone_is_one_line(tmp_path: Path) -> None:
    config = small_config().override(BOUND)
    with pytest.raises(ConfigurationError, match=r"network\.weights: .*f\.pt is missing; launch the run again"):
        fetch(config, LocalStorage(tmp_path))


def test_a_run_goes_on_with_the_solvers_state_of_another() -> None:
    dataset, workers = small_dataset(), alone("cpu")
    first = Training(small_config(), dataset, workers)
    for _ in range(3):
        first.start_epoch()
        first.update()
    state = first.state()
    begun = InitialState(state["network"], {"state": state["solver"]["state"]})
    bound = {"network.weights": "w", "network.weights_fingerprint": "f", "solver.state_fingerprint": "f"}
    config = small_config(solver__learning_rate=0.01).override(bound)
    second = Training(config, dataset, workers, begun)
    kept = [second.solver.state[parameter]["momentum_buffer"] for parameter in second.network.parameters()]
    buffers = [state["solver"]["state"][index]["momentum_buffer"] for index in range(len(kept))]
    assert all(torch.equal(*pair) for pair in zip(kept, buffers, strict=True)) and any(map(torch.any, kept))
    assert second.step == 0 and second.rate_at(0) == 0.01
    with pytest.raises(ConfigurationError, match=r"solver\.state: f: is of a run of another network"):
        Training(small_config(network__width=3).override({"solver.state_fingerprint": "f"}), dataset, workers,
                 InitialState(None, begun.solver))  # fmt: skip


def test_a_solvers_state_is_that_of_an_unfinished_trials_newest_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = LocalStorage(tmp_path / "r")
    config = TrainingConfig().override({"network.depth": 8, "network.width": 4})
    keys = TrialKeys("first", config.trial_id())
    storage.put(keys.config, json.dumps({"layout": 1, "name": "first", "config": config.to_dict()}).encode())
    training = Training(small_config(network__width=4, run__precision="float32"), small_dataset(), alone("cpu"))
    training.start_epoch()
    training.update()
    checkpoints.Checkpoints(storage, keys.checkpoints, config.identity()).write(1, checkpoints.encode(training.state()))
    place = f"first/{config.trial_id()}"
    both = ["--network.weights", place, "--solver.state", place]
    result = trained(tmp_path / "r", *both, capsys=capsys)
    assert result["trial"] != trained(tmp_path / "r", "--network.weights", place, capsys=capsys)["trial"]
    assert main(["train", "--storage", storage.uri, *SMALL, "--solver.state", f"train/{result['trial']}"]) == 1
    assert "has no checkpoint; it is finished, and its checkpoints are gone" in capsys.readouterr().err


BOUND = {"network.weights": "w", "network.weights_fingerprint": "f"}


def test_a_run_from_weights_that_is_interrupted_ends_with_the_same_bits(tmp_path: Path) -> None:
    config = small_config(run__epochs=1, run__checkpoint_steps=2).override(BOUND)
    dataset = small_dataset()
    weights = Training(small_config(run__seed=5), dataset, alone("cpu")).network.state_dict()
    steps: list[int] = []

    def run(folder: str, stop_at: int) -> bytes | None:
        storage = LocalStorage(tmp_path / folder)

        def on_step(step: int, loss: torch.Tensor) -> None:
            steps.append(step)
            if step == stop_at:
                raise KeyboardInterrupt

        recorder = Recorder(storage, "runs", "n", config)
        train(config, dataset, alone("cpu"), recorder, on_step=on_step, initial=InitialState(weights))
        return storage.get(TrialKeys("runs", config.trial_id()).model)

    with pytest.raises(KeyboardInterrupt):
        run("interrupted", stop_at=3)
    assert run("interrupted", stop_at=0) == run("whole", stop_at=0)
    assert steps == [1, 2, 3, *range(3, 7), *range(1, 7)], "it goes on after its checkpoint"


def test_a_plan_knows_weights_by_their_content_and_writes_nothing(weights: Path, tmp_path: Path) -> None:
    text = """
    name = "begun"
    [recipe.network]
    depth = 8
    width = 4
    [[table]]
    name = "begun"
    [[table.cell]]
    label = "drawn"
    [[table.cell]]
    label = "begun"
    set = {{ "network.weights" = "{}" }}
    """
    storage = LocalStorage(tmp_path / "r")
    copy = weights.with_name("copy.th")
    copy.write_bytes(weights.read_bytes())
    plans = []
    for file in (weights, copy):
        (tmp_path / "begun.toml").write_text(text.format(file))
        plans.append(make_plan(str(tmp_path / "begun.toml"), storage, 1, None, {}))
    ids, again = ([planned.trial.trial_id for planned in plan.trials] for plan in plans)
    assert ids == again and len(set(ids)) == 2
    assert len({planned.trial.name for planned in plans[0].trials}) == 2
    assert not (tmp_path / "r").exists()

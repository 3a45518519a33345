"""What a run reports, and when it has diverged."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cluster.storage.opening import open_storage
from resnet_dist.data.batches import Standardiser
from resnet_dist.data.sharded import ShardedDataset
from resnet_dist.errors import DivergedError
from resnet_dist.records.model_file import read_model
from resnet_dist.records.recorder import Recorder
from resnet_dist.records.trial_record import decode_mask, error_text, parse_result
from resnet_dist.training import loop
from resnet_dist.training.loop import train
from resnet_dist.training.state import Training
from resnet_dist.workers import alone
from tests.small_runs import small_config, small_dataset


def test_the_result_is_the_last_epochs_and_not_the_best(tmp_path: Path) -> None:
    config = small_config(run__epochs=4, schedule__milestones=[])
    recorder = Recorder(open_storage(str(tmp_path)), "training", "trial", config)
    lines: list[dict[str, Any]] = []
    result = train(config, small_dataset(test=50), alone("cpu"), recorder, on_epoch=lines.append)
    errors = [line["top1_error"] for line in lines]
    assert errors[-1] > min(errors), "the case must have a best epoch before the last"
    for name in ("top1_error", "top5_error", "test_loss", "train_loss"):
        assert result[name] == lines[-1][name]
    assert result["best_top1_error"] == min(errors)
    assert (result["epochs"], result["steps"]) == (4, lines[-1]["step"])
    wrong = decode_mask(result["wrong_images"], result["test_images"])
    assert (len(wrong), wrong.mean()) == (50, pytest.approx(errors[-1]))


def test_the_result_has_the_time_of_all_epochs_and_the_mean_of_their_throughputs(tmp_path: Path) -> None:
    config = small_config(run__epochs=3, schedule__milestones=[])
    recorder = Recorder(open_storage(str(tmp_path)), "training", "trial", config)

    def timed(line: dict[str, Any]) -> None:
        line |= {"seconds": 2.0 ** line["epoch"], "images_per_second": 100.0 * 2 ** line["epoch"]}

    result = train(config, small_dataset(), alone("cpu"), recorder, on_epoch=timed)
    assert result["seconds"] == 2 + 4 + 8
    assert result["images_per_second"] == pytest.approx((200 + 400 + 800) / 3, abs=0.05)


def test_after_an_interruption_inside_an_epoch_its_time_is_that_of_the_whole_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, now = small_config(run__checkpoint_steps=2), [1000.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def attempt(stop_at: int = 0) -> dict[str, Any]:
        def on_step(step: int, _: torch.Tensor) -> None:
            now[0] += 3.0
            if step == stop_at:
                raise InterruptedError

        recorder = Recorder(open_storage(str(tmp_path)), "training", "trial", config)
        return train(config, small_dataset(), alone("cpu"), recorder, on_step=on_step)

    with pytest.raises(InterruptedError):
        attempt(stop_at=10)
    assert attempt()["seconds"] == 36.0, "two epochs of six steps; four of the second one's are done again"


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_final_weights_are_those_of_the_test_error(tmp_path: Path, decay: float) -> None:
    config, dataset = small_config(solver__average_decay=decay), small_dataset(test=50)
    recorder = Recorder(open_storage(str(tmp_path)), "training", "trial", config)
    result = train(config, dataset, alone("cpu"), recorder)
    model = read_model(tmp_path / recorder.keys.model)
    assert model.mean is not None
    with torch.no_grad():
        logits = model.network.double().eval()((dataset.test_images - model.mean) / model.std)
    assert F.cross_entropy(logits, dataset.test_labels).item() == pytest.approx(result["test_loss"], rel=1e-5)
    assert (logits.argmax(1) != dataset.test_labels).double().mean().item() == pytest.approx(result["top1_error"])


def test_a_run_that_is_evaluated_every_second_epoch_and_at_the_end_is_the_same_run(tmp_path: Path) -> None:
    config = small_config(run__epochs=3, schedule__milestones=[])
    seldom = config.override({"run.evaluation_epochs": 2})
    assert seldom.trial_id() == config.trial_id()
    results, lines = [], []
    for each in (config, seldom):
        recorder = Recorder(open_storage(str(tmp_path / str(each.run.evaluation_epochs))), "training", "trial", each)
        results.append(train(each, small_dataset(test=50), alone("cpu"), recorder))
        lines.append([{**line, "seconds": 0, "images_per_second": 0} for line in recorder.lines.values()])
    evaluated = {"test_loss", "top1_error", "top5_error"}
    expected = [{name: line[name] for name in line if name not in evaluated} for line in lines[0][:1]] + lines[0][1:]
    assert lines[1] == expected
    assert results[0]["wrong_images"] == results[1]["wrong_images"]
    assert results[1]["best_top1_error"] == min(line["top1_error"] for line in lines[0][1:])
    assert error_text(lines[1][0]) == "\N{EN DASH}"


@pytest.mark.parametrize(("images", "said"), [(16, "the test loss is nan"), (32, "the training loss is nan")])
def test_a_loss_that_is_not_finite_is_divergence_and_leaves_no_result(tmp_path: Path, images: int, said: str) -> None:
    """The loss of a run's first batch is that of its initial weights, whatever the first update makes of them."""
    config = small_config(run__epochs=1, schedule__milestones=[], run__precision="float32", solver__learning_rate=1e30)
    recorder = Recorder(open_storage(str(tmp_path)), "training", "trial", config)
    with pytest.raises(DivergedError, match=f"^{said} in epoch 1; a lower solver.learning_rate may help$"):
        train(config, small_dataset(train=images), alone("cpu"), recorder)
    assert recorder.result() is None and recorder.lines == {}


def after_one_epoch() -> Training:
    config = small_config(run__epochs=1, schedule__milestones=[], data__holdout=10)
    dataset = small_dataset(train=16)
    dataset = replace(dataset, validation_images=dataset.test_images, validation_labels=dataset.test_labels)
    training = Training(config, dataset, alone("cpu"))
    training.start_epoch()
    training.update()
    return training


def test_the_validation_error_is_the_top1_error_of_images_that_are_held_out() -> None:
    training = after_one_epoch()  # which holds out the test images
    line = training.epoch_line(training.epoch_losses(), 1.0, None)
    assert line["validation_error"] == line["top1_error"] != line["top5_error"]


def test_running_statistics_that_are_not_finite_are_divergence_though_all_losses_are() -> None:
    training = after_one_epoch()
    training.network.state_dict()["norm.running_var"][0] = torch.inf
    with pytest.raises(DivergedError, match="weights, running statistics or outputs of the network are not finite in"):
        training.epoch_line(training.epoch_losses(), 1.0, None)


def test_a_validation_loss_that_is_not_finite_is_divergence() -> None:
    training = after_one_epoch()
    assert training.validation
    mean = training.dataset.mean * torch.nan
    training.validation.standardise = Standardiser(mean, 1.0, torch.float64, training.workers.device)
    with pytest.raises(DivergedError, match="the validation loss is nan in epoch 1"):
        training.epoch_line(training.epoch_losses(), 1.0, None)


def test_an_earlier_versions_result_without_a_test_loss_is_none(tmp_path: Path) -> None:
    storage, config = open_storage(str(tmp_path)), small_config()
    recorder = Recorder(storage, "training", "trial", config)
    result = train(config, small_dataset(), alone("cpu"), recorder)
    assert recorder.result() == result
    record = parse_result(storage.get(recorder.keys.result) or b"", config.trial_id())
    storage.put(recorder.keys.result, json.dumps(record | {"test_loss": None}).encode())
    assert recorder.result() is None


def test_a_last_line_of_an_earlier_version_without_a_test_loss_is_divergence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = interrupted_before_its_result(tmp_path, monkeypatch)
    storage, config = recorder.storage, recorder.config
    recorder.lines[2]["test_loss"] = None
    checkpoint = recorder.checkpoints.latest()
    assert checkpoint
    recorder.checkpoint(12, checkpoint.data)
    again = Recorder(storage, "training", "trial", config)
    with pytest.raises(DivergedError, match="a loss of its last epoch is not finite"):
        train(config, small_dataset(), alone("cpu"), again)
    assert storage.get(again.keys.result) is None


def test_a_run_that_was_interrupted_between_its_last_checkpoint_and_its_result_has_the_digests_of_all_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = interrupted_before_its_result(tmp_path, monkeypatch)
    storage, config = recorder.storage, recorder.config
    train(config, small_dataset(), alone("cpu"), Recorder(storage, "training", "trial", config))
    files = parse_result(storage.get(recorder.keys.result) or b"", config.trial_id())["files"]
    assert files["metrics.jsonl"]["sha256"] == hashlib.sha256(storage.get(recorder.keys.metrics) or b"").hexdigest()
    assert {"config.json", "provenance.json", "model.pt"} < files.keys()


def test_the_training_loss_of_an_epoch_is_that_of_its_images_though_the_last_batch_has_fewer() -> None:
    config = small_config(data__sampling="permutation", data__batch_size=16)
    training = Training(config, small_dataset(train=20), alone("cpu"))
    training.start_epoch()
    for _ in range(2):
        training.update()
    line = training.epoch_line([1.0, 2.0], 0.5, None, evaluate=False)
    assert line["train_loss"] == pytest.approx((16 * 1 + 4 * 2) / 20)
    assert (line["epoch"], line["step"], line["images_per_second"]) == (1, 2, 40)
    assert line["learning_rate"] == 0.1, "of the epoch's own updates: the next one's is 0.01"


def interrupted_before_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Of a run that has written its last checkpoint."""
    recorder = Recorder(open_storage(str(tmp_path)), "training", "trial", config := small_config())
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(recorder, "finish", interrupt)
        train(config, small_dataset(), alone("cpu"), recorder)
    return recorder


def interrupt(*_: object) -> None:
    raise InterruptedError


@pytest.mark.parametrize("source", ["initialisation", "order", "augmentation"])
def test_each_source_of_randomness_follows_its_own_seed_or_else_the_runs(source: str) -> None:
    def drawn(**settings: int) -> dict[str, Any]:
        config = small_config(**{f"run__{name}": value for name, value in settings.items()})
        training = Training(config, small_dataset(train=16), alone("cpu"))
        draw = training.batches.order.draw(0)
        weights = training.network.state_dict()["linear.weight"].tolist()
        shifts = [draw.shifts.tolist(), draw.flips.tolist()]
        return {"initialisation": weights, "order": draw.indices.tolist(), "augmentation": shifts}

    one, other = drawn(seed=1), drawn(seed=2)
    assert all(one[name] != other[name] for name in one)
    assert drawn(seed=1, **{f"seed_{source}": 2}) == one | {source: other[source]}


def test_the_result_has_what_all_workers_have_asked_of_the_shards() -> None:
    dataset = object.__new__(ShardedDataset)
    here = {"data_requests": 5, "data_bytes": 700, "data_retries": 1}
    elsewhere = torch.tensor([10, 2_000, 0])
    workers = SimpleNamespace(sum=lambda counts: counts + elsewhere, device=torch.device("cpu"), is_first=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardedDataset, "reads", lambda _: here)
        found = loop._reads(SimpleNamespace(dataset=dataset, workers=workers))  # type: ignore[arg-type]
    assert found == {"data_requests": 15, "data_bytes": 2_700, "data_retries": 1}

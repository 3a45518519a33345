"""What a run reports."""

from pathlib import Path
from typing import Any

from cluster.storage.opening import open_storage
from resnet_dist.records.recorder import Recorder
from resnet_dist.training.loop import train
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

"""The whole path of a large data set on S3: archives, shards, training, evaluation, export, report."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest import CaptureFixture

from cluster.storage.opening import open_storage
from resnet_dist.configuration.data import DataConfig
from resnet_dist.data.dataset import Dataset, open_dataset
from resnet_dist.data.sharded import ShardedDataset
from resnet_dist.errors import DataError
from tests.imagenet_layout import write_folder, write_imagenet
from tests.s3_proxy import s3_proxy
from tests.small_runs import small_config, trace
from tune_jobs.command_line import main

SETTINGS = {
    "--data.size": "32",
    "--data.sampling": "permutation",
    "--data.augmentation": "paper",
    "--data.batch_size": "16",
    "--network.family": "imagenet-residual",
    "--network.depth": "18",
    "--network.width": "2",
    "--epochs": "2",
    "--schedule.milestones": "",
    "--solver.learning_rate": "0.01",
    "--device": "cpu",
}


def printed(capsys: CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_imagenets_archives_become_a_report(
    bucket: str,
    s3_environment: str,
    tmp_path: Path,
    capsys: CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = write_imagenet(tmp_path / "archives")
    dest, results = f"s3://{bucket}/imagenet", f"s3://{bucket}/results"
    shard = ["data", "shard", f"imagenet:{root}", dest, "--json"]
    assert main(shard) == 0 and printed(capsys)["written"] is True
    assert main(shard) == 0 and (said := printed(capsys))["written"] is False
    assert (said["train_images"], said["test_images"], said["classes"]) == (24, 12, 3)

    options = [word for name, value in SETTINGS.items() for word in (f"{name}={value}",)]
    train = ["train", "--storage", results, f"--data.source=shards:{dest}", *options, "--json"]
    with s3_proxy(s3_environment) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        refused: list[str] = []

        def once_each(method: str, path: str) -> int:
            """Each shard is refused when it is first asked for."""
            if method != "GET" or ".tar" not in path or path in refused:
                return 0
            refused.append(path)
            return 503

        proxy.refuse = once_each
        assert main(train) == 0
        assert len(refused) == 2
    assert "2 of " in caplog.text and "requests for shards were made again" in caplog.text
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_environment)
    result = printed(capsys)
    assert result["data_retries"] == 2 and result["data_bytes"] > 0
    trial = str(result["trial"])
    storage = open_storage(results)
    keys = [item.key for item in storage.list("train/")]
    assert f"train/trials/{trial}/result.json" in keys
    model = tmp_path / "model.pt"
    model.write_bytes(storage.get(f"train/trials/{trial}/model.pt") or b"")
    assert main(["evaluate", str(model), "--device", "cpu", "--json"]) == 0
    evaluated = printed(capsys)
    assert evaluated["top1_error"] == result["top1_error"] and evaluated["data_fingerprint"] == said["fingerprint"]
    assert main(["evaluate", str(model), "--device", "cpu", "--json", "--data.test_crops", "scales"]) == 0
    assert printed(capsys)["test_loss"] != evaluated["test_loss"]
    monkeypatch.chdir(tmp_path)
    assert main(["export", trial, "--storage", results, "--format", "safetensors"]) == 0
    assert main(["grid", "report", "train", "--storage", results]) == 0
    report = (storage.get("train/report/report.md") or b"").decode()
    assert "crops: paper" in report and "shifts up to" not in report


def test_a_network_trains_to_the_same_bits_from_shards_as_from_memory(bucket: str, tmp_path: Path) -> None:
    """Images of their own sizes, in memory as the shards' reader scales and orders them."""
    dest = f"s3://{bucket}/folder"
    assert main(["data", "shard", f"folder:{write_folder(tmp_path / 'folder')}", dest]) == 0
    config = small_config(
        network__family="imagenet-residual",
        network__depth=18,
        data__source=f"shards:{dest}",
        data__size=96,  # larger than any of them
        data__batch_size=6,
        solver__learning_rate=0.01,
    )
    streamed = open_dataset(config.data)
    assert isinstance(streamed, ShardedDataset)
    values = {field.name: getattr(streamed, field.name) for field in fields(Dataset)}
    for name in ("train_images", "validation_images", "test_images"):
        images = values[name]
        held = [images[place] for place in range(len(images))]
        values[name] = torch.stack(held) if held else torch.empty(0, 3, 96, 96, dtype=torch.uint8)
    memory = Dataset(**values)
    from_shards, from_memory = trace(config, streamed, 5), trace(config, memory, 5)
    assert from_shards.losses == from_memory.losses and len(set(from_shards.losses)) == 5
    assert from_shards.evaluation == from_memory.evaluation
    assert all(torch.equal(value, from_memory.state[name]) for name, value in from_shards.state.items())


def test_an_index_is_not_taken_for_one_of_other_images(bucket: str, tmp_path: Path) -> None:
    root, dest = write_imagenet(tmp_path / "archives"), f"s3://{bucket}/imagenet"
    assert main(["data", "shard", f"imagenet:{root}", dest]) == 0
    with pytest.raises(DataError, match=r"has the fingerprint \w+, not 0123456789abcdef"):
        open_dataset(DataConfig(source=f"shards:{dest}", batch_size=2, fingerprint="0123456789abcdef"))

"""How many threads a run has is a setting, one unless given: `train` has the bits of a grid's trial on any machine."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.storage.opening import open_storage
from resnet_dist.data.dataset import dataset_fingerprint
from resnet_dist.launch import Job, run_in_process
from tests.small_runs import small_config


@pytest.fixture(params=[1, 3])
def threads_of_process(request: pytest.FixtureRequest) -> Iterator[int]:
    """Of the process in which a run begins: Ray's have one, a machine's own as many as it has processors."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def threads_recorded(storage: Path, cache: Path, **settings: Any) -> int:
    config = small_config(run__epochs=1, schedule__milestones=[], data__train_limit=32, data__test_limit=8, **settings)
    job = Job(
        config.with_fingerprint(dataset_fingerprint(config.data)),
        "e",
        "n",
        functools.partial(open_storage, str(storage)),
    )
    run_in_process(job)
    return int(json.loads((storage / job.keys.provenance).read_text())["threads"])


@pytest.mark.parametrize(("settings", "threads"), [({}, 1), ({"run__threads": 2}, 2)])
def test_a_run_has_the_threads_of_its_settings_and_not_those_of_its_process(
    threads_of_process: int, settings: dict[str, Any], threads: int, tmp_path: Path, cache: Path
) -> None:
    assert threads_recorded(tmp_path, cache, **settings) == threads
    assert torch.get_num_threads() == threads_of_process


def test_threads_are_no_part_of_what_a_run_is() -> None:
    assert small_config(run__threads=2).trial_id() == small_config().trial_id()

"""Settings of Ray's core that it cannot read are said, and end no process by a signal."""

import subprocess
import sys

import pytest

from cluster.ray_cluster.core_settings import require_core_settings
from cluster.ray_cluster.jobs import Jobs
from resnet_dist.errors import UserError
from tune_jobs.actions.grid import run_grid


@pytest.fixture
def as_before_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not imported Ray yet."""
    monkeypatch.delitem(sys.modules, "ray._raylet", raising=False)


def test_each_that_is_no_number_is_named_and_no_other(as_before_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_memory_usage_threshold", "nonsense")
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "abc")
    monkeypatch.setenv("RAY_gcs_server_request_timeout_seconds", "60")
    with pytest.raises(UserError) as caught:
        require_core_settings()
    assert str(caught.value).startswith(
        "Ray's core cannot read RAY_memory_usage_threshold='nonsense', RAY_worker_register_timeout_seconds='abc', and"
    )


def test_before_anything_begins(as_before_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_memory_usage_threshold", "nonsense")
    for begin in (Jobs, lambda: run_grid("demo", "s3://bucket")):
        with pytest.raises(UserError, match="Ray's core cannot read"):
            begin()


def test_what_it_can_read_passes_and_where_there_is_none_nothing_is_started(
    as_before_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.9")
    require_core_settings()
    monkeypatch.delenv("RAY_memory_usage_threshold")
    monkeypatch.setattr(subprocess, "run", None)
    require_core_settings()

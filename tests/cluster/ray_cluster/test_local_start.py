"""A local Ray, as `connected` starts it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from cluster.ray_cluster import own_ray
from cluster.ray_cluster.connection import connected
from resnet_dist.errors import UserError


@pytest.fixture(autouse=True)
def worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray is started here: nor is its worker asked."""
    monkeypatch.setattr(own_ray, "require_worker", lambda: None)


@pytest.mark.parametrize("folder", ["/home/one", "/home/two words/größe", "/home/it's"])
def test_workers_are_started_with_the_path_of_python_whatever_is_in_it(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own default, and what it is told, become words of a line for a shell."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(sys, "executable", python := f"{folder}/.venv/bin/python")
    monkeypatch.setattr(ray, "init", lambda *_, **options: asked.append(options))
    own_ray.start()
    assert asked[0]["_system_config"] == {"prestart_worker_first_driver": False}, "it would wait for workers for ever"
    environment = asked[0]["runtime_env"] or {"py_executable": python}
    assert shlex.split(f"exec {environment['py_executable']}") == ["exec", python]


BUSY = f"The current node {own_ray.TIMED_OUT}. This could happen because some of the raylet failed to startup"


@pytest.mark.parametrize(("failures", "tries"), [([BUSY] * 2, 3), ([BUSY] * 3, 3), (["no space left"], 1)])
def test_a_start_that_a_busy_machine_made_too_slow_is_tried_again(
    failures: list[str], tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, asked = iter(failures), []

    def init(*_: Any, **options: Any) -> None:
        asked.append(options)
        for failure in left:
            raise RuntimeError(failure)

    monkeypatch.setattr(ray, "init", init)
    if len(failures) < tries:
        own_ray.start()
    else:
        with pytest.raises(RuntimeError, match=failures[0].split(".")[0]):
            own_ray.start()
    assert len(asked) == tries


def test_what_is_left_of_a_start_that_failed_is_ended_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = subprocess.Popen(["sleep", "600"])
    started = list[subprocess.Popen[bytes]]()

    def init(*_: Any, **__: Any) -> None:
        assert all(process.poll() is not None for process in started)
        started.append(subprocess.Popen(["sleep", "600"], start_new_session=True))
        if len(started) < 3:
            raise RuntimeError(BUSY)

    monkeypatch.setattr(ray, "init", init)
    try:
        own_ray.start()
        assert [process.poll() is None for process in (*started, mine)] == [False, False, True, True]
    finally:
        for process in (*started, mine):
            process.kill()
            process.wait()


def test_why_it_cannot_start_and_what_to_do_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> None:
        raise RuntimeError(f"{BUSY}.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(own_ray, "start", start)
    with pytest.raises(UserError, match=r"failed to startup; try again when the machine is less busy$"), connected():
        pass


def test_a_directory_of_another_user_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(own_ray, "LONGEST_DIRECTORY", 1000)
    own_ray.require_directory()
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(UserError, match=f"{tmp_path} is of user .* and cannot be written; set RAY_TMPDIR to a short"):
        own_ray.require_directory()


def test_a_directory_that_is_too_deep_for_sockets_or_a_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "deep/" * 10)
    with pytest.raises(UserError, match="whose path is too long for its sockets; set RAY_TMPDIR"):
        own_ray.require_directory()
    monkeypatch.setenv("RAY_TMPDIR", "/dev/null")
    with pytest.raises(UserError, match="/dev/null is no directory; set RAY_TMPDIR"):
        own_ray.require_directory()


def test_an_empty_name_of_rays_directory_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "")
    own_ray.require_directory()
    assert "RAY_TMPDIR" not in os.environ


def test_workers_that_do_not_start_are_noticed_and_the_log_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    (tmp_path / "worker-1.err").write_text("Traceback\nImportError: no module named ray\n")
    node = SimpleNamespace(get_logs_dir_path=lambda: str(tmp_path))
    monkeypatch.setattr(ray._private.worker.global_worker, "node", node)
    monkeypatch.setattr(ray, "remote", lambda **_: lambda _: SimpleNamespace(remote=lambda: "asked"))
    monkeypatch.setattr(ray, "wait", lambda asked, timeout: ([], asked))
    with pytest.raises(UserError, match=f"has started in 180 s: ImportError: no module named ray; see {tmp_path}"):
        own_ray.require_worker()

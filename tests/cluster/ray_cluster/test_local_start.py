"""A local Ray, as `connected` starts it."""

import shlex
import sys
from typing import Any

import pytest
import ray

from cluster.ray_cluster import connection


@pytest.mark.parametrize("folder", ["/home/one", "/home/two words/größe", "/home/it's"])
def test_workers_are_started_with_the_path_of_python_whatever_is_in_it(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own default, and what it is told, become words of a line for a shell."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(sys, "executable", python := f"{folder}/.venv/bin/python")
    monkeypatch.setattr(ray, "init", lambda *_, **options: asked.append(options))
    connection._start_local()
    environment = asked[0]["runtime_env"] or {"py_executable": python}
    assert shlex.split(f"exec {environment['py_executable']}") == ["exec", python]


BUSY = f"The current node {connection._TIMED_OUT}. This could happen because some of the raylet failed to startup"


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
        connection._start_local()
    else:
        with pytest.raises(RuntimeError, match=failures[0].split(".")[0]):
            connection._start_local()
    assert len(asked) == tries

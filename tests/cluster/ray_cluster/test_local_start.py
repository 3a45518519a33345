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

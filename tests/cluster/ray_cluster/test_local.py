"""`cluster up` without Ray: what is left of a start that fails, and the Python that it starts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.ray_cluster import local, own_ray
from cluster.ray_cluster.local import down, up
from resnet_dist.errors import UserError


def test_a_start_that_cannot_be_put_on_record_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("RESNET_DIST_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(own_ray, "LONGEST_DIRECTORY", 1000)
    with pytest.raises(UserError, match="set RESNET_DIST_CACHE to another directory"):
        up(nodes=1, cpus=1)
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("name", ["results", "rd-abc"])
def test_a_damaged_record_has_no_directory_of_others_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setenv("RESNET_DIST_CACHE", str(tmp_path))
    record = {"dashboard": "http://127.0.0.1:9", "address": "", "directory": str(tmp_path / name), "nodes": []}
    (tmp_path / "cluster.json").write_text(json.dumps(record))
    down()
    assert (tmp_path / name).exists() == (name == "results")


def test_more_nodes_than_the_machine_has_memory_for_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNET_DIST_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"--nodes 1000000: .* GiB; give \d+ or fewer, and --cpus for more places"):
        up(nodes=1_000_000, cpus=1)


def test_a_place_that_is_too_deep_for_rays_sockets_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNET_DIST_CACHE", str(tmp_path))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 60)))
    with pytest.raises(UserError, match="x/rd-xxxxxxxx/1, whose path is too long for its sockets; set RAY_TMPDIR to a"):
        up(nodes=2, cpus=1)
    assert not (tmp_path / ("x" * 60)).exists()


def test_python_has_a_path_that_a_shell_may_have_without_quotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = sys.prefix
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3.11")
    assert str(local.plain_python(str(tmp_path))) == sys.executable
    (tmp_path / "ein Ördner").symlink_to(environment)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "ein Ördner" / "bin" / "python"))
    python = local.plain_python(str(tmp_path))
    assert python == local.plain_python(str(tmp_path)) == tmp_path / "python" / "bin" / "python"
    said = subprocess.check_output([python, "-c", "import sys, ray; print(sys.executable)"], text=True)
    assert said.strip() == str(python), "Ray is there, too, and starts others by the same path"

"""`cluster up` without Ray: what is left of a start that fails."""

import json
import tempfile
from pathlib import Path

import pytest

from cluster.ray_cluster.local import down, up
from resnet_dist.errors import UserError


def test_a_start_that_cannot_be_put_on_record_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("RESNET_DIST_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
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

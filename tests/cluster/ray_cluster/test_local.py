"""`cluster up` without Ray: what is left of a start that fails."""

import tempfile
from pathlib import Path

import pytest

from cluster.ray_cluster.local import up
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

"""`resnet-dist storage flush --dry-run`: what waits, and is left alone."""

import json
from pathlib import Path

import pytest

from resnet_dist.spooled_storage import SpooledStorage, flush
from tests.unreliable_storage import UnreliableStorage
from tune_jobs.command_line import main


def test_a_dry_run_names_the_trials_whose_writes_wait_and_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RESNET_DIST_SPOOL", str(tmp_path / "spool"))
    storage = UnreliableStorage(tmp_path / "results")
    spooled = SpooledStorage(storage, "grid", "ab" * 8, patience=0)
    storage.broken = True
    spooled.put("a", b"1")
    spooled.close()
    waiting = f"{storage.uri}/grid/{'ab' * 8}"
    storage.broken = False
    for where in ([], [storage.uri]):
        assert main(["storage", "flush", *where, "--dry-run"]) == 0
        assert capsys.readouterr().out.splitlines() == [waiting, "Writes of 1 trials wait on this host; none was made."]
    assert storage.done == []
    assert main(["storage", "flush", str(tmp_path / "others"), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert flush(storage, "grid", "ab" * 8) == (1, 0)
    assert main(["storage", "flush", "--dry-run"]) == 0
    assert capsys.readouterr().out == "Nothing waits.\n"

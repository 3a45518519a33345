"""`resnet-dist storage flush`: what waits is made, or named and left alone."""

import json
from pathlib import Path

import pytest

from cluster.storage.keys import BrowsableStorage
from cluster.storage.opening import open_storage
from resnet_dist.errors import StorageError
from resnet_dist.storage.sending import SpooledStorage, flush
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
        assert capsys.readouterr().out.splitlines() == [waiting, "Writes of 1 trial wait on this host; none was made."]
    assert storage.done == []
    assert main(["storage", "flush", str(tmp_path / "others"), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert flush(storage, "grid", "ab" * 8) == (1, 0)
    assert main(["storage", "flush", "--dry-run"]) == 0
    assert capsys.readouterr().out == "Nothing waits.\n"


def test_what_is_for_another_server_waits_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RESNET_DIST_SPOOL", str(tmp_path / "spool"))
    for trial, place in (("a" * 16, "http://other results"), ("b" * 16, str(tmp_path / "results"))):
        storage = UnreliableStorage(tmp_path / "results")
        storage.place = place
        spooled = SpooledStorage(storage, "grid", trial, patience=0)
        storage.broken = True
        spooled.put("a", b"1")
        spooled.close()
    assert main(["storage", "flush"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "1 write of 1 trial that waited have been made" in line
    assert "writes of 1 trial are for another server; set AWS_ENDPOINT_URL" in line


def test_a_storage_that_cannot_be_opened_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RESNET_DIST_SPOOL", str(tmp_path / "spool"))
    for name in ("gone", "there"):
        storage = UnreliableStorage(tmp_path / name)
        spooled = SpooledStorage(storage, "grid", "a" * 16, patience=0)
        storage.broken = True
        spooled.put("a", b"1")
        spooled.close()
    monkeypatch.setattr("tune_jobs.commands.flush.open_storage", _unless_gone)
    assert main(["storage", "flush"]) == 1
    said = sorted(capsys.readouterr().out.splitlines())
    assert said[0].endswith("gone: 0 writes of 0 trials that waited have been made; the rest waits: gone")
    assert "there: 1 write of 1 trial" in said[1]


def _unless_gone(uri: str) -> BrowsableStorage:
    if uri.endswith("gone"):
        raise StorageError("gone")
    return open_storage(uri)

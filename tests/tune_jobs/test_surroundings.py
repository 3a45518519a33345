"""What the machine around a command lacks, or has in forms no record can hold, is one line or does not matter."""

import os
import pwd
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.ray_cluster.connection import connected
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import ConfigurationError, UserError
from tests.image_trees import image_tree, write_directory
from tune_jobs.command_line import main

LATIN_1 = os.fsdecode(b"caf\xe9")
"""A name whose bytes are no UTF-8, as Python has it."""


@pytest.fixture
def latin_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with such a name; where a file system has only Unicode names, there is nothing to test."""
    directory = tmp_path / LATIN_1
    try:
        directory.mkdir()
    except OSError:
        pytest.skip(reason="this file system has only names in Unicode")
    monkeypatch.chdir(directory)
    return directory


def said(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("option", ["--data.source", "--storage"])
def test_data_and_results_are_not_kept_under_a_name_that_no_record_can_hold(
    option: str, latin_1: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_directory(latin_1, image_tree())
    given = {"--storage": str(latin_1.parent / "results"), "--data.source": "synthetic"}
    given[option] = "folder:." if option == "--data.source" else "results"
    assert main(["train", "--epochs", "1", *(word for pair in given.items() for word in pair)]) == 1
    assert "caf\\udce9" in (line := said(capsys))
    assert "is not UTF-8; give it another name, or of a path a link" in line
    assert not list(latin_1.parent.rglob("trials"))


def test_a_working_directory_of_any_name_does(latin_1: Path) -> None:
    write_directory(latin_1.parent / "images", image_tree())
    arguments = ["train", "--storage", str(latin_1.parent / "results"), "--epochs", "1", "--data.batch_size", "2"]
    small = ["--network.depth", "8", "--network.width", "4", "--schedule.milestones", ""]
    assert main([*arguments, *small, "--data.source", f"folder:{latin_1.parent / 'images'}"]) == 0


@pytest.mark.parametrize("name", ["the working directory", "TMPDIR", "HOME", "the path of Python"])
def test_ray_is_not_started_below_a_name_that_it_cannot_send(
    name: str, latin_1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name != "the working directory":
        monkeypatch.chdir(latin_1.parent)
    monkeypatch.setattr("tempfile.tempdir", str(latin_1) if name == "TMPDIR" else "/tmp")
    if name == "HOME":
        monkeypatch.setenv("HOME", str(latin_1))
    if name == "the path of Python":
        monkeypatch.setattr(sys, "executable", str(latin_1 / "python"))
    with pytest.raises(UserError, match=f"^{name}: .* is not UTF-8"), connected():
        pass


def test_text_that_is_not_unicode_is_no_setting() -> None:
    with pytest.raises(ConfigurationError, match=r"code.fingerprint: '\\ud800' is not UTF-8"):
        TrainingConfig.from_dict({"code": {"fingerprint": "\ud800"}})


def test_a_user_without_a_home_is_told_to_give_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("HOME")
    assert main(["grid", "plan", "demo", "--storage", str(tmp_path)]) == 1
    assert said(capsys).startswith("error: HOME: '~': no such home directory is known; set HOME")


@pytest.mark.parametrize("option", ["--storage", "--data.source"])
def test_the_home_of_nobody_is_one_line(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"--storage": "results", "--data.source": "synthetic"}
    given[option] = "folder:~no-such-user/x" if option == "--data.source" else "~no-such-user/x"
    assert main(["train", *(word for pair in given.items() for word in pair)]) == 1
    assert "'~no-such-user/x': no such home directory is known" in said(capsys)


def test_a_working_directory_that_has_gone_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["train", "--storage", str(tmp_path)]) == 1
    assert said(capsys).startswith("error: the working directory is not there")


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_left_alone(closed: str, tmp_path: Path) -> None:
    """Or the next file that is opened, such as a record, would take what is printed."""
    storage = shlex.quote(str(tmp_path / "results"))
    command = f"exec {shlex.quote(sys.executable)} -m tune_jobs train --dry-run --json --storage {storage} {closed}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_what_an_encoding_lacks_is_printed_as_an_escape(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tune_jobs", "train", "--dry-run", "--storage", str(tmp_path / "café")],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"caf\\xe9" in ended.stdout


def test_files_of_settings_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    from tune_jobs.commands.options import read_config
    from tune_jobs.grid.experiment import load_experiment

    (tmp_path / "settings.toml").write_text("[run]\nepochs = 3\n", encoding="utf-8-sig")
    (tmp_path / "settings.json").write_text('{"run": {"epochs": 3}}', encoding="utf-8-sig")
    for file in ("settings.toml", "settings.json"):
        assert read_config(str(tmp_path / file)).run.epochs == 3
    table = '[[table]]\nname = "t"\ntitle = "T"\n[[table.cell]]\nlabel = "a"\n'
    (tmp_path / "x.toml").write_text(f'name = "x"\ntitle = "X"\n{table}', encoding="utf-8-sig")
    assert load_experiment(str(tmp_path / "x.toml")).name == "x"


def test_a_library_that_does_not_fit_into_memory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ImportError("libtorch_cuda.so: failed to map segment from shared object")  # as with `ulimit -v`

    monkeypatch.setattr("tune_jobs.commands.train.open_storage", fail)
    assert main(["train", "--dry-run", "--storage", str(tmp_path)]) == 1
    assert said(capsys).startswith("error: a library cannot be loaded: libtorch_cuda.so: failed to map")


def test_a_cache_that_is_a_file_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RESNET_DIST_CACHE", str(tmp_path / "file"))
    assert main(["train", "--dry-run", "--storage", str(tmp_path)]) == 1
    assert said(capsys).endswith("cannot be written (File exists); set RESNET_DIST_CACHE to one that can")
    assert not caplog.records


def test_no_space_for_the_cache_is_one_line_and_leaves_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("1244160 requested and 204672 written")  # numpy's words for a full disk

    monkeypatch.setenv("RESNET_DIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("numpy.save", full)
    assert main(["train", "--dry-run", "--storage", str(tmp_path / "results")]) == 1
    assert said(capsys).endswith("cannot be written (no space left); set RESNET_DIST_CACHE to one that can")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]

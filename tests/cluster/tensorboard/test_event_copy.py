"""A directory that is kept a copy of a store's event files, for a TensorBoard that cannot reach the store."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.storage.local import LocalStorage
from cluster.storage.opening import open_storage
from cluster.tensorboard.event_copy import MARK, mirror
from cluster.tensorboard.event_views import Links
from resnet_dist.errors import StorageError, UserError
from tests.cluster.tensorboard.test_serve import eventually, put, shown
from tune_jobs.command_line import main


@contextlib.contextmanager
def mirroring(uri: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """The copying as a process of its own, which has said that it begins."""
    code = (
        "import sys, pathlib; from cluster.tensorboard.event_copy import mirror; "
        f"sys.exit(mirror({uri!r}, pathlib.Path({str(directory)!r}), 1))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == f"Copying the event files of {uri} to {directory} (Ctrl-C ends it)\n"
            yield process
        finally:
            process.kill()


@pytest.mark.integration
def test_a_directory_follows_the_store_and_is_shown_like_it(bucket: str, tmp_path: Path) -> None:
    uri, copy = f"s3://{bucket}/results", tmp_path / "copy"
    storage = open_storage(uri)
    put(storage, "one/tb/a", 0, range(3))
    storage.put("one/experiment.json", b"{}")
    with mirroring(uri, copy) as process:
        assert eventually(lambda: shown(copy) == ["one/tb/a/events.out.tfevents.000000"])
        put(storage, "two/tb/b", 0, range(3))
        assert eventually(lambda: len(shown(copy)) == 2)
        (tmp_path / "view").mkdir()
        Links(LocalStorage(copy), tmp_path / "view").refresh()
        assert shown(tmp_path / "view") == [f"{run}/events.out.tfevents.000000" for run in ("one/a", "two/b")]
        assert not (copy / "one" / "experiment.json").exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stdout
        assert process.stdout.read() == ""

    # Another process, as after the restart of a container: what has gone from the store meanwhile goes here as well.
    storage.delete("one/tb/a/events.out.tfevents.000000")
    with mirroring(uri, copy):
        assert eventually(lambda: shown(copy) == ["two/tb/b/events.out.tfevents.000000"])


def test_a_directory_with_something_else_in_it_is_left_alone(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(UserError, match="is not empty, and holds no earlier copy; give a new directory"):
        mirror(f"s3://{bucket}/results", tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "all of it"


def test_a_directory_that_cannot_be_made_is_one_line(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^--mirror-to: \S+ cannot be written: Not a directory; give another$"):
        mirror(f"s3://{bucket}/results", tmp_path / "file" / "copy")


def test_a_missing_bucket_is_one_line_and_leaves_an_earlier_copy(s3_environment: str, tmp_path: Path) -> None:
    earlier = tmp_path / "copy" / "one"
    for is_there in (False, True):
        if is_there:
            earlier.mkdir(parents=True)
            earlier.with_name(MARK).touch()
        with pytest.raises(StorageError, match="the bucket does not exist"):
            mirror("s3://no-such-bucket", tmp_path / "copy")
        assert earlier.exists() == (tmp_path / "copy").exists() == is_there


def test_a_directory_needs_no_copy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a directory, which needs no copy; leave --mirror-to out"):
        mirror(str(tmp_path), tmp_path / "copy")


@pytest.mark.parametrize("option", [["--port", "0"], ["--direct"]])
def test_options_of_a_server_are_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tensorboard", "s3://bucket/results", "--mirror-to", "copy", *option]) == 1
    assert capsys.readouterr().err == "error: --mirror-to: serves nothing; leave --port and --direct out\n"

"""`resnet-dist tensorboard`: the real server, asked over HTTP for what is in storage."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import urlencode

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from cluster.storage.keys import BrowsableStorage
from cluster.storage.local import LocalStorage
from cluster.storage.opening import open_storage
from cluster.tensorboard.event_views import Copies, Links, direct_source, follow
from cluster.tensorboard.mirror import KEYS_A_PAGE
from cluster.tensorboard.serve import DEFAULT_PORT, serve
from resnet_dist.errors import StorageError, UserError
from resnet_dist.storage.interface import StoredObject


def segment(steps: range, offset: float = 0.0) -> bytes:
    """An event file with one point a step, of value step + offset."""
    buffer = BytesIO()
    writer = RecordWriter(buffer)
    writer.write(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
    for step in steps:
        summary = Summary(value=[Summary.Value(tag="loss", simple_value=step + offset)])
        writer.write(Event(wall_time=2.0 + step, step=step, summary=summary).SerializeToString())
    return buffer.getvalue()


def put(storage: BrowsableStorage, run: str, number: int, steps: range, offset: float = 0.0) -> None:
    storage.put(f"{run}/events.out.tfevents.{number:06}", segment(steps, offset))


def ask(port: int, path: str, **query: str) -> object:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=100)
    try:
        connection.request("GET", f"{path}?{urlencode(query)}")
        answer = connection.getresponse()
        return json.loads(answer.read()) if answer.status == 200 else None
    finally:
        connection.close()


def values(port: int, run: str) -> list[float] | None:
    points = ask(port, "/data/plugin/scalars/scalars", run=run, tag="loss")
    return [point[2] for point in points] if isinstance(points, list) else None


def eventually(check: Callable[[], object], seconds: float = 200) -> object:
    end = time.monotonic() + seconds
    while not (result := check()) and time.monotonic() < end:
        time.sleep(0.1)
    return result


@contextlib.contextmanager
def served(
    uri: str, options: str = "reload_seconds=1", files: int | None = None
) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The command as a process of its own, and the port that it announces."""
    code = (
        "import resource, sys\n"
        f"if {files}: resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, resource.getrlimit(7)[1]))\n"
        "from cluster.tensorboard.serve import serve\n"
        f"sys.exit(serve({uri!r}, port=0, {options}))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if " at http://127.0.0.1:" in line:
                    break
            else:
                pytest.fail("".join(lines))
            yield int(line.split(" at http://127.0.0.1:")[1].split("/")[0]), process
        finally:
            process.terminate()
            process.wait(100)


@pytest.fixture(params=["directory", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "directory":
        return str(tmp_path / "my results")
    return f"s3://{request.getfixturevalue('bucket')}/my results"


@pytest.mark.integration
def test_the_segments_of_a_run_are_one_curve_that_grows(uri: str) -> None:
    storage = open_storage(f"{uri}/grid")
    run = "tb/n=3/relu/seed 0"
    for number in range(3):
        put(storage, run, number, range(10 * number, 10 * number + 10))
    with served(f"{uri}/grid") as (port, _):
        assert eventually(lambda: values(port, "n=3/relu/seed 0") == list(range(30)))
        put(storage, run, 3, range(30, 35))
        assert eventually(lambda: values(port, "n=3/relu/seed 0") == list(range(35)))
        put(storage, "tb/second", 0, range(3))
        assert eventually(lambda: ask(port, "/data/runs") == ["n=3/relu/seed 0", "second"])


@pytest.mark.integration
def test_a_resumed_run_replaces_the_points_that_it_computes_again(uri: str) -> None:
    storage = open_storage(f"{uri}/grid")
    put(storage, "tb/run", 0, range(10))
    put(storage, "tb/run", 1, range(6, 12), offset=0.5)
    with served(f"{uri}/grid") as (port, _):
        expected = [*range(6), *(step + 0.5 for step in range(6, 12))]
        assert eventually(lambda: values(port, "run") == expected), values(port, "run")


@pytest.mark.integration
def test_experiments_are_shown_together_as_they_appear(uri: str) -> None:
    storage = open_storage(uri)
    put(storage, "first/tb/a", 0, range(3))
    with served(uri) as (port, _):
        assert eventually(lambda: ask(port, "/data/runs") == ["first/a"])
        put(storage, "second/tb/b", 0, range(4))
        assert eventually(lambda: ask(port, "/data/runs") == ["first/a", "second/b"])
        assert eventually(lambda: values(port, "second/b") == list(range(4)))


@pytest.mark.integration
def test_a_storage_without_event_files_is_served_and_waited_for(tmp_path: Path) -> None:
    with served(str(tmp_path)) as (port, _):
        assert ask(port, "/data/runs") == []
        put(open_storage(str(tmp_path)), "grid/tb/a", 0, range(3))
        assert eventually(lambda: values(port, "grid/a") == [0, 1, 2])


@pytest.mark.integration
def test_a_run_that_was_rewritten_in_s3_is_shown_as_it_is_now(bucket: str) -> None:
    storage = open_storage(f"s3://{bucket}")
    put(storage, "tb/run", 0, range(10))
    put(storage, "tb/run", 1, range(10, 20))
    with served(f"s3://{bucket}") as (port, _):
        assert eventually(lambda: values(port, "run") == list(range(20)))
        put(storage, "tb/run", 0, range(10), offset=0.5)
        expected = [*(step + 0.5 for step in range(10)), *range(10, 20)]
        assert eventually(lambda: values(port, "run") == expected), values(port, "run")


@pytest.mark.integration
def test_more_event_files_than_a_process_may_usually_open_are_shown(tmp_path: Path) -> None:
    content = [segment(range(number, number + 1)) for number in range(10)]
    for run in range(12):
        folder = tmp_path / f"tb/{run:02}"
        folder.mkdir(parents=True)
        for number, data in enumerate(content):
            (folder / f"events.out.tfevents.{number:06}").write_bytes(data)
    with served(str(tmp_path), files=100) as (port, _):
        assert eventually(lambda: len(ask(port, "/data/runs") or ()) == 12)  # type: ignore[arg-type]
        assert eventually(lambda: all(values(port, f"{run:02}") == list(range(10)) for run in range(12)))


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_everything_quietly(tmp_path: Path, number: signal.Signals) -> None:
    put(open_storage(str(tmp_path)), "tb/a", 0, range(3))
    with served(str(tmp_path)) as (port, process):
        process.send_signal(number)
        assert process.wait(100) == 0
        assert process.stdout
        assert process.stdout.read() == ""
        with pytest.raises(ConnectionRefusedError):
            ask(port, "/data/runs")


@pytest.mark.integration
def test_storage_that_fails_for_a_while_is_said_once_and_read_again(tmp_path: Path) -> None:
    put(open_storage(str(tmp_path / "results")), "tb/a", 0, range(3))
    with served(str(tmp_path / "results")) as (port, process):
        (tmp_path / "results").rename(tmp_path / "away")
        (tmp_path / "results").symlink_to(tmp_path / "results")  # a loop: reading it is an error
        assert process.stdout
        assert "No news from storage, trying again every 1 s: cannot list" in process.stdout.readline()
        time.sleep(1.5)
        (tmp_path / "results").unlink()
        (tmp_path / "away").rename(tmp_path / "results")
        assert process.stdout.readline() == "Storage can be read again.\n"
        put(open_storage(str(tmp_path / "results")), "tb/b", 0, range(3))
        assert eventually(lambda: values(port, "b") == [0, 1, 2])


def test_a_missing_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no directory .*nowhere; give the storage"):
        serve(str(tmp_path / "nowhere"))


def test_a_missing_bucket_is_one_line(s3_environment: str) -> None:
    with pytest.raises(StorageError, match="the bucket does not exist"):
        serve("s3://no-such-bucket")


def test_a_port_that_was_asked_for_and_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is taken; name another one with --port"):
            serve(str(tmp_path), port=port)


def test_where_no_port_was_asked_for_the_next_free_one_is_taken() -> None:
    from cluster.tensorboard.serve import _choose_port

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # taken by someone else: as good
            stack.enter_context(socket.create_server(("127.0.0.1", DEFAULT_PORT)))
        assert DEFAULT_PORT < _choose_port("127.0.0.1", None) < DEFAULT_PORT + 100


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no host", 0), ("127.0.0.1", 70_000)])
def test_an_address_that_this_machine_lacks_is_one_line(tmp_path: Path, host: str, port: int) -> None:
    with pytest.raises(UserError, match=r"^--(host|port) ") as caught:
        serve(str(tmp_path), host=host, port=port)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "address"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]")]
)
def test_an_answer_is_waited_for_where_this_machine_can_ask(
    host: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.tensorboard.serve import _url, _wait_until_it_answers

    asked = []

    class Connection:
        status = 200

        def __init__(self, host: str, port: int, timeout: float) -> None:
            asked.append(f"[{host}]" if ":" in host else host)

        def request(self, *_: str) -> None: ...

        def getresponse(self) -> "Connection":
            return self

        def close(self) -> None: ...

    monkeypatch.setattr("cluster.tensorboard.serve.http.client.HTTPConnection", Connection)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        _wait_until_it_answers(process, host, 6006, tmp_path)
        process.kill()
    assert asked == [address]
    assert _url(host, 6006) == f"http://{f'[{host}]' if ':' in host else host}:6006/"


def test_a_tensorboard_that_ends_at_once_is_told_with_its_last_line(tmp_path: Path) -> None:
    from cluster.tensorboard.serve import _wait_until_it_answers

    log = tmp_path / "log"
    log.write_text("Traceback:\n  at some place\nImportError: no module\n\n")
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        with pytest.raises(UserError, match=r"^TensorBoard does not start: ImportError: no module$"):
            _wait_until_it_answers(process, "127.0.0.1", 1, log)


def shown(directory: Path) -> list[str]:
    """Event files as TensorBoard finds them, which follows links."""
    found = []
    for folder, _, files in os.walk(directory, followlinks=True):
        found += [str(Path(folder, name).relative_to(directory)) for name in files if "tfevents" in name]
    return sorted(found)


def view(storage: BrowsableStorage, directory: Path) -> Links | Copies:
    directory.mkdir()
    return Links(storage, directory) if isinstance(storage, LocalStorage) else Copies(storage, directory)


def test_an_experiment_is_shown_without_its_name_and_nothing_but_its_event_files(uri: str, tmp_path: Path) -> None:
    storage = open_storage(uri)
    put(storage, "grid/tb/a/b", 0, range(1))
    storage.put("grid/trials/x/tfevents.json", b"")
    watched = view(open_storage(f"{uri}/grid"), tmp_path / "view")
    watched.refresh()
    assert shown(tmp_path / "view") == ["a/b/events.out.tfevents.000000"]


def test_experiments_come_and_go(uri: str, tmp_path: Path) -> None:
    storage = open_storage(uri)
    watched = view(storage, tmp_path / "view")
    watched.refresh()
    assert shown(tmp_path / "view") == []
    put(storage, "one/tb/a", 0, range(1))
    put(storage, ".ray/tb/a", 0, range(1))
    watched.refresh()
    assert shown(tmp_path / "view") == ["one/a/events.out.tfevents.000000"]
    put(storage, "two/tb/b", 0, range(1))
    storage.delete("one/tb/a/events.out.tfevents.000000")
    watched.refresh()
    assert shown(tmp_path / "view") == ["two/b/events.out.tfevents.000000"]


class Counting(LocalStorage):
    """A directory that is asked as S3 is, and counts the listings."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.listings = 0

    def list(self, prefix: str) -> list[StoredObject]:
        found = super().list(prefix)
        self.listings += len(found) // KEYS_A_PAGE + 1
        return found

    def folders(self, prefix: str) -> tuple[str, ...]:
        self.listings += 1
        return super().folders(prefix)


def test_a_refresh_says_how_many_listings_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.tensorboard.mirror.KEYS_A_PAGE", 4)
    monkeypatch.setitem(globals(), "KEYS_A_PAGE", 4)
    storage = Counting(tmp_path / "results")
    for run in range(10):
        put(storage, f"one/tb/{run}", 0, range(1))
    put(storage, "two/tb/a", 0, range(1))
    storage.put("three/experiment.json", b"{}")
    watched = Copies(storage, tmp_path / "view")
    for expected in (1 + 3 + 3 + 1, 1 + 1 + 3 + 1):  # known experiments are not asked whether they have events
        storage.listings = 0
        assert watched.refresh() == storage.listings == expected
    assert len(shown(tmp_path / "view")) == 11


def test_a_large_storage_is_looked_at_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout)
            if len(waited) == 4:
                self.set()
            return True

    class Fixed:
        counts = iter([0, 1, 5, 500])

        def experiments(self) -> dict[str, str]:
            return {}

        def refresh(self) -> int:
            return next(self.counts)

    follow(Fixed(), 10, Stop())
    assert waited == [10, 10, 50, 120]


def test_a_directory_is_never_read_through_s3(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--direct: .* is a directory, which is always read directly"):
        serve(str(tmp_path), direct=True)


def test_directly_each_experiment_is_named_and_the_endpoint_passed_on(bucket: str, s3_environment: str) -> None:
    storage = open_storage(f"s3://{bucket}/results")
    source, variables = direct_source(storage, {"one": "one/tb/", "two": "two/tb/"})
    place = f"s3://{bucket}/results"
    assert source[:4] == ["--logdir_spec", f"one:{place}/one/tb,two:{place}/two/tb", "--load_fast", "false"]
    assert variables["S3_ENDPOINT"] == s3_environment
    assert direct_source(storage, {"": "tb/"})[0][:2] == ["--logdir", f"{place}/tb"]
    assert direct_source(storage, {})[0][:2] == ["--logdir", f"{place}/tb"]
    assert not any("planted" in text for text in (*source, *variables.values())), "a key is handed on by us"


@pytest.mark.integration
def test_directly_the_same_points_are_shown(bucket: str) -> None:
    for name in ("one", "two"):
        put(open_storage(f"s3://{bucket}/{name}"), "tb/run", 0, range(5))
    with served(f"s3://{bucket}", "direct=True") as (port, _):
        assert eventually(lambda: values(port, "one/run") == list(range(5)))
        assert ask(port, "/data/runs") == ["one/run", "two/run"]

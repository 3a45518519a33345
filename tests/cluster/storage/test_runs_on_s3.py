"""Runs whose records go to S3: what that costs, and what happens when the store fails while they train."""

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.storage.local import LocalStorage
from cluster.storage.opening import open_storage
from cluster.storage.s3 import MULTIPART_BYTES, S3Storage
from resnet_dist import launch
from resnet_dist.errors import StorageError, WaitingError
from resnet_dist.launch import Job, run_in_process
from resnet_dist.storage import sending
from resnet_dist.storage.spool import spooled_trials
from tests.killed_runs import TIMINGS, Outcome, outcome
from tests.s3_proxy import S3Proxy, s3_proxy
from tests.small_runs import small_config, small_dataset
from tune_jobs.actions.flush import flush_storage
from tune_jobs.command_line import main
from tune_jobs.results.experiment_record import record_single_run
from tune_jobs.results.trials import read_experiment

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

CONFIG = small_config(
    run__epochs=4, run__precision="float32", schedule__milestones=[], run__device="cpu", run__checkpoint_epochs=1
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sending, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(sending, "LONGEST_PAUSE", 0.01)
    monkeypatch.setenv("RESNET_DIST_STORAGE_TIMEOUT", "1")
    monkeypatch.setenv("RESNET_DIST_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setattr(launch, "_dataset", lambda _: small_dataset(train=56, test=10))


@pytest.fixture
def proxy(bucket: str, s3_environment: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """A proxy before the server of `bucket`, which the environment names."""
    with s3_proxy(s3_environment) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The run as it is with a directory."""
    directory = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_dataset", lambda _: small_dataset(train=56, test=10))
        run_in_process(job(str(directory)))
    return outcome(LocalStorage(directory), CONFIG, "e")


def job(uri: str) -> Job:
    return Job(CONFIG, "e", "name", partial(open_storage, uri))


def outcome_in(uri: str, tmp_path: Path) -> Outcome:
    """What a run left, read from a copy: TensorBoard's loader reads files."""
    storage, copy = open_storage(uri), LocalStorage(tmp_path / "copy")
    for item in storage.list(""):
        copy.put(item.key, storage.get(item.key) or b"")
    return outcome(copy, CONFIG, "e")


def test_a_run_leaves_in_the_bucket_what_it_leaves_in_a_directory(
    bucket: str, tmp_path: Path, undisturbed: Outcome
) -> None:
    uri = f"s3://{bucket}/results"
    result = run_in_process(job(uri))
    assert result["epochs"] == 4
    assert outcome_in(uri, tmp_path).same_bits(undisturbed)
    names = {item.key.removeprefix(job(uri).keys.prefix) for item in open_storage(uri).list("e/trials/")}
    assert names - {"source.patch"} == {"config.json", "provenance.json", "metrics.jsonl", "model.pt", "result.json"}
    assert not list(spooled_trials())


def test_requests_and_bytes_are_counted_as_the_server_sees_them(bucket: str, proxy: S3Proxy) -> None:
    storage = S3Storage(f"s3://{bucket}/x", timeout=30)
    refusals = iter([503, 500])
    proxy.refuse = lambda method, path: next(refusals, 0)
    storage.put("a", b"12345")
    assert (storage.counts.totals().retries, proxy.requests["PUT"]) == (2, 3)
    storage.grow("a", b"123456")
    storage.create("b", b"1")
    assert storage.get("a") == b"123456"
    assert storage.get("none") is None
    assert len(storage.list("")) == 2
    storage.delete("b")
    storage.put("large", bytes(MULTIPART_BYTES))  # in four parts
    totals = storage.counts.totals()
    assert sum(totals.requests.values()) == sum(proxy.requests.values())
    assert totals.requests["PutObject"] == 5 and totals.requests["UploadPart"] == 4
    assert totals.sent == proxy.sent
    assert totals.received == 6


def test_a_server_that_hangs_ends_no_run_and_loses_nothing(
    bucket: str, proxy: S3Proxy, tmp_path: Path, undisturbed: Outcome
) -> None:
    uri = f"s3://{bucket}"

    def hang(line: dict[str, object]) -> None:
        if line["epoch"] == 2:
            proxy.flowing.clear()

    with pytest.raises(WaitingError, match="the server accepts connections but does not answer in time") as caught:
        run_in_process(job(uri), on_epoch=hang)
    assert "\n" not in str(caught.value)
    proxy.flowing.set()
    storage = open_storage(uri)
    assert storage.get(job(uri).keys.result) is None, "what waits counts for nobody who reads storage"
    flushed = flush_storage(storage)
    assert (flushed.trials, flushed.dropped, flushed.failed) == (1, 0, "") and flushed.made > 5
    assert outcome_in(uri, tmp_path).same_bits(undisturbed)
    assert flush_storage(storage).made == 0


def wait_for_the_withheld(proxy: S3Proxy) -> None:
    """Lines that wait together go up together: the first one is to go by itself."""
    while not proxy.withheld:
        time.sleep(0.01)


def test_an_epochs_line_that_reaches_the_store_late_changes_no_result_and_is_named(
    bucket: str, proxy: S3Proxy, undisturbed: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, keys = f"s3://{bucket}", job(f"s3://{bucket}").keys
    first = iter([True])
    proxy.withhold = lambda method, path: method == "PUT" and path.endswith(keys.metrics) and next(first, False)
    record_single_run(open_storage(uri), "e", CONFIG, "name")
    run_in_process(job(uri), on_epoch=lambda _: wait_for_the_withheld(proxy))
    read = read_experiment(open_storage(uri), "e").trials[keys.trial_id]
    assert (read.state, read.reason, len(read.metrics)) == ("finished", "", 4)
    proxy.arrive()
    storage = open_storage(uri)
    assert (storage.get(keys.metrics) or b"").count(b"\n") == 1, "the first epoch's line stands over all four"
    found = read_experiment(storage, "e").trials[keys.trial_id]
    assert found.reason == "metrics.jsonl is not the file of its result"
    assert replace(found, reason="") == read
    timeless = [{name: line[name] for name in line if name not in TIMINGS} for line in found.metrics]
    assert timeless == undisturbed.lines
    assert main(["grid", "report", "e", "--storage", uri]) == 0
    assert "metrics.jsonl is not the file of its result; its numbers are those of result.json" in " ".join(
        capsys.readouterr().out.split()
    )
    assert not list(spooled_trials())


def test_an_epochs_line_that_arrives_late_before_an_interruption_is_in_the_result_all_the_same(
    bucket: str, proxy: S3Proxy, tmp_path: Path, undisturbed: Outcome
) -> None:
    uri, metrics = f"s3://{bucket}", job(f"s3://{bucket}").keys.metrics
    first = iter([True])
    proxy.withhold = lambda method, path: method == "PUT" and path.endswith(metrics) and next(first, False)

    def lines() -> int:
        return (open_storage(uri).get(metrics) or b"").count(b"\n")

    def stop(line: dict[str, object]) -> None:
        wait_for_the_withheld(proxy)
        if line["epoch"] == 3:
            while lines() < 3:
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_process(job(uri), on_epoch=stop)
    proxy.arrive()
    assert lines() == 1
    epochs: list[object] = []
    run_in_process(job(uri), on_epoch=lambda line: epochs.append(line["epoch"]))
    assert 1 not in epochs, "it goes on from a checkpoint"
    assert outcome_in(uri, tmp_path).same_bits(undisturbed)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_access_that_is_denied_for_a_while_is_made_up_for(
    bucket: str, proxy: S3Proxy, tmp_path: Path, undisturbed: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"s3://{bucket}"
    said: list[str] = []

    def deny(line: dict[str, object]) -> None:
        said.append(str(line.get("storage_trouble", "")))
        if line["epoch"] == 1:
            proxy.refuse = lambda method, path: 403
        if line["epoch"] == 3:
            while not warnings(caplog):  # until it has been noticed
                proxy.flowing.wait(0.01)
            proxy.refuse = lambda method, path: 0

    run_in_process(job(uri), on_epoch=deny)
    assert outcome_in(uri, tmp_path).same_bits(undisturbed)
    trouble, over = warnings(caplog)
    assert "access is denied; these credentials need s3:" in trouble and "can be written again" in over
    assert said[0] == ""


def test_a_bucket_that_vanishes_ends_no_run_and_one_that_comes_back_empty_is_begun_anew(
    bucket: str, administrator: "S3Client", tmp_path: Path, undisturbed: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    uri, epochs = f"s3://{bucket}", []

    def vanish(line: dict[str, object]) -> None:
        epochs.append(line["epoch"])
        while line["epoch"] == 2:
            for item in administrator.list_objects_v2(Bucket=bucket).get("Contents", ()):
                administrator.delete_object(Bucket=bucket, Key=item["Key"])
            with contextlib.suppress(administrator.exceptions.ClientError):  # the run has written meanwhile
                administrator.delete_bucket(Bucket=bucket)
                break

    with pytest.raises(WaitingError, match="the bucket does not exist; create it"):
        run_in_process(job(uri), on_epoch=vanish)
    assert epochs == [1, 2, 3, 4]
    with pytest.raises(StorageError, match="the bucket does not exist"):
        run_in_process(job(uri))
    administrator.create_bucket(Bucket=bucket)
    assert flush_storage(open_storage(uri)).dropped > 0  # they are the end of a trial whose beginning is gone
    run_in_process(job(uri))
    assert outcome_in(uri, tmp_path).same_bits(undisturbed)


def test_an_upload_in_parts_that_is_broken_off_leaves_nothing(
    bucket: str, proxy: S3Proxy, administrator: "S3Client"
) -> None:
    storage = S3Storage(f"s3://{bucket}", timeout=30)
    proxy.refuse = lambda method, path: 403 if method == "PUT" and "partNumber=3" in path else 0
    with pytest.raises(StorageError, match=r"cannot write s3://.*/model\.pt"):
        storage.put("model.pt", bytes(MULTIPART_BYTES))
    assert storage.get("model.pt") is None
    assert storage.list("") == []
    assert "Uploads" not in administrator.list_multipart_uploads(Bucket=bucket)

"""What storage costs, on a real S3 server of this machine (Ceph's gateway), each beside its opponent in the same run.

    python -m benchmarks.storage [training] [upload] [report] [--rounds 5] [--seeds 5]

- training: a run with its records in S3 beside the same run with its records nowhere, in turns
- upload: the records of finished trials through the spool, beside what `aws s3 sync` does with the same files
- report: listing and reading 3,600 finished trials (720 a seed)

Exit code as of `python -m benchmarks`.
"""

import argparse
import functools
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from benchmarks.command import exit_with
from benchmarks.finished_trials import EXPERIMENT, write_finished_trials
from benchmarks.targets import Target, median_ratio, print_lines
from cluster.storage.local import LocalStorage
from cluster.storage.opening import open_storage
from cluster.storage.s3 import S3Storage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.storage.counts import StorageCounts
from resnet_dist.storage.interface import StoredObject, TrialKeys
from tests import s3_server

SYNC_THREADS = 10
"""`max_concurrent_requests` of the AWS command line."""
TRAINING = {
    "network.depth": 8,
    "data.train_limit": 2560,
    "data.test_limit": 100,
    "run.epochs": 4,
    "run.checkpoint_epochs": 1,
    "schedule.milestones": [],
    "run.device": "cpu",
}
"""An epoch of 20 steps: a checkpoint comes some twenty times as often as by default."""


class Nowhere:
    """A storage that keeps nothing."""

    uri = place = "nowhere"
    is_remote = False
    counts = StorageCounts()

    def put(self, key: str, data: bytes) -> None:
        """Forget it."""

    def grow(self, key: str, data: bytes) -> None:
        """Forget it."""

    def create(self, key: str, data: bytes) -> bool:
        """Forget it."""
        return True

    def get(self, key: str) -> bytes | None:
        """Nothing is here."""
        return None

    def list(self, prefix: str) -> list[StoredObject]:
        """Nothing is here."""
        return []

    def delete(self, key: str) -> None:
        """Nothing is here."""

    def check_writable(self) -> None:
        """It takes everything."""


def training(uri: str, rounds: int) -> list[Target]:
    """Wall time of a run in S3 over that of the same run nowhere: the median over rounds, after one that warms up."""
    import torch

    from resnet_dist.launch import Job, OpenStorage, run_in_process

    torch.set_num_threads(1)
    config = TrainingConfig().override(TRAINING)
    contenders: dict[str, OpenStorage] = {"S3": functools.partial(open_storage, uri), "nowhere": Nowhere}
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    busy: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        names = list(contenders)[:: 1 if number % 2 else -1]
        for name in names:
            trial = replace(config, run=replace(config.run, seed=number))
            job = Job(trial, "training", f"seed-{number}", contenders[name])
            started, worked = time.perf_counter(), time.thread_time()
            run_in_process(job)
            if number:
                wall[name].append(time.perf_counter() - started)
                busy[name].append(time.thread_time() - worked)
    for name in contenders:
        shown = (statistics.median(wall[name]), statistics.median(busy[name]))
        print(f"training, records in {name}: {shown[0]:.2f} s, the training thread busy for {shown[1]:.2f} s")
    return [
        Target("time of training with S3 / with none", 1.01, "× time", median_ratio(wall["S3"], wall["nowhere"])),
        Target("its training thread's busy time", 1.01, "× time", median_ratio(busy["S3"], busy["nowhere"])),
    ]


def upload(uri: str, rounds: int) -> list[Target]:
    """Time of sending the records of finished trials that wait on disk, over that of a sync of the same files."""
    from resnet_dist.storage.spool import Spool
    from tune_jobs.actions.flush import flush_storage

    def wait(files: LocalStorage, keys: list[str], prefix: str) -> None:
        """Put the records where those of runs wait that could not reach storage."""
        storage = S3Storage(f"{uri}/{prefix}")
        spools: dict[str, Spool] = {}
        for key in keys:
            trial_id = key.split("/")[2]
            if trial_id not in spools:
                spools[trial_id] = Spool(storage, "upload", trial_id, patience=0)
                spools[trial_id].expect({""})  # nobody has written the trial in storage
            spools[trial_id].append("put", key, files.get(key) or b"")
        for spool in spools.values():
            spool.close()

    def ours(files: LocalStorage, keys: list[str], prefix: str) -> None:
        flushed = flush_storage(S3Storage(f"{uri}/{prefix}"))
        assert flushed.made == len(keys), flushed

    def sync(files: LocalStorage, keys: list[str], prefix: str) -> None:
        storage = S3Storage(f"{uri}/{prefix}")
        client, root = storage.client(), f"{storage.prefix}/"
        client.list_objects_v2(Bucket=storage.bucket, Prefix=root)
        with ThreadPoolExecutor(SYNC_THREADS) as pool:
            list(pool.map(lambda key: client.upload_file(f"{files.root}/{key}", storage.bucket, root + key), keys))

    seconds: dict[str, list[float]] = {"ours": [], "sync": []}
    with tempfile.TemporaryDirectory(prefix="resnet-dist-benchmark-") as directory:
        files = LocalStorage(directory)
        _write_records(files)
        listed = files.list("")
        keys = [item.key for item in listed]
        print(f"upload: {len(keys)} files, {sum(item.size for item in listed) / 1e6:.1f} MB")
        contenders: dict[str, Callable[[LocalStorage, list[str], str], None]] = {"ours": ours, "sync": sync}
        for number in range(rounds + 1):
            for name in list(contenders)[:: 1 if number % 2 else -1]:
                if name == "ours":
                    wait(files, keys, f"{name}-{number}")
                started = time.perf_counter()
                contenders[name](files, keys, f"{name}-{number}")
                if number:
                    seconds[name].append(time.perf_counter() - started)
    for name, values in seconds.items():
        print(f"upload, {name}: {statistics.median(values):.2f} s")
    return [Target("upload of results / a sync's", 1.1, "× time", median_ratio(seconds["ours"], seconds["sync"]))]


def _write_records(files: LocalStorage) -> None:
    """Records of ten finished trials of the 20-layer network, in the sizes that they have after 200 epochs."""
    for number in range(10):
        keys = TrialKeys("upload", f"{number:016x}")
        sizes = {keys.config: 2_000, keys.provenance: 2_500, keys.metrics: 50_000, keys.model: 1_100_000}
        sizes |= {keys.event_file(keys.trial_id, f"{part:06}"): 8_000 for part in range(8)}
        for key, size in (sizes | {keys.result: 700}).items():
            files.put(key, secrets.token_bytes(size))


def report(uri: str, seeds: int) -> list[Target]:
    """Seconds of reading all finished trials for a report."""
    from tune_jobs.results.trials import read_experiment

    storage = open_storage(uri)
    started = time.perf_counter()
    count = write_finished_trials(storage, seeds)
    print(f"report: {count} trials written in {time.perf_counter() - started:.0f} s")

    def seconds() -> float:
        fresh = open_storage(uri)
        started = time.perf_counter()
        results = read_experiment(fresh, EXPERIMENT)
        elapsed = time.perf_counter() - started
        assert results.count("finished") == count and all(trial.metrics for trial in results.trials.values())
        return elapsed

    return [Target(f"reading {count} finished trials", 10.0, "s", statistics.median(seconds() for _ in range(3)))]


def main(arguments: list[str]) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="training, upload, report (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after one to warm up (default: 5)")
    parser.add_argument("--seeds", type=int, default=5, help="720 trials each are read for a report (default: 5)")
    args = parser.parse_args(arguments)
    parts: dict[str, Callable[[str], list[Target]]] = {
        "training": lambda uri: training(uri, args.rounds),
        "upload": lambda uri: upload(uri, args.rounds),
        "report": lambda uri: report(uri, args.seeds),
    }
    if unknown := set(args.parts) - parts.keys():
        parser.error(f"PART {', '.join(sorted(unknown))}: it may be {', '.join(parts)}")
    targets: list[Target] = []
    with s3_server.running() as server, tempfile.TemporaryDirectory(prefix="resnet-dist-benchmark-") as scratch:
        os.environ.update(server.environment())
        os.environ["RESNET_DIST_SPOOL"] = str(Path(scratch, "spool"))
        S3Storage("s3://results").client().create_bucket(Bucket="results")
        for name in args.parts or parts:
            targets += parts[name](f"s3://results/{name}")
    return print_lines(targets)


if __name__ == "__main__":
    exit_with(main)

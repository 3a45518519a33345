"""Threads of the product: what nobody foresaw in one of them is said, and the run or the view goes on."""

import contextlib
import json
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.ray_cluster import hung_workers
from cluster.storage.lease import Lease
from cluster.storage.local import LocalStorage
from cluster.tensorboard.event_views import follow
from resnet_dist import heartbeat, ray_metrics
from resnet_dist.storage.sending import SpooledStorage
from tests.small_runs import small_config
from tests.test_imports import PACKAGES, ROOT
from tests.unreliable_storage import UnreliableStorage

THREADS = {
    "cluster/storage/time_limit.py": 1,  # what is raised in it is raised again where it is waited for (its own tests)
    "cluster/storage/lease.py": 2,
    "cluster/tensorboard/serve.py": 1,
    "resnet_dist/side_by_side.py": 1,  # what a run fails with is its answer (its own tests)
    "resnet_dist/storage/sending.py": 1,
    "resnet_dist/threads.py": 2,  # one makes those of others, one calls again what has failed
    "resnet_dist/training/custom_checks.py": 1,  # ends a barrier after a while: nothing in it can fail
    "resnet_dist/worker_group.py": 1,  # what ends it is raised where the workers are waited for (its own tests)
}
"""How many places of a file start threads that nobody asks for a result."""


def test_each_thread_of_the_product_is_tested_here() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    counts = {str(path.relative_to(ROOT)): starts(path) for path in files}
    assert {name: count for name, count in counts.items() if count} == THREADS


def starts(path: Path) -> int:
    return len(re.findall(r"(?:threading\.(?:Thread|Timer)|(?<!def )helper_thread)\(", path.read_text()))


class Unforeseen:
    """Fails like no storage does, until it has failed `times` times."""

    def __init__(self, times: int, then: Any = None) -> None:
        self.left, self.then = times, then
        self.worked = threading.Event()

    def __call__(self, *_: object, **__: object) -> Any:
        if self.left:
            self.left -= 1
            raise ZeroDivisionError("nobody foresaw this")
        self.worked.set()
        return self.then


def test_a_lease_is_renewed_after_what_nobody_foresaw(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lease = Lease(LocalStorage(str(tmp_path)), "grid", duration=4.0)
    lease.take(lambda _: None)
    renew = lease.renew = Unforeseen(1)  # type: ignore[method-assign]
    lease.renew_in_background()
    assert renew.worked.wait(60)
    assert "grid: the lease cannot be renewed, trying again: ZeroDivisionError" in caplog.text
    lease.release()
    lease.check()


def test_workers_are_watched_after_what_nobody_foresaw(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    signs = Unforeseen(2, then=[])
    monkeypatch.setattr(hung_workers, "INTERVAL", 0.01)
    monkeypatch.setattr(hung_workers, "signs", signs)
    with hung_workers.watched("grid", {"trial"}, print):
        assert signs.worked.wait(60)
    assert caplog.text.count("the workers cannot be watched, trying again: ZeroDivisionError") == 1


def test_signs_of_life_are_given_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    put = Unforeseen(2)
    node = SimpleNamespace(get_node_id=lambda: "node")
    ray = SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: node)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.01)
    deleted: list[bytes] = []
    store = SimpleNamespace(_internal_kv_put=put, _internal_kv_del=lambda key, **_: deleted.append(key))
    monkeypatch.setattr(heartbeat, "_store", lambda: store)
    with heartbeat.heartbeat("grid", "trial", "name", 0, 2) as step_is:
        step_is(1)
        assert put.worked.wait(60)
    assert caplog.text.count("a sign of life cannot be given, trying again: ZeroDivisionError") == 1
    assert deleted == [b"grid/trial/0"]


@pytest.mark.parametrize("error", [None, ZeroDivisionError("a bug")])
def test_the_last_sign_of_life_comes_last(error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One under way that came after it would stay, and be taken for that of a worker that hangs."""
    node = SimpleNamespace(get_node_id=lambda: "node")
    ray = SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: node)
    monkeypatch.setitem(sys.modules, "ray", ray)
    under_way, ended = threading.Event(), threading.Event()
    kept: dict[bytes, Any] = {}

    def put(key: bytes, data: bytes, **_: Any) -> None:
        sign = json.loads(data)
        if not sign["ended"]:
            under_way.set()
            ended.wait(0.2)  # long enough for what does not wait for it
        kept[key] = sign

    def delete(key: bytes, **_: Any) -> None:
        ended.set()
        kept.pop(key, None)

    store = SimpleNamespace(_internal_kv_put=put, _internal_kv_del=delete)
    monkeypatch.setattr(heartbeat, "_store", lambda: store)
    with contextlib.suppress(ZeroDivisionError), heartbeat.heartbeat("grid", "trial", "name", 0, 2):
        assert under_way.wait(60)
        if error:
            raise error
    said = [sign["ended"] for sign in kept.values()]
    assert said == (["ZeroDivisionError: a bug"] if error else [])


def test_a_view_of_tensorboard_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    refresh = Unforeseen(2, then=1)
    stop = threading.Event()
    view = SimpleNamespace(refresh=refresh, experiments=dict)
    thread = threading.Thread(target=follow, args=(view, 0.01, stop))
    thread.start()
    assert refresh.worked.wait(60)
    stop.set()
    thread.join(60)
    said = capsys.readouterr().out
    assert said.count("No news from storage") == 1 and "ZeroDivisionError('nobody foresaw this')" in said


def test_a_trials_metrics_are_reported_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    report = Unforeseen(2)
    monkeypatch.setattr(ray_metrics, "_ray_runs", lambda: True)
    monkeypatch.setattr(ray_metrics, "TrialMetrics", lambda *_: SimpleNamespace(report=report))
    monkeypatch.setattr(ray_metrics, "INTERVAL", 0.01)
    with ray_metrics.reported(None, None, small_config()):  # type: ignore[arg-type]
        assert report.worked.wait(60)
    assert caplog.text.count("the trial's metrics cannot be given to Ray") == 1


@pytest.mark.parametrize("end", [SpooledStorage.require_complete, lambda spooled, _: spooled.put("again", b"1")])
def test_what_ends_the_uploads_ends_the_run(
    end: Callable[[SpooledStorage, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = UnreliableStorage(tmp_path)
    monkeypatch.setattr(storage, "put", Unforeseen(100))
    spooled = SpooledStorage(storage, "grid", "trial", patience=0)
    spooled.put("a", b"1")
    spooled.close()
    with pytest.raises(ZeroDivisionError):
        end(spooled, "the run")

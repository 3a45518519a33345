"""Fixtures that many tests use."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings

from resnet_dist.logs import PACKAGES

pytest_plugins = ["tests.s3_fixtures"]

# As the workers of a grid have, before torch is there to ask: threads cut sums up, and these round accordingly.
os.environ["OMP_NUM_THREADS"] = "1"

# In what a script starts in the background SIGINT is ignored, and so it would be in every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine takes any time over an example.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


LONGEST = (
    "integration/test_several_hosts.py",
    "integration/test_local_cluster.py",
    "integration/test_mixed_cluster.py",
    "resnet_dist/test_law_2_interruption.py",
    "integration/test_hung_worker.py",
    "integration/test_watched_grid.py",
    "integration/test_law_3_killed_grid.py",
    "resnet_dist/networks/test_batch_norm.py",
    "integration/test_searching_grid.py",
    "integration/test_grid.py",
    "test_notebook.py",
    "resnet_dist/test_worker_group.py",
    "cluster/tensorboard/test_serve.py",
    "test_python_guide.py",
    "k8s/test_dockerfile.py",
    "integration/test_failing_storage.py",
    "test_experiments_guide.py",
    "benchmarks/test_benchmarks.py",
    "benchmarks/test_gpu.py",
    "k8s/test_read_only_root.py",
)
"""Files that take longest, in that order, the three of `make clusters` first. Law 2 and batch norm start no Ray."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first, so that the processes that share the tests end at about the same time.

    What asks the S3 server is an integration test, and so is what needs several nodes.
    """
    for item in items:
        if "s3_endpoint" in getattr(item, "fixturenames", ()) or item.get_closest_marker("clusters"):
            item.add_marker(pytest.mark.integration)
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session", autouse=True)
def directories_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Cache and spool are directories of the tests' own, in child processes as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNET_DIST_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("RESNET_DIST_SPOOL", str(tmp_path_factory.mktemp("spool")))
        yield


@pytest.fixture(autouse=True)
def environment_as_it_was() -> Iterator[None]:
    """A command that is called in this process may set variables, for Ray or MLflow; no later test has them."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(autouse=True)
def untouched_log() -> Iterator[None]:
    """A command that is called in this process may set up the log; each test finds it as a process begins with it.

    Also after a command that another module's fixture called, which is set up before this one.
    """
    reset_log()
    root = logging.getLogger().level  # Ray Train lowers it in the process that starts workers
    yield
    logging.getLogger().setLevel(root)
    reset_log()


def reset_log() -> None:
    """Take what `logs.configure` did from every logger of ours."""
    for name in [*PACKAGES, *logging.root.manager.loggerDict]:
        if name.partition(".")[0] in PACKAGES:
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(logging.NOTSET)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory of this test's own, which the code finds by its environment variable."""
    directory = tmp_path / "cache"
    monkeypatch.setenv("RESNET_DIST_CACHE", str(directory))
    return directory


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The archive of CIFAR-10 as JPEG files, where there is one."""
    chosen = os.environ.get("RESNET_DIST_REAL_DATA")
    beside = Path(__file__).parents[2] / "shared" / "data" / "cifar10-jpeg.tar.xz"
    path = Path(chosen) if chosen else beside
    if not chosen and not path.exists():
        pytest.skip(reason="no real images; set RESNET_DIST_REAL_DATA to an archive of CIFAR-10 as images")
    return path

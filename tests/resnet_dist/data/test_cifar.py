import functools
import hashlib
import http.server
import io
import pickle
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets

from resnet_dist.configuration.data import DataConfig
from resnet_dist.data import cifar
from resnet_dist.data.cifar import downloaded_images
from resnet_dist.data.dataset import dataset_fingerprint, load_dataset
from resnet_dist.errors import DataError


def small_cifar(kind: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """An archive in CIFAR's own format with few images, whose checksums torchvision is told; returns what is in it.

    Each file holds "data", uint8 [20, 3072] (red, green, blue planes row by row), and labels.
    """
    random = np.random.default_rng(3)
    classes = 100 if kind is datasets.CIFAR100 else 10
    label_key = "fine_labels" if kind is datasets.CIFAR100 else "labels"
    content: dict[str, dict[str, Any]] = {
        name: {
            "data": random.integers(0, 256, (20, 3072), dtype=np.uint8),
            label_key: random.integers(0, classes, 20).tolist(),
        }
        for name, _ in [*kind.train_list, *kind.test_list]
    }
    meta = kind.meta["filename"]
    content[meta] = {kind.meta["key"]: [f"class {index}" for index in range(classes)]}
    pickled = {name: pickle.dumps(value) for name, value in content.items()}
    with tarfile.open(path, "w:gz") as archive:
        for name, data in pickled.items():
            info = tarfile.TarInfo(f"{kind.base_folder}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

    def md5(data: bytes) -> str:
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    for split in ("train_list", "test_list"):
        monkeypatch.setattr(kind, split, [[name, md5(pickled[name])] for name, _ in getattr(kind, split)])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5(pickled[meta])})
    monkeypatch.setattr(kind, "tgz_md5", md5(path.read_bytes()))
    return content


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Let torchvision look for CIFAR-10 at a port of this machine where nobody listens."""
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/cifar-10-python.tar.gz"
        monkeypatch.setattr(datasets.CIFAR10, "url", url)
        yield url


@pytest.mark.parametrize(("name", "kind"), [("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)])
def test_a_download_gives_the_images_of_the_archive(
    name: Any, kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = tmp_path / "served"
    served.mkdir()
    content = small_cifar(kind, served / kind.filename, monkeypatch)
    monkeypatch.setenv("no_proxy", "*")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(kind, "url", f"http://127.0.0.1:{server.server_port}/{kind.filename}")
        images = downloaded_images(name, tmp_path / "downloads")
        server.shutdown()

    assert capsys.readouterr().out == ""
    assert images.classes == tuple(content[kind.meta["filename"]][kind.meta["key"]])
    for found, found_labels, files in (
        (images.train_images, images.train_labels, kind.train_list),
        (images.test_images, images.test_labels, kind.test_list),
    ):
        expected = np.concatenate([content[file]["data"] for file, _ in files])
        assert np.array_equal(found, expected.reshape(-1, 3, 32, 32))
        labels = [content[file].get("labels") or content[file]["fine_labels"] for file, _ in files]
        assert found_labels.tolist() == np.concatenate(labels).tolist()


def test_an_archive_put_in_place_needs_no_network(
    tmp_path: Path, cache: Path, unreachable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "downloads").mkdir(parents=True)
    small_cifar(datasets.CIFAR10, cache / "downloads" / "cifar-10-python.tar.gz", monkeypatch)
    dataset = load_dataset(DataConfig(source="cifar10", batch_size=10))
    assert dataset.train_images.shape == (100, 3, 32, 32) and dataset.test_images.shape == (20, 3, 32, 32)


def test_without_a_network_one_line_says_where_to_place_the_archive(cache: Path, unreachable: str) -> None:
    with pytest.raises(DataError) as caught:
        dataset_fingerprint(DataConfig(source="cifar10"))
    message = str(caught.value)
    assert "\n" not in message and unreachable in message and "folder:PATH" in message
    assert str(cache / "downloads" / "cifar-10-python.tar.gz") in message
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_server_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    stated = cifar.TIMEOUT
    monkeypatch.setattr(cifar, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and says nothing
        monkeypatch.setattr(datasets.CIFAR10, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/x.tar.gz")
        started = time.monotonic()
        with pytest.raises(DataError, match="timed out"):
            downloaded_images("cifar10", tmp_path)
    assert time.monotonic() - started < stated
    assert socket.getdefaulttimeout() is None


def test_an_archive_with_a_wrong_checksum_is_refused(tmp_path: Path, unreachable: str) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"half an archive")
    with pytest.raises(DataError, match=r"place cifar-10-python\.tar\.gz at"):
        downloaded_images("cifar10", tmp_path)

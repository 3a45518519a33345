import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resnet_dist import logs
from resnet_dist.cache_directory import cache_directory
from resnet_dist.configuration.data import DataConfig
from resnet_dist.data import synthetic
from resnet_dist.data.cache import cached
from resnet_dist.data.dataset import dataset_fingerprint, dataset_sizes, load_dataset, load_test_images
from resnet_dist.data.decoded_images import DecodedImages, interleaved_order
from resnet_dist.data.image_folder import folder_images
from resnet_dist.errors import DataError
from tests.image_trees import encoded, image_tree, pixels, write_archive, write_directory


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """30 training images and 15 test images of three classes."""
    return write_archive(tmp_path / "images.zip", image_tree(train=10, test=5))


def config(archive: Path, **settings: object) -> DataConfig:
    return DataConfig(**{"source": f"folder:{archive}", "batch_size": 2} | settings)  # type: ignore[arg-type]


def entries(cache: Path) -> list[Path]:
    """What is in the cache besides locks."""
    return [path for path in cache.iterdir() if path.suffix != ".lock"]


def refusal(data: DataConfig) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(data)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_image_of_the_source_is_there_with_its_label(archive: Path, cache: Path) -> None:
    expected, dataset = folder_images(archive), load_dataset(config(archive))
    for split in ("train", "test"):
        pairs = zip(getattr(expected, f"{split}_images"), getattr(expected, f"{split}_labels"), strict=True)
        found = zip(getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels"), strict=True)
        assert sorted((x.tobytes(), int(y)) for x, y in pairs) == sorted(
            (x.numpy().tobytes(), int(y)) for x, y in found
        )
    assert dataset.train_images.dtype == torch.uint8 and dataset.train_labels.dtype == torch.int64
    assert dataset.source == f"folder:{archive}" and dataset.classes == expected.classes
    assert dataset.validation_images.shape == (0, 3, 32, 32) and dataset.validation_labels.shape == (0,)


def test_every_prefix_is_balanced_by_class(archive: Path, cache: Path) -> None:
    dataset = load_dataset(config(archive))
    for labels in (dataset.train_labels, dataset.test_labels):
        for end in range(1, len(labels)):
            counts = torch.bincount(labels[:end], minlength=3)
            assert counts.max() - counts.min() <= 1


@given(st.lists(st.integers(0, 4), max_size=60))
def test_interleaving_gives_every_prefix_the_share_of_each_class(labels: list[int]) -> None:
    array = np.array(labels, np.int64)
    order = interleaved_order(array)
    assert sorted(order) == list(range(len(labels)))
    for label in set(labels):
        assert list(order[array[order] == label]) == sorted(np.flatnonzero(array == label))
        share = np.cumsum(array[order] == label) - np.arange(1, len(labels) + 1) * labels.count(label) / len(labels)
        assert np.abs(share).max() < len(set(labels))


def test_classes_of_unequal_size_are_interleaved_in_this_order() -> None:
    """By (k + 1/2) / n: 1/8, 3/8, 5/8, 7/8 of class 0, 1/2 of class 1 and 1/4, 3/4 of class 2."""
    labels = np.array([0, 0, 0, 0, 1, 2, 2], np.int64)
    assert interleaved_order(labels).tolist() == [0, 5, 1, 4, 2, 6, 3]


def test_images_that_are_read_in_another_way_are_another_entry_of_the_cache(tmp_path: Path, cache: Path) -> None:
    tree = {f"{name}/{i}.png": encoded(pixels(10 * ord(name) + i, (9, 12))) for name in "ab" for i in range(12)}
    source = write_directory(tmp_path / "images", tree)
    found = [
        dataset_fingerprint(config(source, size=size, resize="crop", split=split))
        for size, split in ((8, 0.5), (9, 0.5), (8, 0.6))
    ]
    assert found == [
        folder_images(source, *given).interleaved().fingerprint()
        for given in ((8, True, 0.5), (9, True, 0.5), (8, True, 0.6))
    ]
    assert len(set(found)) == 3
    with pytest.raises(DataError, match="is 9x12 pixels, not 8x8"):
        dataset_fingerprint(config(source, size=8, split=0.5))


def test_limits_and_holdout_cut_the_interleaved_order(archive: Path, cache: Path) -> None:
    whole = load_dataset(config(archive))
    cut = load_dataset(config(archive, train_limit=20, holdout=6, test_limit=7))
    assert torch.equal(cut.train_images, whole.train_images[:14])
    assert torch.equal(cut.train_labels, whole.train_labels[:14])
    assert torch.equal(cut.validation_images, whole.train_images[14:20])
    assert torch.equal(cut.validation_labels, whole.train_labels[14:20])
    assert torch.equal(cut.test_images, whole.test_images[:7])
    assert torch.equal(cut.test_labels, whole.test_labels[:7])
    assert cut.fingerprint == whole.fingerprint


@pytest.mark.parametrize("settings", [{}, {"train_limit": 20}, {"train_limit": 21, "holdout": 9}])
def test_mean_and_deviation_are_of_the_images_trained_on(archive: Path, cache: Path, settings: dict[str, int]) -> None:
    dataset = load_dataset(config(archive, **settings))
    used = dataset.train_images.numpy().astype(np.float64)
    assert dataset.mean.dtype == torch.float64 and dataset.mean.shape == (3, 32, 32)
    np.testing.assert_allclose(dataset.mean.numpy(), used.mean(0), rtol=1e-14)
    assert dataset.std == pytest.approx(used.std(), rel=1e-13)


def test_mean_and_deviation_of_many_images_are_exact(cache: Path) -> None:
    dataset = load_dataset(DataConfig(train_limit=3001))
    used = dataset.train_images.numpy()
    assert np.array_equal(dataset.mean.numpy(), used.astype(np.int64).sum(0) / len(used))
    assert dataset.std == pytest.approx(used.astype(np.float64).std(), rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"train_limit": 31}, ("data.train_limit", "31", "30")),
        ({"test_limit": 16}, ("data.test_limit", "16", "15")),
        ({"holdout": 29}, ("data.holdout", "29", "30")),
        ({"holdout": 31}, ("data.holdout", "31", "30")),
        ({"train_limit": 10, "batch_size": 11}, ("data.batch_size", "11", "10")),
        ({"batch_size": 31}, ("data.batch_size", "31", "30")),
    ],
)
def test_more_images_than_there_are_is_refused(
    archive: Path, cache: Path, settings: dict[str, int], named: tuple[str, ...]
) -> None:
    message = refusal(config(archive, **settings))
    assert all(word in message for word in named)


def test_test_images_alone_are_no_data_set_to_train_on(tmp_path: Path, cache: Path) -> None:
    archive = write_archive(tmp_path / "a.zip", image_tree(train=0, test=5))
    assert "has no images in train/; it must hold train/<class>/<image>" in refusal(config(archive))
    tests = load_test_images(config(archive, test_limit=6))
    assert tests.labels.tolist() == [0, 1, 2, 0, 1, 2] and tests.images.shape == (6, 3, 32, 32)
    for attempt in (dataset_fingerprint, dataset_sizes):
        with pytest.raises(DataError, match="no images in train/"):
            attempt(config(archive))


def test_images_of_one_flat_colour_are_refused(tmp_path: Path, cache: Path) -> None:
    flat = encoded(np.full((32, 32, 3), 7, np.uint8))
    archive = write_archive(tmp_path / "a.zip", dict.fromkeys(image_tree(), flat))
    assert "one flat colour" in refusal(config(archive))


def test_the_fingerprint_is_of_the_content_wherever_it_lies(tmp_path: Path, cache: Path) -> None:
    tree = image_tree()
    paths = [write_archive(tmp_path / "a.tar.xz", tree), write_directory(tmp_path / "directory", tree)]
    fingerprints = {dataset_fingerprint(config(path)) for path in paths}
    assert fingerprints == {load_dataset(config(paths[0])).fingerprint}
    assert len(fingerprints.pop()) == 16


def test_the_fingerprint_sees_every_part_of_the_content() -> None:
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8), np.array([0, 1, 0, 1])
    original = DecodedImages(images[:2], labels[:2], images[2:], labels[2:], ("a", "b"))
    changed = images[:2] ^ np.eye(32, dtype=np.uint8)[5]
    others = [
        original,
        dataclasses.replace(original, train_images=changed),
        dataclasses.replace(original, test_images=changed),
        dataclasses.replace(original, train_labels=labels[1:3]),
        dataclasses.replace(original, test_labels=labels[1:3]),
        dataclasses.replace(original, classes=("a", "c")),
        dataclasses.replace(original, classes=("b", "a")),
        DecodedImages(images[:3], labels[:3], images[3:], labels[3:], ("a", "b")),
    ]
    assert len({other.fingerprint() for other in others}) == len(others)


def test_another_fingerprint_than_the_one_insisted_on_is_refused(archive: Path, cache: Path) -> None:
    right = dataset_fingerprint(config(archive))
    assert load_dataset(config(archive, fingerprint=right)).fingerprint == right
    for attempt in (load_dataset, dataset_fingerprint):
        with pytest.raises(DataError, match=rf"data\.fingerprint: .*{right}, not 0123456789abcdef"):
            attempt(config(archive, fingerprint="0123456789abcdef"))


def test_a_cached_fingerprint_is_read_without_torch(cache: Path) -> None:
    program = (
        "import sys; from resnet_dist.configuration.data import DataConfig; from resnet_dist.data.dataset import *; "
        "print(dataset_fingerprint(DataConfig()), 'torch' in sys.modules, 'PIL' in sys.modules)"
    )
    expected = f"{dataset_fingerprint(DataConfig())} False False\n"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == expected


def test_a_source_is_decoded_once(archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_dataset(config(archive))
    monkeypatch.setattr("resnet_dist.data.image_folder.folder_images", lambda *_: pytest.fail("decoded again"))
    second = load_dataset(config(archive, train_limit=9))
    assert second.fingerprint == first.fingerprint and torch.equal(second.train_images, first.train_images[:9])


def test_a_changed_archive_is_decoded_again(archive: Path, cache: Path) -> None:
    before = dataset_fingerprint(config(archive))
    write_archive(archive, image_tree(train=11, test=5))
    assert dataset_fingerprint(config(archive)) != before


DATED = (1_450_000_000_000_000_000, 1_450_000_000_000_000_000)
"""A date that every file has, in ns, as after unpacking an archive that was made to be the same every time."""


@pytest.fixture
def dated(tmp_path: Path) -> Path:
    """Two classes of six images in each split, all files of one size and date."""
    paths = [f"{split}/{name}/{i}.bmp" for split in ("train", "test") for name in ("cat", "dog") for i in range(6)]
    root = write_directory(tmp_path / "dated", {path: encoded(pixels(i), "BMP") for i, path in enumerate(paths)})
    for path in paths:
        os.utime(root / path, ns=DATED)
    return root


def swap(one: Path, other: Path) -> None:
    one.rename(aside := one.with_name("aside"))
    other.rename(one)
    aside.rename(other)


@pytest.mark.parametrize("names", [("train/cat/0.bmp", "train/dog/0.bmp"), ("train/cat", "train/dog")])
def test_images_that_change_places_are_other_data_though_names_sizes_and_dates_stay(
    dated: Path, cache: Path, names: tuple[str, str]
) -> None:
    before = dataset_fingerprint(config(dated))
    swap(dated / names[0], dated / names[1])
    assert {(path.stat().st_size, path.stat().st_mtime_ns) for path in dated.rglob("*.bmp")} == {(3126, DATED[0])}
    after = dataset_fingerprint(config(dated))
    assert after == folder_images(dated).interleaved().fingerprint() != before
    swap(dated / names[0], dated / names[1])
    assert dataset_fingerprint(config(dated)) == before


def test_an_archive_replaced_by_one_of_equal_size_and_date_is_other_data(dated: Path, cache: Path) -> None:
    paths = list(dated.rglob("*.bmp"))
    archive, other = dated / "images.tar", dated / "other.tar"
    for file, first in ((archive, 0), (other, 50)):
        tree = {str(path.relative_to(dated)): encoded(pixels(first + i), "BMP") for i, path in enumerate(paths)}
        os.utime(write_archive(file, tree), ns=DATED)
    before, right = dataset_fingerprint(config(archive)), folder_images(other).interleaved().fingerprint()
    assert archive.stat().st_size == other.stat().st_size
    other.rename(archive)
    assert dataset_fingerprint(config(archive)) == right != before


@pytest.mark.parametrize("kind", ["directory", "archive"])
def test_a_file_written_over_with_its_size_and_date_set_back_is_other_data(dated: Path, cache: Path, kind: str) -> None:
    tree = {str(path.relative_to(dated)): path.read_bytes() for path in dated.rglob("*.bmp")}
    source = dated if kind == "directory" else write_archive(dated.with_suffix(".tar"), tree)
    file = dated / "train/cat/0.bmp" if kind == "directory" else source
    os.utime(file, ns=DATED)
    before, status = dataset_fingerprint(config(source)), file.stat()
    old = dated / "train/cat/0.bmp"
    changed = file.read_bytes().replace(old.read_bytes(), encoded(pixels(99), "BMP"))
    while file.stat().st_ctime_ns == status.st_ctime_ns:  # the clock of some file systems ticks every few ms
        file.write_bytes(changed)
        os.utime(file, ns=DATED)
    now = file.stat()
    assert (now.st_ino, now.st_size, now.st_mtime_ns) == (status.st_ino, status.st_size, status.st_mtime_ns)
    assert dataset_fingerprint(config(source)) == folder_images(source).interleaved().fingerprint() != before


def test_a_directory_that_nothing_happened_to_is_decoded_once(
    dated: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dataset_fingerprint(config(dated))
    monkeypatch.setattr("resnet_dist.data.image_folder.folder_images", lambda *_: pytest.fail("decoded again"))
    for path in dated.rglob("*.bmp"):
        path.read_bytes()
    assert dataset_fingerprint(config(dated)) == before


def test_a_copy_of_a_directory_has_its_fingerprint(dated: Path, cache: Path) -> None:
    before = dataset_fingerprint(config(dated))
    shutil.copytree(dated, copy := dated.with_name("copy"))
    shutil.rmtree(dated)
    copy.rename(dated)
    assert dataset_fingerprint(config(dated)) == before


def test_writing_to_the_tensors_changes_no_file(archive: Path, cache: Path) -> None:
    with warnings.catch_warnings(action="error"):
        dataset = load_dataset(config(archive))
        dataset.train_images.zero_()
    assert load_dataset(config(archive)).train_images.any()


@pytest.mark.parametrize("name", ["train_images.npy", "test_labels.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "zeros"])
def test_a_damaged_entry_is_made_again(archive: Path, cache: Path, name: str, damage: str) -> None:
    before = load_dataset(config(archive))
    expected = before.train_images.clone()
    (entry,) = entries(cache)
    file = entry / name
    size = file.stat().st_size
    file.unlink()
    if damage != "gone":
        file.write_bytes(bytes(size if damage == "zeros" else size // 2))
    after = load_dataset(config(archive))
    assert torch.equal(after.train_images, expected) and after.fingerprint == before.fingerprint
    # Whoever had the old files mapped still has them.
    assert torch.equal(before.train_images, expected)
    assert entries(cache) == [entry]


def test_an_entry_of_another_shape_than_recorded_is_made_again(archive: Path, cache: Path) -> None:
    before = load_dataset(config(archive))
    (entry,) = entries(cache)
    meta = json.loads((entry / "meta.json").read_text())
    meta["arrays"]["train_labels"]["shape"] = [29]
    (entry / "meta.json").write_text(json.dumps(meta))
    assert len(load_dataset(config(archive)).train_labels) == len(before.train_labels) == 30


def test_a_failed_decode_leaves_nothing_behind(tmp_path: Path, cache: Path) -> None:
    broken = write_archive(tmp_path / "a.tar", image_tree() | {"train/ant/9.png": b"broken"})
    assert "train/ant/9.png" in refusal(config(broken))
    assert entries(cache) == []


def test_a_full_disk_leaves_nothing_behind(archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in (message := refusal(config(archive))) and "RESNET_DIST_CACHE" in message
    assert entries(cache) == []


def test_what_a_killed_process_left_is_cleared(archive: Path, cache: Path) -> None:
    load_dataset(config(archive))
    (entry,) = entries(cache)
    entry.rename(partial := entry.with_name(f".{entry.name}.partial"))
    (partial / "meta.json").unlink()
    load_dataset(config(archive))
    assert entries(cache) == [entry]


def test_an_unwritable_cache_says_what_to_set(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a directory")
    for source in (f"folder:{archive}", "synthetic", "cifar10"):
        monkeypatch.setenv("RESNET_DIST_CACHE", str(tmp_path / "file" / "cache"))
        message = refusal(DataConfig(source=source, batch_size=2))
        assert str(tmp_path / "file" / "cache") in message and "set RESNET_DIST_CACHE" in message


def test_the_cache_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RESNET_DIST_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory() == tmp_path / "home/.cache/resnet_dist"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg/resnet_dist"
    monkeypatch.setenv("RESNET_DIST_CACHE", str(tmp_path / "chosen"))
    assert cache_directory() == tmp_path / "chosen"


def test_a_cache_given_by_argument_is_used(archive: Path, cache: Path, tmp_path: Path) -> None:
    load_dataset(config(archive), tmp_path / "other")
    assert len(entries(tmp_path / "other")) == 1 and not cache.exists()


def test_of_several_processes_one_decodes_and_the_others_wait(tmp_path: Path) -> None:
    started = tmp_path / "started"
    started.mkdir()
    program = f"""
import os, pathlib, time
from resnet_dist.data import cache, synthetic
def decode():
    pathlib.Path({str(started)!r}, str(os.getpid())).touch()
    time.sleep(1)
    return synthetic.synthetic_images()
print(cache.cached("shared", decode, pathlib.Path({str(tmp_path / "cache")!r})).fingerprint)
"""
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert printed == {synthetic.synthetic_images().fingerprint()}
    assert len(list(started.iterdir())) == 1
    assert len(entries(tmp_path / "cache")) == 1


def test_whoever_waits_long_is_told_that_images_are_decoded(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def decode() -> DecodedImages:
        until = time.monotonic() + 60
        while not caplog.messages and time.monotonic() < until:
            time.sleep(0.01)
        return synthetic.synthetic_images()

    monkeypatch.setattr("resnet_dist.data.cache.SLOW", 0.1)
    logs.configure()
    cached("slow", decode, cache)
    assert caplog.messages[0] == f"decoding into {cache / 'slow-v1'}, once on this machine"


@pytest.mark.integration
def test_the_real_archive_is_loaded_from_the_cache_in_a_moment(real_data: Path, cache: Path) -> None:
    data = config(real_data, holdout=5000, batch_size=128)
    fingerprint = dataset_fingerprint(data)
    dataset = load_dataset(data)
    assert dataset.fingerprint == fingerprint
    assert torch.bincount(dataset.train_labels).tolist() == [4500] * 10
    assert torch.bincount(dataset.validation_labels).tolist() == [500] * 10
    assert 60 < dataset.std < 66 and 115 < dataset.mean.mean() < 125

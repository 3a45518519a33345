"""Data sets in storage, for hosts that have neither the files nor the internet."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.storage.local import LocalStorage
from resnet_dist.configuration.data import DataConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.dataset import load_dataset, load_source
from resnet_dist.data.staged import bring, is_at_hand, is_staged, stage
from resnet_dist.errors import DataError
from tests.image_trees import image_tree, write_directory


@pytest.fixture
def source(tmp_path: Path) -> DataConfig:
    folder = write_directory(tmp_path / "images", image_tree())
    return DataConfig(source=f"folder:{folder}", batch_size=2)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "results")


@pytest.fixture
def elsewhere(source: DataConfig, storage: LocalStorage, tmp_path: Path) -> Path:
    """The empty cache of a host on which the staged folder does not exist."""
    assert stage(source, load_source(source, tmp_path / "here"), storage)
    shutil.rmtree(source.source.removeprefix("folder:"))
    return tmp_path / "there"


def test_a_host_without_the_folder_trains_on_the_same_images_under_the_same_identity(
    source: DataConfig, storage: LocalStorage, tmp_path: Path
) -> None:
    original = load_dataset(source, tmp_path / "here")
    identity = TrainingConfig(data=replace(source, fingerprint=original.fingerprint)).trial_id()
    stage(source, load_source(source, tmp_path / "here"), storage)
    shutil.rmtree(source.source.removeprefix("folder:"))
    brought = bring(source, storage, tmp_path / "there")
    assert TrainingConfig(data=brought).trial_id() == identity
    copy = load_dataset(brought, tmp_path / "there")
    assert copy.fingerprint == original.fingerprint and copy.classes == original.classes
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        assert getattr(copy, name).equal(getattr(original, name))


@pytest.mark.parametrize(("one", "other"), [({"size": 16}, {"size": 24}), ({"split": 0.5}, {"split": 0.6})])
def test_images_that_are_made_in_another_way_are_not_those_that_were_staged(
    source: DataConfig, storage: LocalStorage, tmp_path: Path, one: dict[str, Any], other: dict[str, Any]
) -> None:
    data = replace(source, resize="crop")
    stage(replace(data, **one), load_source(source, tmp_path / "here"), storage)
    assert is_staged(replace(data, **one), storage)
    assert not is_staged(replace(data, **other), storage)
    assert not is_staged(source, storage)


class Counting(LocalStorage):
    """A directory that counts what is read."""

    reads: int = 0

    def get(self, key: str) -> bytes | None:
        self.reads += key.endswith(".npy")
        return super().get(key)


def test_a_host_fetches_a_data_set_once(source: DataConfig, storage: LocalStorage, elsewhere: Path) -> None:
    counting = Counting(storage.root)
    brought = bring(source, counting, elsewhere)
    assert counting.reads == 4
    for _ in range(3):
        assert bring(brought, counting, elsewhere) == brought and is_at_hand(brought, elsewhere)
        bring(source, counting, elsewhere)
    assert counting.reads == 4


def test_staging_again_stores_nothing_new(source: DataConfig, storage: LocalStorage, tmp_path: Path) -> None:
    found = load_source(source, tmp_path / "here")
    assert stage(source, found, storage)
    before = {item.key: item.version for item in storage.list(".data/") if item.key.endswith(".npy")}
    assert not stage(source, found, storage)
    assert len(before) == 4
    assert before.items() <= {item.key: item.version for item in storage.list(".data/")}.items()


def test_a_damaged_copy_is_one_line_and_is_not_kept(source: DataConfig, storage: LocalStorage, elsewhere: Path) -> None:
    (item,) = [item for item in storage.list(".data/") if item.key.endswith("train_images.npy")]
    damaged = bytearray(storage.get(item.key) or b"")
    damaged[-1] ^= 1
    storage.put(item.key, bytes(damaged))
    for _ in range(2):
        with pytest.raises(DataError, match="is damaged"):
            bring(source, storage, elsewhere)
    storage.delete(item.key)
    with pytest.raises(DataError, match="is damaged"):
        bring(source, storage, elsewhere)
    storage.put(item.key.replace("train_images.npy", "meta.json"), b"half a reco")
    with pytest.raises(DataError, match="is damaged"):
        bring(source, storage, elsewhere)


def test_a_folder_that_cannot_be_asked_for_is_not_at_hand(tmp_path: Path) -> None:
    too_long = DataConfig(source=f"folder:{tmp_path / ('x' * 300)}")
    assert not is_at_hand(too_long, tmp_path)
    with pytest.raises(DataError, match="File name too long"):
        load_dataset(too_long, tmp_path)


def test_a_half_staged_copy_is_none(source: DataConfig, storage: LocalStorage, elsewhere: Path) -> None:
    (meta,) = [item.key for item in storage.list(".data/") if item.key.endswith("meta.json")]
    storage.delete(meta)
    assert not is_staged(source, storage) and bring(source, storage, elsewhere) == source
    with pytest.raises(DataError, match="there is no file or directory"):
        load_dataset(source, elsewhere)


def test_a_host_that_has_the_source_asks_storage_for_nothing(source: DataConfig, tmp_path: Path) -> None:
    assert bring(source, LocalStorage("/nonexistent"), tmp_path) == source
    assert bring(DataConfig(), LocalStorage("/nonexistent"), tmp_path) == DataConfig()


def test_a_downloaded_source_is_found_by_its_name(
    source: DataConfig, storage: LocalStorage, tmp_path: Path, cache: Path
) -> None:
    cifar10 = DataConfig(source="cifar10", batch_size=2)
    found = load_source(source, tmp_path / "here")  # any images will do
    stage(cifar10, found, storage)
    assert bring(cifar10, storage) == cifar10
    assert load_dataset(cifar10).fingerprint == found.fingerprint
    # Whose images it insists on does not make any staged data CIFAR-10, here and for every later run.
    wrong = DataConfig(source="cifar100", fingerprint=found.fingerprint, batch_size=2)
    assert not is_staged(wrong, storage) and bring(wrong, storage) == wrong and not is_at_hand(wrong)
    assert (
        TrainingConfig(data=cifar10).trial_id() == TrainingConfig(data=DataConfig("cifar10", batch_size=2)).trial_id()
    )

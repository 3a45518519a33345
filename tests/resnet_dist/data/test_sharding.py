"""What is in shards, how they come about, and what is refused."""

import io
import json
import struct
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from cluster.storage.local import LocalStorage
from resnet_dist.configuration.data import DataConfig
from resnet_dist.data.batches import Standardiser
from resnet_dist.data.dataset import open_dataset
from resnet_dist.data.folder_files import folder_files
from resnet_dist.data.image_decoding import decode
from resnet_dist.data.imagenet_files import imagenet_files
from resnet_dist.data.shard_index import INDEX, ShardIndex, SplitIndex, read_index
from resnet_dist.data.shard_reader import ShardReader
from resnet_dist.data.sharding import ImageFiles, write_shards
from resnet_dist.errors import DataError
from resnet_dist.workers import Shards
from tests import worker_processes
from tests.image_trees import encoded, write_archive
from tests.imagenet_layout import (
    DEVKIT,
    TRAIN,
    VAL,
    broken_picture,
    odd_picture,
    picture,
    tar_of,
    wnid,
    write_devkit,
    write_folder,
    write_imagenet,
)


class Watched(LocalStorage):
    """Remembers what was written, and breaks before a shard that it is told."""

    written: ClassVar[list[str]] = []
    breaks_at = ""

    def put(self, key: str, data: bytes) -> None:
        if key == Watched.breaks_at:
            raise KeyboardInterrupt
        Watched.written.append(key)
        super().put(key, data)


SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""How archives are unpacked: Python 3.11 has the argument from its fourth release on."""


@pytest.fixture(autouse=True)
def nothing_watched() -> None:
    Watched.written, Watched.breaks_at = [], ""


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_imagenet(tmp_path_factory.mktemp("imagenet"))


def sharded(files: ImageFiles, place: Path, **options: int) -> tuple[ShardIndex, bool]:
    return write_shards(files, partial(Watched, place), shard_bytes=20_000, **options)  # type: ignore[arg-type]


def made(files: ImageFiles, place: Path) -> str:
    """Fingerprint of shards that are not all there yet."""
    index, fresh = sharded(files, place)
    assert fresh
    return index.fingerprint


def contents(place: Path, index: ShardIndex, split: SplitIndex) -> dict[bytes, int]:
    reader = ShardReader(LocalStorage(place), index, split, block=3, held=2)
    return {reader.read(image): int(split.label[image]) for image in range(len(split))}


def test_imagenets_archives_are_put_into_shards_as_they_are(imagenet: Path, tmp_path: Path) -> None:
    index, fresh = sharded(imagenet_files(str(imagenet)), tmp_path)
    assert fresh and index.classes == (wnid(0), wnid(1), wnid(2)) and len(index.shards) > 3
    assert contents(tmp_path, index, index.train) == {odd_picture(c, n): c for c in range(3) for n in range(8)}
    labels = np.random.default_rng(2).permutation(np.repeat(np.arange(3), 4))
    assert contents(tmp_path, index, index.test) == {picture(int(c), 1000 + n): c for n, c in enumerate(labels)}
    assert not np.array_equal(index.train.label, np.sort(index.train.label))  # in a shuffled order
    assert read_index(LocalStorage(tmp_path)).fingerprint == index.fingerprint  # type: ignore[union-attr]


def test_a_reader_of_webdataset_finds_each_image_beside_its_class(imagenet: Path, tmp_path: Path) -> None:
    index, _ = sharded(imagenet_files(str(imagenet)), tmp_path)
    for shard in index.shards:
        with tarfile.open(tmp_path / shard["name"]) as archive:
            names = archive.getnames()
        assert (tmp_path / shard["name"]).stat().st_size == shard["bytes"]
        assert names[1::2] == [f"{name.partition('.')[0]}.cls" for name in names[::2]]
        assert {name.partition(".")[2] for name in names[::2]} == {"jpeg"}


def test_the_extracted_folders_have_the_shards_of_the_archives(imagenet: Path, tmp_path: Path) -> None:
    extracted = tmp_path / "extracted"
    for split, archive in (("train", TRAIN), ("val", VAL)):
        (extracted / split).mkdir(parents=True)
        with tarfile.open(imagenet / archive) as opened:
            opened.extractall(extracted / split, **SAFELY)
    for inner in (extracted / "train").glob("*.tar"):
        with tarfile.open(inner) as opened:
            opened.extractall(inner.with_suffix(""), **SAFELY)
        inner.unlink()
    (extracted / f"{DEVKIT}.tar.gz").write_bytes((imagenet / f"{DEVKIT}.tar.gz").read_bytes())
    flat = made(imagenet_files(str(extracted)), tmp_path / "flat")
    assert flat == made(imagenet_files(str(imagenet)), tmp_path / "archives")
    with tarfile.open(extracted / f"{DEVKIT}.tar.gz") as opened:
        opened.extractall(extracted, **SAFELY)
    (extracted / f"{DEVKIT}.tar.gz").unlink()
    assert made(imagenet_files(str(extracted)), tmp_path / "unpacked") == flat


def test_mean_and_deviation_are_those_of_the_training_images(imagenet: Path, tmp_path: Path) -> None:
    index, _ = sharded(imagenet_files(str(imagenet)), tmp_path)
    images = [decode(odd_picture(c, n))[0].double().flatten(1) for c in range(3) for n in range(8)]
    mean = torch.stack([image.mean(1) for image in images]).mean(0)
    square = torch.stack([image.square().mean(1) for image in images]).mean(0)
    assert index.mean == pytest.approx(mean.tolist())
    assert index.standard_deviation == pytest.approx(float(square.mean() - mean.mean() ** 2) ** 0.5)
    assert np.diag(index.covariance()) == pytest.approx((square - mean**2).tolist())


def test_a_second_call_writes_nothing_and_a_broken_one_is_gone_on_with(imagenet: Path, tmp_path: Path) -> None:
    files = imagenet_files(str(imagenet))
    whole = made(files, tmp_path / "whole")
    Watched.written, Watched.breaks_at = [], "train-00002.tar"
    with pytest.raises(KeyboardInterrupt):
        sharded(files, tmp_path / "broken")
    before, Watched.written, Watched.breaks_at = Watched.written, [], ""
    assert not (tmp_path / "broken" / INDEX).exists()
    assert made(files, tmp_path / "broken") == whole
    assert Watched.written[-1] == INDEX and not set(before) & set(Watched.written)
    Watched.written = []
    index, fresh = sharded(files, tmp_path / "broken")
    assert (index.fingerprint, fresh) == (whole, False) and not Watched.written


@pytest.mark.integration
def test_several_processes_make_the_shards_of_one(
    imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server from which tests fork their workers has what it needs.
    monkeypatch.setattr(type(worker_processes.context), "set_forkserver_preload", lambda *_: None)
    files = imagenet_files(str(imagenet))
    one, _ = sharded(files, tmp_path / "one")
    Watched.written = []
    two, _ = sharded(files, tmp_path / "two", processes=2)
    assert Watched.written == [INDEX], "other processes have written the shards"
    assert one.fingerprint == two.fingerprint
    for shard in one.shards:
        assert (tmp_path / "two" / shard["name"]).read_bytes() == (tmp_path / "one" / shard["name"]).read_bytes()


def test_a_folder_and_an_archive_of_it_have_the_same_shards(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "folder")
    tree = {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*.JPEG")}
    with io.BytesIO() as nowhere, (tmp_path / "unpacked").open("w+b") as unpacked:
        index, _ = sharded(folder_files(str(root), nowhere), tmp_path / "a")
        again, _ = sharded(folder_files(str(write_archive(tmp_path / "a.zip", tree)), unpacked), tmp_path / "b")
    assert index.fingerprint == again.fingerprint and (len(index.train), len(index.test)) == (24, 12)


def test_broken_images_are_refused_or_left_out_by_name(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "folder")
    for name in (f"train/{wnid(0)}/0.JPEG", f"test/{wnid(2)}/1001.JPEG"):
        (root / name).write_bytes(broken_picture())
    files = folder_files(str(root), io.BytesIO())
    with pytest.raises(DataError, match=rf"2 images cannot be decoded: {wnid(0)}/0.JPEG is not an image .*{wnid(2)}"):
        sharded(files, tmp_path / "shards", broken_images=1)
    assert not (tmp_path / "shards" / INDEX).exists()
    index, _ = sharded(files, tmp_path / "shards", broken_images=2)
    assert (len(index.train), len(index.test)) == (23, 11)
    assert [name.split()[0] for name in index.left_out] == [f"{wnid(0)}/0.JPEG", f"{wnid(2)}/1001.JPEG"]


def test_huge_pictures_are_left_out_by_their_headers_and_tiny_ones_are_kept(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "folder")
    whole = picture(0, 0)
    frame = whole.index(b"\xff\xc0") + 5  # where a JPEG's header has rows and columns
    huge = whole[:frame] + struct.pack(">HH", 60_000, 60_000) + whole[frame + 4 :]
    (root / "train" / wnid(0) / "0.JPEG").write_bytes(huge)
    (root / "train" / wnid(0) / "1.JPEG").write_bytes(encoded(np.full((1, 2, 3), 90, np.uint8), "JPEG"))
    files = folder_files(str(root), io.BytesIO())
    with pytest.raises(
        DataError, match=rf"1 image cannot be decoded: {wnid(0)}/0.JPEG is a huge picture, of more than"
    ):
        sharded(files, tmp_path / "shards")
    index, _ = sharded(files, tmp_path / "shards", broken_images=1)
    assert len(index.train) == 23 and len(index.left_out) == 1
    data = DataConfig(source=f"shards:{tmp_path / 'shards'}", size=64, batch_size=23, augmentation="paper")
    dataset = open_dataset(data)
    standardise = Standardiser(dataset.mean, dataset.std, torch.float32, torch.device("cpu"))
    batches = dataset.batches(standardise, replace(data, sampling="permutation"), 0, 0, Shards(1, range(1)))
    ((batch,),) = batches.parts(batches.drawn(range(1))[0])
    assert batch.images.shape == (23, 3, 64, 64) and bool(batch.images.isfinite().all())


def test_shards_of_other_images_are_not_written_over(imagenet: Path, tmp_path: Path) -> None:
    index, _ = sharded(imagenet_files(str(imagenet)), tmp_path / "shards")
    other = folder_files(str(write_folder(tmp_path / "folder", train=5)), io.BytesIO())
    with pytest.raises(DataError, match="holds shards of other images"):
        sharded(other, tmp_path / "shards")
    assert read_index(LocalStorage(tmp_path / "shards")).fingerprint == index.fingerprint  # type: ignore[union-attr]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_index_is_refused(imagenet: Path, tmp_path: Path, damage: str) -> None:
    sharded(imagenet_files(str(imagenet)), tmp_path)
    data = (tmp_path / INDEX).read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    changed = {"cut": data[:-50], "flipped": bytes(flipped), "empty": b"", "text": b"{}"}[damage]
    (tmp_path / INDEX).write_bytes(changed)
    with pytest.raises(DataError, match=r"index.npz is damaged; remove it, and shard the data set again"):
        read_index(LocalStorage(tmp_path))


def test_an_index_of_which_any_byte_has_changed_is_refused_or_says_the_same(imagenet: Path, tmp_path: Path) -> None:
    index, _ = sharded(imagenet_files(str(imagenet)), tmp_path)
    data = (tmp_path / INDEX).read_bytes()
    refused = 0
    for place in range(0, len(data), 29):
        (tmp_path / INDEX).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            found = read_index(LocalStorage(tmp_path))
        except DataError:
            refused += 1
        else:
            assert found is not None and found.fingerprint == index.fingerprint  # a date of the archive's, say
    assert refused > 30


def test_shards_that_were_made_with_other_labels_are_made_anew(imagenet: Path, tmp_path: Path) -> None:
    files = imagenet_files(str(imagenet))
    sharded(files, tmp_path)
    (tmp_path / INDEX).unlink()  # as if it had been interrupted
    turned = replace(files, train=[file._replace(label=2 - file.label) for file in files.train])
    index, _ = sharded(turned, tmp_path)
    expected = {odd_picture(c, n): 2 - c for c in range(3) for n in range(8)}
    assert contents(tmp_path, index, index.train) == expected


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_a_damaged_shard_is_named_by_whoever_reads_it(imagenet: Path, tmp_path: Path, damage: str) -> None:
    index, _ = sharded(imagenet_files(str(imagenet)), tmp_path)
    path = tmp_path / index.shards[0]["name"]
    data = bytearray(path.read_bytes())
    data[int(index.train.offset[0]) + 30] ^= 1
    path.unlink()
    if damage != "missing":
        path.write_bytes(data if damage == "flipped" else data[:600])
    said = "lacks train-00000.tar" if damage == "missing" else "train-00000.tar is damaged at byte 512"
    with pytest.raises(DataError, match=said):
        ShardReader(LocalStorage(tmp_path), index, index.train, block=2, held=2).read(0)


def test_an_image_is_named_as_its_shard_has_it(imagenet: Path, tmp_path: Path) -> None:
    index, _ = sharded(imagenet_files(str(imagenet)), tmp_path)
    name = ShardReader(LocalStorage(tmp_path), index, index.train, block=2, held=2).name(0)
    assert name.startswith("00000000-n0") and name.endswith(f".jpeg in {tmp_path}/train-00000.tar")


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        imagenet_files(str(root))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_missing_of_imagenet_is_named(tmp_path: Path) -> None:
    assert "no directory at" in refusal(tmp_path / "nowhere")
    assert "no ILSVRC2012_img_train.tar, or train/" in refusal(tmp_path)
    write_imagenet(tmp_path / "val").joinpath(VAL).unlink()
    assert "no ILSVRC2012_img_val.tar, or val/" in refusal(tmp_path / "val")
    write_imagenet(tmp_path / "devkit").joinpath(f"{DEVKIT}.tar.gz").unlink()
    assert "no ILSVRC2012_devkit_t12.tar.gz, which says" in refusal(tmp_path / "devkit")


@pytest.mark.parametrize(("archive", "cut"), [(TRAIN, 1024), (TRAIN, 30_000), (VAL, 1024), (VAL, 20_000)])
def test_an_archive_that_is_cut_off_is_named(tmp_path: Path, archive: str, cut: int) -> None:
    path = write_imagenet(tmp_path) / archive
    data = path.read_bytes()
    path.write_bytes(data.rstrip(b"\0")[:-cut])
    assert f"{path} is cut off" in refusal(tmp_path)


def test_a_damaged_header_and_a_class_without_images_are_named(tmp_path: Path) -> None:
    path = write_imagenet(tmp_path) / TRAIN
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    assert "is damaged at byte 0" in refusal(tmp_path)
    path.write_bytes(tar_of({f"{wnid(0)}.tar": tar_of({})}))
    assert f"{wnid(0)}.tar holds no images" in refusal(tmp_path)


def test_a_class_that_one_split_lacks_is_named(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    inner = tar_of({"a.JPEG": picture(0, 0)})
    (tmp_path / TRAIN).write_bytes(tar_of({f"{wnid(n)}.tar": inner for n in (0, 1)}))
    assert f"no images of class {wnid(2)} in train, and some in val" in refusal(tmp_path)
    (tmp_path / TRAIN).write_bytes(tar_of({f"{wnid(n)}.tar": inner for n in range(4)}))
    assert f"no images of class {wnid(3)} in val, and some in train" in refusal(tmp_path)


def test_a_devkit_of_which_any_byte_has_changed_is_refused(tmp_path: Path) -> None:
    """It says which class an image has: what is read of it is held to the checksum at its end."""
    archive = write_imagenet(tmp_path) / f"{DEVKIT}.tar.gz"
    data = archive.read_bytes()
    for place in range(12, len(data), 20):  # beyond the date and such
        archive.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert "is damaged" in refusal(tmp_path)


def test_a_wrong_devkit_is_refused(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    write_devkit(tmp_path, [1, 2, 3], {n + 1: wnid(n) for n in range(3)})
    assert "knows of 3 validation images, and there are 12" in refusal(tmp_path)
    write_devkit(tmp_path, [9] * 12, {n + 1: wnid(n) for n in range(3)})
    assert "does not say which class ILSVRC2012_val_00000001.JPEG has" in refusal(tmp_path)
    (tmp_path / f"{DEVKIT}.tar.gz").write_bytes(tar_of({f"{DEVKIT}/data/meta.mat": b"no mat"}, "w:gz"))
    assert "meta.mat of the devkit" in refusal(tmp_path)
    (tmp_path / f"{DEVKIT}.tar.gz").write_bytes(tar_of({"readme": b""}, "w:gz"))
    assert "is damaged, or has no data/meta.mat" in refusal(tmp_path)
    (tmp_path / f"{DEVKIT}.tar.gz").write_bytes(b"no archive")
    assert "is damaged, or has no" in refusal(tmp_path)


def test_a_record_of_a_shard_that_was_torn_is_made_again(imagenet: Path, tmp_path: Path) -> None:
    whole = made(imagenet_files(str(imagenet)), tmp_path)
    (tmp_path / INDEX).unlink()
    record = tmp_path / "parts" / "train-00001.json"
    record.write_text(json.dumps(json.loads(record.read_text()))[:-40])
    assert made(imagenet_files(str(imagenet)), tmp_path) == whole

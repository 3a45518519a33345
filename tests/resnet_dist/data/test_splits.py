"""Which folders of a directory or archive are the splits, whatever lies beside and above them."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from resnet_dist.data.image_folder import folder_images, folder_key
from tests.image_trees import CLASSES, encoded, image_tree, pixels, refusal, write_archive, write_directory, written


@pytest.mark.parametrize("kind", ["a.tar", "directory"])
def test_two_data_sets_side_by_side_are_refused(tmp_path: Path, kind: str) -> None:
    tree = {f"{top}/{name}": data for top in "ab" for name, data in image_tree().items()}
    line = refusal(written(tmp_path, kind, tree))
    assert "more than one data set, 'a/train' and 'b/train'; give one of them, or if a and b are classes, put" in line
    assert line.endswith("train/a/, train/b/, test/a/ and test/b/")


BESIDE = {
    "logs/train/events.1": b"words",
    "logs/test/events.1": b"words",
    "scripts/train": b"words",
    "scripts/test/0.png": b"no image",
    "other/train/ant/0.png": b"no image",
    "other/test/ant/0.png": b"no image",
    "trainer/0.png": b"no image",
    "lost+found/0.png": b"no image",
}
"""What lies beside the splits, some of it looking like splits."""


@pytest.mark.parametrize("top", ["", "cifar/"])
@pytest.mark.parametrize("kind", ["a.tar", "a.zip", "directory"])
def test_what_stands_beside_the_splits_does_not_matter(tmp_path: Path, kind: str, top: str) -> None:
    tree = {top + name: data for name, data in image_tree().items()}
    beside = {(top or "cifar/") + name: data for name, data in BESIDE.items()}
    images = folder_images(written(tmp_path, kind, beside | tree))
    assert images.fingerprint() == folder_images(write_directory(tmp_path / "plain", image_tree())).fingerprint()


def test_nothing_beside_the_splits_is_entered_or_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_directory(tmp_path, image_tree() | {"lost+found/x": b"", "private/x": b""})
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    before, entered, scandir = folder_key(tmp_path), [], os.scandir

    def listing(directory: str) -> Any:
        entered.append(str(Path(directory).relative_to(tmp_path)))
        return scandir(directory)

    monkeypatch.setattr(os, "scandir", listing)
    folder_images(tmp_path)
    assert {name.partition("/")[0] for name in entered} == {".", "train", "test"}
    (tmp_path / "private/x").write_bytes(b"another")
    assert folder_key(tmp_path) == before


def test_a_folder_that_may_not_be_entered_is_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As lost+found of a volume, by its own name or another; the data set lies in a folder beside it."""
    write_directory(tmp_path / "cifar", image_tree())
    (tmp_path / "private").mkdir()
    scandir = os.scandir

    def listing(directory: str | Path) -> Any:
        if Path(directory) == tmp_path / "private":
            raise PermissionError(errno.EACCES, "Permission denied", str(directory))
        return scandir(directory)

    monkeypatch.setattr(os, "scandir", listing)
    assert folder_images(tmp_path).classes == CLASSES
    monkeypatch.setattr(os, "scandir", lambda directory: listing(tmp_path / "private"))
    assert f"{tmp_path / 'private'} cannot be read (Permission denied)" in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["a.tar", "a.zip", "directory"])
@pytest.mark.parametrize(
    ("train", "test"), [("Train", "Test"), ("TRAIN", "val"), ("train", "valid"), ("train", "Validation")]
)
def test_splits_of_other_names_are_those_that_they_must_be(
    tmp_path: Path, kind: str, train: str, test: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = {"train": train, "test": test}
    tree = {"/".join([names[name.split("/")[0]], *name.split("/")[1:]]): data for name, data in image_tree().items()}
    images = folder_images(written(tmp_path, kind, tree))
    assert images.fingerprint() == folder_images(write_directory(tmp_path / "plain", image_tree())).fingerprint()
    assert (f"the images of {test}/ are taken to be the test images" in caplog.text) == (test != "Test")


@pytest.mark.parametrize("kind", ["a.tar", "directory"])
def test_validation_images_beside_test_images_are_left_out_and_that_is_said(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    tree = image_tree() | {"val/ant/0.png": encoded(pixels(5))}
    assert len(folder_images(written(tmp_path, kind, tree)).test_labels) == 6
    assert "the test images are those of test/; val/ is left out" in caplog.text


def test_of_two_folders_of_validation_images_and_no_test_images_the_one_called_valid_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = {name.replace("test/", "valid/"): data for name, data in image_tree().items()}
    images = folder_images(write_directory(tmp_path, tree | {"val/ant/0.png": encoded(pixels(5))}))
    assert len(images.test_labels) == 6
    assert "the test images are those of valid/; val/ is left out" in caplog.text


def test_two_spellings_of_one_split_are_refused(tmp_path: Path) -> None:
    tree = image_tree() | {"Train/ant/0.png": encoded(pixels(0))}
    assert "has both Train and train; give one of them another name" in refusal(write_archive(tmp_path / "a.tar", tree))


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
@pytest.mark.parametrize("top", ["/", "/home/me/", "a/b/c/", "C:\\data\\", "cifar\\"])
def test_wrapped_absolute_and_windows_names_in_archives_are_understood(tmp_path: Path, suffix: str, top: str) -> None:
    tree = {top + name: data for name, data in image_tree().items()}
    if "\\" in top:
        tree = {name.replace("/", "\\"): data for name, data in tree.items()} | {"cifar\\train\\": b""}
    images = folder_images(write_archive(tmp_path / f"a{suffix}", tree))
    assert images.fingerprint() == folder_images(write_directory(tmp_path / "plain", image_tree())).fingerprint()


def test_a_directory_in_a_directory_in_a_directory_is_found(tmp_path: Path) -> None:
    write_directory(tmp_path / "a/b/c", image_tree())
    assert folder_images(tmp_path).classes == CLASSES


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({}, "it holds nothing. It must hold train/<class>/<image> and test/<class>/<image>"),
        ({"cat/0.png": b"", "dog/0.png": b""}, "it holds cat, dog. It must hold train/<class>/<image>"),
        ({"0.png": b"", "1.png": b""}, "it holds 0.png, 1.png. It must"),
        ({"cifar-10-batches-py/data_batch_1": b""}, "CIFAR-10's own archive; give data.source cifar10"),
        ({"cifar-100-python/train": b"", "cifar-100-python/test": b""}, "give data.source cifar100"),
        ({"train-00000-of-00001.parquet": b""}, "are read by a source of your own (docs/custom.md)"),
        ({"train.npz": b"", "test.npz": b""}, "are read by a source of your own (docs/custom.md)"),
        ({f"{number}.png": b"" for number in range(100, 112)}, "107.png and 4 more. It must"),
    ],
)
@pytest.mark.parametrize("kind", ["a.tar", "a.zip", "directory"])
def test_what_is_there_instead_of_splits_is_said_and_what_would_read_it(
    tmp_path: Path, kind: str, tree: dict[str, bytes], says: str
) -> None:
    assert says in refusal(written(tmp_path, kind, tree))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.tar.xz", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of git LFS"),
        ("a.tar.gz", b"<!DOCTYPE html><html>", "is a page of HTML or XML"),
        ("a.zip", b"\x1f\x8b\x08\x00" + bytes(40), "is a gzip file, which its name does not say"),
        ("a.tar", b"PK\x03\x04" + bytes(600), "is a zip archive, which its name does not say"),
    ],
)
def test_an_archive_that_is_something_else_is_called_that_and_not_damaged(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert f"{tmp_path / name} {says}" in refusal(tmp_path / name)


def test_one_of_the_splits_is_told_to_be_one(tmp_path: Path) -> None:
    write_directory(tmp_path, image_tree())
    assert f"give the folder above it, {tmp_path}" in refusal(tmp_path / "train")


@pytest.mark.parametrize("kind", ["a.tar", "a.zip"])
def test_names_that_lead_out_of_an_archive_are_said_to(tmp_path: Path, kind: str) -> None:
    tree = {f"../../{name}": data for name, data in image_tree().items()}
    assert "it holds ..: .. leads out of it; pack it again from inside" in refusal(written(tmp_path, kind, tree))

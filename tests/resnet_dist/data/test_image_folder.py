import io
import itertools
import logging
import os
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from resnet_dist.data import image_folder
from resnet_dist.data.archives import SUFFIXES
from resnet_dist.data.decoded_images import DecodedImages
from resnet_dist.data.image_folder import folder_images, folder_key
from resnet_dist.errors import DataError
from tests.image_trees import CLASSES, encoded, image_tree, pixels, refusal, write_archive, write_directory, written


def test_a_directory_gives_each_image_with_its_class(tmp_path: Path) -> None:
    images = folder_images(write_directory(tmp_path, image_tree(train=4, test=2)))
    assert images.classes == CLASSES
    assert images.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert images.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    for index in range(12):
        assert np.array_equal(images.train_images[index], pixels(index).transpose(2, 0, 1))
    for index in range(6):
        assert np.array_equal(images.test_images[index], pixels(12 + index).transpose(2, 0, 1))


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".TAR"])
@pytest.mark.parametrize("top", ["", "./", "cifar/", "./cifar/"])
def test_every_archive_is_read_like_the_directory(tmp_path: Path, suffix: str, top: str) -> None:
    tree = image_tree()
    expected = folder_images(write_directory(tmp_path / "directory", tree)).fingerprint()
    # Reversed: the order in an archive does not matter.
    shuffled = {top + name: tree[name] for name in reversed(tree)}
    path = write_archive(tmp_path / f"archive{suffix.lower()}", shuffled)
    assert folder_images(path.rename(tmp_path / f"archive{suffix}")).fingerprint() == expected


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP"])
def test_other_formats_decode_as_pillow_decodes_them(tmp_path: Path, kind: str) -> None:
    data = encoded(pixels(99), kind)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    images = folder_images(write_directory(tmp_path, image_tree() | {"train/ant/0.png": data}))
    assert np.array_equal(images.train_images[0], expected)


def test_grey_and_transparent_images_become_three_channels(tmp_path: Path) -> None:
    grey = pixels(1)[:, :, 0]
    transparent = np.dstack([pixels(2), grey])
    tree = image_tree() | {"train/ant/0.png": encoded(grey), "train/ant/1.png": encoded(transparent)}
    images = folder_images(write_directory(tmp_path, tree))
    assert np.array_equal(images.train_images[0], np.stack([grey] * 3))
    assert np.array_equal(images.train_images[1], pixels(2).transpose(2, 0, 1))


def test_hidden_files_and_files_outside_the_classes_are_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = image_tree()
    extra = {
        "README": b"words",
        "notes/about.txt": b"words",
        "train/labels.csv": b"words",
        "train/ant/.DS_Store": b"words",
        "__MACOSX/train/ant/._0.png": b"words",
        ".cache/train/x/0.png": b"words",
    }
    expected = folder_images(write_directory(tmp_path / "plain", tree)).fingerprint()
    with caplog.at_level(logging.INFO):
        assert folder_images(write_archive(tmp_path / "a.zip", extra | tree)).fingerprint() == expected
    assert "ignoring 3 files in no class folder, the first 'README'" in caplog.text


def test_the_last_of_two_members_of_one_name_counts(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.tar", image_tree())
    replacement = encoded(pixels(77))
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("train/ant/0.png")
        info.size = len(replacement)
        archive.addfile(info, io.BytesIO(replacement))
    images = folder_images(path)
    assert len(images.train_labels) == 12
    assert np.array_equal(images.train_images[0], pixels(77).transpose(2, 0, 1))


def test_nothing_is_extracted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_archive(tmp_path / "a.tar.xz", image_tree())
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    folder_images(path)
    assert sorted(tmp_path.iterdir()) == [path, working] and not list(working.iterdir())


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    assert f"no file or directory at {tmp_path / 'none.tar'}" in refusal(tmp_path / "none.tar")


@pytest.mark.parametrize("name", ["images.rar", "images"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    message = refusal(tmp_path / name)
    assert str(tmp_path / name) in message and all(suffix in message for suffix in SUFFIXES)


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    assert "pipe.tar is neither a directory" in refusal(tmp_path / "pipe.tar")
    write_directory(tmp_path / "directory", image_tree())
    os.mkfifo(tmp_path / "directory/train/ant/pipe.png")
    assert "train/ant/pipe.png" in refusal(tmp_path / "directory")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("damage", ["empty", "garbage", "first half", "all but the last tenth"])
def test_a_damaged_archive_is_named(tmp_path: Path, suffix: str, damage: str) -> None:
    path = write_archive(tmp_path / f"a{suffix}", image_tree())
    data = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "garbage": np.random.default_rng(0).bytes(5000),
            "first half": data[: len(data) // 2],
            "all but the last tenth": data[: len(data) * 9 // 10] if suffix != ".tar" else data[: 13 * 3584],
        }[damage]
    )
    assert f"{path} is damaged or cut off" in refusal(path)


def test_a_tar_with_a_damaged_header_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    # tarfile itself stops at the damage without a word; here the test split stays whole, so nothing else shows it.
    tree = image_tree()
    path = write_archive(tmp_path / "a.tar", {name: tree[name] for name in sorted(tree)})
    data = bytearray(path.read_bytes())
    data[data.index(b"train/cow/3.png")] ^= 0xFF
    path.write_bytes(data)
    assert f"{path} is damaged or cut off" in refusal(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_damaged_byte_causes_anything_but_a_data_error(tmp_path: Path, suffix: str) -> None:
    path = write_archive(tmp_path / f"a{suffix}", image_tree(train=2, test=1, classes=("ant", "bee")))
    data, random = path.read_bytes(), np.random.default_rng(1)
    refused = 0
    for _ in range(60):
        damaged = bytearray(data)
        damaged[random.integers(len(data))] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            folder_images(path)
        except DataError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zip", image_tree())
    data = bytearray(path.read_bytes())
    # Bit 0 of the flags, in the local header and in the central directory, says encrypted.
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    message = refusal(path)
    assert f"{path} is encrypted; unpack it with its password, and give the directory" in message


def test_an_image_that_does_not_decode_is_named(tmp_path: Path) -> None:
    for number, data in enumerate([b"", b"not an image", image_tree()["train/ant/0.png"][:300]]):
        path = write_archive(tmp_path / f"{number}.zip", image_tree() | {"train/bee/1.png": data})
        assert f"train/bee/1.png in {path} is not an image that can be decoded" in refusal(path)


def test_postscript_is_never_handed_to_an_interpreter(tmp_path: Path) -> None:
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n"
    path = write_archive(tmp_path / "a.zip", image_tree() | {"train/bee/1.eps": data})
    assert "train/bee/1.eps" in refusal(path)


def test_an_image_of_a_format_that_is_not_read_says_which_are(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(pixels(1)).save(data, "TGA")
    message = refusal(write_directory(tmp_path, image_tree() | {"train/bee/1.tga": data.getvalue()}))
    assert "train/bee/1.tga" in message and "can be decoded (JPEG, PNG, BMP, GIF, PPM, TIFF, WEBP)" in message


@pytest.mark.parametrize(("train", "test"), [("caf\u00e9", "cafe\u0301"), ("cafe\u0301", "caf\u00e9")])
def test_a_class_whose_name_is_spelt_in_two_ways_of_unicode_is_shown_in_both(
    tmp_path: Path, train: str, test: str
) -> None:
    tree = {
        name.replace("ant", train if name.startswith("train") else test): data for name, data in image_tree().items()
    }
    message = refusal(write_archive(tmp_path / "a.zip", tree))
    assert f"train/{train!a} and test/{test!a}, one name that is written in two ways" in message


def test_an_image_of_another_size_is_named_with_its_size(tmp_path: Path) -> None:
    tree = image_tree() | {"test/cow/1.png": encoded(pixels(0, (48, 31)))}
    assert "test/cow/1.png" in (message := refusal(write_archive(tmp_path / "a.tar.gz", tree)))
    assert "is 48x31 pixels, not 32x32; give data.resize crop, which makes all 32x32" in message


def test_images_of_one_other_size_are_refused_with_the_option_that_takes_them(tmp_path: Path) -> None:
    message = refusal(write_directory(tmp_path, {name: encoded(pixels(0, (40, 40))) for name in image_tree()}))
    assert "is 40x40 pixels, not 32x32; give data.size 40 if all are, or data.resize crop" in message
    assert folder_images(tmp_path, 40).train_images.shape == (12, 3, 40, 40)


def test_an_image_of_sixteen_bits_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(buffer, "PNG")
    tree = image_tree() | {"test/cow/1.png": buffer.getvalue()}
    assert "test/cow/1.png" in (message := refusal(write_directory(tmp_path, tree))) and "8 bits" in message


def test_a_file_too_large_for_an_image_is_not_read(tmp_path: Path) -> None:
    write_directory(tmp_path, image_tree())
    with (tmp_path / "test/cow/9.png").open("wb") as file:
        file.truncate(2**40)  # a hole: it takes no space on the disk, and would not fit in memory
    assert "test/cow/9.png" in (message := refusal(tmp_path)) and "1,099,511,627,776 bytes" in message


@pytest.mark.parametrize(("present", "absent"), [("train", "test"), ("test", "train")])
def test_a_class_folder_in_one_split_only_is_named(tmp_path: Path, present: str, absent: str) -> None:
    message = refusal(write_directory(tmp_path, image_tree() | {f"{present}/dog/0.png": encoded(pixels(0))}))
    assert f"{present}/dog but no {absent}/dog" in message


@pytest.mark.parametrize("kind", ["directory", "a.tar"])
def test_classes_are_numbered_by_the_code_points_of_their_names(tmp_path: Path, kind: str) -> None:
    names = ("bee", "Zebra", "ant", "10", "9")
    tree = image_tree(classes=names)
    images = folder_images(written(tmp_path, kind, {name: tree[name] for name in reversed(tree)}))
    assert images.classes == ("10", "9", "Zebra", "ant", "bee")
    assert np.array_equal(images.test_images[2 * 2], pixels(5 * 4 + 2).transpose(2, 0, 1))  # Zebra's first


def test_of_several_wrong_files_the_first_by_name_is_told(tmp_path: Path) -> None:
    tree = image_tree() | {"train/ant/0.png": b"words", "train/bee/0.png": b"words"}
    assert "train/ant/0.png" in refusal(write_directory(tmp_path, tree))


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    write_directory(tmp_path, image_tree() | {"test/dog/0.png": encoded(pixels(0))})
    (tmp_path / "train/dog").mkdir()
    assert "no images in train/dog" in refusal(tmp_path)


def test_missing_test_images_are_named(tmp_path: Path) -> None:
    assert "no images in test/" in refusal(write_archive(tmp_path / "a.tar", image_tree(test=0)))


def test_test_images_alone_are_read_with_their_classes(tmp_path: Path) -> None:
    images = folder_images(write_archive(tmp_path / "a.tar", image_tree(train=0, test=2)))
    assert images.classes == CLASSES and images.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert images.train_images.shape == (0, 3, 32, 32) and images.train_labels.shape == (0,)
    (tmp_path / "b/train/ant").mkdir(parents=True)
    assert "no images in train/" in refusal(write_directory(tmp_path / "b", image_tree(train=0)))


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    assert "no images in train/" in refusal(tmp_path)


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    assert "one class, ant" in refusal(write_directory(tmp_path, image_tree(classes=("ant",))))


@pytest.mark.parametrize("name", ["train/0.png", "train/ant/deep/0.png", "test/ant/very/deep/0.png"])
def test_an_image_at_the_wrong_depth_is_named(tmp_path: Path, name: str) -> None:
    tree = image_tree() | {name: encoded(pixels(0))}
    assert f"{name} in" in refusal(write_archive(tmp_path / "a.tar", tree))
    assert name.split("/0")[0] in refusal(write_directory(tmp_path / "directory", tree))


def test_a_file_that_is_named_several_times_in_a_tar_is_each_of_them(tmp_path: Path) -> None:
    tree = {"all/first.png": encoded(pixels(50)), **image_tree()}
    write_directory(tmp_path / "files", tree)
    for name, target in (("train/ant/8.png", "train/ant/0.png"), ("train/ant/9.png", "all/first.png")):
        os.link(tmp_path / "files" / target, tmp_path / "files" / name)
    modes: tuple[Literal["w:", "w:gz"], ...] = ("w:", "w:gz")
    for mode in modes:
        path = tmp_path / ("a.tar.gz" if mode == "w:gz" else "a.tar")
        with tarfile.open(path, mode) as archive:
            for file in sorted((tmp_path / "files").rglob("*.png")):
                archive.add(file, file.relative_to(tmp_path / "files"))
            assert sum(member.islnk() for member in archive.getmembers()) == 2
        images = folder_images(path)
        assert images.fingerprint() == folder_images(tmp_path / "files").fingerprint()
        assert np.array_equal(images.train_images[5], pixels(50).transpose(2, 0, 1))


def test_a_further_name_of_a_file_that_a_tar_lacks_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.tar", image_tree())
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("train/ant/9.png")
        info.type, info.linkname = tarfile.LNKTYPE, "train/ant/7.png"
        archive.addfile(info)
    assert "train/ant/9.png in" in (message := refusal(path))
    assert "is a link to train/ant/7.png, which the archive lacks" in message


@pytest.mark.parametrize(
    "name", ["Thumbs.db", "thumbs.db", "desktop.ini", "Icon\r", "@eaDir/x.png", "lost+found/0.png", "._0.png"]
)
def test_files_of_operating_systems_are_skipped(tmp_path: Path, name: str) -> None:
    tree = image_tree() | {f"train/ant/{name}": b"words", f"train/{name}": b"words"}
    images = folder_images(write_directory(tmp_path / "with", tree))
    assert images.fingerprint() == folder_images(write_directory(tmp_path / "plain", image_tree())).fingerprint()


@pytest.mark.parametrize("transparency", [0, bytes(range(256))])
def test_a_palette_with_transparency_has_its_colours_and_no_warning(tmp_path: Path, transparency: int | bytes) -> None:
    picture = Image.fromarray(pixels(3)).quantize(256)
    expected = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    picture.save(buffer := io.BytesIO(), "PNG", transparency=transparency)
    tree = image_tree() | {"train/ant/0.png": buffer.getvalue()}
    assert np.array_equal(folder_images(write_directory(tmp_path, tree)).train_images[0], expected)


def test_what_the_decoder_warns_of_is_said_once_with_a_file_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    convert = Image.Image.convert

    def warn(image: Image.Image, mode: str) -> Image.Image:
        warnings.warn("Corrupt EXIF data", stacklevel=1)
        return convert(image, mode)

    monkeypatch.setattr(Image.Image, "convert", warn)
    folder_images(write_directory(tmp_path, image_tree(2, 1)))
    assert f"{tmp_path}: of 9 images the decoder warns, the first test/ant/0.png: Corrupt EXIF data" in caplog.text


def test_a_huge_picture_is_not_said_to_be_undecodable(tmp_path: Path) -> None:
    header = encoded(pixels(0))
    width = struct.pack(">I", 60_000)
    chunk = b"IHDR" + width + width + header[24:29]
    huge = header[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + header[33:]
    tree = image_tree() | {"train/ant/0.png": huge}
    assert "train/ant/0.png" in (message := refusal(write_directory(tmp_path, tree)))
    assert "is a huge picture, of more than 178,956,970 pixels" in message


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
@pytest.mark.parametrize("name", ["train/ant/9.png", "train/ant"])
def test_links_and_special_files_in_a_tar_are_refused(tmp_path: Path, kind: bytes, name: str) -> None:
    path = write_archive(tmp_path / "a.tar", image_tree())
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/hostname"
        archive.addfile(info)
    assert f"{name} in {path} is a link or special file" in refusal(path)


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zip", image_tree())
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("train/ant/9.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/hostname")
    assert "train/ant/9.png" in (message := refusal(path)) and "link" in message


def test_links_in_a_directory_are_followed(tmp_path: Path) -> None:
    elsewhere = write_directory(tmp_path / "elsewhere", image_tree())
    linked = tmp_path / "linked"
    linked.mkdir()
    for split in ("train", "test"):
        (linked / split).symlink_to(elsewhere / split)
    assert folder_images(linked).fingerprint() == folder_images(elsewhere).fingerprint()


def test_a_broken_link_is_named(tmp_path: Path) -> None:
    write_directory(tmp_path, image_tree())
    (tmp_path / "train/ant/9.png").symlink_to(tmp_path / "nowhere")
    assert f"{tmp_path}/train/ant/9.png cannot be read" in refusal(tmp_path)


def test_a_name_with_a_line_break_stays_on_one_line(tmp_path: Path) -> None:
    assert "new\\nline.png" in refusal(
        write_archive(tmp_path / "a.tar", image_tree() | {"train/ant/new\nline.png": b""})
    )


def test_an_archive_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_archive(tmp_path / "a.tar", image_tree())
    convert = Image.Image.convert

    def convert_and_touch(image: Image.Image, mode: str) -> Image.Image:
        os.utime(path, ns=(1, 1))
        return convert(image, mode)

    monkeypatch.setattr(Image.Image, "convert", convert_and_touch)
    assert "changed while it was read" in refusal(path)


def test_a_directory_is_read_though_its_files_are_numbered_anew_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a mount that makes inode numbers up, and drops them when memory is short."""
    write_directory(tmp_path, image_tree())
    expected, stamp, numbers = folder_images(tmp_path).fingerprint(), image_folder.stamp, itertools.count()

    def stamp_anew(status: os.stat_result, inodes: bool) -> str:
        return f"{next(numbers) if inodes else 0} {stamp(status, inodes)}"

    monkeypatch.setattr(image_folder, "stamp", stamp_anew)
    first, second = folder_key(tmp_path), folder_key(tmp_path)
    assert first != second
    assert folder_images(tmp_path).fingerprint() == expected


@pytest.fixture
def within_a_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that gave all files the same time of change, since its clock did not tick meanwhile."""
    stamp = image_folder.stamp
    monkeypatch.setattr(image_folder, "stamp", lambda *given: stamp(*given).rpartition(" ")[0])


def test_the_key_follows_a_link_that_leads_elsewhere(tmp_path: Path, within_a_tick: None) -> None:
    for name in ("one", "other"):
        for path in image_tree():
            write_directory(tmp_path / name, {path: b"same size"})
            os.utime(tmp_path / name / path, ns=(1, 1))
    keys = []
    for name in ("one", "other", "one"):
        (tmp_path / "linked").unlink(missing_ok=True)
        (tmp_path / "linked").symlink_to(tmp_path / name)
        keys.append(folder_key(tmp_path / "linked"))
    assert keys[0] == keys[2] != keys[1]


def test_the_key_follows_class_folders_that_change_places(tmp_path: Path, within_a_tick: None) -> None:
    for path in image_tree():
        write_directory(tmp_path, {path: b"same size"})
        os.utime(tmp_path / path, ns=(1, 1))
    before, (ant, bee, aside) = folder_key(tmp_path), (tmp_path / "train" / name for name in ("ant", "bee", ".aside"))
    ant.rename(aside)
    bee.rename(ant)
    aside.rename(bee)
    assert folder_key(tmp_path) != before


def test_the_key_follows_every_change_of_a_directory(tmp_path: Path) -> None:
    write_directory(tmp_path, image_tree())
    keys = [folder_key(tmp_path)]
    assert folder_key(tmp_path) == keys[0]
    (tmp_path / "train/ant/0.png").write_bytes(b"other")
    keys.append(folder_key(tmp_path))
    (tmp_path / "train/ant/0.png").rename(tmp_path / "train/ant/00.png")
    keys.append(folder_key(tmp_path))
    os.utime(tmp_path / "test/cow/0.png", ns=(1, 1))
    keys.append(folder_key(tmp_path))
    (tmp_path / "test/dog").mkdir()
    keys.append(folder_key(tmp_path))
    assert len(set(keys)) == len(keys)


def test_the_key_follows_every_change_of_an_archive(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.tar", image_tree())
    keys = [folder_key(path)]
    assert folder_key(path) == keys[0]
    os.utime(path, ns=(1, 1))
    keys.append(folder_key(path))
    keys.append(folder_key(path.rename(tmp_path / "b.tar")))
    assert len(set(keys)) == len(keys)


@pytest.mark.integration
def test_the_real_archive_is_all_of_cifar10(real_data: Path) -> None:
    images: DecodedImages = folder_images(real_data)
    assert len(images.classes) == 10 and images.classes[0] == "airplane"
    assert np.bincount(images.train_labels).tolist() == [5000] * 10
    assert np.bincount(images.test_labels).tolist() == [1000] * 10
    # The published means of CIFAR-10's channels, which JPEG encoding leaves as they are.
    mean = images.train_images.mean((0, 2, 3)) / 255
    assert np.allclose(mean, [0.4914, 0.4822, 0.4465], atol=0.002)

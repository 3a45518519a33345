"""Folders whose images are of any size, or not split, and the decoder that they share with shards."""

import io
import tarfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from resnet_dist.data import image_decoding
from resnet_dist.data.image_decoding import NotAnImageError
from resnet_dist.data.image_folder import folder_images
from resnet_dist.errors import DataError
from tests.image_trees import CLASSES, encoded, image_tree, pixels, write_archive, write_directory


def test_images_of_any_size_are_scaled_and_cut_to_their_middle(tmp_path: Path) -> None:
    wide, tall = pixels(7, (100, 60)), pixels(8, (46, 77))
    tree = image_tree() | {"train/ant/0.png": encoded(wide), "train/ant/1.jpg": encoded(pixels(1, (300, 31)), "JPEG")}
    tree |= {"train/bee/0.png": encoded(tall)}
    images = folder_images(write_directory(tmp_path, tree), 30, crop=True)
    assert images.train_images.shape == (13, 3, 30, 30)
    firsts = [images.train_images[list(images.train_labels).index(label)] for label in (0, 1)]
    for found, middle in zip(firsts, (wide[:, 20:80], tall[15:61]), strict=True):
        expected = np.asarray(Image.fromarray(middle).resize((30, 30), Image.Resampling.BILINEAR))
        assert abs(found.transpose(1, 2, 0).astype(int) - expected).max() <= 1
    grown = folder_images(tmp_path, 64, crop=True).train_images
    assert grown.shape == (13, 3, 64, 64) and grown[0].min() >= 0


def test_a_folder_without_splits_is_split_by_what_its_images_hold(tmp_path: Path) -> None:
    tree = {
        f"{name}/{index}.png": encoded(pixels(100 * number + index))
        for number, name in enumerate(CLASSES)
        for index in range(30)
    }
    found = folder_images(write_directory(tmp_path / "plain", tree), split=0.8)
    train, test = len(found.train_labels), len(found.test_labels)
    assert train + test == 90 and 60 < train < 84
    renamed = {f"photos/{name.replace('/', '/x')}": data for name, data in tree.items()}
    again = folder_images(write_archive(tmp_path / "a.zip", renamed), split=0.8)
    assert again.fingerprint() == found.fingerprint()  # whatever the files' names
    more = folder_images(write_directory(tmp_path / "plain", {"ant/99.png": encoded(pixels(999))}), split=0.8)
    assert len(more.train_labels) + len(more.test_labels) == 91
    moved = {image.tobytes() for image in more.train_images} ^ {image.tobytes() for image in found.train_images}
    assert len(moved) <= 1


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (image_tree(), "data.split: "),
        ({"ant/0.png": encoded(pixels(0)), "ant/1.png": encoded(pixels(1))}, "two or more class folders side by side"),
        ({"ant/0.png": encoded(pixels(0)), "bee/x/0.png": encoded(pixels(1))}, "two or more class folders"),
        ({"ant/0.png": encoded(pixels(0)), "bee/0.png": encoded(pixels(1))}, "falls to the test images"),
        ({"ant/0.png": b"no image", "bee/0.png": encoded(pixels(1))}, "ant/0.png"),
    ],
)
def test_class_folders_that_cannot_be_split_are_refused(tmp_path: Path, tree: dict[str, bytes], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        folder_images(write_directory(tmp_path, tree), split=0.99)
    assert "\n" not in str(caught.value)


def test_class_folders_that_are_split_are_numbered_by_name_whatever_the_order_of_an_archive(tmp_path: Path) -> None:
    tree = {f"{name}/{i}.png": encoded(pixels(100 * n + i)) for n, name in enumerate("cab") for i in range(12)}
    found = folder_images(write_archive(tmp_path / "a.zip", tree), split=0.5)
    assert found.classes == ("a", "b", "c")
    ours = {pixels(i).transpose(2, 0, 1).tobytes() for i in range(12)}
    held = zip((*found.train_images, *found.test_images), (*found.train_labels, *found.test_labels), strict=True)
    assert {image.tobytes() for image, label in held if label == 2} == ours


def test_what_cannot_be_an_image_of_a_class_folder_is_named(tmp_path: Path) -> None:
    tree = {f"{name}/{i}.png": encoded(pixels(100 * n + i)) for n, name in enumerate("ab") for i in range(12)}
    write_directory(tmp_path, tree)
    with (tmp_path / "a/large.png").open("wb") as file:
        file.truncate(2**40)  # a hole, which would not fit in memory
    with pytest.raises(DataError, match=r"a/large\.png in .* is 1,099,511,627,776 bytes, too large for an image"):
        folder_images(tmp_path, split=0.5)
    path = write_archive(tmp_path / "images.tar", tree)
    with tarfile.open(path, "a:") as archive:
        link = tarfile.TarInfo("a/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "0.png"
        archive.addfile(link)
    with pytest.raises(DataError, match=r"a/link\.png in .* is a link or special file, not an image file"):
        folder_images(path, split=0.5)


@pytest.mark.parametrize("damage", ["cut", "no end", "corrupt", "cmyk", "grey", "turned", "progressive"])
def test_torchvisions_decoder_takes_a_jpeg_as_pillow_does(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.fromarray(np.add.outer(np.arange(45), np.arange(60)).astype(np.uint8)[..., None].repeat(3, 2))
    picture = picture.convert({"cmyk": "CMYK", "grey": "L"}.get(damage, "RGB"))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", exif=exif if damage == "turned" else b"", progressive=damage == "progressive")
    data = {"cut": buffer.getvalue()[:-60], "no end": buffer.getvalue()[:-2]}.get(damage, buffer.getvalue())
    if damage == "corrupt":
        data = data[:-40] + bytes(10) + data[-30:]
    given: list[bytes] = []
    monkeypatch.setattr(image_decoding, "_by_pillow", pillow := Mock(wraps=image_decoding._by_pillow))
    for decoder in (pillow, image_decoding.decode):
        try:
            given.append(decoder(data, None)[0].numpy().tobytes())
        except NotAnImageError as error:
            given.append(str(error).encode())
    assert given[0] == given[1]
    assert pillow.call_count == 1 + (damage in ("cut", "no end", "cmyk")), "torchvision has decoded the others"
    assert (b"can be decoded" in given[1]) == (damage in ("cut", "no end"))

"""A small data set in ImageNet's exact layout: the three archives, with the odd files that the real ones have."""

import functools
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from cluster.storage.opening import open_storage
from resnet_dist.data.folder_files import folder_files
from resnet_dist.data.sharding import write_shards
from tests.image_trees import encoded

DEVKIT = "ILSVRC2012_devkit_t12"
TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


def wnid(label: int) -> str:
    return f"n{1440764 + 7 * label:08d}"


@functools.cache
def picture(label: int, number: int, kind: str = "JPEG", mode: str = "RGB", turned: bool = False) -> bytes:
    """A file of some size, whose class shows in its stripes: every fifth is CMYK, grey, PNG or turned by EXIF."""
    random = np.random.default_rng([label, number])
    height, width = random.integers(40, 90, 2)
    rows, columns = np.mgrid[:height, :width]
    pixels = random.normal(100, 15, (height, width, 3))
    pixels[..., label % 3] += 90 * np.sin((rows if label % 2 else columns) / (1 + label))
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"exif": exif} if turned else {}))
    return buffer.getvalue()


def odd_picture(label: int, number: int) -> bytes:
    """The same, a few of them as the real set has them: CMYK, grey, PNG under the name of a JPEG, turned by EXIF."""
    odd = {1: {"mode": "CMYK"}, 2: {"mode": "L"}, 3: {"kind": "PNG"}, 4: {"turned": True}}
    return picture(label, number, **odd.get(number, {}))  # type: ignore[arg-type]


def write_imagenet(root: Path, classes: int = 3, train: int = 8, val: int = 4) -> Path:
    """The archives of a training set of so many images a class, and of a validation set in mixed order."""
    root.mkdir(parents=True, exist_ok=True)
    outer = {
        f"{wnid(label)}.tar": tar_of({f"{wnid(label)}_{n}.JPEG": odd_picture(label, n) for n in range(train)})
        for label in range(classes)
    }
    (root / TRAIN).write_bytes(tar_of(outer))
    numbers = np.random.default_rng(1).permutation(classes) + 1  # the devkit's own, in another order than the names
    labels = np.random.default_rng(2).permutation(np.repeat(np.arange(classes), val))
    files = {
        f"ILSVRC2012_val_{place + 1:08d}.JPEG": picture(int(label), 1000 + place) for place, label in enumerate(labels)
    }
    (root / VAL).write_bytes(tar_of(files))
    write_devkit(root, [int(numbers[label]) for label in labels], {int(numbers[n]): wnid(n) for n in range(classes)})
    return root


def write_devkit(root: Path, truth: list[int], wnids: dict[int, str]) -> None:
    """The devkit: the synsets, one group of them among them, and the class of each validation image."""
    from scipy.io import savemat  # workers import this module for what else is in it

    rows = [(number, name, "words", "gloss", 0) for number, name in wnids.items()]
    rows.append((len(rows) + 1, "n00001740", "entity", "all of them", len(rows)))
    names = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": np.array(rows, [(name, "O") for name in names]).reshape(-1, 1)})
    lines = "".join(f"{number}\n" for number in truth).encode()
    held = {f"{DEVKIT}/data/meta.mat": buffer.getvalue()}
    held[f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt"] = lines
    (root / f"{DEVKIT}.tar.gz").write_bytes(tar_of(held, "w:gz"))


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write_folder(root: Path, classes: int = 3, train: int = 8, val: int = 4) -> Path:
    """The same images in train/ and test/ with a folder for each class."""
    for split, count, first in (("train", train, 0), ("test", val, 1000)):
        for label in range(classes):
            (root / split / wnid(label)).mkdir(parents=True)
            for number in range(first, first + count):
                (root / split / wnid(label) / f"{number}.JPEG").write_bytes(odd_picture(label, number))
    return root


def broken_picture() -> bytes:
    """A JPEG that is cut off."""
    return encoded(np.full((50, 60, 3), 90, np.uint8), "JPEG")[:-100]


def small_shards(root: Path) -> Path:
    """Several shards of `write_folder`'s images, which lie beside them: 24 for training, 12 for the test."""
    files = folder_files(str(write_folder(root / "folder")), io.BytesIO())
    write_shards(files, functools.partial(open_storage, str(root / "shards")), shard_bytes=20_000)
    return root / "shards"

"""Small data sets of real image files, as directories and archives, for tests of what reads them."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from resnet_dist.data.image_folder import folder_images
from resnet_dist.errors import DataError

CLASSES = ("ant", "bee", "cow")


def pixels(number: int, size: tuple[int, int] = (32, 32)) -> NDArray[np.uint8]:
    """Random image `number`: uint8 [height, width, 3]."""
    width, height = size
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def image_tree(train: int = 4, test: int = 2, classes: tuple[str, ...] = CLASSES) -> dict[str, bytes]:
    """Files by path: so many PNG images a class in each split, each different."""
    paths = [
        f"{split}/{name}/{index}.png"
        for split, count in (("train", train), ("test", test))
        for name in classes
        for index in range(count)
    ]
    return {path: encoded(pixels(number)) for number, path in enumerate(paths)}


def write_directory(path: Path, tree: dict[str, bytes]) -> Path:
    """Write the files below the directory `path`."""
    for name, data in tree.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_archive(path: Path, tree: dict[str, bytes]) -> Path:
    """Write the files to an archive of the kind that its suffix says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, data in tree.items():
                zipped.writestr(name, data)
        return path
    mode = {".tar": "w:", ".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz"}[path.suffix]
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in tree.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def refusal(path: Path) -> str:
    """The one-line message with which `path` is refused."""
    with pytest.raises(DataError) as caught:
        folder_images(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def written(path: Path, kind: str, tree: dict[str, bytes]) -> Path:
    """The files as an archive named `kind`, or as a directory."""
    (path / "directory").mkdir()
    return write_directory(path / "directory", tree) if kind == "directory" else write_archive(path / kind, tree)

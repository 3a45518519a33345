"""ImageNet's files where they lie: the original archives as torchvision wants them, or what it makes of them.

    ILSVRC2012_img_train.tar              a tar of a tar for each class, n01440764.tar
    ILSVRC2012_img_val.tar                ILSVRC2012_val_00000001.JPEG …
    ILSVRC2012_devkit_t12.tar.gz          which class each of these has

or `train/` and `val/` with a folder for each class. Of an archive nothing is unpacked: its headers say where each file
begins. The classes are those of the devkit (WordNet ids), or of the folders where no devkit is needed.
"""

import contextlib
import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from resnet_dist.data.sharding import ImageFile, ImageFiles
from resnet_dist.data.splits import is_system
from resnet_dist.errors import DataError
from resnet_dist.file_kinds import IMAGE_SUFFIXES
from resnet_dist.paths import absolute

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"


def imagenet_files(place: str) -> ImageFiles:
    """The files of `imagenet:PATH`. A `DataError` of one line says what is missing, cut off or does not fit."""
    root = absolute(place, "imagenet")
    if not root.is_dir():
        raise DataError(f"imagenet: there is no directory at {root}")
    train = _train(root)
    test = _class_folders(root / "val") if _has_class_folders(root / "val") else _truth_of(root, _flat_val(root))
    for split, others, other in (("train", test, "val"), ("val", train, "train")):
        have = train if split == "train" else test
        for name in sorted(others):
            if name not in have:
                raise DataError(f"imagenet: {root} has no images of class {name} in {split}, and some in {other}")
    classes = tuple(sorted(train))
    return ImageFiles(_labelled(train, classes), _labelled(test, classes), classes)


def _labelled(found: dict[str, list[ImageFile]], classes: Sequence[str]) -> list[ImageFile]:
    return [
        file._replace(label=label)
        for label, name in enumerate(classes)
        for file in sorted(found[name], key=lambda file: file.name)
    ]


def _train(root: Path) -> dict[str, list[ImageFile]]:
    if (root / "train").is_dir():
        return _class_folders(root / "train")
    path = root / TRAIN
    _require(path, f"{TRAIN}, or train/")
    found: dict[str, list[ImageFile]] = {}
    with path.open("rb") as file:
        for name, start, length in _members(path, file, 0, path.stat().st_size):
            wnid = name.removesuffix(".tar")
            found[wnid] = [
                ImageFile(f"{wnid}/{image}", 0, str(path), begin, size)
                for image, begin, size in _members(path, file, start, length, f" in {name}")
            ]
            if not found[wnid]:
                raise DataError(f"imagenet: {path}: {name} holds no images")
    return found


def _class_folders(directory: Path) -> dict[str, list[ImageFile]]:
    found = {}
    for folder in sorted(entry for entry in directory.iterdir() if entry.is_dir() and not is_system(entry.name)):
        images = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            raise DataError(f"imagenet: {folder} holds no images")
        found[folder.name] = [
            ImageFile(f"{folder.name}/{path.name}", 0, str(path), 0, path.stat().st_size) for path in images
        ]
    if not found:
        raise DataError(f"imagenet: {directory} holds no class folders")
    return found


def _has_class_folders(directory: Path) -> bool:
    return directory.is_dir() and any(entry.is_dir() for entry in directory.iterdir())


def _flat_val(root: Path) -> list[ImageFile]:
    if (root / "val").is_dir():
        paths = sorted(path for path in (root / "val").iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        return [ImageFile(path.name, 0, str(path), 0, path.stat().st_size) for path in paths]
    path = root / VAL
    _require(path, f"{VAL}, or val/")
    with path.open("rb") as file:
        members = _members(path, file, 0, path.stat().st_size)
        return sorted(ImageFile(name, 0, str(path), start, size) for name, start, size in members)


def _truth_of(root: Path, files: list[ImageFile]) -> dict[str, list[ImageFile]]:
    """The validation images by class, as the devkit has it: its lines are in the order of the files' numbers."""
    wnids = _wnids(root)
    try:
        truth = [int(line) for line in _devkit(root, TRUTH).decode("ascii").split()]
    except ValueError:
        raise DataError(f"imagenet: {TRUTH} of the devkit in {root} is not a list of numbers") from None
    if len(truth) != len(files):
        raise DataError(
            f"imagenet: the devkit in {root} knows of {len(truth)} validation images, and there are {len(files)}; "
            f"it must be that of ILSVRC 2012 ({DEVKIT}.tar.gz)"
        )
    found: dict[str, list[ImageFile]] = {}
    for file in files:
        number = re.search(r"(\d+)\.\w+$", file.name)
        place = int(number[1]) if number else 0
        if not 1 <= place <= len(truth) or truth[place - 1] not in wnids:
            raise DataError(f"imagenet: the devkit in {root} does not say which class {file.name} has")
        found.setdefault(wnids[truth[place - 1]], []).append(file)
    return found


def _wnids(root: Path) -> dict[int, str]:
    """WordNet id of each class by the number that the devkit gives it; groups of classes left out."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        rows: Any = loadmat(io.BytesIO(_devkit(root, META)), squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows if int(row["num_children"]) == 0}
    except (MatReadError, NotImplementedError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"imagenet: {META} of the devkit in {root} is not that of ILSVRC 2012") from error


def _devkit(root: Path, name: str) -> bytes:
    """A file of the devkit, out of its archive or where it was unpacked."""
    unpacked, archive = root / DEVKIT / name, root / f"{DEVKIT}.tar.gz"
    try:
        if unpacked.is_file():
            return unpacked.read_bytes()
        _require(archive, f"{DEVKIT}.tar.gz, which says which class each validation image has")
        whole = io.BytesIO(gzip.decompress(archive.read_bytes()))  # held to its checksum, which stands at the end
        with tarfile.open(fileobj=whole, mode="r:") as opened, contextlib.closing(_member(opened, name)) as file:
            return file.read()
    except (tarfile.TarError, zlib.error, EOFError, KeyError, OSError) as error:
        raise DataError(f"imagenet: {archive} is damaged, or has no {name} ({' '.join(str(error).split())})") from error


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(f"{DEVKIT}/{name}")
    if file is None:
        raise KeyError(name)
    return file


def _members(path: Path, file: IO[bytes], start: int, length: int, where: str = "") -> Iterator[tuple[str, int, int]]:
    """Name, beginning and size of each file in a tar that lies in a part of a file, by the headers alone."""
    place, stop = start, start + length
    while place + tarfile.BLOCKSIZE <= stop:
        file.seek(place)
        header = file.read(tarfile.BLOCKSIZE)
        if header == bytes(tarfile.BLOCKSIZE):
            return
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise DataError(f"imagenet: {path} is damaged at byte {place}{where} ({error})") from error
        begin = place + tarfile.BLOCKSIZE
        if begin + info.size > stop:
            raise DataError(f"imagenet: {path} is cut off{where}, within {info.name}")
        if info.isreg():
            yield info.name.removeprefix("./"), begin, info.size
        place = begin + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    raise DataError(f"imagenet: {path} is cut off{where}: it lacks the end that a tar has")


def _require(path: Path, what: str) -> None:
    if not path.is_file():
        raise DataError(f"imagenet: there is no {what} in {path.parent}")

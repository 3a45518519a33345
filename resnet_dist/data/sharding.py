"""Makes shards: a data set's encoded files, as they are, in tar files in storage, and an index that finds each.

What goes where is decided before anything is read, by the names, sizes and labels alone, in an order that is drawn
once. So processes work on shards of their own, and a call that goes on, or comes again, finds what is there already.
"""

import functools
import hashlib
import io
import json
import math
import multiprocessing
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from resnet_dist.data import random_draws as draws
from resnet_dist.data.image_decoding import NotAnImageError, decode
from resnet_dist.data.random_draws import Stream
from resnet_dist.data.shard_index import INDEX, ShardIndex, SplitIndex, read_index
from resnet_dist.errors import DataError
from resnet_dist.plurals import counted
from resnet_dist.storage.interface import Storage

SHARD_BYTES = 128 * 2**20
"""Of the files in a shard, after which the next one begins."""

OpenStorage = Callable[[], Storage]
OnShard = Callable[[int, int], None]
"""Called with how many shards there are now, and how many there will be."""


class ImageFile(NamedTuple):
    """An encoded image and where it lies now."""

    name: str
    """Below the source, with `/` between its parts."""
    label: int
    path: str
    """The file that it is, or is part of."""
    offset: int
    length: int


@dataclass(frozen=True)
class ImageFiles:
    """The files of a data set."""

    train: Sequence[ImageFile]
    test: Sequence[ImageFile]
    classes: tuple[str, ...]


class _Shard(NamedTuple):
    name: str
    first: int
    """Number of its first image in the split."""
    files: tuple[ImageFile, ...]

    @property
    def plan(self) -> str:
        """Hash of what it is to hold."""
        said = [[self.name, self.first], *([file.name, file.label, file.length] for file in self.files)]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def write_shards(
    files: ImageFiles,
    open_storage: OpenStorage,
    processes: int = 1,
    shard_bytes: int = SHARD_BYTES,
    broken_images: int = 0,
    on_shard: OnShard | None = None,
) -> tuple[ShardIndex, bool]:
    """Write what is missing of a data set in shards. Returns its index, and whether anything was written.

    Up to `broken_images` files that cannot be decoded are left out, and named in the index; more are refused with their
    names. Raises a `DataError` if another data set is there.
    """
    storage = open_storage()
    plans = {split: list(_planned(split, getattr(files, split), shard_bytes)) for split in ("train", "test")}
    shards = [shard for split in plans.values() for shard in split]
    listing = hashlib.sha256(json.dumps([files.classes, [shard.plan for shard in shards]]).encode()).hexdigest()
    if (index := read_index(storage)) is not None:
        if index.listing != listing:
            raise DataError(f"{storage.uri}: holds shards of other images, or cut in another way; give another place")
        _require_few(index.left_out, broken_images)
        return index, False
    made: dict[str, dict[str, Any]] = {}
    broken: list[str] = []
    for name, record in _all_made(shards, open_storage, processes):
        made[name] = record
        broken += record["broken"]
        _require_few(broken, broken_images)
        if on_shard:
            on_shard(len(made), len(shards))
    index = _index(files, plans, made, listing)
    storage.put(INDEX, index.encode())
    return index, True


def _require_few(broken: Sequence[str], allowed: int) -> None:
    if len(broken) > allowed:
        shown = "; ".join(sorted(broken)[:5])
        raise DataError(
            f"{counted(len(broken), 'image')} cannot be decoded: {shown}; mend or remove what is broken, or give "
            f"--broken-images {len(broken)} to leave them out"
        )


def _planned(split: str, files: Sequence[ImageFile], shard_bytes: int) -> Iterator[_Shard]:
    """The shards of a split, of files in an order that their number alone decides."""
    order = draws.permutation(draws.raw(0, Stream.SHARDS, int(split == "test"), len(files)))
    held: list[ImageFile] = []
    first = count = size = 0
    for file in (files[place] for place in order):
        if held and size + file.length > shard_bytes:
            yield _Shard(f"{split}-{count:05d}.tar", first, tuple(held))
            first, count, size, held = first + len(held), count + 1, 0, []
        held.append(file)
        size += file.length
    if held:
        yield _Shard(f"{split}-{count:05d}.tar", first, tuple(held))


def _all_made(
    shards: Iterable[_Shard], open_storage: OpenStorage, processes: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The record of each shard, as it is there."""
    storage = open_storage()
    missing = []
    for shard in shards:
        if record := _found(storage, shard):
            yield shard.name, record
        else:
            missing.append(shard)
    if processes == 1 or len(missing) < 2:
        for shard in missing:
            yield shard.name, _made(storage, shard)
        return
    # Not forked from this process, which may have threads, but from one that has imported torch for all.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["resnet_dist.data.sharding", "torch"])
    with ProcessPoolExecutor(min(processes, len(missing)), context) as pool:
        futures = {pool.submit(_made_elsewhere, open_storage, shard): shard for shard in missing}
        try:
            for future in as_completed(futures):
                yield futures[future].name, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _found(storage: Storage, shard: _Shard) -> dict[str, Any] | None:
    """The record of a shard that is there already."""
    try:
        record = json.loads(storage.get(_record_key(shard)) or b"{}")
    except ValueError:
        return None
    return record if record.get("plan") == shard.plan else None


def _record_key(shard: _Shard) -> str:
    return f"parts/{shard.name.removesuffix('.tar')}.json"


def _made_elsewhere(open_storage: OpenStorage, shard: _Shard) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    return _made(open_storage(), shard)


def _made(storage: Storage, shard: _Shard) -> dict[str, Any]:
    """Write one shard, then its record."""
    buffer = io.BytesIO()
    columns: dict[str, list[int]] = {name: [] for name in ("offset", "length", "label", "crc32")}
    broken: list[str] = []
    moments: list[list[float]] = []
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.USTAR_FORMAT) as archive:
        for number, file in enumerate(shard.files, shard.first):
            data = _content(file)
            try:
                pixels, _ = decode(data)
            except NotAnImageError as error:
                broken.append(f"{file.name} {error}")
                continue
            moments.append(_moments(pixels))
            path = PurePosixPath(file.name)
            stem = re.sub(r"[^A-Za-z0-9_-]", "_", path.stem)[:60]
            key = f"{number:08d}-{stem}"
            columns["offset"].append(_added(archive, f"{key}{path.suffix.lower() or '.image'}", data))
            columns["length"].append(len(data))
            columns["label"].append(file.label)
            columns["crc32"].append(zlib.crc32(data))
            _added(archive, f"{key}.cls", str(file.label).encode())
    content = buffer.getvalue()
    storage.put(shard.name, content)
    record = {
        "plan": shard.plan,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        **columns,
        "broken": broken,
        "moments": [math.fsum(column) for column in zip(*moments, strict=True)],
    }
    storage.put(_record_key(shard), json.dumps(record).encode())
    return record


def _content(file: ImageFile) -> bytes:
    try:
        with Path(file.path).open("rb") as opened:
            opened.seek(file.offset)
            data = opened.read(file.length)
    except OSError as error:
        raise DataError(f"{file.path} cannot be read ({error.strerror})") from error
    if len(data) != file.length:
        raise DataError(f"{file.name} in {file.path} is cut off, or has changed meanwhile; start again")
    return data


def _added(archive: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a member; returns where its content begins."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    begin = archive.offset + tarfile.BLOCKSIZE
    archive.addfile(info, io.BytesIO(data))
    return begin


def _moments(pixels: Any) -> list[float]:
    """Of an image, uint8 [3, H, W]: the mean of each channel, then of the products of each two: 3 + 9 numbers."""
    flat = pixels.reshape(3, -1).double()
    return [*flat.mean(1).tolist(), *((flat @ flat.T) / flat.shape[1]).flatten().tolist()]


def _index(
    files: ImageFiles, plans: Mapping[str, Sequence[_Shard]], made: Mapping[str, Mapping[str, Any]], listing: str
) -> ShardIndex:
    names = [shard.name for split in plans.values() for shard in split]

    def split_index(split: str) -> SplitIndex:
        records = [(names.index(shard.name), made[shard.name]) for shard in plans[split]]
        column = functools.partial(_column, [record for _, record in records])
        return SplitIndex(
            shard=np.repeat(
                np.array([place for place, _ in records], np.int32), [len(record["label"]) for _, record in records]
            ),
            offset=column("offset").astype(np.int64),
            length=column("length").astype(np.int64),
            label=column("label").astype(np.int32),
            crc32=column("crc32").astype(np.uint32),
        )

    train, test = split_index("train"), split_index("test")
    # Of a source of test images alone there are no others to go by.
    of, count = ("train", len(train)) if len(train) else ("test", len(test))
    sums = zip(*(made[shard.name]["moments"] for shard in plans[of] if made[shard.name]["moments"]), strict=True)
    moments = [math.fsum(column) / count for column in sums]
    return ShardIndex(
        classes=files.classes,
        shards=tuple({"name": name, **{key: made[name][key] for key in ("bytes", "sha256")}} for name in names),
        train=train,
        test=test,
        mean=tuple(moments[:3]),
        products=tuple(tuple(moments[3 * row + 3 : 3 * row + 6]) for row in range(3)),
        listing=listing,
        left_out=tuple(sorted(name for record in made.values() for name in record["broken"])),
    ).fingerprinted()


def _column(records: Sequence[Mapping[str, Any]], name: str) -> Any:
    return np.array([value for record in records for value in record[name]], np.int64)

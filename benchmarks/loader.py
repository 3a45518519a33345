"""Images of ImageNet's size as a network is trained on them: shards against ImageFolder and DataLoader, equal workers.

`python -m benchmarks.loader`: both read the same JPEG files of 500×375 pixels from this machine's disk, take a random
part of each, flip and standardise it, and give batches of 224×224 pixels, in turns; the median of each counts. Memory
of the first is watched meanwhile. Exit code 1 if a target is short.
"""

import argparse
import functools
import io
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.command import exit_with
from benchmarks.targets import Target, print_lines
from cluster.storage.opening import open_storage
from resnet_dist.configuration.data import DataConfig
from resnet_dist.data.batches import Standardiser
from resnet_dist.data.dataset import open_dataset
from resnet_dist.data.folder_files import folder_files
from resnet_dist.data.sharded import StreamedBatches
from resnet_dist.data.sharding import write_shards
from resnet_dist.workers import Shards

IMAGES, CLASSES, BATCH, SIZE = 512, 4, 64, 224
CONTENDERS = ("shards", "ImageFolder and DataLoader")
SPEED_TARGET, GROWTH_TARGET = 1.3, 50.0
"""Times as fast, and MB that memory may grow by after the first two rounds."""


def write_images(root: Path) -> None:
    """JPEG files of 500×375 pixels and some 110 kB, as ImageNet's mean is, and as many test images as classes."""
    random = np.random.default_rng(0)
    for split, count in (("train", IMAGES), ("test", CLASSES)):
        for number in range(count):
            coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375))
            pixels = np.asarray(coarse) + random.normal(0, 14, (375, 500, 3))
            buffer = io.BytesIO()
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
            folder = root / split / f"class {number % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.jpg").write_bytes(buffer.getvalue())


def image_folder(
    root: Path, size: int, batch: int, workers: int, pin_memory: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches for ever, [B, 3, size, size] and [B], as torchvision's reference script loads them."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    chain = transforms.Compose(
        [
            transforms.RandomResizedCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    loader: Any = DataLoader(
        datasets.ImageFolder(str(root / "train"), chain),
        batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        pin_memory=pin_memory,
        persistent_workers=True,
        prefetch_factor=2,
    )
    while True:
        yield from loader


def conventional(root: Path, workers: int) -> Iterator[int]:
    """Images a batch, for ever."""
    for images, _ in image_folder(root, SIZE, BATCH, workers):
        yield len(images.contiguous(memory_format=torch.channels_last))


def from_shards(place: Path, workers: int) -> Iterator[int]:
    """The same from shards."""
    data = DataConfig(
        source=f"shards:{place}",
        size=SIZE,
        batch_size=BATCH,
        sampling="permutation",
        augmentation="today",
        decoding_threads=workers,
    )
    dataset = open_dataset(data)
    standardise = Standardiser(dataset.mean, dataset.std, torch.float32, torch.device("cpu"))
    batches = dataset.batches(standardise, data, 0, 0, Shards(1, range(1)))
    assert isinstance(batches, StreamedBatches)
    for step in itertools.count():
        ((batch,),) = batches.parts(batches.drawn(range(step, step + 1))[0])
        yield len(batch.images)


def measure(workers: int, rounds: int, seconds: float) -> list[Target]:
    """Both in turns: the ratio of their medians, and by how much memory grows."""
    torch.set_num_threads(1)
    speeds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    costs: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    memory = []
    with tempfile.TemporaryDirectory(prefix="resnet-dist-benchmark-") as directory:
        root, place = Path(directory, "images"), Path(directory, "shards")
        write_images(root)
        files = folder_files(str(root), io.BytesIO())
        write_shards(files, functools.partial(open_storage, str(place)), shard_bytes=16 * 2**20)
        made = dict(zip(CONTENDERS, (from_shards(place, workers), conventional(root, workers)), strict=True))
        for number in range(rounds + 1):
            for name, images in made.items():
                for _ in range(2 if number else 4):  # what was loaded while the other had its turn
                    next(images)
                count, started, worked = 0, time.perf_counter(), _processor_time()
                while time.perf_counter() < started + seconds:
                    count += next(images)
                if number:
                    speeds[name].append(count / (time.perf_counter() - started))
                    costs[name].append(1000 * (_processor_time() - worked) / count)
            memory.append(_resident())
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    for name, speed in medians.items():
        shown = ", ".join(f"{cost:.1f}" for cost in costs[name])
        print(f"{name:<28} {speed:7.1f} images/s, {workers} workers ({_shown(speeds[name])}); ms of processor: {shown}")
    print(f"memory by round: {_shown(memory)} MB")
    shards, other = CONTENDERS
    spent = {name: statistics.median(found) for name, found in costs.items()}
    return [
        Target("loader", SPEED_TARGET, "×", medians[shards] / medians[other]),
        Target("loader, images by processor time", SPEED_TARGET, "×", spent[other] / spent[shards]),
        Target("loader, growth of memory", GROWTH_TARGET, "MB", max(memory[2:]) - memory[1]),
    ]


def _shown(numbers: list[float]) -> str:
    return ", ".join(f"{number:.0f}" for number in numbers)


def _processor_time() -> float:
    """Seconds that this process and its children have computed."""
    ticks = 0
    for process in multiprocessing.active_children():
        ticks += sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _resident() -> float:
    """Memory of this process, without that of the DataLoader's: MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(arguments: list[str]) -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__)
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="threads, and processes (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each in a round")
    args = parser.parse_args(arguments)
    return print_lines(measure(args.workers, args.rounds, args.seconds))


if __name__ == "__main__":
    exit_with(main)

"""ResNet-50 on a GPU: images a second of synthetic ones, of shards, and of torchvision's reference script.

`python -m benchmarks.gpu.imagenet`: needs a GPU and torchvision, and neither Ray nor S3. All three train the network of
the preset `torchvision` in bfloat16 with channels last; the second and third read one set of JPEG files from this
machine's disk, with as many threads or processes. `--rehearse` does it tiny on a CPU.
"""

import argparse
import functools
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.loader import image_folder, write_images
from cluster.storage.opening import open_storage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.dataset import open_dataset
from resnet_dist.data.folder_files import folder_files
from resnet_dist.data.sharding import write_shards
from resnet_dist.training.numerics import own_stream, settings_of_run
from resnet_dist.training.state import Training
from resnet_dist.workers import alone

COPIES = 15
"""Other names of each of the 512 images."""


def main() -> None:
    """Measure the three in turns and print what was found, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.imagenet", description=__doc__)
    parser.add_argument("--loaders", type=int, default=os.cpu_count() or 1, help="threads or processes that decode")
    parser.add_argument("--steps", type=int, default=30, help="that are timed together (default: 30)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts (default: 3)")
    parser.add_argument("--rehearse", action="store_true", help="do it tiny, on a CPU")
    args = parser.parse_args()
    small: dict[str, Any] = {"data.size": 32, "data.batch_size": 8, "network.width": 2} if args.rehearse else {}
    device = "cpu" if args.rehearse else "cuda"
    common = {"run.precision": "bfloat16", "data.accumulation": 1, "run.device": device, "run.epochs": 10_000} | small
    with tempfile.TemporaryDirectory(prefix="resnet-dist-benchmark-") as directory:
        root, place = Path(directory, "images"), Path(directory, "shards")
        write_images(root)
        for file in [*(root / "train").rglob("*.jpg")]:  # an epoch of two batches would be none for a DataLoader
            for copy in range(0 if args.rehearse else COPIES):
                file.with_name(f"{file.stem}-{copy}.jpg").hardlink_to(file)
        files = folder_files(str(root), io.BytesIO())
        write_shards(files, functools.partial(open_storage, str(place)), shard_bytes=16 * 2**20)
        preset = TrainingConfig.preset("torchvision").override(
            common | {"data.source": f"shards:{place}", "data.decoding_threads": args.loaders}
        )
        memory = preset.override(
            {"data.source": "synthetic", "data.augmentation": "shift", "data.train_limit": 512, "data.test_limit": 10}
        )
        contenders: dict[str, Callable[[int], None]] = {
            "synthetic": _ours(memory),
            "shards": _ours(preset),
            "torchvision": _reference(preset, root, args.loaders),
        }
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(args.rounds):
            for name, steps in contenders.items():
                steps(5)
                started = time.perf_counter()
                steps(args.steps)
                rates[name].append(args.steps * preset.data.batch_size / (time.perf_counter() - started))
    found = {name: {"images_per_second": statistics.median(each), "rounds": each} for name, each in rates.items()}
    name = "cpu" if args.rehearse else torch.cuda.get_device_name()
    print(json.dumps({"device": name, "torch": torch.__version__, "loaders": args.loaders} | found, indent=1))


def _ours(config: TrainingConfig) -> Callable[[int], None]:
    workers = alone(config.run.device)
    training = Training(config, open_dataset(config.data), workers)

    def steps(count: int) -> None:
        with settings_of_run(config.run.exact), own_stream(workers.device, config.run.exact):
            for _ in range(count):
                training.start_epoch()
                loss = training.update()
            loss.sum().item()  # waits for the device

    return steps


def _reference(config: TrainingConfig, root: Path, loaders: int) -> Callable[[int], None]:
    """torchvision's script: ResNet-50, cross-entropy, SGD, and images from `ImageFolder` and `DataLoader`."""
    from torchvision import models

    device = torch.device(config.run.device)
    # The script's network has its own width; a rehearsal takes the smallest.
    network: nn.Module = models.resnet18() if device.type == "cpu" else models.resnet50()
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    data = config.data
    batches = image_folder(root, data.size, data.batch_size, loaders, pin_memory=device.type == "cuda")

    def steps(count: int) -> None:
        for _ in range(count):
            images, labels = next(batches)
            images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16):
                loss = nn.functional.cross_entropy(network(images), labels.to(device, non_blocking=True))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        loss.item()

    return steps


if __name__ == "__main__":
    main()

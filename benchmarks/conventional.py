"""The conventional trainer, written as most scripts for CIFAR are: the opponent of the end-to-end measurement.

torchvision transforms on PIL images, one image at a time, in DataLoader worker processes; batch norm, optimizer and
memory format as they come; float32, or bfloat16 by autocast; loss and accuracy read from the device at every step. The
network is that of `resnet_dist` (option A, convolutions with bias), so that both do the same arithmetic.
"""

import os
from collections.abc import Generator

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from resnet_dist.configuration.training import TrainingConfig

LOADER_WORKERS = 4
"""What such scripts ask for; the trainer takes fewer on a machine with fewer cores, as DataLoader advises."""


class PilImages(Dataset[tuple[Tensor, int]]):
    """Images as PIL objects through a transform, one by one, as torchvision's CIFAR10 gives them."""

    def __init__(self, images: Tensor, labels: Tensor, transform: transforms.Compose) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()  # uint8 [N, 32, 32, 3]
        self.labels: list[int] = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class ZeroPaddedShortcut(nn.Module):
    """Shortcut A."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra = extra
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C + extra, H / stride, W / stride]."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = ZeroPaddedShortcut(channels - in_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C', H', W']."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """The residual network for 32x32 images."""

    def __init__(self, depth: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        blocks = (depth - 2) // 6
        self.layer1 = self._layer(width, width, blocks, 1)
        self.layer2 = self._layer(width, 2 * width, blocks, 2)
        self.layer3 = self._layer(2 * width, 4 * width, blocks, 2)
        self.fc = nn.Linear(4 * width, classes)

    @staticmethod
    def _layer(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, channels, stride)
        return nn.Sequential(first, *[BasicBlock(channels, channels, 1) for _ in range(blocks - 1)])

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.adaptive_avg_pool2d(out, 1).flatten(1)
        return self.fc(out)  # type: ignore[no-any-return]


class ConventionalTrainer:
    """Trains on images uint8 [N, 3, 32, 32] with labels int64 [N]. Close it to end its loader's processes."""

    def __init__(
        self,
        config: TrainingConfig,
        images: Tensor,
        labels: Tensor,
        classes: int,
        device: torch.device,
        loader_workers: int | None = None,
        precision: str = "float32",
    ) -> None:
        self.name = f"conventional {precision}"
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
        if loader_workers is None:
            loader_workers = min(LOADER_WORKERS, len(os.sched_getaffinity(0)))
        values = images.float() / 255
        transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(values.mean((0, 2, 3)).tolist(), values.std((0, 2, 3)).tolist()),
            ]
        )
        self.dataset = PilImages(images, labels, transform)
        self.batch_size = config.data.batch_size
        self.loader_workers = loader_workers
        self.device = device
        self.network = ResNet(config.network.depth, config.network.channels, classes).to(device)
        assert config.solver.learning_rate is not None
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=config.solver.learning_rate,
            momentum=config.solver.momentum or 0,
            weight_decay=config.solver.weight_decay or 0,
            nesterov=bool(config.solver.nesterov),
        )
        self.losses: list[float] = []
        self.correct = 0
        self.batches = self._endless_batches()

    def _endless_batches(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        loader = DataLoader(
            self.dataset,
            batch_size=self.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=self.loader_workers,
            persistent_workers=self.loader_workers > 0,
            pin_memory=self.device.type == "cuda",
        )
        while True:
            yield from loader

    def update(self, images: Tensor, labels: Tensor) -> None:
        """One step on a batch [B, 3, 32, 32], [B]."""
        images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        self.optimizer.zero_grad()
        with self.autocast:
            logits = self.network(images)
            loss = F.cross_entropy(logits, labels)
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())
        self.correct += int((logits.argmax(1) == labels).sum().item())

    def run(self, steps: int) -> None:
        """Train for some steps; the loader goes on from where it was."""
        for _ in range(steps):
            self.update(*next(self.batches))

    def close(self) -> None:
        """End the loader's processes."""
        self.batches.close()

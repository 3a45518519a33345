"""What of a configuration says how a run is carried out."""

from dataclasses import dataclass
from typing import Literal

from resnet_dist.configuration.sections import Section

LONGEST = 3600.0
"""Seconds between two checkpoints at most, however few a run is to have: what an interruption of a long run costs."""


@dataclass(frozen=True)
class RunConfig(Section):
    """How the run is carried out."""

    seed: int = 0
    """Determines the initial weights, the order of samples and the augmentation."""
    seed_initialisation: int | None = None
    """Of the initial weights alone; left out, it is `seed`. Fixed while `seed` varies, it takes their part of the
    differences away (the experiment `variance`)."""
    seed_order: int | None = None
    """Of the order of samples alone; left out, it is `seed`."""
    seed_augmentation: int | None = None
    """Of shifts and flips, and of all else that is drawn for an image; left out, it is `seed`."""
    epochs: int = 200
    """Passes over the training set. Milestones of the schedule stay where they are."""
    precision: Literal["float64", "float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of the network; `bfloat16` and `float16` are autocast with float32 weights and statistics, `float16`
    with a loss that is scaled, so that small gradients do not vanish."""
    workers: int = 1
    """Processes that share each batch. It changes the result by rounding at most; with `exact`, not at all."""
    threads: int = 1
    """Processor threads of each worker's operations. Like workers they change the rounding, and no more. More than one
    pays for large networks on processors that do nothing else."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where there is one."""
    cuda_graph: bool = True
    """On a GPU, capture the update once and replay it: the same bits, several times as fast. It has no effect with
    several workers, in exact mode, and on code of your own."""
    exact: bool = False
    """Give the same bits on any number of workers up to `virtual_shards`, on one kind of processor."""
    virtual_shards: int = 8
    """Shards of exact mode, a power of two. Part of the result: another number rounds differently."""
    evaluation_epochs: int = 1
    """Epochs between evaluations on the test and validation images; the last epoch always has one."""
    checkpoint_seconds: int = 60
    """Seconds between checkpoints, which an interruption loses at most, unless `checkpoints` spreads them further; 0
    means none by time. The last update always has one, until the result is written."""
    checkpoints: int = 16
    """Checkpoints by time over the whole run, at most, unless they would be more than an hour apart. 0 means any
    number."""
    checkpoint_epochs: int = 0
    """Epochs between checkpoints, besides those by time; 0 means none."""
    checkpoint_steps: int = 0
    """Updates between checkpoints, besides those by time; 0 means none."""
    summary_steps: int = 10
    """Updates between points of TensorBoard's training curves."""
    histogram_epochs: int = 0
    """Epochs between TensorBoard's histograms of weights and gradients by layer; 0 means none."""

    def check(self) -> None:
        """Refuse impossible counts."""
        for name in ("seed", "seed_initialisation", "seed_order", "seed_augmentation"):
            seed = getattr(self, name)
            self.require(name, seed is None or 0 <= seed < 2**63, "from 0 to 2^63 - 1")
        for name in ("epochs", "workers", "threads", "evaluation_epochs", "summary_steps"):
            self.require(name, getattr(self, name) >= 1, "at least 1")
        self.require("epochs", self.epochs <= 10**6, "at most 1,000,000")
        checkpoints = ("checkpoint_seconds", "checkpoints", "checkpoint_epochs", "checkpoint_steps")
        for name in (*checkpoints, "summary_steps", "histogram_epochs"):
            self.require(name, getattr(self, name) <= 10**9, "at most 1,000,000,000")
        self.require("threads", self.threads <= 512, "at most 512")
        shards = self.virtual_shards
        self.require("virtual_shards", 1 <= shards <= 1024 and shards & (shards - 1) == 0, "a power of two up to 1024")
        if self.exact:
            self.require("workers", self.workers <= shards, f"at most run.virtual_shards, {shards}, in exact mode")
        for name in (*checkpoints, "histogram_epochs"):
            self.require(name, getattr(self, name) >= 0, "at least 0")

    @property
    def seeds(self) -> tuple[int, int, int]:
        """Of initial weights, of the order of samples, and of the augmentation."""
        own = (self.seed_initialisation, self.seed_order, self.seed_augmentation)
        first, second, third = (self.seed if seed is None else seed for seed in own)
        return first, second, third

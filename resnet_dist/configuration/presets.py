"""Recipes under a name: settings of a whole run that a published figure belongs to."""

from typing import Any

from resnet_dist.configuration.data import IMAGENET
from resnet_dist.configuration.sections import choices

PRESETS: dict[str, dict[str, Any]] = {
    # He et al. 2015, arXiv:1512.03385, section 3.4: batches of 256 at 0.1, momentum 0.9, weight decay 1e-4, 600,000
    # updates (120 epochs). The paper divides the rate by ten where the error stands still; here that is every 30
    # epochs. 34 layers with shortcut A: 25.03 % of the validation images wrong with ten crops (table 2).
    "paper": {
        "network.family": "imagenet-residual",
        "network.depth": 34,
        "data.source": IMAGENET,
        "data.size": 224,
        "data.batch_size": 256,
        "data.sampling": "permutation",
        "data.augmentation": "paper",
        "data.test_crops": "ten",
        "solver.nesterov": False,
        "schedule.milestones": [30, 60, 90],
        "run.epochs": 120,
        "run.evaluation_epochs": 10,
    },
    # torchvision's reference script at its defaults, which made ResNet50_Weights.IMAGENET1K_V1: 23.87 % of the
    # validation images wrong. Eight GPUs had a batch norm each, of 32 images; here that is eight sub-batches.
    "torchvision": {
        "network.family": "imagenet-residual",
        "network.depth": 50,
        "network.shortcut": "B",
        "network.bottleneck_stride": "3x3",
        "data.source": IMAGENET,
        "data.size": 224,
        "data.batch_size": 256,
        "data.accumulation": 8,
        "data.sampling": "permutation",
        "data.augmentation": "today",
        "solver.nesterov": False,
        "schedule.milestones": [30, 60],
        "run.epochs": 90,
    },
}


def preset_settings(name: str) -> dict[str, Any]:
    """The settings of a preset as {"section.field": value}. A `ConfigurationError` names the nearest one."""
    choices("preset", name, tuple(PRESETS))
    return PRESETS[name]

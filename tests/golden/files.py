"""The golden files: one for each configuration, a loss a line, so that a diff shows where they change."""

import json
from pathlib import Path

from tests.golden.comparison import Curves, Difference, first_difference
from tests.golden.curves import BASE, CONFIGURATIONS, TRAIN_IMAGES

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent


def write(curves: Curves) -> None:
    """Replace the golden files."""
    for old in FOLDER.glob("*.json"):
        old.unlink()
    for name, curve in curves.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(curve, indent=1) + "\n")


def read() -> Curves:
    """What the golden files hold."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))}


def difference(name: str, old: Curves, new: Curves) -> Difference | None:
    """Where a configuration's curves differ by more than other processors' rounding explains."""
    batch_size = (BASE | CONFIGURATIONS[name])["data.batch_size"]
    return first_difference(name, old, new, steps_per_epoch=TRAIN_IMAGES / batch_size)


def differences(old: Curves, new: Curves) -> list[Difference]:
    """`difference` of every configuration that differs."""
    return [found for name in CONFIGURATIONS if (found := difference(name, old, new))]

"""One training run of a residual network, on one process or on many workers.

docs/python.md teaches what a program or a notebook may import from here; nothing else is promised.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_dist.configuration.training import TrainingConfig as TrainingConfig
    from resnet_dist.errors import UserError as UserError
    from resnet_dist.records.model_file import Model as Model
    from tune_jobs.actions.evaluate import Evaluation as Evaluation
    from tune_jobs.actions.evaluate import evaluate as evaluate
    from tune_jobs.actions.model import load_model as load_model
    from tune_jobs.actions.train import TrainingRun as TrainingRun
    from tune_jobs.actions.train import train as train

_PLACES = {
    "Evaluation": "tune_jobs.actions.evaluate",
    "Model": "resnet_dist.records.model_file",
    "TrainingConfig": "resnet_dist.configuration.training",
    "TrainingRun": "tune_jobs.actions.train",
    "UserError": "resnet_dist.errors",
    "evaluate": "tune_jobs.actions.evaluate",
    "load_model": "tune_jobs.actions.model",
    "train": "tune_jobs.actions.train",
}
"""Where each public name is defined."""
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: torch and Ray stay out of a process that only plans or reads."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_PLACES]

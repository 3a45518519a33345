"""When a run has diverged: a loss, or anything that its network holds or gives, is not finite."""

import math

from resnet_dist.errors import DivergedError
from resnet_dist.training.evaluation import Evaluation


def require_finite_loss(name: str, loss: float, epoch: int) -> None:
    """Raise a `DivergedError` unless a loss, of an epoch counted from 0, is finite."""
    if not math.isfinite(loss):
        raise _diverged(f"the {name} loss is {loss}", epoch)


def require_finite(name: str, found: Evaluation, epoch: int) -> None:
    """The same of all that an evaluation has seen: a sum over the workers, so that all of them raise it."""
    require_finite_loss(name, found.loss, epoch)
    if not found.finite:
        raise _diverged("weights, running statistics or outputs of the network are not finite", epoch)


def _diverged(what: str, epoch: int) -> DivergedError:
    return DivergedError(f"{what} in epoch {epoch + 1}; a lower solver.learning_rate may help")

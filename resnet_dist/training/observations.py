"""What TensorBoard shows of a trial besides its curves: settings, training samples, histograms, a confusion matrix.

Each is a function of the run's state at the end of an epoch, so a run that was interrupted shows the same.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from resnet_dist.summaries import dashboards
from resnet_dist.summaries.curves import Observation
from resnet_dist.summaries.pictures import Picture, confusion_picture, sample_grid

if TYPE_CHECKING:
    from resnet_dist.training.state import Training

BUCKETS = 30
"""Of a histogram, as many as TensorBoard draws."""


# TensorBoard's first page is in the order of tags: what begins with `view` stands after the curves, `test/…` to
# `validation/…`.


def observe(training: "Training", epoch: int) -> list[Observation]:
    """What is to be shown of an epoch (counted from 0) that has just ended, on the first worker, in order of steps."""
    run = training.config.run
    found = []
    if epoch == 0:
        samples = _image("view/samples", sample_grid(training.batches), "Training images as the network sees them.")
        found += [Observation(dashboards.session_start(training.config), 0)]
        found += [Observation(dashboards.curves_layout(), 0), Observation(samples, 0)]
    if run.histogram_epochs and (epoch + 1) % run.histogram_epochs == 0:
        found += [Observation(summary, training.step) for summary in _histograms(training)]
    if epoch + 1 == run.epochs:
        assert training.found is not None, "the last epoch was not evaluated"
        classes = training.dataset.classes
        pairs = training.dataset.test_labels * len(classes) + training.found
        confusion = torch.bincount(pairs, minlength=len(classes) ** 2).reshape(len(classes), len(classes))
        picture = confusion_picture(confusion, classes)
        matrix = _image("view/confusion", picture, "Rows: true class; columns: class found; per cent of the row.")
        found += [Observation(matrix, training.step), Observation(dashboards.session_end(), training.step)]
    return found


def _histograms(training: "Training") -> list[Any]:
    """The weights of each convolution and of the classifier, and their gradients at the last update."""
    summaries = []
    for name, parameter in training.network.named_parameters():
        if parameter.ndim >= 2:
            layer = name.removesuffix(".weight")
            summaries.append(_histogram(f"view_weights/{layer}", parameter.detach()))
            if parameter.grad is not None:
                summaries.append(_histogram(f"view_gradients/{layer}", parameter.grad))
    return summaries


def _histogram(tag: str, values: Tensor) -> Any:
    from tensorboard.plugins.histogram import metadata
    from tensorboard.util.tensor_util import make_tensor_proto

    data = values.double().cpu().numpy().ravel()
    counts, edges = np.histogram(data[np.isfinite(data)], BUCKETS)
    buckets = np.stack([edges[:-1], edges[1:], counts.astype(np.float64)], axis=1)
    return _summary(tag, metadata.create_summary_metadata(None, None), make_tensor_proto(buckets))


def _image(tag: str, picture: Picture, description: str) -> Any:
    from tensorboard.plugins.image import metadata
    from tensorboard.util.tensor_util import make_tensor_proto

    content = [str(picture.width).encode(), str(picture.height).encode(), picture.png]
    return _summary(tag, metadata.create_summary_metadata(None, description), make_tensor_proto(content))


def _summary(tag: str, metadata: Any, tensor: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])

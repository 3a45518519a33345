"""Which runs' updates can be captured as a CUDA graph. Launches ask, too, so nothing here loads torch."""

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.custom_code import named


def is_capturable(config: TrainingConfig) -> bool:
    """Whether updates of a run of one worker can be replayed from a graph, if it has a GPU.

    Those of several workers cannot, whose messages may go through the host. Nor can those of exact mode, whose threads
    meet there, of float16, in which the host asks whether gradients are finite, of images that the host decodes for
    each step, or of code of the user's own, which may ask the host whatever it likes.
    """
    run, own = config.run, bool(named(config).keys() - {"data.source"})
    ours = run.cuda_graph and not run.exact and run.precision != "float16" and not own
    return ours and not config.data.is_streamed

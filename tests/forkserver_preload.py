"""Imported once by the server from which tests fork their worker processes; see `worker_processes`."""

import importlib

from PIL import Image

from resnet_dist.records.git_state import running_source

for name in (
    "torch.distributed",
    "torch.nn.parallel",
    "torch.utils.serialization.config",  # from here on what is imported when a run first needs it
    "torch.utils.tensorboard.summary",
    "numpy.random",
    "PIL.ImageChops",
    "PIL.ImageDraw",
    "PIL.ImageFont",
    "PIL.PaletteFile",
    "tensorboard.compat.proto.event_pb2",
    "tensorboard.plugins.hparams.metadata",
    "tensorboard.summary.writer.record_writer",
    "cluster.storage.opening",
    "pytest",  # the functions that workers run lie in modules of tests
    "resnet_dist.summaries.dashboards",
    "resnet_dist.summaries.pictures",
    "resnet_dist.training.loop",
    "tests.killed_runs",
):
    importlib.import_module(name)

Image.preinit()  # its formats
running_source()  # asks git, once for all

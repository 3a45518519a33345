"""Imported once by the server from which tests fork their worker processes; see `worker_processes`."""

import importlib

from resnet_dist.records.git_state import running_source

for name in (
    "torch.distributed",
    "torchvision",  # crops images from shards
    "torch.nn.parallel",
    "torch.utils.tensorboard.summary",
    "tensorboard.compat.proto.event_pb2",
    "tensorboard.summary.writer.record_writer",
    "pytest",  # the functions that workers run lie in modules of tests
    "resnet_dist.summaries.dashboards",
    "resnet_dist.summaries.pictures",
    "resnet_dist.training.loop",
    "tests.killed_runs",
):
    importlib.import_module(name)

running_source()  # asks git, once for all

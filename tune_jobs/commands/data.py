"""`resnet-dist data stage`: put a data set into storage, for nodes that cannot get it elsewhere."""

import argparse
from dataclasses import replace

from cluster.storage.opening import open_storage
from resnet_dist.configuration.data import DataConfig
from resnet_dist.data.dataset import load_source
from resnet_dist.data.staged import is_staged, stage
from tune_jobs.commands.output import print_json
from tune_jobs.commands.terminal import make_console


def stage_command(args: argparse.Namespace) -> int:
    """Decode a source and store it with its fingerprint, unless it is there."""
    data = DataConfig(source=args.source)
    storage = open_storage(args.storage)
    if not args.dry_run:
        storage.check_writable()
    found = load_source(data)
    if args.dry_run:
        fresh, now = not is_staged(replace(data, fingerprint=found.fingerprint), storage), "would be put into"
    else:
        fresh, now = stage(data.source, found, storage), "are now in"
    if args.json:
        print_json({"source": data.source, "fingerprint": found.fingerprint, "stored": fresh and not args.dry_run})
        return 0
    train, test = len(found.images.train_labels), len(found.images.test_labels)
    console = make_console()
    console.print(
        f"{data.source}: {train} training and {test} test images, fingerprint {found.fingerprint}, "
        + (now if fresh else "were already in")
        + f" {storage.uri}",
        soft_wrap=True,
    )
    if args.dry_run:
        console.print("Nothing was stored.")
        return 0
    console.print(
        f"Runs with --storage {storage.uri} --data.source {data.source} need it nowhere else.", soft_wrap=True
    )
    return 0

"""`resnet-dist data stage`: put a data set into storage, for nodes that cannot get it elsewhere."""

import argparse
from dataclasses import replace
from pathlib import Path

from cluster.storage.opening import open_storage
from resnet_dist import custom_code
from resnet_dist.configuration.code import is_custom
from resnet_dist.configuration.data import DataConfig
from resnet_dist.data.dataset import load_source
from resnet_dist.data.staged import is_staged, stage
from tune_jobs.commands.options import Parser, add_json, positive
from tune_jobs.commands.output import print_json
from tune_jobs.commands.terminal import make_console


def add_arguments(parser: Parser) -> None:
    """The options of `data …`."""
    parser.description = "Data sets."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)
    action = actions.add_parser(
        "stage",
        help="put a decoded data set into storage",
        description="Decode a data set here and put it into storage, once. Runs with the same --storage and the same "
        "--data.source then need neither the files nor the internet: each node fetches it once.",
        examples=["data stage cifar10 s3://bucket/results"],
    )
    action.add_argument(
        "source", metavar="SOURCE", help="cifar10, cifar100, folder:PATH or module:callable, as in --data.source"
    )
    action.add_argument(
        "--data.size", dest="size", type=positive, default=32, metavar="N", help="as for train (default: 32)"
    )
    action.add_argument("--data.resize", dest="resize", choices=("none", "crop"), default="none", help="as for train")
    action.add_argument("--data.split", dest="split", type=float, default=0.0, metavar="PART", help="as for train")
    action.add_argument("storage", metavar="DIR|s3://…", help="where the results of the runs go")
    action.add_argument(
        "--dry-run", action="store_true", help="decode the data set and say what would be stored; store nothing"
    )
    add_json(action)
    action.set_defaults(run=stage_command)


def stage_command(args: argparse.Namespace) -> int:
    """Decode a source and store it with its fingerprint, unless it is there."""
    data = DataConfig(source=args.source, size=args.size, resize=args.resize, split=args.split)
    if is_custom(data.source):
        custom_code.install(custom_code.collect({"SOURCE": data.source}, [Path.cwd()]))
    storage = open_storage(args.storage)
    if not args.dry_run:
        storage.check_writable()
    found = load_source(data)
    if args.dry_run:
        fresh, now = not is_staged(replace(data, fingerprint=found.fingerprint), storage), "would be put into"
    else:
        fresh, now = stage(data, found, storage), "are now in"
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

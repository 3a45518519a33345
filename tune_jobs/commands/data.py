"""`resnet-dist data stage` and `data shard`: put a data set into storage, decoded or as its files are."""

import argparse
import functools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

from cluster.storage.opening import open_storage
from resnet_dist import custom_code
from resnet_dist.configuration.code import is_custom
from resnet_dist.configuration.data import DataConfig
from resnet_dist.data.dataset import load_source
from resnet_dist.data.folder_files import folder_files
from resnet_dist.data.imagenet_files import imagenet_files
from resnet_dist.data.sharding import ImageFiles, write_shards
from resnet_dist.data.staged import is_staged, stage
from resnet_dist.errors import UserError
from tune_jobs.commands.options import Parser, add_json, positive
from tune_jobs.commands.terminal import make_console

SHARDED: dict[str, Callable[[str, IO[bytes]], ImageFiles]] = {
    "imagenet": lambda place, _: imagenet_files(place),
    "folder": folder_files,
}
"""Lists the files of each kind of source; what has to be unpacked for it goes into the file that it is given."""


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
    action = actions.add_parser(
        "shard",
        help="put the files of a large data set into shards",
        description="Put the encoded images of a data set into tar files, once. Runs with --data.source shards:DEST "
        "read them as they need them. A call that was interrupted is gone on with by the same call.",
        examples=["data shard imagenet:/data/ILSVRC2012 s3://bucket/imagenet --processes 16"],
    )
    action.add_argument(
        "source",
        metavar="SOURCE",
        help="imagenet:PATH, a directory of the original archives or what torchvision made of them; or folder:PATH",
    )
    action.add_argument("dest", metavar="DEST", help="a directory, or s3://bucket/prefix, of these shards alone")
    action.add_argument("--processes", type=positive, default=1, metavar="N", help="that make shards (default: 1)")
    action.add_argument("--shard-size", type=positive, default=128, metavar="MIB", help="of a shard (default: 128)")
    action.add_argument(
        "--broken-images",
        type=int,
        default=0,
        metavar="N",
        help="leave out up to so many images that cannot be decoded, and name them (default: 0)",
    )
    add_json(action)
    action.set_defaults(run=shard_command)


def shard_command(args: argparse.Namespace) -> int:
    """Write what is missing of a data set in shards."""
    kind, _, place = args.source.partition(":")
    if kind not in SHARDED or not place:
        allowed = " or ".join(f"{kind}:PATH" for kind in SHARDED)
        raise UserError(f"SOURCE: {args.source!r} is not allowed; give {allowed}")
    storage = open_storage(args.dest)
    console = make_console(quiet=args.json)

    def on_shard(done: int, of: int) -> None:
        if console.is_terminal:
            console.print(f"{done} of {of} shards", end="\n" if done == of else "\r")

    with tempfile.NamedTemporaryFile(prefix="resnet-dist-shard-") as unpacked:
        files = SHARDED[kind](place, unpacked)
        storage.check_writable()
        index, fresh = write_shards(
            files,
            functools.partial(open_storage, storage.uri),
            args.processes,
            args.shard_size * 2**20,
            args.broken_images,
            on_shard,
        )
    console.answers(
        {
            "source": args.source,
            "dest": storage.uri,
            "fingerprint": index.fingerprint,
            "written": fresh,
            "train_images": len(index.train),
            "test_images": len(index.test),
            "classes": len(index.classes),
            "left_out": list(index.left_out),
        }
    )
    console.say(
        f"{args.source}: {len(index.train)} training and {len(index.test)} test images of {len(index.classes)} "
        f"classes, fingerprint {index.fingerprint}, {'are now' if fresh else 'were already'} in {storage.uri}"
    )
    for name in index.left_out:
        console.say(f"Left out: {name}")
    options = f"--data.source shards:{storage.uri} --data.sampling permutation"
    console.say(f"Runs read them with {options}.")
    return 0


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
    console = make_console(quiet=args.json)
    console.answers({"source": data.source, "fingerprint": found.fingerprint, "stored": fresh and not args.dry_run})
    train, test = len(found.images.train_labels), len(found.images.test_labels)
    console.say(
        f"{data.source}: {train} training and {test} test images, fingerprint {found.fingerprint}, "
        + (now if fresh else "were already in")
        + f" {storage.uri}"
    )
    if args.dry_run:
        console.print("Nothing was stored.")
        return 0
    console.say(f"Runs with --storage {storage.uri} --data.source {data.source} need it nowhere else.")
    return 0

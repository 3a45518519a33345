"""`resnet-dist tensorboard`: serve it on results while they grow, or keep a copy of their event files for another."""

import argparse
from pathlib import Path

from resnet_dist.errors import UserError
from tune_jobs.commands.options import STORAGE_HELP, Parser


def add_arguments(parser: Parser) -> None:
    """The options of `tensorboard`."""
    parser.examples = ("tensorboard results",)
    parser.description = "Serve TensorBoard on results, while they grow."
    parser.add_argument("storage", metavar="STORAGE", help=STORAGE_HELP + ", or one experiment in it")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=None, help="port to listen on (default: 6006, or the next free one)"
    )
    parser.add_argument(
        "--direct",
        action="store_true",
        help="let TensorBoard read S3 itself, without a local copy: slower, and with many more requests",
    )
    parser.add_argument(
        "--mirror-to",
        metavar="DIR",
        help="serve nothing, but keep DIR a copy of the event files in S3, for a TensorBoard that may not read them",
    )
    parser.set_defaults(run=tensorboard_command)


def tensorboard_command(args: argparse.Namespace) -> int:
    """Serve, or copy, until Ctrl-C."""
    if args.mirror_to:
        from cluster.tensorboard.event_copy import mirror

        if args.direct or args.port is not None:
            raise UserError("--mirror-to: serves nothing; leave --port and --direct out")
        return mirror(args.storage, Path(args.mirror_to))
    from cluster.tensorboard.serve import serve

    return serve(args.storage, host=args.host, port=args.port, direct=args.direct)

"""`resnet-dist evaluate WEIGHTS`: top-1 and top-5 error of a model that a trial left."""

import argparse
import sys

from rich.markup import escape
from rich.table import Table

from resnet_dist.errors import UserError
from tune_jobs.actions.evaluate import evaluate
from tune_jobs.commands.options import Parser, add_json, positive
from tune_jobs.commands.terminal import make_console

_MOST_CLASSES = 20
"""Classes whose errors are printed; --json has those of any number."""


def add_arguments(parser: Parser) -> None:
    """The options of `evaluate`."""
    parser.examples = ("evaluate results/train/trials/ID/model.pt --predictions predictions.csv",)
    parser.description = (
        "Print top-1 and top-5 error of a model on a test set. Images are standardised as in its training; classes are "
        "matched by name, in whatever order the data has them. A folder or archive needs test/<class>/ alone."
    )
    parser.add_argument("weights", metavar="WEIGHTS", help="a trial's model.pt, or an archive made by export")
    parser.add_argument(
        "--data.source",
        "--data",
        dest="source",
        metavar="SOURCE",
        help="as for train (default: what the model was trained with)",
    )
    parser.add_argument(
        "--data.test_limit",
        dest="test_limit",
        type=positive,
        metavar="N",
        help="use only the first N test images (default: as in training, or all of another source)",
    )
    parser.add_argument(
        "--data.test_crops",
        dest="test_crops",
        choices=("one", "ten", "scales"),
        help="of images in shards, as for train (default: as in training)",
    )
    parser.add_argument(
        "--classes-by-position",
        action="store_true",
        help="take classes of other names than the model's to be the same in their order (of a folder: alphabetical)",
    )
    parser.add_argument(
        "--run-code",
        action="store_true",
        help="run the code of the trial's author that an archive holds, if the network is made by it",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
    parser.add_argument(
        "--predictions",
        metavar="FILE",
        help="write a CSV file with a row an image: its class, its number in it (in a folder, by file name), what it "
        "was taken for, and the probability of both",
    )
    add_json(parser)
    parser.set_defaults(run=evaluate_command)


def evaluate_command(args: argparse.Namespace) -> int:
    """Print the errors of a model on a test set."""
    if args.weights.startswith("s3://"):
        raise UserError(f"{args.weights}: is not a file on this machine; fetch it with: resnet-dist export TRIAL")
    found = evaluate(
        args.weights,
        args.source,
        test_limit=args.test_limit,
        device=args.device,
        run_code=args.run_code,
        classes_by_position=args.classes_by_position,
        test_crops=args.test_crops,
    )
    if args.predictions:
        found.write_predictions(args.predictions)
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201
    console = make_console(quiet=args.json)
    console.answers(found.to_dict())
    by_position = "; classes by position, not by name" if found.classes_by_position else ""
    console.say(
        f"Test error on {found.source}: {100 * found.top1_error:.2f} % "
        f"(top-5: {100 * found.top5_error:.2f} %), loss {found.test_loss:.4f}, {found.images:,} images"
        f"{by_position}"
    )
    if len(found.by_class) <= _MOST_CLASSES:
        table = Table("class", "images", "error", box=None, pad_edge=False)
        for name, one in found.by_class.items():
            table.add_row(escape(name), f"{one.images:,}", percent(one.top1_error))
        console.print(table)
    return 0


def percent(error: float | None) -> str:
    """A fraction in per cent; empty where there is none."""
    return "" if error is None else f"{100 * error:.2f} %"

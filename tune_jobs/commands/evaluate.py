"""`resnet-dist evaluate WEIGHTS`: top-1 and top-5 error of a model that a trial left."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from resnet_dist.configuration.code import is_custom
from resnet_dist.configuration.data import DataConfig
from resnet_dist.errors import UserError
from tune_jobs.commands.options import Parser, add_json, positive
from tune_jobs.commands.output import print_json
from tune_jobs.commands.terminal import make_console

_MOST_CLASSES = 20
"""Classes whose errors are printed; --json has those of any number."""
_MOST_NAMED = 5
"""Classes that a message names at most."""


def add_arguments(parser: Parser) -> None:
    """The options of `evaluate`."""
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
    answer = evaluate(
        Path(args.weights),
        args.source,
        args.test_limit,
        args.device,
        args.run_code,
        args.classes_by_position,
        Path(args.predictions) if args.predictions else None,
    )
    for warning in answer["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201
    if args.json:
        print_json(answer)
        return 0
    by_position = "; classes by position, not by name" if answer["classes_by_position"] else ""
    make_console().print(
        f"Test error on {answer['source']}: {100 * answer['top1_error']:.2f} % "
        f"(top-5: {100 * answer['top5_error']:.2f} %), loss {answer['test_loss']:.4f}, {answer['images']:,} images"
        f"{by_position}",
        markup=False,
        soft_wrap=True,
    )
    if len(answer["by_class"]) <= _MOST_CLASSES:
        table = Table("class", "images", "error", box=None, pad_edge=False)
        for name, one in answer["by_class"].items():
            error = "" if one["top1_error"] is None else f"{100 * one['top1_error']:.2f} %"
            table.add_row(escape(name), f"{one['images']:,}", error)
        make_console().print(table)
    return 0


def evaluate(
    weights: Path,
    source: str | None,
    test_limit: int | None,
    device: str,
    run_code: bool = False,
    classes_by_position: bool = False,
    predictions: Path | None = None,
) -> dict[str, Any]:
    """Errors of the model in a file on the test images of `source`, by default those that it was trained with.

    Images are standardised as in training, and classes are the model's of the same name. `run_code` lets code run that
    an archive holds; `classes_by_position` takes as many classes of other names to be the model's in their order.
    Raises a `UserError` if model and data do not belong together.
    """
    import torch

    from resnet_dist import custom_code as custom
    from resnet_dist.data.batches import Standardiser
    from resnet_dist.data.dataset import load_dataset, load_test_images
    from resnet_dist.records.model_file import read_model
    from resnet_dist.training.evaluation import ImageSet
    from resnet_dist.workers import alone, on_threads
    from tune_jobs.commands.predictions import logits_of, write_predictions

    workers = alone(device)
    model = read_model(weights, run_code)
    data = model.config.data
    if source is not None and source != data.source:
        if is_custom(source):  # its module is looked for here, where the command was given
            custom.install({**custom.installed(), **custom.collect({"--data.source": source}, [Path.cwd()])})
        data = replace(data, source=source, fingerprint="")
        if model.mean is not None:
            data = DataConfig(source=source)
    data = replace(data, test_limit=data.test_limit if test_limit is None else test_limit)
    tests = load_test_images(data)
    classes = tests.classes
    # A file without names is matched by position to the data that it was trained with, and to no other unasked.
    known = model.classes or (classes if data.source == model.config.data.source else ())
    if len(classes) != model.class_count:
        raise UserError(
            f"--data.source {data.source}: has {len(classes)} classes, and {weights} tells {model.class_count} apart"
            f"{_difference(known, classes)}; give data with the model's classes"
        )
    positions = _positions(known, classes)
    by_position = positions is None
    if positions is None:
        if not classes_by_position:
            raise UserError(
                f"--data.source {data.source}: its classes cannot be told to be those of {weights}"
                f"{_difference(known, classes)}; give data with the model's classes, or --classes-by-position to take "
                "them to be the same in their order"
            )
        positions = list(range(len(classes)))
    warnings = []
    if by_position:
        warnings.append(
            f"the classes of {data.source} are taken to be the model's in their order, whatever their names"
            f"{_difference(known, classes)}"
        )
    precision = model.config.run.precision
    dtype = torch.float64 if precision == "float64" else torch.float32
    mean, std = model.mean, model.std
    if mean is None:  # a file of an earlier version, which the training images have to stand in for
        dataset = load_dataset(data)
        mean, std = dataset.mean, dataset.std
    standardise = Standardiser(mean, std, dtype, workers.device)
    network = model.network.to(workers.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    labels = torch.tensor(positions)[tests.labels]
    images = ImageSet(tests.images, labels, standardise, workers, keep_found=True)
    autocast = torch.autocast(workers.device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with on_threads(model.config.run.threads):
        found = images.evaluate(network, autocast)
        names = known or classes
        if predictions:
            logits = logits_of(network, autocast, tests.images, standardise)
            assert found.found is not None
            write_predictions(predictions, names, labels, found.found, logits)
    if not found.finite:
        warnings.append("weights, running statistics or outputs of the network are not finite: its errors mean nothing")
    return {
        "weights": str(weights),
        "source": data.source,
        "data_fingerprint": tests.fingerprint,
        "classes_by_position": by_position,
        "images": images.total,
        "top1_error": found.top1_error,
        "top5_error": found.top5_error,
        "test_loss": found.loss,
        "by_class": _by_class(names, labels, found.found),
        "warnings": warnings,
    }


def _by_class(names: tuple[str, ...], labels: Any, predicted: Any) -> dict[str, dict[str, Any]]:
    """Images and error of each class, from the class of each image and what it was taken for: int64 [N] each."""
    of_class = ((name, predicted[labels == index] != index) for index, name in enumerate(names))
    return {
        name: {"images": len(wrong), "top1_error": wrong.double().mean().item() if len(wrong) else None}
        for name, wrong in of_class
    }


def _positions(known: tuple[str, ...], given: tuple[str, ...]) -> list[int] | None:
    """Where each given class stands among those that a model knows; None unless the names tell."""
    if known == given:
        return list(range(len(given)))
    if set(known) != set(given) or len(set(known)) < len(known):
        return None
    return [known.index(name) for name in given]


def _difference(known: tuple[str, ...], given: tuple[str, ...]) -> str:
    """In what the names of a model's classes and of the data's differ, in brackets."""
    if not known:
        return " (the model's file has no names of classes)"
    lacks, has = ([name for name in names if name not in others] for names, others in ((known, given), (given, known)))
    if not lacks and not has:
        return " (several have one name)"
    said = (f"it {verb} {_named(names)}" for verb, names in (("lacks", lacks), ("has", has)) if names)
    return f" ({', '.join(said)})"


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(repr, names[:_MOST_NAMED])) + more

"""`resnet-dist evaluate WEIGHTS`: top-1 and top-5 error of a model that a trial left."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnet_dist.configuration.code import is_custom
from resnet_dist.configuration.data import DataConfig
from resnet_dist.errors import UserError
from tune_jobs.commands.options import Parser, add_json, positive
from tune_jobs.commands.output import print_json
from tune_jobs.commands.terminal import make_console


def add_arguments(parser: Parser) -> None:
    """The options of `evaluate`."""
    parser.description = (
        "Print top-1 and top-5 error of a model on a test set. Images are standardised as in its training."
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
        "--run-code",
        action="store_true",
        help="run the code of the trial's author that an archive holds, if the network is made by it",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
    add_json(parser)
    parser.set_defaults(run=evaluate_command)


def evaluate_command(args: argparse.Namespace) -> int:
    """Print the errors of a model on a test set."""
    if args.weights.startswith("s3://"):
        raise UserError(f"{args.weights}: is not a file on this machine; fetch it with: resnet-dist export TRIAL")
    answer = evaluate(Path(args.weights), args.source, args.test_limit, args.device, args.run_code)
    for warning in answer["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201
    if args.json:
        print_json(answer)
        return 0
    make_console().print(
        f"Test error on {answer['source']}: {100 * answer['top1_error']:.2f} % "
        f"(top-5: {100 * answer['top5_error']:.2f} %), loss {answer['test_loss']:.4f}, {answer['images']:,} images",
        markup=False,
        soft_wrap=True,
    )
    return 0


def evaluate(
    weights: Path, source: str | None, test_limit: int | None, device: str, run_code: bool = False
) -> dict[str, Any]:
    """Errors of the model in a file on the test images of `source`, by default those that it was trained with.

    Images are standardised as in training. `run_code` lets code run that an archive holds. Raises a `UserError` if
    model and data do not belong together.
    """
    import torch

    from resnet_dist import custom_code as custom
    from resnet_dist.data.batches import Standardiser
    from resnet_dist.data.dataset import load_dataset
    from resnet_dist.records.model_file import read_model
    from resnet_dist.training.evaluation import ImageSet
    from resnet_dist.workers import alone

    workers = alone(device)
    model = read_model(weights, run_code)
    data = model.config.data
    if source is not None and source != data.source:
        if is_custom(source):  # its module is looked for here, where the command was given
            custom.install({**custom.installed(), **custom.collect({"--data.source": source}, [Path.cwd()])})
        data = replace(data, source=source, fingerprint="")
        if model.mean is not None:  # the training images are not needed, however many there are
            data = DataConfig(source=source, batch_size=2, test_limit=0)
    data = replace(data, test_limit=data.test_limit if test_limit is None else test_limit)
    dataset = load_dataset(data)
    if len(dataset.classes) != model.class_count:
        raise UserError(
            f"--data.source {data.source}: has {len(dataset.classes)} classes, and {weights} tells "
            f"{model.class_count} apart; give data with the model's classes"
        )
    warnings = []
    if model.classes and model.classes != dataset.classes:
        warnings.append(f"the classes of {data.source} have other names than the model's: they may be other ones")
    precision = model.config.run.precision
    dtype = torch.float64 if precision == "float64" else torch.float32
    mean, std = (dataset.mean, dataset.std) if model.mean is None else (model.mean, model.std)
    standardise = Standardiser(mean, std, dtype, workers.device)
    network = model.network.to(workers.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = ImageSet(dataset.test_images, dataset.test_labels, standardise, workers)
    autocast = torch.autocast(workers.device.type, torch.bfloat16, enabled=precision == "bfloat16")
    found = images.evaluate(network, autocast)
    return {
        "weights": str(weights),
        "source": data.source,
        "data_fingerprint": dataset.fingerprint,
        "images": images.total,
        "top1_error": found.top1_error,
        "top5_error": found.top5_error,
        "test_loss": found.loss,
        "warnings": warnings,
    }

"""Errors of a model on test images: what `resnet-dist evaluate` and `resnet_dist.evaluate` do."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster.storage.opening import Place
from resnet_dist.configuration.code import is_custom
from resnet_dist.configuration.data import DataConfig
from resnet_dist.data.splits import look_alike
from resnet_dist.errors import DataError, UserError
from tune_jobs.actions.model import model_file
from tune_jobs.results.html_table import html_table

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray
    from torch import Tensor

    from resnet_dist.data.streamed_images import StreamedImages
    from resnet_dist.records.model_file import Model
    from resnet_dist.training.evaluation import Evaluation as Errors
    from resnet_dist.workers import Workers

_MOST_NAMED = 5
"""Classes that a message names at most."""


@dataclass(frozen=True)
class ClassErrors:
    """What a model makes of the images of one class."""

    images: int
    """How many there are."""
    top1_error: float | None
    """The fraction of them that it takes for another class; None without any image."""


@dataclass(frozen=True, eq=False)
class Mistake:
    """An image that a model takes for another class."""

    image: "NDArray[uint8]"
    """[size, size, 3]"""
    true_class: str
    number: int
    """Its number in its class, from 0; in a folder, by file name."""
    taken_for: str
    probability: float
    """Of the class that it was taken for, by the model."""


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """What a model makes of test images. Errors are fractions."""

    weights: str
    """The model."""
    source: str
    """The images."""
    data_fingerprint: str
    classes_by_position: bool
    """Whether classes of other names were taken to be the model's in their order."""
    images: int
    top1_error: float
    top5_error: float
    test_loss: float
    by_class: dict[str, ClassErrors]
    warnings: tuple[str, ...]
    """What is to be known before any of this is believed."""
    classes: tuple[str, ...]
    """Names by index."""
    pixels: "Tensor | StreamedImages"
    """The images: uint8 [N, 3, size, size]."""
    labels: "Tensor"
    """Index of the class of each: int64 [N]."""
    predicted: "Tensor"
    """Index of the class that each was taken for: int64 [N]."""
    logits: "Tensor"
    """What the network says of each image: float64 [N, classes]."""

    @cached_property
    def probabilities(self) -> "Tensor":
        """Of each class for each image, by the model: float64 [N, classes]."""
        return self.logits.softmax(1)

    def mistakes(self, most: int = 24) -> list[Mistake]:
        """Images that the model gets wrong, those of which it is surest first."""
        wrong = (self.predicted != self.labels).nonzero().flatten()
        sure = self.probabilities[wrong, self.predicted[wrong]]
        numbers = _numbers(self.labels)
        return [
            Mistake(
                self.pixels[index].permute(1, 2, 0).numpy(),
                self.classes[int(self.labels[index])],
                numbers[index],
                self.classes[int(self.predicted[index])],
                float(probability),
            )
            for probability, index in sorted(zip(sure.tolist(), wrong.tolist(), strict=True), reverse=True)[:most]
        ]

    def write_predictions(self, file: Place) -> None:
        """Write a CSV file with a row an image. Raises a `UserError` if it cannot be written."""
        from tune_jobs.actions.predictions import write_predictions

        write_predictions(
            Path(file), self.classes, self.labels, self.predicted, self.probabilities, _numbers(self.labels)
        )

    def to_dict(self) -> dict[str, Any]:
        """The numbers, as `evaluate --json` prints them."""
        return {
            "weights": self.weights,
            "source": self.source,
            "data_fingerprint": self.data_fingerprint,
            "classes_by_position": self.classes_by_position,
            "images": self.images,
            "top1_error": self.top1_error,
            "top5_error": self.top5_error,
            "test_loss": self.test_loss,
            "by_class": {
                name: {"images": one.images, "top1_error": one.top1_error} for name, one in self.by_class.items()
            },
            "warnings": list(self.warnings),
        }

    def __repr__(self) -> str:
        return f"<evaluation: {100 * self.top1_error:.2f} % of {self.images:,} images wrong>"

    def _repr_html_(self) -> str:
        rows = [("all", f"{self.images:,}", f"{100 * self.top1_error:.2f}")]
        for name, one in self.by_class.items():
            rows.append((name, f"{one.images:,}", "" if one.top1_error is None else f"{100 * one.top1_error:.2f}"))
        kind, colon, path = self.source.partition(":")
        source = f"{kind}:…/{path.rpartition('/')[2]}" if colon and "/" in path else self.source
        return html_table(("class", "images", "top-1 error, %"), rows, source)


def evaluate(
    model: Place,
    source: str | None = None,
    *,
    storage: Place | None = None,
    test_limit: int | None = None,
    device: str = "auto",
    run_code: bool = False,
    classes_by_position: bool = False,
    test_crops: Literal["one", "ten", "scales"] | None = None,
) -> Evaluation:
    """Errors of a model on test images. Images are standardised as in training, and classes are matched by name.

    model: a trial's `model.pt`, or an archive that `resnet-dist export` made; with `storage`, a trial in it:
        `experiment/id`, or the beginning of an id.
    source: as `data.source` (default: what the model was trained with); of a folder, `test/<class>/` is enough.
    test_limit: only the first so many test images (default: as in training, or all of another source).
    device: `auto`, `cpu` or `cuda`.
    run_code: let code of the trial's author run that an archive holds, if the network is made by it.
    classes_by_position: take classes of other names than the model's to be the same in their order.
    test_crops: of images in shards, as `data.test_crops`: `one`, `ten` or `scales` (default: as in training).

    Raises a `UserError` of one line if model and data do not belong together.
    """
    import torch

    from resnet_dist.data.dataset import load_test_images
    from resnet_dist.records.model_file import read_model
    from resnet_dist.workers import alone

    shown, workers = str(model), alone(device)
    with model_file(model, storage) as path:
        trained = read_model(path, run_code)
    data = _images_for(trained, source, test_limit, test_crops)
    try:
        tests = load_test_images(data)
    except DataError as error:
        if source is not None:
            raise
        raise DataError(f"{error} ({shown} was trained with it; give other images as its source)") from error
    # A file without names is matched by position to the data that it was trained with, and to no other unasked.
    known = trained.classes or (tests.classes if data.source == trained.config.data.source else ())
    differ = _difference(known, tests.classes)
    if len(tests.classes) != trained.class_count:
        raise UserError(
            f"{data.source}: has {len(tests.classes)} classes, and {shown} tells {trained.class_count} apart{differ}; "
            "give data with the model's classes"
        )
    positions, warnings = _positions(known, tests.classes), []
    by_position = positions is None
    if positions is None:
        if not classes_by_position:
            raise UserError(
                f"{data.source}: its classes cannot be told to be those of {shown}{differ}; give data with the model's "
                "classes, or classes_by_position to take them to be the same in their order (--classes-by-position)"
            )
        positions = list(range(len(tests.classes)))
        warnings.append(
            f"the classes of {data.source} are taken to be the model's in their order, whatever their names{differ}"
        )
    labels = torch.tensor(positions)[tests.labels]
    found, logits = _judged(trained, data, tests.images, labels, workers)
    names = known or tests.classes
    if not found.finite:
        warnings.append("weights, running statistics or outputs of the network are not finite: its errors mean nothing")
    assert found.found is not None
    return Evaluation(
        weights=shown,
        source=data.source,
        data_fingerprint=tests.fingerprint,
        classes_by_position=by_position,
        images=len(labels),
        top1_error=found.top1_error,
        top5_error=found.top5_error,
        test_loss=found.loss,
        by_class=_by_class(names, labels, found.found),
        warnings=tuple(warnings),
        classes=names,
        pixels=tests.images,
        labels=labels,
        predicted=found.found,
        logits=logits,
    )


def _images_for(
    model: "Model", source: str | None, test_limit: int | None, test_crops: Literal["one", "ten", "scales"] | None
) -> DataConfig:
    """The test images that a model was trained with, or those of another source as it takes them."""
    from resnet_dist import custom_code as custom

    data = model.config.data
    if source is not None and source != data.source:
        if is_custom(source):  # its module is looked for here, where the command was given
            custom.install({**custom.installed(), **custom.collect({"--data.source": source}, [Path.cwd()])})
        resize = "crop" if data.is_streamed else data.resize
        data = replace(
            data if model.mean is None else data.images_alone(),
            source=source,
            fingerprint="",
            resize=resize if source.startswith("folder:") else "none",
            split=0.0,
            augmentation=data.augmentation if source.startswith("shards:") else "shift",
            test_crops=data.test_crops if source.startswith("shards:") else "one",
        )
    data = replace(data, test_limit=data.test_limit if test_limit is None else test_limit)
    if test_crops is None:
        return data
    # In the whole, which knows whether the network can.
    return replace(model.config, data=replace(data, test_crops=test_crops)).data


def _judged(
    model: "Model", data: DataConfig, pixels: "Tensor | StreamedImages", labels: "Tensor", workers: "Workers"
) -> tuple["Errors", "Tensor"]:
    """The errors of a model on images, and what its network says of each."""
    import torch

    from resnet_dist.data.batches import Standardiser
    from resnet_dist.data.dataset import open_dataset
    from resnet_dist.training.evaluation import ImageSet
    from resnet_dist.workers import on_threads

    precision = model.config.run.precision
    dtype = torch.float64 if precision == "float64" else torch.float32
    mean, std = model.mean, model.std
    if mean is None:  # a file of an earlier version, which the training images have to stand in for
        dataset = open_dataset(data)
        mean, std = dataset.mean, dataset.std
    standardise = Standardiser(mean, std, dtype, workers.device)
    network = model.network.to(workers.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = ImageSet(pixels, labels, standardise, workers, keep_found=True)
    autocast = torch.autocast(workers.device.type, torch.bfloat16, enabled=precision == "bfloat16")
    logits: list[Tensor] = []
    with on_threads(model.config.run.threads):
        found = images.evaluate(network, autocast, lambda said: logits.append(said.double().cpu()))
    return found, torch.cat(logits)


def _by_class(names: tuple[str, ...], labels: Any, predicted: Any) -> dict[str, ClassErrors]:
    """Images and error of each class, from the class of each image and what it was taken for: int64 [N] each."""
    of_class = ((name, predicted[labels == index] != index) for index, name in enumerate(names))
    return {
        name: ClassErrors(len(wrong), wrong.double().mean().item() if len(wrong) else None) for name, wrong in of_class
    }


def _numbers(labels: "Tensor") -> list[int]:
    """Of each image, how many of its class come before it."""
    counts: Counter[int] = Counter()
    numbers = []
    for label in labels.tolist():
        numbers.append(counts[label])
        counts[label] += 1
    return numbers


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
    alike = any(look_alike(one, other) for one in lacks for other in has)  # so that both spellings are seen
    said = (
        f"it {verb} {_named(names, ascii if alike else repr)}"
        for verb, names in (("lacks", lacks), ("has", has))
        if names
    )
    return f" ({', '.join(said)})"


def _named(names: list[str], shown: Callable[[str], str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(shown, names[:_MOST_NAMED])) + more

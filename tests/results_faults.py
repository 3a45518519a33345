"""Deliberate faults in images that are read and in what is shown of results, and the tests that are to notice each."""

from tests.fault import Fault, fault

DATA = "tests/resnet_dist/data/"
CURVES = "tests/resnet_dist/summaries/test_curves.py"
TABLE = "tests/tune_jobs/results/test_tidy_table.py"

RESULTS_FAULTS: tuple[Fault, ...] = (
    fault(
        "images-of-another-size",
        "images in the cache are those of whatever data.size was asked for first",
        "resnet_dist/data/image_folder.py",
        '("", data.size, 32)',
        '("", 32, 32)',
        f"{DATA}test_dataset.py",
    ),
    fault(
        "images-of-another-split",
        "images in the cache are split as whatever data.split was asked for first",
        "resnet_dist/data/image_folder.py",
        '("-split-", data.split, 0)',
        '("-split-", 0, 0)',
        f"{DATA}test_dataset.py",
    ),
    fault(
        "one-side-of-the-size",
        "pictures that are as wide as they should be, and higher or lower, are taken",
        "resnet_dist/data/image_decoding.py",
        "(width, height) == (size, size)",
        "width == size",
        f"{DATA}test_image_decoding.py",
    ),
    fault(
        "floating-point-clipped",
        "pictures in floating point numbers are taken, cut off at 255",
        "resnet_dist/data/image_decoding.py",
        'mode == "F" or mode.startswith("I")',
        'mode.startswith("I")',
        f"{DATA}test_image_decoding.py",
    ),
    fault(
        "test-error-for-the-validation-error",
        "TensorBoard's curve of the validation error is that of the test error",
        "resnet_dist/summaries/curves.py",
        '("validation/top1_error", "validation_error")',
        '("validation/top1_error", "top1_error")',
        CURVES,
    ),
    fault(
        "point-of-a-short-window",
        "the last point of an epoch's training loss is too small where fewer updates stand for it",
        "resnet_dist/summaries/curves.py",
        "/ (stop - start)",
        "/ every",
        CURVES,
    ),
    fault(
        "no-error-for-an-error-of-zero",
        "a trial whose error is zero has none in the table of results",
        "tune_jobs/results/tidy_table.py",
        "lambda trial, _: trial.result.get(name)",
        "lambda trial, _: trial.result.get(name) or None",
        TABLE,
    ),
    fault(
        "settings-cut-to-integers",
        "a setting that one trial has as an integer is cut to one in all rows of the table of results",
        "tune_jobs/results/tidy_table.py",
        "elif types == {int}:",
        "elif int in types:",
        TABLE,
    ),
    fault(
        "rows-of-the-first-group",
        "a table of more than 10,000 rows is cut off after them in Parquet",
        "tune_jobs/commands/results.py",
        "while group := list",
        "if group := list",
        "tests/tune_jobs/commands/test_results.py",
    ),
    fault(
        "points-that-were-taken-back",
        "TensorBoard's copy of S3 keeps points that a resumed run has taken back",
        "cluster/tensorboard/mirror.py",
        "if not data.startswith(here):",
        "if not data.startswith(here) and not here.startswith(data):",
        "tests/cluster/tensorboard/test_mirror.py",
    ),
)

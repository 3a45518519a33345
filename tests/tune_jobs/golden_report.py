"""The report of a small recorded experiment, kept in `golden_report/` file by file.

`python -m tests.tune_jobs.golden_report` writes the files anew; `git diff` then shows what a change does to a report.
Figures, style and script are left out: they would hide what is said among what is drawn.
"""

import json
import re
import tempfile
from pathlib import Path

from resnet_dist.storage.interface import Storage, experiment_key
from tests.tune_jobs.recorded import (
    experiment_from,
    record_experiment,
    record_failure,
    record_metrics,
    record_result,
)
from tests.tune_jobs.report_reading import NOW
from tune_jobs.report.summary import ReportOptions
from tune_jobs.report.write import write_report

FOLDER = Path(__file__).with_name("golden_report")
FILES = ("report.md", "report.html", "results.csv", "tables.csv")

EXPERIMENT = """
name = "golden"
title = "Depth & solver"
description = "A recorded experiment with everything that a report may have to say."
[recipe.data]
source = "cifar10"
[recipe.run]
epochs = 2
[recipe.schedule]
milestones = [1]

[[table]]
name = "depths"
title = "Depths"
caption = "Depth is 6n + 2."
[[table.cell]]
label = "20 layers"
reference = 0.0829
paper = 0.0875
[[table.cell]]
label = "32 layers"
set = { "network.depth" = 32 }
reference = 0.0863
paper = 0.0751
[[table.cell]]
label = "44 layers"
set = { "network.depth" = 44 }
reference = 0.0714

[[table]]
name = "solvers"
title = "Solvers <of> the 20-layer network"
[[table.cell]]
label = "SGD"
reference = 0.0829
[[table.cell]]
label = "=RMSprop|1e-3"
set = { "solver.kind" = "rmsprop", "solver.learning_rate" = 1e-3 }
reference = 0.1055
"""

ERRORS = (
    *(0.0825, 0.0841, 0.0830),  # 20 layers
    *(0.0751, 0.0760, 0.0742),  # 32 layers
    *(0.0716, 0.0, 0.0),  # 44 layers: one of three has finished
    *(0.1040, 0.1090, 0.0),  # RMSprop: one failed
)


def record(folder: Path) -> Storage:
    """Storage that holds the experiment: two commits, one patch, one failure, one trial under way and one missing."""
    storage, trials = record_experiment(folder, experiment_from(EXPERIMENT, folder), seeds=3)
    key = experiment_key("golden")
    asked = json.loads(storage.get(key) or b"")
    storage.put(key, json.dumps(asked | {"versions": {"python": "3.11.9", "torch": "2.14.1"}}).encode())
    for index, (trial, error) in enumerate(zip(trials, ERRORS, strict=True)):
        if error:
            changed = {"commit": "2e" * 20} if index == 4 else {"dirty": True, "patch_sha256": "3f" * 32}
            record_result(storage, "golden", trial, error, changed if index in (4, 5) else None)
    record_metrics(storage, "golden", trials[7], [0.5])
    record_failure(storage, "golden", trials[11], "the training loss is nan in epoch 3", kind="diverged")
    return storage


def report_files(folder: Path) -> dict[str, str]:
    """The report's files, without figures, style and script."""
    storage = record(folder)
    write_report(storage, "golden", NOW, ReportOptions(best_epoch=True))
    return {name: _what_is_said((storage.get(f"golden/report/{name}") or b"").decode()) for name in FILES}


def _what_is_said(text: str) -> str:
    text = re.sub(r'<svg [^>]*role="img" (aria-label="[^"]*").*?</svg>', r"<svg \1></svg>", text, flags=re.DOTALL)
    return re.sub(r"(<(style|script)\b[^>]*>).*?</\2>", r"\1</\2>", text, flags=re.DOTALL)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in report_files(Path(folder)).items():
            (FOLDER / name).write_text(text, encoding="utf-8")

"""docs/study.ipynb runs from its first cell to its last; what it shows in the repository is of a run on real images."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "study.ipynb"
SMALL = "depths = [8, 14]\nseeds, epochs, width = 3, 2, 2\ntrain_images, test_images = 128, 64"
"""Stands in the cell of sizes, unless there are real images to run it on as it is."""


def notebook() -> Any:
    return importlib.import_module("nbformat").read(NOTEBOOK, as_version=4)


def text_of(outputs: list[Any]) -> str:
    return "".join(
        "".join(output.get("text", "")) + "".join(output.get("data", {}).get("text/html", "")) for output in outputs
    )


def test_its_outputs_are_of_a_run_on_real_images_and_name_no_machine() -> None:
    cells = [cell for cell in notebook().cells if cell.cell_type == "code"]
    assert (
        sum(len(output.get("text", "")) for cell in cells for output in cell.outputs) < 500
    )  # and of a grid but its bar
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    shown = text_of([output for cell in cells for output in cell.outputs])
    assert "airplane" in shown and "Warning" not in shown
    assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs) == 2
    assert not re.search(r"/(?:work|tmp|home|root|Users)/", json.dumps(cells))


def test_an_error_of_the_users_is_one_line_in_a_notebook(tmp_path: Path) -> None:
    code = 'from resnet_dist import TrainingConfig\nTrainingConfig().override({"network.depth": 21})'
    command = [sys.executable, "-m", "IPython", "--quick", "--colors=NoColor", "--HistoryManager.enabled=False"]
    done = subprocess.run(
        [*command, "-c", code], capture_output=True, text=True, env=os.environ | {"IPYTHONDIR": str(tmp_path)}
    )
    assert done.stdout.strip() == (
        "ConfigurationError: network.depth: 21 is not 6n+2 for any n >= 1; the nearest are 20 and 26"
    )


@pytest.mark.integration
def test_it_runs_from_the_first_cell_to_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = notebook()
    real = os.environ.get("RESNET_DIST_REAL_DATA")
    monkeypatch.setenv("IMAGES", f"folder:{Path(real).absolute()}" if real else "synthetic")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (sizes,) = (cell for cell in found.cells if "parameters" in cell.metadata.get("tags", ()))
    if not real:
        sizes.source = SMALL
    client = importlib.import_module("nbclient").NotebookClient
    client(found, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = {cell.source.splitlines()[0]: cell.outputs for cell in found.cells if cell.cell_type == "code"}
    (bar,) = outputs["run_grid(depth, storage, seeds=seeds);"]
    assert re.search(r"(\d+) of \1 epochs", bar.data["text/html"])
    trials = text_of(outputs["read_results(depth, storage)  # also while it runs, from another notebook or machine"])
    rows = len(re.findall("<tr>", trials)) - 1
    assert rows == trials.count('<td style="text-align:right">finished</td>') > 5
    assert "95 % interval" in text_of(outputs["report = write_report(depth, storage)"])
    assert "% points (95 % interval " in text_of(outputs['first, last = (f"{depths[i]} layers" for i in (0, -1))'])
    pictures = [output for drawn in outputs.values() for output in drawn if "image/png" in output.get("data", {})]
    assert len(pictures) == 2

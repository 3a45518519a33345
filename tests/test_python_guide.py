"""The examples of docs/python.md, run in their order on a folder of images."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.image_trees import image_tree, write_directory
from tune_jobs.command_line import main

GUIDE = Path(__file__).parent.parent / "docs" / "python.md"


@pytest.mark.integration
def test_the_examples_lead_from_a_folder_to_a_figure_with_error_bars(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_directory(tmp_path / "pictures", image_tree(16, 3, classes=("cat", "dog")))
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    printed = []
    for block in blocks:
        exec(compile(block, GUIDE.name, "exec"), names)
        printed.append(capsys.readouterr().out)
    one, _, planned, grid, results, _, wrong = printed
    run, found = names["run"], names["found"]
    assert len(one.splitlines()) == 5 and one.endswith(f"records in {tmp_path}/results/train/trials/{run.trial_id}/\n")
    assert found.top1_error == run.top1_error and len(found.mistakes()) == round(6 * run.top1_error)
    assert names["logits"].argmax(1).tolist() == found.predicted.tolist()
    assert planned == "6 trials, 5 to run\n"  # the run above is one of them
    assert grid.endswith("\n5 were run; all are finished\n") and len(re.findall(r"seed-2 4 0", grid)) == 2
    assert re.search(r"0\.01 .* 3$", results, re.MULTILINE) and "p = " in results
    assert (tmp_path / "rates.png").stat().st_size > 5000
    assert wrong.startswith("setting: 'network.dept' is not known; ")
    assert wrong.endswith("; did you mean 'network.depth'?\n") and wrong.count("\n") == 1
    # A command finds what a function has made, and a notebook's tables are as many as there are rows.
    assert main(["grid", "status", "pets", "--storage", "results", "--json"]) == 0
    assert capsys.readouterr().out.count('"finished"') == 6
    shown = [names[name]._repr_html_() for name in ("run", "found", "pets", "plan", "done", "results", "report")]
    assert [html.count("<tr>") for html in shown] == [7, 4, 3, 3, 3, 7, 3]
    plain = [repr(names[name]) for name in ("run", "found", "pets", "plan", "done", "results", "report")]
    assert all(len(line) < 100 and str(tmp_path) not in line for line in plain)
    assert plain[2:4] == ["<experiment pets: 2 rows in 1 table>", "<plan of pets: 6 trials, 5 to run>"]
    assert 'src="data:image/png;base64,' in shown[-1]
    assert len(names["results"].to_pandas("epochs")) == 6 * 4

"""The page that leads from a folder of images to a report, followed as it stands."""

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.image_trees import image_tree, write_directory
from tune_jobs.command_line import main
from tune_jobs.grid.experiment_file import CELL_KEYS, TABLE_KEYS, TOP_KEYS

GUIDE = (Path(__file__).parent.parent / "docs" / "experiments.md").read_text()


def test_every_key_of_a_file_is_described() -> None:
    for key in {*TOP_KEYS, *TABLE_KEYS, *CELL_KEYS} - {"table", "cell", "grid"}:
        assert re.search(rf"\b{key}\b", GUIDE.partition("## The file")[2]), key


@pytest.mark.integration
def test_the_page_leads_from_a_folder_to_a_report_and_predictions(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in re.findall(r"^```toml (\S+)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text)
    write_directory(tmp_path / "pictures", image_tree(16, 3, classes=("cat", "dog")))
    commands = [
        line
        for block in re.findall(r"^```console\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(commands) == 4
    best: Any = {}
    for command in commands:
        program, *arguments = shlex.split(command.replace("TRIAL", best.get("trial", "TRIAL")))
        assert program == "resnet-dist"
        capsys.readouterr()
        assert main([*arguments, "--format", "json"] if arguments[0] == "results" else arguments) == 0
        if arguments[0] == "results":
            best = json.loads(capsys.readouterr().out)
    assert (tmp_path / "results/pets/report/report.html").exists()
    assert best["measure"] == "top1_error" and best["of_trials"] == 4 and best["images"] == 6
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted((row["class"], row["number"]) for row in rows) == [
        (name, str(n)) for name in ("cat", "dog") for n in range(3)
    ]
    assert sum(row["correct"] == "false" for row in rows) / 6 == pytest.approx(best["value"])
    assert f"{100 * best['value']:.2f} %" in capsys.readouterr().out

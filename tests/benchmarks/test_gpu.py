"""The measurement on a GPU, rehearsed on the CPU, in an environment without Ray, boto3 and rich."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.report import markdown, study_hours

WITHOUT = """
import sys
for name in ("ray", "boto3", "botocore", "rich"):
    sys.modules[name] = None
from benchmarks.gpu.__main__ import main
sys.exit(main([*sys.argv[1:], "--parts", "times"]) or main([*sys.argv[1:], "--parts", "training", "--seeds", "2"]))
"""


@pytest.mark.integration
def test_every_line_of_it_works_without_a_gpu_and_without_ray(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, "--rehearse", "--into", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["agreement in float64"]["difference"] == found["agreement in float64"]["without cuDNN"] == 0
    assert found["milliseconds of a step"]["8 layers"]["captured"] > 0
    assert set(found["side by side"]) == {"1 side by side", "2 side by side"}
    first, second = found["training"]["runs"]
    assert first["epochs"] == second["epochs"] == 2 and first["trial"] != second["trial"]
    for run in (first, second):
        trial = tmp_path / "runs" / "full-length" / "trials" / run["trial"]
        assert json.loads((trial / "result.json").read_text())["top1_error"] == run["top1_error"]
    page = (tmp_path / "gpu.md").read_text()
    assert page in done.stdout and f"| {first['trial']} |" in page


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--into", "{file}"], "--into {file}: cannot be made: File exists; name a directory"),
        (["--into", "{file}.d", "--minutes", "-1"], "--minutes: -1 is not allowed; it must be greater than 0"),
    ],
)
def test_what_cannot_be_is_one_line(
    more: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert main(["--rehearse", *(word.format(file=file) for word in more)]) == 2
    assert capsys.readouterr().err == f"error: {says.format(file=file)}\n"


def test_the_studys_hours_are_those_of_its_cells_at_the_measured_steps() -> None:
    times = {f"{depth} layers": {"captured": depth / 10} for depth in (20, 110)}
    hours = study_hours(times, gain=2.0)
    halved = study_hours({name: {"captured": v["captured"] / 2} for name, v in times.items()}, gain=1.0)
    assert hours and hours == pytest.approx(halved)
    assert study_hours({"20 layers": {"captured": 2.0}}, 1.0) is None


def test_a_page_says_what_there_is_so_far() -> None:
    page = markdown({"machine": {"device": "a GPU"}, "tests": {"result": "31 passed", "seconds": 87.9}})
    assert "a GPU" in page and "31 passed (88 s)" in page and "|" not in page

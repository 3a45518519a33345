"""`resnet-dist submit`, `job …`, `cluster …`, `data …` without a cluster: what is refused before one is needed."""

import json
import subprocess
from pathlib import Path

import pytest

from cluster.storage.opening import open_storage
from tests.image_trees import image_tree, write_directory
from tune_jobs.command_line import main

GRID = ["grid", "run", "demo", "--storage", "s3://bucket/results"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_submission_of_nothing_says_what_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert "write it after --" in refused(capsys, "submit")


def test_a_mistake_in_the_command_is_found_before_the_upload(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["submit", "--", *GRID, "--epoch", "3"])
    assert stopped.value.code == 2
    assert "did you mean --epochs?" in capsys.readouterr().err
    assert "is for this machine" in refused(capsys, "submit", "--", "cluster", "up")


def test_a_relative_storage_would_be_lost_with_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "submit", "--", "grid", "run", "demo", "--storage", "results")
    assert "is relative to a job's upload" in line and "s3://" in line


@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY=x", "AWS_ACCESS_KEY_ID=x", "RAY_AUTH_TOKEN=x"])
def test_a_key_is_not_put_into_a_jobs_record(capsys: pytest.CaptureFixture[str], variable: str) -> None:
    line = refused(capsys, "submit", "--env", variable, "--", *GRID)
    assert "would stand readable in the job's record" in line and "=x" not in line


def test_a_variable_without_a_value_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "must be NAME=VALUE" in refused(capsys, "submit", "--env", "OMP_NUM_THREADS", "--", *GRID)


def test_pack_prints_the_equal_command_of_rays(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    into = tmp_path / "upload"
    assert main(["submit", "--pack", str(into), "--", *GRID]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"ray job submit --working-dir {into} -- python -m tune_jobs grid run demo --storage s3://bucket/results"
    )
    assert (into / "tune_jobs" / "command_line.py").exists() and (into / "resnet_dist" / "_build.json").exists()
    assert "is not empty" in refused(capsys, "submit", "--pack", str(into), "--", *GRID)
    file = tmp_path / "file"
    file.write_text("")
    assert "cannot be made: File exists" in refused(capsys, "submit", "--pack", str(file), "--", *GRID)
    assert main(["submit", "--pack", str(tmp_path / "more"), "--json", "--", *GRID]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["directory"] == str(tmp_path / "more") and said["command"].startswith("ray job submit --working-dir")


CELL = '[[table]]\nname = "t"\ntitle = "T"\n[[table.cell]]\nlabel = "a"\nset = {"network.block" = "my_parts:Block"}\n'


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder of one's own that is no checkout: an experiment, its block, and a data set."""
    folder = write_directory(tmp_path / "study", {f"faces/{name}": data for name, data in image_tree().items()})
    (folder / "my.toml").write_text(f'name = "my"\ntitle = "My"\n{CELL}')
    (folder / "my_parts.py").write_text("def Block(*_): pass\n")
    return folder


def test_a_submission_says_what_goes_and_what_stays(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = ["--", "grid", "run", "my.toml", "--storage", "s3://bucket/results"]
    assert main(["submit", "--dry-run", "--working-dir", str(study), *job]) == 0
    first, second, third, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("Would upload 2 files and this program, ")
    assert second == "  my.toml, my_parts.py"
    assert third.startswith("  left out: 18 files in faces (images, arrays or archives, and this is no git checkout")


def test_what_the_command_names_and_the_upload_lacks_is_one_line(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*job: str) -> str:
        storage = ["--storage", "s3://bucket/results"]
        return refused(capsys, "submit", "--dry-run", "--working-dir", str(study), "--", *job, *storage)

    assert "other.toml: is not in the upload of" in said("grid", "run", "other.toml")
    assert f"{study}/my.toml: is not in the upload of" in said("grid", "run", f"{study}/my.toml")
    assert "settings.json: is not in the upload of" in said("train", "--config", "settings.json")
    assert "'mine:lion': mine.py is not in the upload of" in said("train", "--solver.kind", "mine:lion")
    (study / "my_parts.py").unlink()
    assert "network.block: 'my_parts:Block': my_parts.py is not in the upload of" in said("grid", "run", "my.toml")


def test_what_the_named_code_imports_is_in_the_upload_or_nothing_starts(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in {
        ".gitignore": "generated/\n",
        "my_parts.py": "from generated.layers import Layer\n\n\ndef Block(*_): pass\n",
        "generated/__init__.py": "",
        "generated/layers.py": "Layer = 1\n",
        "train.json": '{"solver": {"kind": "lions:lion", "learning_rate": 0.1}}',
    }.items():
        (study / name).parent.mkdir(exist_ok=True)
        (study / name).write_text(text)
    subprocess.run(["git", "-C", str(study), "init", "-q"], check=True)
    subprocess.run(["git", "-C", str(study), "add", "-A"], check=True)
    submit = ["submit", "--dry-run", "--json", "--working-dir", str(study), "--"]
    job = ["grid", "run", "my.toml", "--storage", "s3://bucket/results"]
    line = refused(capsys, *submit, *job)
    assert "network.block: 'my_parts:Block' needs generated/__init__.py, which is not in the upload of" in line
    assert "2 files in generated (git ignores it; git add --force has it sent)" in line

    subprocess.run(["git", "-C", str(study), "add", "--force", "generated"], check=True)
    assert main([*submit, *job]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == []

    line = refused(capsys, *submit, "train", "--config", "train.json", "--storage", "s3://bucket/results")
    assert "solver.kind: 'lions:lion': lions.py is not in the upload of" in line


def test_each_cells_code_is_looked_for(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = "".join(
        f'[[table.cell]]\nlabel = "{name}"\nset = {{"network.block" = "{name}:Block"}}\n'
        for name in ("gone", "my_parts")
    )
    (study / "my.toml").write_text(f'name = "my"\ntitle = "My"\n[[table]]\nname = "t"\ntitle = "T"\n{cells}')
    job = ["--", "grid", "run", "my.toml", "--storage", "s3://bucket/results"]
    line = refused(capsys, "submit", "--dry-run", "--working-dir", str(study), *job)
    assert "'gone:Block': gone.py is not in the upload of" in line


def test_a_dry_run_of_a_submission_asks_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = ["submit", "--dry-run", "--address", "http://127.0.0.1:9"]
    assert main([*nowhere, "--", *GRID]) == 0
    said = capsys.readouterr().out
    assert "Would upload" in said and "python -m tune_jobs grid run demo" in said and "Nothing was uploaded" in said
    assert main([*nowhere, "--json", "--", *GRID]) == 0
    assert json.loads(capsys.readouterr().out)["files"] > 100
    assert "is for this machine" in refused(capsys, *nowhere, "--", "cluster", "up")


def test_an_unreachable_job_server_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["status"], ["logs", "x"], ["stop", "x"]):
        line = refused(capsys, "job", *command, "--address", "http://127.0.0.1:9")
        assert line.startswith("error: no job server answers at http://127.0.0.1:9; give --address")


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "ray://127.0.0.1:10001"])
def test_an_address_of_another_kind_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert f"{address}: is not the address of a job server" in refused(capsys, "job", "status")


def test_staging_prints_the_fingerprint_and_stores_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, cache: Path
) -> None:
    source, storage = f"folder:{write_directory(tmp_path / 'images', image_tree())}", str(tmp_path / "results")
    assert main(["data", "stage", source, storage, "--dry-run"]) == 0
    assert "would be put into" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()
    said = []
    for _ in range(2):
        assert main(["data", "stage", source, storage, "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert [one["stored"] for one in said] == [True, False] and said[0]["fingerprint"] == said[1]["fingerprint"]
    assert open_storage(storage).get(f".data/{said[0]['fingerprint']}/meta.json")
    assert main(["data", "stage", source, storage, "--dry-run"]) == 0
    assert "were already in" in capsys.readouterr().out
    assert "there is no file or directory" in refused(capsys, "data", "stage", "folder:/nowhere", storage)

"""The example of docs/custom.md, run as it stands in docs/examples."""

import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from resnet_dist import custom_code as custom
from resnet_dist.configuration.training import TrainingConfig
from tests.worker_processes import run_workers
from tune_jobs.command_line import main

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "custom.md"
FILES = {
    name: (GUIDE.parent / "examples" / name).read_text()
    for name in re.findall(r"\]\(examples/(\S+)\)", GUIDE.read_text())
}
"""What the guide links to."""


@pytest.fixture
def folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A directory with the guide's files, in which commands are run."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    custom.install({})


def planned(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert main(["grid", "plan", "my_study.toml", "--storage", "results", "--no-measure", "--json"]) == 0
    return list(json.loads(capsys.readouterr().out)["trials"])


def test_the_guides_experiment_is_planned_and_its_text_is_part_of_each_hash(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = planned(capsys)
    assert len(before) == 4
    assert {trial["config"]["data"]["source"] for trial in before} == {"my_parts:stripes"}
    fingerprints = {trial["config"]["code"]["fingerprint"] for trial in before}
    assert len(fingerprints) == 1 and "" not in fingerprints
    assert not (folder / "results").exists(), "a plan writes nothing"
    (folder / "my_parts.py").write_text(FILES["my_parts.py"] + "\n# a remark\n")
    after = planned(capsys)
    assert not {trial["trial"] for trial in before} & {trial["trial"] for trial in after}


def test_the_guides_parts_train_and_are_on_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--network.depth", "8", "--network.width", "4", "--data.batch_size", "40", "--epochs", "2", "--json"]
    own = ["--network.block", "my_parts:SqueezeBlock", "--data.source", "my_parts:stripes"]
    solver = ["--solver.kind", "my_parts:Lion", "--solver.learning_rate", "1e-3", "--schedule.milestones", ""]
    assert main(["train", "--storage", "results", *arguments, *own, *solver]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["top1_error"] < 0.3  # of two classes
    (trial,) = (folder / "results" / "train" / "trials").iterdir()
    provenance = json.loads((trial / "provenance.json").read_text())
    assert provenance["code"]["modules"] == {"my_parts.py": FILES["my_parts.py"]}
    assert provenance["code"]["names"]["solver.kind"] == "my_parts:Lion"
    # The text on record is what is run again, whatever lies on disk.
    (folder / "my_parts.py").write_text("1 / 0")
    assert main(["reproduce", trial.name, "--storage", "results", "--run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["comparison"]["identical"]
    # The archive has it for whoever evaluates the model; a file of weights needs it beside itself or where one is.
    assert main(["export", trial.name, "--storage", "results", "--output", "trial.zip", "--json"]) == 0
    custom.install({})
    assert main(["evaluate", str(trial / "model.pt")]) == 1
    assert "give the code that the configuration was made for" in capsys.readouterr().err
    with zipfile.ZipFile("trial.zip") as archive:
        assert "runs code of the trial's author, my_parts.py" in archive.read(f"{trial.name}/README.md").decode()
    assert main(["evaluate", "trial.zip"]) == 1
    assert "(my_parts.py), whose text is in its provenance.json; read it, and give" in capsys.readouterr().err
    assert main(["evaluate", "trial.zip", "--run-code", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1_error"] == result["top1_error"]
    # Another data source of one's own, which lies in the directory and is not the model's.
    (folder / "more.py").write_text(FILES["my_parts.py"])
    assert main(["evaluate", "trial.zip", "--run-code", "--data", "more:stripes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1_error"] == result["top1_error"]
    (folder / "my_parts.py").write_text(FILES["my_parts.py"])
    custom.install({})
    assert main(["evaluate", str(trial / "model.pt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1_error"] == result["top1_error"]


NOW = "from resnet_dist.extension import Block, DecodedImages\n"
FORMERLY = """
import {0}.batch_norm as norms
from {0}.batch_norm import SynchronisedBatchNorm, convert
from {0}.decoded_images import DecodedImages
from {0}.networks import Block, projection

assert norms.convert is convert
""".format("resnet_dist")
"""What an earlier guide taught: such code is stored with trials, and is run again by `reproduce` and `evaluate`."""


@pytest.mark.integration
def test_jobs_carry_their_code_to_a_process_that_has_no_such_file(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two texts of one module, one after the other, as in an actor that trains one trial after another."""
    from cluster.storage.opening import open_storage
    from tune_jobs.grid.plan import make_plan
    from tune_jobs.grid.run import _job

    assert FILES["my_parts.py"].count(NOW) == 1
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    expected = []
    for imports in (NOW, FORMERLY):
        (folder / "my_parts.py").write_text(FILES["my_parts.py"].replace(NOW, imports))
        trial = make_plan("my_study.toml", open_storage("results"), 1, 1, {}).trials[1].trial
        expected.append(trial.trial_id)
        job = _job(trial, "my-study", str(folder / "results"), "fifo")
        (elsewhere / str(len(expected))).write_bytes(pickle.dumps(job))
    code = (
        "import pickle; from resnet_dist.launch import run_in_process; "
        "print(*(run_in_process(pickle.load(open(name, 'rb')))['trial'] for name in '12'))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RESNET_DIST_CACHE": str(elsewhere / "cache")}
    done = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == expected and len(set(expected)) == 2


def losses_of(config: TrainingConfig, texts: dict[str, str], cache: str) -> list[float]:
    os.environ["RESNET_DIST_CACHE"] = cache
    custom.install(texts)
    from resnet_dist.data.dataset import load_dataset
    from tests.small_runs import trace

    return trace(config, load_dataset(config.data), 20).losses


@pytest.mark.integration
def test_law_1_holds_for_the_guides_parts(cache: Path) -> None:
    config = TrainingConfig().override(
        {
            "network.depth": 8,
            "network.width": 2,
            "network.block": "my_parts:SqueezeBlock",
            "solver.kind": "my_parts:Lion",
            "solver.learning_rate": 1e-3,
            "data.source": "my_parts:stripes",
            "data.batch_size": 10,
            "run.precision": "float64",
        }
    )
    texts = {"my_parts.py": FILES["my_parts.py"]}
    (one,) = run_workers(losses_of, 1, config, texts, str(cache))
    for several in run_workers(losses_of, 3, config, texts, str(cache)):
        assert several == pytest.approx(one, rel=1e-9)

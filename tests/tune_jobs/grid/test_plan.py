"""What a plan says before anything is run."""

import contextlib
import itertools
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.durations import in_words
from resnet_dist.errors import ConfigurationError
from tests.tune_jobs.recorded import TWO_ROWS, experiment_from, record_experiment, record_metrics, record_result
from tune_jobs.actions.grid import plan_grid
from tune_jobs.command_line import main
from tune_jobs.grid import calibration
from tune_jobs.grid.calibration import Calibration, Cost, measure
from tune_jobs.grid.machines import constants
from tune_jobs.grid.packing import gain_of
from tune_jobs.grid.plan import make_plan

ROWS = {
    name: table["rows"]
    for name, table in tomllib.loads((Path(__file__).parents[1] / "reference_tables.toml").read_text()).items()
}


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["grid", "plan", *arguments, "--no-measure", "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def what_a_row_runs(name: str, row: dict[str, Any]) -> str:
    """The configuration of a row of the document: rows that say the same are one trial."""
    recipe = {"relu": True, "position": "before", "solver": "sgd", "learning_rate": 0.1, "momentum": 0.1}
    if name.endswith("-deep"):
        recipe["initialisation"] = "head"  # the document's deep tables are from its code's last revision
    told = {key: value for key, value in row.items() if key not in ("error", "paper")}
    return json.dumps(recipe | told, sort_keys=True)


def test_the_plan_of_the_study_is_the_cells_of_the_six_tables_and_their_shared_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(capsys, "study", "--storage", str(tmp_path), "--seeds", "1")
    assert [table["name"] for table in plan["tables"]] == list(ROWS)
    assert {table["name"]: len(table["cells"]) for table in plan["tables"]} == {
        n: len(rows) for n, rows in ROWS.items()
    }
    of_row: dict[str, set[str]] = {}  # trial ids by what the document's rows say
    tables_of: dict[str, list[str]] = {}
    configs = {trial["trial"]: trial["config"] for trial in plan["trials"]}
    for table in plan["tables"]:
        for cell, row in zip(table["cells"], ROWS[table["name"]], strict=True):
            (trial_id,) = cell["trials"]
            of_row.setdefault(what_a_row_runs(table["name"], row), set()).add(trial_id)
            tables_of.setdefault(trial_id, []).append(table["name"])
            config = configs[trial_id]
            assert config["network"]["depth"] == row["depth"]
            assert config["schedule"]["warmup_iterations"] == row.get("warmup_iterations", 0)
            assert config["solver"]["kind"] == row.get("solver", "sgd")
            assert config["schedule"]["kind"] == row.get("schedule", "step")
            assert config["batch_norm"]["momentum"] == row.get("momentum", 0.1)
    assert all(len(ids) == 1 for ids in of_row.values()), "one row, two trials"
    assert len(of_row) == len(tables_of) == len(plan["trials"]) == 30
    for table in plan["tables"]:
        for cell in table["cells"]:
            assert sorted([table["name"], *cell["also_in"]]) == sorted(tables_of[cell["trials"][0]])
    shared = Counter(len(tables) for tables in tables_of.values())
    assert shared == {1: 28, 4: 1, 2: 1} and plan["shared_trials"] == 2


def test_the_full_grid_has_720_trials_a_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(capsys, "full-grid", "--storage", str(tmp_path), "--seeds", "1")
    assert len(plan["trials"]) == plan["cells"] == 720 and plan["shared_trials"] == 0
    assert {trial["steps"] for trial in plan["trials"]} == {78_125}


def test_a_second_plan_measures_nothing(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def cost(config: TrainingConfig) -> Cost:
        measured.append(config.network.depth)
        return Cost(config.network.depth / 100, 2**30, 2**20)

    experiment_from(TWO_ROWS, tmp_path)
    storage, _ = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=2)
    path = str(tmp_path / "experiment.toml")
    for machine, expected in (("a", [20, 32]), ("a", [20, 32]), ("b", [20, 32, 20, 32])):
        plan = make_plan(path, storage, 2, None, {}, calibration=Calibration(machine, 2, cost))
        assert measured == expected
        (first, *_) = plan.trials
        # 78,125 updates of 0.2 s; 10,000 test images beside 50,000 to train on, at a third of the cost.
        assert first.hours == pytest.approx(78_125 * 0.2 * (1 + 1 / 3 / 5) / 3600)
        assert first.memory == pytest.approx(400 * 2**20 + 60_000 * 3080 + 3 * 2**20 + 2**30)
    changed = replace(TrainingConfig(), run=replace(TrainingConfig().run, precision="bfloat16"))
    Calibration("a", 2, cost)(changed)
    assert measured[-1] == 20 and len(measured) == 5
    (cache / calibration.FILE).write_text("{")
    Calibration("a", 2, cost)(changed)
    assert len(measured) == 6, "a damaged file is measured anew"
    with monkeypatch.context() as context:
        context.setattr(calibration, "version", {"torch": "0.0"}.__getitem__)
        Calibration("a", 2, cost)(changed)
    assert len(measured) == 7, "another torch is measured anew"
    monkeypatch.setenv("RESNET_DIST_CACHE", str(cache / calibration.FILE / "no directory"))
    assert Calibration("a", 2, cost)(changed).seconds == 0.2, "a plan needs no place to remember it"


def test_what_costs_something_else_is_measured_by_itself(cache: Path) -> None:
    numbers = itertools.count(1)
    costs = Calibration("a", 1, lambda config: Cost(next(numbers), 0, 0))
    other: list[dict[str, Any]] = [{"network.depth": 32}, {"network.width": 8}, {"network.shortcut": "B"}]
    other += [{"network.family": "preactivation"}, {"data.batch_size": 64}, {"data.accumulation": 2}]
    other += [{"run.precision": "float64"}, {"run.exact": True}]
    configs = [TrainingConfig().override(settings) for settings in ({}, *other)]
    assert [costs(config).seconds for config in configs * 2] == 2 * [*range(1, len(configs) + 1)]


def test_hours_on_the_cluster_are_those_of_the_longest_first_in_each_place(cache: Path, tmp_path: Path) -> None:
    # Three trials of 32 layers and three of 20, on two places: 32 and 32, then 32 and 20, then 20 and 20 beside it.
    storage, _ = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=3)
    path = str(tmp_path / "experiment.toml")
    seconds = {20: 1.0, 32: 2.0}
    costs = Calibration("x", 2, lambda config: Cost(seconds[config.network.depth], 0, 0))
    plan = make_plan(path, storage, 3, None, {}, calibration=costs)
    unit = plan.trials[0].hours
    assert unit is not None and plan.hours == pytest.approx(9 * unit)
    assert plan.cluster_hours == pytest.approx(5 * unit)
    expected = in_words(3600 * 5 * unit)
    assert plan._repr_html_().endswith(f"<p>6 trials, 6 to run; {expected} with 2 workers at a time</p>")
    seldom = make_plan(path, storage, 3, None, {"run.evaluation_epochs": 5}, calibration=costs)
    assert seldom.trials[0].hours == pytest.approx(78_125 * (1 + 1 / 15 / 5) / 3600)
    both = make_plan(path, storage, 3, None, {"run.workers": 2}, calibration=costs)
    assert both.cluster_hours == pytest.approx(9 * unit / 2)


def test_trials_of_each_number_of_workers_run_after_the_others_and_share_what_an_update_keeps(
    cache: Path, tmp_path: Path
) -> None:
    text = TWO_ROWS.replace('"network.depth" = 32', '"network.depth" = 32, "run.workers" = 2')
    storage, _ = record_experiment(tmp_path, experiment_from(text, tmp_path), seeds=3)
    seconds = {20: 1.0, 32: 2.0}
    costs = Calibration("x", 2, lambda config: Cost(seconds[config.network.depth], 2**30, 2**20))
    plan = make_plan(str(tmp_path / "experiment.toml"), storage, 3, None, {}, calibration=costs)
    alone, pair = plan.trials[0], plan.trials[3]
    assert alone.hours is not None and alone.memory is not None and pair.memory is not None
    # Three of one worker on two places take two of their hours; three of two workers, twice the work, three.
    assert plan.cluster_hours == pytest.approx((2 + 3) * alone.hours)
    assert alone.memory - pair.memory == 2**29 + 5000 * 3080, "half of the activations, and of the test images"
    assert pair.expected_storage == pytest.approx(alone.expected_storage), "they take as long, and so write as much"


def test_hours_on_gpus_are_those_of_trials_side_by_side_and_a_plan_says_why(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, _ = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=3)
    path = str(tmp_path / "experiment.toml")
    seconds = {20: 1.0, 32: 2.0}
    costs = Calibration("a GPU", 1, lambda config: Cost(seconds[config.network.depth], 0, 0), gpu_memory=80 * 10**9)
    plan = make_plan(path, storage, 3, None, {}, calibration=costs)
    unit = plan.trials[0].hours
    assert unit is not None and plan.packing.count == 6
    assert plan.cluster_hours == pytest.approx(2 * unit * 6 / gain_of(6))
    # Two places, each as slow as was measured of two: 32 and 32, then 32 and 20, then 20 and 20 beside it.
    two = make_plan(path, storage, 3, None, {}, costs, side_by_side=2)
    assert two.cluster_hours == pytest.approx(5 * unit * 2 / 1.46)
    eager = make_plan(path, storage, 3, None, {"run.cuda_graph": False}, costs)
    assert eager.cluster_hours == pytest.approx(9 * unit)

    monkeypatch.setattr(calibration, "calibrating", lambda device: contextlib.nullcontext(costs))
    command = ["grid", "plan", path, "--storage", storage.uri, "--seeds", "3"]
    assert main(command) == 0
    assert "Side by side on each GPU: 6 (2 × the trials an hour, measured on an H100, 20 " in capsys.readouterr().out
    assert main([*command, "--side-by-side", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["side_by_side"] == 1


def test_what_is_in_storage_is_taken_off(cache: Path, tmp_path: Path) -> None:
    storage, found = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    record_result(storage, "two-rows", found[0], 0.1)
    record_metrics(storage, "two-rows", found[1], [0.5] * 50)
    costs = Calibration("x", 1, lambda config: Cost(1.0, 0, 0))
    plan = make_plan(str(tmp_path / "experiment.toml"), storage, 1, None, {}, calibration=costs)
    assert [item.state for item in plan.trials] == ["finished", "unfinished"]
    assert plan.trials[0].hours is None
    assert plan.trials[1].hours == pytest.approx(78_125 * 0.75 * (1 + 1 / 15) / 3600, rel=1e-3)
    assert plan.hours == plan.trials[1].hours


@pytest.mark.parametrize("seeds", [0, -1])
def test_no_seeds_are_refused_and_not_taken_for_the_default(seeds: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"^seeds: {seeds} is not allowed; it must be at least 1$"):
        plan_grid("demo", tmp_path, seeds=seeds, measure=False)


def test_a_measured_update_takes_time_and_memory_that_grow_with_the_network(cache: Path) -> None:
    small, large = (
        measure(TrainingConfig().override({"network.depth": depth, "network.width": 4, "data.batch_size": 8}))
        for depth in (8, 20)
    )
    assert small.seconds > 0 and small.weights < large.weights and small.activations < large.activations
    # Each of the six convolutions of the small one keeps its input: 8 images of 4 x 32 x 32, 8 x 16 x 16, ... floats.
    assert small.activations > 4 * 8 * (3 * 1024 + 3 * 4 * 1024 + 2 * 8 * 256 + 16 * 64)
    parts = {"network.depth": 8, "network.width": 4, "data.batch_size": 32, "data.accumulation": 4}
    assert measure(TrainingConfig().override(parts)).activations == small.activations, "one part is kept at a time"


def test_an_update_of_exact_mode_is_measured_which_has_a_loss_for_each_shard(cache: Path) -> None:
    exact = {"network.depth": 8, "network.width": 4, "data.batch_size": 8, "run.exact": True}
    assert measure(TrainingConfig().override(exact)).activations > 0


def test_a_plan_shows_cells_shared_trials_and_storage(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "measure", lambda config: Cost(0.5, 2**30, 2**20))
    monkeypatch.setitem(constants()["times"], "group", 7.5)
    assert main(["grid", "plan", "study-shallow", "--storage", str(tmp_path), "--epochs", "20"]) == 0
    out = capsys.readouterr().out
    assert (
        "16 cells in 3 tables, 14 different configurations (1 of them in several tables), × 5 seeds: 70 trials" in out
    )
    row = next(line for line in out.splitlines() if "Adadelta" in line)
    assert "7,813" in row and "5 missing" in row and "1.6 GiB" in row
    assert "run.epochs: 20 instead of 200" in out
    assert re.search(
        r"^Expected: [\d.]+ (days|hours) with \d+ workers? at a time on .* step times measured", out, re.MULTILINE
    )
    assert "a group of workers some 7.5 s)" in out, "as `machines.toml` has it"
    assert re.search(r"^With twice as many, \d+ at a time: [\d.]+ (days|hours)$", out, re.MULTILINE)


def test_a_dry_run_says_what_would_start_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage, found = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=2)
    record_metrics(storage, "two-rows", found[2], [0.5])
    record_result(storage, "two-rows", found[0], 0.1)
    before = {path: path.stat().st_mtime_ns for path in Path(storage.uri).rglob("*")}
    command = ["grid", "run", str(tmp_path / "experiment.toml"), "--storage", storage.uri, "--seeds", "2", "--dry-run"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "A launch would start 3 trials, the longest first:" in out and "Nothing was written." in out
    assert f"{found[2].trial_id}  depth-32/seed-0, going on after step 391" in out
    assert main([*command, "--json"]) == 0
    started = json.loads(capsys.readouterr().out)["would_start"]
    assert set(started) == {found[1].trial_id, found[2].trial_id, found[3].trial_id}
    assert started[-1] == found[1].trial_id
    assert {path: path.stat().st_mtime_ns for path in Path(storage.uri).rglob("*")} == before


def test_a_dry_run_of_one_run_says_where_it_would_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = tmp_path / "results"
    command = ["train", "--storage", str(storage), "--dry-run"]
    assert main(command) == 0
    trial = TrainingConfig().trial_id()
    out = capsys.readouterr().out
    assert f"Trial {trial}: 20 layers on synthetic, 200 epochs" in out and "from the beginning" in out
    assert not storage.exists()
    checkpoint = storage / "train" / "trials" / trial / "checkpoints" / "0000000391"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.pt").write_bytes(b"")
    assert main(command) == 0
    assert "from the beginning" in capsys.readouterr().out, "a checkpoint without its manifest is none"
    (checkpoint / "manifest.json").write_bytes(b"{}")
    assert main(command) == 0
    assert "would go on from its checkpoint after step 391" in capsys.readouterr().out
    result = {"layout": 1, "trial": trial, "epochs": 200, "top1_error": 0.1, "test_loss": 0.4, "train_loss": 0.1}
    (storage / "train" / "trials" / trial / "result.json").write_text(json.dumps(result))
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "finished"


def test_a_plan_of_thousands_hashes_each_trial_once_and_loads_no_torch(tmp_path: Path) -> None:
    """Time and memory grow with the trials, and nothing but them."""
    code = """if True:
        import sys
        from resnet_dist.configuration import training
        from tune_jobs.command_line import main

        hashed = []
        hash_of = training.hash_of
        training.hash_of = lambda identity: hashed.append(1) or hash_of(identity)
        assert main(["grid", "plan", "full-grid", "--seeds", "5", "--no-measure", "--storage", sys.argv[1]]) == 0
        assert len(hashed) <= 3600 + 720, len(hashed)  # trials, and the cells that they are found by
        loaded = {"torch", "ray", "numpy", "boto3", "matplotlib"} & sys.modules.keys()
        assert not loaded, loaded
    """
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "3600 trials, 0 finished" in run.stdout

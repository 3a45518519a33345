import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import UserError
from tests.tune_jobs.recorded import TWO_ROWS, experiment_from
from tune_jobs.grid.experiment import experiment_record, load_experiment, registered, trials
from tune_jobs.grid.trial_names import trial_names

REFERENCE = tomllib.loads((Path(__file__).parents[1] / "reference_tables.toml").read_text())
STUDY_TABLES = tuple(REFERENCE)


def settings_of(config: TrainingConfig) -> dict[str, Any]:
    return {
        "depth": config.network.depth,
        "relu": config.network.relu_after_addition,
        "position": config.network.batch_norm_position,
        "solver": config.solver.kind,
        "learning_rate": config.solver.learning_rate,
        "rho": config.solver.rho,
        "schedule": config.schedule.kind,
        "momentum": config.batch_norm.momentum,
        "warmup_iterations": config.schedule.warmup_iterations,
        "warmup_learning_rate": config.schedule.warmup_learning_rate,
    }


@pytest.mark.parametrize("name", STUDY_TABLES)
def test_registry_has_the_documents_rows_and_numbers(name: str) -> None:
    (table,) = load_experiment(name).tables
    rows = REFERENCE[name]["rows"]
    assert len(table.cells) == len(rows)
    recipe = settings_of(TrainingConfig())
    for cell, row in zip(table.cells, rows, strict=True):
        assert cell.reference == row.pop("error")
        assert cell.paper == row.pop("paper", None)
        if row.get("solver") == "adadelta":  # it has no learning rate in the document
            row["learning_rate"] = 1.0
        assert settings_of(cell.config) == recipe | row


@pytest.mark.parametrize("name", [*STUDY_TABLES, "study", "study-shallow", "full-grid"])
def test_study_cells_run_the_documents_recipe(name: str) -> None:
    for table in load_experiment(name).tables:
        for cell in table.cells:
            config = cell.config
            assert (config.run.epochs, config.data.batch_size, config.data.sampling) == (200, 128, "replacement")
            assert config.data.source == "cifar10"
            assert config.schedule.kind == "constant" or config.schedule.milestones == (80, 120)
            assert config.solver.weight_decay == (1e-4 if config.solver.kind == "sgd" else 0.0)
            assert config.network.shortcut == "A"


def test_study_has_34_rows_and_30_trials() -> None:
    study = load_experiment("study")
    assert [table.name for table in study.tables] == list(STUDY_TABLES)
    assert sum(len(table.cells) for table in study.tables) == 34
    assert len(trials(study, 1)) == 30
    assert len(trials(study, 5)) == 150


def test_the_shallow_study_is_the_studys_tables_on_20_layers() -> None:
    shallow, study = load_experiment("study-shallow"), load_experiment("study")
    assert shallow.tables == tuple(
        table for table in study.tables if {cell.config.network.depth for cell in table.cells} == {20}
    )
    assert len(trials(shallow, 1)) == 14


def test_the_schedule_of_the_documents_text_is_a_variant_beside_the_one_that_was_run() -> None:
    for table in load_experiment("milestones").tables:
        as_run, text = table.cells
        assert (as_run.config.schedule.milestones, text.config.schedule.milestones) == ((80, 120), (80, 160))
        assert text.config == as_run.config.override({"schedule.milestones": [80, 160]})
        rows = load_experiment("model-size").tables[0].cells
        assert [row.reference for row in rows if row.config == as_run.config] == [as_run.reference] == [text.reference]


def test_the_notebooks_runs_beyond_the_document_are_of_the_last_revision() -> None:
    (table,) = load_experiment("notebook").tables
    assert [(cell.config.solver.kind, cell.reference) for cell in table.cells] == [("sgd", 0.0875), ("rmsprop", 0.1354)]
    assert {(c.config.network.depth, c.config.network.initialisation) for c in table.cells} == {(20, "head")}


def test_deep_tables_share_their_first_row_and_its_initialisation() -> None:
    architecture, solver = (load_experiment(name).tables[0].cells for name in ("architecture-deep", "solver-deep"))
    assert architecture[0].config == solver[0].config
    assert {cell.config.network.initialisation for cell in (*architecture, *solver)} == {"head"}


def test_full_grid_is_the_cross_product_of_720() -> None:
    grid = load_experiment("full-grid")
    found = trials(grid, 2)
    assert len(found) == 2 * 5 * 4 * 9 * 4 == 1440
    assert len({trial.name for trial in found}) == len({trial.trial_id for trial in found}) == 1440
    assert {trial.config.network.depth for trial in found} == {20, 32, 44, 56, 110}
    constant = {trial.config.solver.kind for trial in found if trial.config.schedule.kind == "constant"}
    assert constant == {"adadelta"}


def test_demo_has_five_trials_one_of_them_on_two_workers() -> None:
    demo = trials(load_experiment("demo"), 1)
    assert len(demo) == 5
    assert sorted(trial.config.run.workers for trial in demo) == [1, 1, 1, 1, 2]
    assert {trial.config.data.source for trial in demo} == {"synthetic"}


# Experiments beyond the document: cells, and what they vary. No cell carries a number to reproduce.
BEYOND: dict[str, tuple[int, dict[str, set[Any]]]] = {
    "plain-or-residual": (8, {"network.family": {"plain", "residual"}, "network.depth": {20, 32, 44, 56}}),
    "shortcuts": (6, {"network.shortcut": {"A", "B", "C"}, "network.depth": {20, 56}}),
    "preactivation": (6, {"network.family": {"residual", "preactivation"}, "network.depth": {20, 110}}),
    "adam": (7, {"solver.kind": {"sgd", "adam", "adamw"}}),
    "batch-size": (8, {"data.batch_size": {32, 128, 512, 2048}, "solver.learning_rate": {0.025, 0.1, 0.4, 1.6}}),
    "variance": (4, {f"run.seed_{source}": {None, 0} for source in ("initialisation", "order", "augmentation")}),
    "cosine": (6, {"schedule.kind": {"step", "cosine"}, "network.depth": {20, 56}}),
}


@pytest.mark.parametrize("name", BEYOND)
def test_experiments_beyond_the_document_vary_what_they_say_and_carry_no_reference(name: str) -> None:
    experiment = load_experiment(name)
    cells = [cell for table in experiment.tables for cell in table.cells]
    count, varied = BEYOND[name]
    assert len(cells) == count
    assert {cell.reference for cell in cells} == {cell.paper for cell in cells} == {None}
    for setting, values in varied.items():
        section, _, field = setting.partition(".")
        assert {getattr(getattr(cell.config, section), field) for cell in cells} == values
    # The recipe of the study otherwise, so that its row is a trial that both share.
    assert {cell.config.data.source for cell in cells} == {"cifar10"}
    assert {cell.config.run.epochs for cell in cells} == {200}
    if name != "batch-size":
        assert load_experiment("model-size").tables[0].cells[0].config in [cell.config for cell in cells]


def test_the_linear_scaling_rule_holds_in_its_table() -> None:
    scaled, one_rate = load_experiment("batch-size").tables
    for cell in scaled.cells:
        assert cell.config.solver.learning_rate == 0.1 * cell.config.data.batch_size / 128
    assert {cell.config.solver.learning_rate for cell in one_rate.cells} == {0.1}
    for cell in (*scaled.cells, *one_rate.cells):  # one epoch of warm-up, whatever the batch
        assert cell.config.schedule.warmup_iterations == -(-50_000 // cell.config.data.batch_size)


@pytest.mark.parametrize("name", registered())
def test_trial_names_are_unique_and_safe_in_storage_keys(name: str) -> None:
    found = trials(load_experiment(name), 3)
    assert len({trial.name for trial in found}) == len(found)
    assert all(re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*/)*seed-[0-2]", trial.name) for trial in found)


def test_trial_names_hold_what_varies() -> None:
    schedules = [trial.name for trial in trials(load_experiment("cosine"), 1)]
    assert schedules[-2:] == ["depth-56/nesterov-0.1/no-cosine/seed-0", "depth-56/nesterov-0.1/cosine/seed-0"]
    names = [trial.name for trial in trials(load_experiment("architecture-shallow"), 1)]
    assert names == [
        f"{block}/seed-0" for block in ("relu/bn-before", "no-relu/bn-before", "relu/bn-after", "no-relu/bn-after")
    ]
    solvers = [trial.name for trial in trials(load_experiment("solver-shallow"), 1)]
    assert solvers[:2] == ["nesterov-0.1/seed-0", "rmsprop-0.0001/seed-0"]
    assert "adadelta/seed-0" in solvers


def test_names_hold_settings_that_are_left_out_of_an_identity_at_their_default() -> None:
    names = [trial.name for trial in trials(load_experiment("caffenet-batchnorm"), 1)]
    assert names == [f"activation-batch-norm-{where}/seed-0" for where in ("none", "before", "after")]


def test_the_names_of_depths_sort_as_the_depths_do() -> None:
    configs = [TrainingConfig().override({"network.depth": depth}) for depth in (110, 20, 8)]
    assert trial_names(configs) == ["depth-110", "depth-020", "depth-008"]


def test_folders_whose_names_no_key_can_hold_apart_have_different_names() -> None:
    sources = ["folder:/data/a b", "folder:/data/a+b", "folder:/data/a b"]
    configs = [TrainingConfig().override({"data.source": source}) for source in sources]
    first, second, again = trial_names(configs)
    assert first == again != second
    assert {first, second} == {"fingerprint-folder-data-a-b-1", "fingerprint-folder-data-a-b-2"}


def test_trials_that_differ_in_a_rare_setting_have_different_names(tmp_path: Path) -> None:
    text = 'name = "x"\n[[table]]\nname = "t"\n[table.grid]\n"data.shift" = [0, 4]\n"network.depth" = [8, 14]\n'
    names = [trial.name for trial in trials(experiment_from(text, tmp_path), 1)]
    assert names == [f"depth-{depth:02}/shift-{shift}/seed-0" for shift in (0, 4) for depth in (8, 14)]


def test_a_setting_that_the_first_trial_lacks_tells_others_apart(tmp_path: Path) -> None:
    cells = "".join(
        f'[[table.cell]]\nlabel = "{label}"\nset = {{ {settings} }}\n'
        for label, settings in (
            ("ordinary", ""),
            ("8 shards", '"run.exact" = true'),
            ("16 shards", '"run.exact" = true, "run.virtual_shards" = 16'),
        )
    )
    names = [
        trial.name for trial in trials(experiment_from(f'name = "x"\n[[table]]\nname = "t"\n{cells}', tmp_path), 1)
    ]
    assert names == [
        "exact-False/virtual-shards-None/seed-0",
        "exact-True/virtual-shards-8/seed-0",
        "exact-True/virtual-shards-16/seed-0",
    ]


def test_grid_labels_come_from_values_and_levels(tmp_path: Path) -> None:
    text = """
name = "x"
[[table]]
name = "t"
[table.grid]
"network.depth" = [8, 14]
rate = [{ label = "fast", set = { "solver.learning_rate" = 0.2 } }, { label = "slow", set = {} }]
"""
    (table,) = experiment_from(text, tmp_path).tables
    assert [cell.label for cell in table.cells] == [
        "depth 8, fast",
        "depth 8, slow",
        "depth 14, fast",
        "depth 14, slow",
    ]
    assert [cell.config.solver.learning_rate for cell in table.cells] == [0.2, 0.1, 0.2, 0.1]


def test_overrides_come_last_and_shortening_scales_milestones(tmp_path: Path) -> None:
    short = experiment_from(TWO_ROWS, tmp_path, epochs=20, overrides={"network.width": "8"})
    configs = [cell.config for cell in short.tables[0].cells]
    assert [config.schedule.milestones for config in configs] == [(8, 12), (8, 12)]
    assert [config.network.width for config in configs] == [8, 8]
    explicit = experiment_from(TWO_ROWS, tmp_path, epochs=20, overrides={"schedule.milestones": "5,6"})
    assert explicit.tables[0].cells[0].config.schedule.milestones == (5, 6)


def test_deviations_name_what_was_changed(tmp_path: Path) -> None:
    assert experiment_from(TWO_ROWS, tmp_path).deviations == ()
    assert experiment_from(TWO_ROWS, tmp_path, overrides={"run.workers": 2, "run.device": "cpu"}).deviations == ()
    changed = experiment_from(TWO_ROWS, tmp_path, epochs=20, overrides={"data.source": "synthetic"}).deviations
    assert {d.setting: (d.recipe, d.actual) for d in changed} == {
        "run.epochs": ((200,), (20,)),
        "schedule.milestones": (([80, 120],), ([8, 12],)),
        "data.source": (("cifar10",), ("synthetic",)),
    }


def test_a_deviation_names_what_each_of_the_rows_had(tmp_path: Path) -> None:
    text = TWO_ROWS.replace('"network.depth" = 32', '"network.depth" = 32, "run.epochs" = 150')
    (deviation,) = experiment_from(text, tmp_path, overrides={"run.epochs": 20}).deviations
    assert (deviation.setting, deviation.recipe, deviation.actual) == ("run.epochs", (200, 150), (20,))


def test_a_copy_that_departs_from_the_references_conditions_deviates(tmp_path: Path) -> None:
    text = TWO_ROWS.replace("[[table]]", '[recipe.run]\nepochs = 50\n[reference]\n"run.epochs" = 200\n[[table]]', 1)
    (deviation,) = experiment_from(text, tmp_path).deviations
    assert (deviation.setting, deviation.recipe, deviation.actual) == ("run.epochs", (200,), (50,))


@pytest.mark.parametrize("number", ["reference = 0.1", "paper = 0.1", ""])
def test_the_references_conditions_hold_for_rows_with_a_number_of_the_document_or_of_the_paper(
    number: str, tmp_path: Path
) -> None:
    text = TWO_ROWS[: TWO_ROWS.index("[[table.cell]]")] + f'[[table.cell]]\nlabel = "only"\n{number}\n'
    text = text.replace("[[table]]", '[recipe.run]\nepochs = 50\n[reference]\n"run.epochs" = 200\n[[table]]', 1)
    found = [deviation.setting for deviation in experiment_from(text, tmp_path).deviations]
    assert found == (["run.epochs"] if number else [])


def test_include_takes_registered_experiments_and_files(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(TWO_ROWS, encoding="utf-8")
    both = experiment_from('name = "both"\ninclude = ["demo", "other.toml"]', tmp_path)
    assert [table.name for table in both.tables] == ["architecture", "depth", "depths"]


def test_record_lists_every_cells_trials_by_seed(tmp_path: Path) -> None:
    experiment = experiment_from(TWO_ROWS, tmp_path)
    record = experiment_record(experiment, 2, {"run.device": "cpu"})
    found = trials(experiment, 2)
    shallow, deep = record["tables"][0]["cells"]
    assert [*shallow["trials"], *deep["trials"]] == [trial.trial_id for trial in found] == list(record["trials"])
    assert (shallow["reference"], shallow["paper"], deep["paper"]) == (0.10, 0.09, None)
    assert record["trials"][found[1].trial_id] == {"name": "depth-20/seed-1", "config": found[1].config.to_dict()}
    assert (record["layout"], record["seeds"], record["epochs"]) == (1, 2, 200)
    assert record["tables"][0]["baseline"] == "shallow"


BAD_FILES = {
    'name = "x"\ntitle = =': r"experiment.toml: is not valid TOML: .*line 2, column 9",
    'name = "x"\ntabel = 1': r"tabel.*did you mean 'table'",
    'name = "X y"\n[[table]]\nname = "t"\n[[table.cell]]\nlabel = "a"': r"name: 'X y'",
    'name = "x"': r"table: there is none",
    'name = "x"\n[[table]]\nname = "t"': r"table 't': cell: there is none",
    'name = "x"\n[table]\nname = "t"': r"given as \[\[table\]\]",
    'name = "x"\ninclude = ["dmo"]': r"include: 'dmo' is not known.*did you mean 'demo'",
    'name = "x"\ninclude = ["experiment.toml"]': r"includes itself",
    'name = "x"\n[recipe.network]\ndepht = 20': r"recipe: setting: 'network.depht'.*did you mean 'network.depth'",
    'name = "x"\n[recipe.run]\nseed = 3': r"run.seed: .* a launch is told how many seeds to run",
    'name = "x"\nseeds = 0\ninclude = ["demo"]': r"seeds: 0 is not allowed",
    'name = "x"\ninclude = ["other.toml"]': r"include: 'other.toml' is not there: .*other.toml is no file",
    'name = "x"\ntitle = ' + "[" * 5000: r"is nested too deeply",
}
BAD_CELLS = {
    'label = "a"\nset = { "network.depth" = 21 }': r"\.toml: table 't': cell 'a': network.depth: 21 is not 6n",
    'label = "a"\nset = { "run.seed" = 1 }': r"cell 'a': run.seed",
    'label = "a"\nreference = 8.29': r"cell 'a': reference: 8.29 .*0.0829",
    'label = "a"\nlable = "b"': r"lable.*did you mean 'label'",
    "reference = 0.1": r"cell '\?': label: is missing",
    'label = "a\\u0001b"': r"control characters",
    'label = "a"\n[[table.cell]]\nlabel = "a"\nset = { "network.depth" = 8 }': r"cell 'a' is declared 2 times",
    'label = "a"\n[[table.cell]]\nlabel = "b"\nset = { "run.workers" = 2 }': r"cells 'a' and 'b' are the same trial",
    'label = "a"\n[table.grid]\ndepth = [1]': r"grid: depth: 1 is not allowed.*section.field",
    'label = "a"\n[table.grid]\n"network.depth" = 8': r"grid: network.depth: 8 .*list of values",
    'label = "a"\n[table.grid]': r"grid: has no axes",
    'label = ""': r"label: '' is not allowed; it must be text that is not empty",
    f'label = "a"\n[table.grid]\n"network.width" = {[*range(1, 4001)]}\n"data.shift" = {[*range(32)]}': (
        r"grid: its axes make 128,000 cells, and an experiment has 50,000 at most"
    ),
}
PREFIX = 'name = "x"\n[[table]]\nname = "t"\n[[table.cell]]\n'


@pytest.mark.parametrize(("text", "message"), [*BAD_FILES.items(), *((PREFIX + c, m) for c, m in BAD_CELLS.items())])
def test_a_mistake_in_a_file_is_one_line_that_names_it(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        experiment_from(text, tmp_path)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".toml"])
def test_a_name_longer_than_files_may_have_is_one_line(name: str) -> None:
    with pytest.raises(UserError):
        load_experiment(name)


def test_more_trials_than_can_be_planned_are_refused_before_they_are_made(tmp_path: Path) -> None:
    experiment = experiment_from(TWO_ROWS, tmp_path)
    with pytest.raises(UserError, match=r"1000000 seeds of 2 configurations are 2,000,000 trials, .* 50,000 at most"):
        trials(experiment, 1_000_000)


def test_unknown_experiment_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'stduy' is not known; it must be one of .*demo.*; did you mean 'study'\?"):
        load_experiment("stduy")


def test_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"nowhere\.toml: cannot be read: No such file"):
        load_experiment("nowhere.toml")


def test_overrides_that_make_cells_equal_are_refused() -> None:
    with pytest.raises(UserError, match=r"table 'model-size': cells .* are the same trial"):
        load_experiment("model-size", {"network.depth": 8})


def test_an_override_that_some_cell_refuses_names_the_cell() -> None:
    with pytest.raises(UserError, match=r"cell 'RMSprop, 1e-4': solver.momentum"):
        load_experiment("solver-shallow", {"solver.momentum": 0.5})


def test_folder_experiments_load_before_their_fingerprint_is_known() -> None:
    experiment = load_experiment("architecture-shallow", {"data.source": "folder:/data/x.tar", "data.fingerprint": ""})
    assert {cell.config.data.source for cell in experiment.tables[0].cells} == {"folder:/data/x.tar"}
    known = load_experiment("architecture-shallow", {"data.source": "folder:/data/x.tar", "data.fingerprint": "f0"})
    assert len(trials(known, 1)) == 4

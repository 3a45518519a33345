"""The command line: help, JSON, and mistakes that end in one line."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from resnet_dist.configuration.sections import field_types
from resnet_dist.configuration.training import TrainingConfig
from tests.tune_jobs.recorded import TWO_ROWS, experiment_from, record_experiment, record_failure
from tune_jobs.command_line import COMMANDS, GROUPS, _Command, main, make_parser
from tune_jobs.commands.options import Parser, normalise, subcommands


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--network.depth", "21"], "network.depth: 21 is not 6n+2 for any n >= 1; the nearest are 20 and 26"),
        (["--solver.kind", "sgdd"], "did you mean 'sgd'?"),
        (["--epochs", "none"], "run.epochs: 'none' is not allowed; it must be a whole number"),
        (["--data.source", "folder:/nowhere/at/all"], "/nowhere/at/all"),
        (["--name", "a/b"], "name: 'a/b' is not allowed"),
        (["--config", "/nowhere.toml"], "--config /nowhere.toml: cannot be read"),
        (["--data.batch_size", "64", "--data.train_limit", "32"], "data.batch_size"),
        (
            ["--network.depth", "600000000000002"],
            "600000000000002 is not allowed; it must be at most 10,000",
        ),
        (["--network.width", "1000000"], "network.width: 1000000 is not allowed; it must be from 1 to 4,096"),
        (["--threads", "100000"], "run.threads: 100000 is not allowed; it must be at most 512"),
        (["--epochs", "99999999"], "run.epochs: 99999999 is not allowed; it must be at most 1,000,000"),
        (["--exact", "--virtual-shards", str(2**40)], "it must be a power of two up to 1024"),
        (["--run.summary_steps", str(10**30)], "it must be at most 1,000,000,000"),
        (["--solver.kind", "SGD"], "did you mean 'sgd'?"),
        (["--data.source", "CIFAR10"], "did you mean 'cifar10'?"),
        (["--device", "gpu"], "did you mean 'cuda'?"),
        (["--network.block", "relu"], "network.block: 'relu' is not known; it must be module:callable"),
        (["--solver.learning_rate", "nan"], "solver.learning_rate: 'nan' is not allowed; it must be a finite number"),
        (["--solver.learning_rate", "1e400"], "'1e400' is not allowed; it must be a finite number"),
        (["--data.source", "./pictures"], "data.source: './pictures' is a path or an address; give folder:PATH"),
        (["--code.fingerprint", "zz"], "code.fingerprint: 'zz' is of no code"),
        (["--data.source", "/"], "data.source: '/' is a path or an address"),
        (["--data.source", "folder:https://x.org/a.zip"], "give the path of a directory or archive here"),
    ],
)
def test_a_wrong_setting_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "results"
    assert main(["train", "--storage", str(storage), *arguments]) == 1
    assert says in one_line(capsys)
    assert not list(storage.rglob("trials")), "something was written"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--storage", "x", "--solver.knd", "sgd"], "did you mean --solver.kind?"),
        (["train", "--storage", "x", "--depth", "20"], "--depth is not an option; did you mean --network.depth?"),
        (["train", "--storage", "x", "--lr", "0.1"], "--lr is not an option; did you mean --solver.learning_rate?"),
        (["train", "--storage", "x", "--solver.lr", "0.1"], "did you mean --solver.learning_rate?"),
        (["trian"], "did you mean 'train'?"),
        (["evaluate", "a.pt", "b.pt"], "error: 'b.pt' is one argument too many (see resnet-dist evaluate --help)"),
        (["train", "--storage", "x", "--", "extra"], "error: 'extra' is one argument too many (see"),
        (["grid", "plan", "demo", "--storage", "x", "--retry-faild"], "--retry-faild is not an option (see"),
        (
            ["grid", "run", "demo", "--storage", "x", "--retry-faild"],
            "did you mean --retry-failed? (see",
        ),
        (["tensorboard", "x", "--epochs", "3"], "--epochs is not an option (see resnet-dist tensorboard --help)"),
        (["grid", "run", "demo"], "--storage"),
        (["grid", "plan", "demo", "--storage", "x", "--seeds", "0"], "'0' is not a whole number from 1"),
    ],
)
def test_a_wrong_option_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert says in one_line(capsys)


def test_an_unwritable_storage_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for command in (["train"], ["grid", "run", "demo"]):
        assert main([*command, "--storage", str(tmp_path / "file" / "results")]) == 1
        assert "cannot" in one_line(capsys)


def test_an_unknown_experiment_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grid", "plan", "modelsize", "--storage", str(tmp_path)]) == 1
    assert "did you mean 'model-size'?" in one_line(capsys)


@pytest.mark.parametrize("action", ["status", "report"])
def test_an_experiment_that_is_not_stored_names_those_that_are(
    action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["grid", action, "two-rows", "--storage", str(tmp_path)]) == 1
    assert "which holds none; start one with: resnet-dist grid run" in one_line(capsys)
    storage, _ = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    assert main(["grid", action, "two-row", "--storage", storage.uri]) == 1
    assert "two-row: no such experiment in" in (line := one_line(capsys))
    assert line.endswith("which holds two-rows; did you mean 'two-rows'?")


def test_output_in_a_pipe_is_not_broken_at_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage, (trial, _) = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    reason = "a reason of many words " * 10
    record_failure(storage, "two-rows", trial, reason)
    assert main(["grid", "status", "two-rows", "--storage", storage.uri]) == 0
    assert any(trial.trial_id in line and reason.strip() in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="this machine has CUDA")
def test_cuda_without_cuda_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--storage", str(tmp_path), "--device", "cuda"]) == 1
    assert "no CUDA device" in one_line(capsys)


def test_help_describes_every_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    default = TrainingConfig().to_dict()
    for section, kind in field_types(TrainingConfig).items():
        for field in field_types(kind):
            assert f"--{section}.{field}" in text
            assert isinstance(default[section][field], list) or field in text


@pytest.mark.parametrize(
    "words", [["--help"], ["grid", "run", "--help"], *([command, "--help"] for command in COMMANDS)]
)
def test_every_command_has_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    assert "usage: resnet-dist" in capsys.readouterr().out


def leaves(parser: argparse.ArgumentParser) -> Iterator[Parser]:
    """The parsers of commands, or of their actions where they have any."""
    if isinstance(parser, _Command):
        parser.load()
    for command in subcommands(parser):
        yield from leaves(command)
    if isinstance(parser, Parser) and not subcommands(parser):
        yield parser


def test_the_help_of_every_command_begins_with_an_example_that_is_right() -> None:
    for command in leaves(make_parser()):
        words = command.prog.split()
        assert command.format_help().startswith(("example:\n  resnet-dist ", "examples:\n  resnet-dist ")), words
        for example in command.examples:
            assert ["resnet-dist", *shlex.split(example)][: len(words)] == words
            assert make_parser().parse_args(normalise(shlex.split(example))).run


def test_the_commands_are_listed_in_the_order_of_their_use(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    places = [text.index(f"\n{title}:") for title in GROUPS] + [text.index(f"\n  {name} ") for name in COMMANDS]
    first, then, last, *commands = places
    assert first < then < last and commands == sorted(commands) and commands[0] < then < commands[-1]


def test_a_shell_completes_commands_settings_experiments_and_files(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pets.toml").touch()
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["--completion", "bash"])
    script = capsys.readouterr().out
    found = []
    for words in (
        ["gr"],
        ["grid", "st"],
        ["train", "--network.de"],
        ["grid", "run", "demo", "--scheduler", "as"],
        ["train", "--network.family", "pre"],
        ["train", "--batch_norm.momentum", ""],
        ["grid", "run", "demo", "--schedule.kind", "c"],
        ["train", "--exact", "f"],
        ["train", "--exact", "--network.de"],
        ["train", "--network.weights", "pets."],
        ["grid", "run", "model"],
        ["grid", "run", "pets."],
        ["train", "--config", "pets."],
        ["evaluate", "ph"],
        ["storage", "check", "ph"],
    ):
        line = " ".join(f"'{word}'" for word in ["resnet-dist", *words])
        asked = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _shtab_resnet_dist; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True)
        found.append(done.stdout.strip())
    assert found == [
        *("grid", "status", "--network.depth", "asha"),
        *("preactivation", "dynamic", "constant cosine", "false", "--network.depth", "pets.toml"),
        *("model-size", "pets.toml", "pets.toml", "photos", "photos"),
    ]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_are_told_the_same_values(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--completion", shell])
    lines = capsys.readouterr().out.splitlines()
    for option, values in (("batch_norm_position", "before after"), ("solver.nesterov", "true false")):
        assert [values in line for line in lines if option in line].count(True) == 3, "of train, plan and run"
    assert any("architecture-deep architecture-shallow" in line for line in lines)


def test_a_shell_is_completed_by_a_library_that_may_be_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--completion", "fish"]) == 1
    assert one_line(capsys) == "error: --completion: needs shtab; install it with: pip install shtab"


def test_sections_may_be_spelt_with_hyphens() -> None:
    arguments = normalise(["train", "--storage", "x", "--batch-norm.momentum", "0.2", "--data.batch-size=32"])
    settings = make_parser().parse_args(arguments).settings
    assert settings == {"batch_norm.momentum": "0.2", "data.batch_size": "32"}


def test_json_on_an_error_is_an_object_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grid", "status", "demo", "--storage", str(tmp_path), "--json"]) == 1
    assert list(json.loads(capsys.readouterr().out)) == ["error"]


def test_a_plan_in_json_lists_the_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grid", "plan", "demo", "--storage", str(tmp_path), "--seeds", "2", "--no-measure", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert len(plan["trials"]) == 10
    assert {trial["state"] for trial in plan["trials"]} == {"missing"}
    assert {trial["workers"] for trial in plan["trials"]} == {1, 2}
    assert all(trial["steps"] == 94 for trial in plan["trials"])  # 3 epochs of 2,000 images in batches of 64
    assert not list(tmp_path.iterdir()), "a plan writes nothing"


@pytest.mark.parametrize("package", ["resnet_dist", "tune_jobs"])
def test_both_packages_are_the_command_line(package: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", package, "--help"], capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"}
    )
    assert done.returncode == 0 and "grid" in done.stdout


def test_help_does_not_wait_for_torch_or_ray() -> None:
    code = f"""
import contextlib, sys
from tune_jobs.command_line import make_parser
for name in {list(COMMANDS)}:
    with contextlib.suppress(SystemExit):
        make_parser().parse_args([name, "--help"])
sys.exit(str({{"torch", "ray"}} & set(sys.modules) or ""))
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert done.stderr.strip() == ""


def test_a_command_pays_for_no_other() -> None:
    code = "import sys; from tune_jobs.command_line import make_parser; make_parser(); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


LEAVING = """
import sys, threading, time
import pyarrow.fs
from tune_jobs import command_line

waits = threading.Event()

class Hangs(pyarrow.fs.FileSystemHandler):
    def get_type_name(self):
        return "hangs"

    def normalize_path(self, path):
        return path

    def open_output_stream(self, path, metadata):
        waits.set()
        time.sleep(0.3)  # until Python is gone

Hangs.__abstractmethods__ = frozenset()

class GoesSlowly:
    def __del__(self):
        time.sleep(0.6)

last = GoesSlowly()

def main():
    to = {"destination_filesystem": pyarrow.fs.PyFileSystem(Hangs())}
    threading.Thread(target=pyarrow.fs.copy_files, args=(__file__, "copy"), kwargs=to, daemon=True).start()
    waits.wait()
    print("said")
    if sys.argv[1:]:
        raise LookupError("unforeseen")
    return 130

command_line.main = main
command_line.entry_point()
"""


@pytest.mark.parametrize(("arguments", "code", "last"), [([], 130, ""), (["raise"], 1, "LookupError: unforeseen")])
def test_a_thread_that_still_waits_for_a_storage_does_not_take_the_end_down(
    tmp_path: Path, arguments: list[str], code: int, last: str
) -> None:
    script = tmp_path / "leaving.py"
    script.write_text(LEAVING)
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "said\n"), done.stderr
    assert done.stderr.splitlines()[-1:] == ([last] if last else [])


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["grid", "--seeds"], 2), (["grid", "plan", "x"], 2)])
def test_exit_codes_of_the_program(arguments: list[str], code: int) -> None:
    done = subprocess.run([sys.executable, "-m", "tune_jobs", *arguments], capture_output=True, check=False)
    assert done.returncode == code


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize("json_wanted", [[], ["--json"]])
def test_a_full_disk_under_the_output_is_one_line(tmp_path: Path, json_wanted: list[str]) -> None:
    storage, _ = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    command = [sys.executable, "-m", "tune_jobs", "grid", "status", "two-rows", "--storage", storage.uri, *json_wanted]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("No space left on device; make room, then run the same command again")


def test_versions_and_commit_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"resnet-dist {metadata.version('resnet_dist')}, commit ")
    assert f", torch {metadata.version('torch')}, ray {metadata.version('ray')}" in said


def test_an_interrupt_is_one_line_while_options_are_parsed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tune_jobs.command_line.make_parser", interrupted)
    assert main(["train"]) == 130
    assert one_line(capsys) == "interrupted; the same command goes on from the last checkpoint"
    assert main(["grid", "run", "demo"]) == 130
    assert one_line(capsys) == "interrupted; the same command goes on from the last checkpoint"
    for other in (["cluster", "up"], ["grid", "plan", "demo"], ["grid"], []):
        assert main(other) == 130
        assert one_line(capsys) == "interrupted", "it has no checkpoints"


def test_what_fails_because_of_an_interrupt_is_the_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def left_in_the_middle(arguments: object) -> int:
        try:
            raise KeyboardInterrupt  # in an import, say
        finally:
            raise AttributeError("module 'torch._dynamo' has no attribute 'utils'")

    monkeypatch.setattr("tune_jobs.command_line._run", left_in_the_middle)
    assert main(["train"]) == 130
    assert one_line(capsys).startswith("interrupted; ")

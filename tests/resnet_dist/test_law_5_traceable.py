"""Law 5: every number can be traced, to its commit, uncommitted changes, versions, machines and data."""

import hashlib
import json
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.storage.opening import open_storage
from resnet_dist.configuration.data import DataConfig
from resnet_dist.records import git_state as source
from resnet_dist.records import recorder
from resnet_dist.records.git_state import BUILD_RECORD, PATCH_LIMIT, SourceState, source_state
from resnet_dist.records.provenance import describe, machines
from resnet_dist.records.recorder import Recorder
from resnet_dist.training.loop import train
from resnet_dist.workers import Workers, alone, current
from tests.small_runs import small_config, small_dataset
from tests.worker_processes import run_workers

PACKAGE = Path(source.__file__).parents[1]
PASSWORD = "correct-horse-" + "battery-staple"
KEY = "AKIA" + "ABCDEFGHIJKLMNOP"  # in two pieces, or this file would be left out of patches itself


def git(directory: Path, *arguments: str) -> str:
    name = ("-c", "user.name=Nobody", "-c", "user.email=nobody@example.com", "-c", "init.defaultBranch=main")
    command = ["git", *name, "-C", str(directory), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a copy of the package, committed."""
    root = tmp_path / "checkout"
    (root / "resnet_dist").mkdir(parents=True)
    for name in ("errors.py", "logs.py", "workers.py"):
        shutil.copy(PACKAGE / name, root / "resnet_dist" / name)
    (root / ".gitignore").write_text("ignored/\n*.log\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root


def state_of(checkout: Path) -> SourceState:
    return source_state(checkout / "resnet_dist")


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    assert state_of(checkout) == SourceState(git(checkout, "rev-parse", "HEAD"), dirty=False, origin="git")


def test_ignored_files_do_not_make_a_checkout_dirty(checkout: Path) -> None:
    (checkout / "ignored").mkdir()
    (checkout / "ignored" / "model.pt").write_bytes(b"x")
    (checkout / "run.log").write_text("x")
    assert not state_of(checkout).dirty


def written(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text('{"token": "0123456789abcdef"}')


def test_what_this_program_writes_is_no_change_of_the_code(checkout: Path) -> None:
    written(checkout, "mine/train/.lease/0123456789abcdef/00000001.json")  # the first that a run writes
    written(
        checkout, *(f"other dir/demo/{name}" for name in ("experiment.json", "trials/0/result.json", "tb/0/events"))
    )
    written(checkout, "mine/.data/sources/0.json", "mine/.data/0/train.npy", "0123456789abcdef.zip")
    written(checkout, "pictures/train/cat/0.PNG", "pictures/test/dog/größe 1.jpeg", "Untitled.ipynb")
    written(checkout, "paper/report.html", "paper/tables.csv", "paper/figures/one.svg")
    written(checkout, "mine/.check-0123456789abcdef")
    assert state_of(checkout) == SourceState(git(checkout, "rev-parse", "HEAD"), dirty=False, origin="git")


@pytest.mark.parametrize("name", ["mine/experiment.json", "mine/code.py", "tables.csv", "model.zip", "trials/a.py"])
def test_a_new_file_beside_results_is_a_change(checkout: Path, name: str) -> None:
    written(checkout, "mine/train/.lease/00000001.json")
    (checkout / name).parent.mkdir(exist_ok=True)
    (checkout / name).write_text("one\n")
    state = state_of(checkout)
    assert state.dirty and name.encode() in state.patch and not state.left_out


def test_commit_and_patch_give_the_very_files_back(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "config", "diff.noprefix", "true")  # what users set must not spoil the patch
    git(checkout, "config", "color.diff", "always")
    workers = checkout / "resnet_dist" / "workers.py"
    workers.write_bytes(workers.read_bytes().replace(b"rank == 0", b"rank == 1"))
    (checkout / "resnet_dist" / "logs.py").write_bytes(b"carriage returns\r\nand latin-1: \xe9\n")
    (checkout / "new file.py").write_text("new = 1\n")
    (checkout / "weights.bin").write_bytes(bytes(range(256)) * 3)
    (checkout / "empty").touch()
    (checkout / ".gitignore").unlink()
    git(checkout, "add", "empty")
    state = state_of(checkout)
    assert state.dirty and not state.left_out
    again = tmp_path / "again"
    git(tmp_path, "clone", "--quiet", str(checkout), str(again))
    git(again, "checkout", "--quiet", str(state.commit))
    (tmp_path / "source.patch").write_bytes(state.patch)
    git(again, "apply", str(tmp_path / "source.patch"))

    def files(root: Path) -> dict[str, bytes]:
        found = (file for file in root.rglob("*") if file.is_file() and ".git" not in file.parts)
        return {str(file.relative_to(root)): file.read_bytes() for file in found}

    assert files(again) == files(checkout)


def test_changes_are_found_from_anywhere_in_the_repository(checkout: Path) -> None:
    nested = checkout / "research" / "code"
    nested.mkdir(parents=True)
    git(checkout, "mv", "resnet_dist", "research/code/resnet_dist")
    git(checkout, "commit", "--quiet", "-m", "moved")
    (checkout / "beside.py").write_text("beside = 1\n")
    state = state_of(nested)
    assert state.dirty and b"+beside = 1" in state.patch


@pytest.mark.parametrize(
    "name",
    [
        ".env",
        ".env.local",
        "server.pem",
        "tls.key",
        "id_rsa",
        "credentials",
        ".aws/config",
        "secret.yaml",
        "prod.tfstate",
    ],
)
def test_a_file_named_like_a_credential_is_left_out_and_named(name: str, checkout: Path) -> None:
    path = checkout / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("harmless words\n")
    (checkout / "code.py").write_text("kept = 1\n")
    state = state_of(checkout)
    assert state.dirty
    assert state.left_out == (f"{name} (its name is one for credentials)",)
    assert b"kept = 1" in state.patch and b"harmless words" not in state.patch


@pytest.mark.parametrize(
    "text",
    [
        f"key = '{KEY}'",
        f"AWS_SECRET_ACCESS_KEY={PASSWORD}0123",
        f'password: "{PASSWORD}"',
        f"remote = https://user:{PASSWORD}@example.com/code.git",
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        "token = ghp_" + 24 * "a",
    ],
)
@pytest.mark.parametrize("file", ["new.py", "resnet_dist/workers.py"])
def test_a_file_that_holds_what_looks_like_a_credential_is_left_out_and_named(
    file: str, text: str, checkout: Path
) -> None:
    path = checkout / file
    path.write_text((path.read_text() if path.exists() else "") + text + "\n")
    state = state_of(checkout)
    assert state.dirty and state.patch == b""
    assert state.left_out == (f"{file} (it holds what looks like a credential)",)


@pytest.mark.parametrize("text", ["password = args.password", "key = 'model.weight'", "https://example.com/a@2x.png"])
def test_ordinary_code_is_not_taken_for_a_credential(text: str, checkout: Path) -> None:
    (checkout / "new.py").write_text(text + "\n")
    assert text.encode() in state_of(checkout).patch


def test_files_too_large_for_the_patch_are_left_out_whole_and_named(checkout: Path) -> None:
    (checkout / "a.txt").write_text("small\n")
    (checkout / "b.txt").write_text(PATCH_LIMIT // 2 * "b\n" + "over the limit\n")
    (checkout / "c.txt").write_text(PATCH_LIMIT // 3 * "c\n")
    (checkout / "d.txt").write_text(PATCH_LIMIT // 3 * "d\n")
    state = state_of(checkout)
    assert state.left_out == (
        f"b.txt (larger than {PATCH_LIMIT} bytes)",
        f"c.txt (the patch would exceed {PATCH_LIMIT} bytes)",
        f"d.txt (the patch would exceed {PATCH_LIMIT} bytes)",
    )
    assert b"+small" in state.patch and len(state.patch) <= PATCH_LIMIT


def test_a_package_installed_inside_another_repository_is_not_of_its_commit(checkout: Path) -> None:
    installed = checkout / ".venv" / "lib" / "resnet_dist"
    shutil.copytree(checkout / "resnet_dist", installed)
    assert source_state(installed) == SourceState()
    (installed / BUILD_RECORD).write_text(json.dumps({"commit": "1f" * 20, "dirty": True}))
    assert source_state(installed) == SourceState("1f" * 20, dirty=True, origin="build")


def test_outside_a_checkout_the_builds_commit_is_recorded(tmp_path: Path) -> None:
    package = tmp_path / "resnet_dist"
    package.mkdir()
    assert source_state(package) == SourceState()
    (package / BUILD_RECORD).write_text(json.dumps({"commit": "ab" * 20, "dirty": False}))
    assert source_state(package) == SourceState("ab" * 20, dirty=False, origin="build")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"commit": null}', '{"commit": "https://u:p@host"}', "\x00"])
def test_an_unusable_build_record_is_no_commit(text: str, tmp_path: Path) -> None:
    (tmp_path / BUILD_RECORD).write_text(text)
    assert source_state(tmp_path) == SourceState()


def test_in_a_checkout_git_is_asked_and_not_a_builds_record(checkout: Path) -> None:
    (checkout / "resnet_dist" / BUILD_RECORD).write_text(json.dumps({"commit": "ab" * 20}))
    assert state_of(checkout).commit == git(checkout, "rev-parse", "HEAD")


def test_git_variables_of_a_hook_do_not_mislead(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    expected = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert state_of(checkout).commit == expected


@pytest.fixture
def recorded(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """A finished trial whose code is the checkout's, in an environment and repository full of secrets."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("HF_TOKEN", PASSWORD)
    git(checkout, "remote", "add", "origin", f"https://user:{PASSWORD}@example.com/code.git")
    (checkout / ".env").write_text(f"AWS_SECRET_ACCESS_KEY={PASSWORD}\n")
    (checkout / "notes.txt").write_text(f"AWS_ACCESS_KEY_ID = {KEY}\n")
    (checkout / "code.py").write_text("kept = 1\n")
    set_source(monkeypatch, state_of(checkout))
    trial = Recorder(open_storage(str(tmp_path / "results")), "law-5", "trial", small_config(run__epochs=1))
    train(trial.config, small_dataset(), alone("cpu"), trial)
    return trial


def set_source(monkeypatch: pytest.MonkeyPatch, state: SourceState) -> None:
    for module in ("resnet_dist.records.provenance", "resnet_dist.records.recorder"):
        monkeypatch.setattr(f"{module}.running_source", lambda: state)


def read(trial: Recorder, key: str) -> Any:
    data = trial.storage.get(key)
    assert data is not None, key
    return json.loads(data)


def test_a_trials_provenance_says_what_it_ran_on(recorded: Recorder, checkout: Path) -> None:
    provenance = read(recorded, recorded.keys.provenance)
    patch = recorded.storage.get(recorded.keys.source_patch)
    assert patch is not None and b"kept = 1" in patch
    expected = {
        "trial": recorded.trial_id,
        "commit": git(checkout, "rev-parse", "HEAD"),
        "commit_from": "git",
        "dirty": True,
        "patch_sha256": hashlib.sha256(patch).hexdigest(),
        "patch_left_out": [
            ".env (its name is one for credentials)",
            "notes.txt (it holds what looks like a credential)",
        ],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": metadata.version("torchvision"),
        "numpy": metadata.version("numpy"),
        "ray": metadata.version("ray"),
        "cuda": None,
        "host": platform.node(),
        "workers": 1,
        "threads": torch.get_num_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "data_fingerprint": small_dataset().fingerprint,
    }
    assert {name: provenance[name] for name in expected} == expected
    assert provenance["device"]
    assert provenance["machines"] == [{"host": provenance["host"], "device": provenance["device"]}]
    assert provenance["started"] <= provenance["finished"]


def test_nothing_of_a_credential_reaches_storage(recorded: Recorder) -> None:
    for item in recorded.storage.list(""):
        data = recorded.storage.get(item.key)
        assert data is not None
        for secret in (PASSWORD, KEY, "HF_TOKEN"):
            assert secret.encode() not in data, item.key


def test_each_attempt_keeps_its_own_code(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Recorder(open_storage(str(tmp_path / "results")), "law-5", "trial", small_config())
    patches = []
    for text in ("first\n", "second\n", None):
        if text is None:
            (checkout / "code.py").unlink()
        else:
            (checkout / "code.py").write_text(text)
        state = state_of(checkout)
        patches.append(state.patch)
        set_source(monkeypatch, state)
        trial.start(alone("cpu"), "data")
    attempts = read(trial, trial.keys.provenance)["attempts"]
    assert [set(attempt) for attempt in attempts] == 3 * [{"started", *recorder.ATTEMPT}]
    hashes = [attempt["patch_sha256"] for attempt in attempts]
    assert hashes == [*(hashlib.sha256(patch).hexdigest() for patch in patches[:2]), None]
    assert trial.storage.get(trial.keys.source_patch) is None  # the last attempt had none
    for patch, digest in zip(patches[:2], hashes, strict=False):
        assert trial.storage.get(f"{trial.keys.prefix}source-{digest[:12]}.patch") == patch


def test_the_data_of_a_trial_is_named_by_its_content() -> None:
    assert describe(alone("cpu"), "0123")["data_fingerprint"] == "0123"
    assert DataConfig(fingerprint="0123").fingerprint == "0123"


def all_machines() -> list[dict[str, str]]:
    workers: Workers = current("cpu")
    return machines(workers)


@pytest.mark.integration
def test_the_machine_of_every_worker_is_recorded() -> None:
    for seen in run_workers(all_machines, 2):
        assert [machine["host"] for machine in seen] == 2 * [platform.node()]

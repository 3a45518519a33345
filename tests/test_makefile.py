"""What the commands of the Makefile would do, asked of make itself."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTEST = [".venv/bin/python", "-m", "pytest"]

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "-C", str(ROOT), *arguments]
    # Not what the make says that runs these tests.
    ours = {"MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "S3", "RESNET_DIST_TEST_S3"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("target", ["test", "unit", "integration"])
def test_the_tests_install_the_s3_server_only_if_asked_to_and_then_first(target: str) -> None:
    install = "tests.s3_server --install"
    assert install not in make("--dry-run", target).stdout
    before, asked, after = make("--dry-run", target, "S3=ceph").stdout.partition(install)
    assert asked and "pytest" in after and "pytest" not in before


def test_each_test_is_one_of_make_test_or_of_make_clusters_and_ci_runs_both() -> None:
    crowded, others = runs("test")
    (clusters,) = runs("clusters")
    files = [word for word in crowded if word.startswith("tests/")]
    assert files and set(crowded) == {*PYTEST, *files}, "all tests of these files"
    spread = [*PYTEST, "--numprocesses", "3", "--dist", "loadfile", "--no-loadscope-reorder"]
    assert others == [*spread, *(f"--ignore={file}" for file in files), "-m", "not clusters"]
    assert clusters == [*spread, "-m", "clusters"]
    assert not any("mark.clusters" in (ROOT / file).read_text() for file in files)
    commands = (ROOT / ".ci" / "run").read_text().splitlines()
    assert {"make test S3=ceph", "make clusters"} <= {line.partition(" #")[0] for line in commands}


def runs(target: str) -> list[list[str]]:
    """The runs of pytest in what a target would do."""
    commands = map(shlex.split, make("--dry-run", target).stdout.splitlines())
    return [words for words in commands if words[:3] == PYTEST]


@pytest.mark.parametrize(("asked", "told"), [((), ""), (("S3=ceph",), "ceph"), (("S3=moto",), "moto")])
def test_the_tests_are_told_which_server_was_asked_for(asked: tuple[str, ...], told: str) -> None:
    assert make("--eval", "told: ; @echo $$RESNET_DIST_TEST_S3", "told", *asked).stdout == f"{told}\n"


def test_what_is_imported_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert make("--eval", "told: ; @echo $$PYTHONDONTWRITEBYTECODE", "told").stdout == "\n"


def test_a_server_that_is_none_is_refused_in_one_line() -> None:
    done = make("test", "S3=minio")
    assert done.returncode and done.stdout == ""
    assert done.stderr.endswith("S3=minio is not allowed; it may be ceph or moto.  Stop.\n")

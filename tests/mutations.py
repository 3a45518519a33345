"""Do the tests bite? Puts one deliberate fault at a time into a copy of the code and runs the tests that should notice.

python -m tests.mutations           all faults, a line each; exit code 1 if one goes unnoticed
python -m tests.mutations NAME …    some of them
python -m tests.mutations --list    the table of faults: where each is put, and the tests that are to notice it

It takes a quarter of an hour on a quiet machine, so it is no part of `make test`; `make mutations` runs it.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.fault import Fault
from tests.faults import FAULTS

ROOT = Path(__file__).parent.parent
COPIED = ("resnet_dist", "tune_jobs", "cluster", "benchmarks", "tests", "docs", "pyproject.toml")
TIMEOUT = 600
"""Seconds after which a fault counts as noticed: one that makes training hang has been noticed by the reader."""


@dataclass(frozen=True)
class Outcome:
    """What the tests said of a fault."""

    fault: Fault
    failed: tuple[str, ...]
    """Node ids of the tests that failed, as far as the run went: it ends with the first."""
    summary: str
    """pytest's last line."""


def main() -> int:
    """Run the faults that the command line asks for. Returns 1 if one goes unnoticed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *(fault.name for fault in FAULTS)])
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    chosen = [fault for fault in FAULTS if not args.names or fault.name in args.names]
    if args.list:
        print("\n\n".join(map(entry, chosen)))
        return 0
    with tempfile.TemporaryDirectory(prefix="mutations-") as directory:
        tree = Path(directory)
        copy_tree(tree)
        tests = tuple(dict.fromkeys(test for fault in chosen for test in fault.tests))
        baseline = run_tests(tree, tests, timeout=10 * TIMEOUT)
        if baseline.failed or baseline.code:
            print(f"error: without any fault: {baseline.summary}; {', '.join(baseline.failed)}", file=sys.stderr)
            return 1
        outcomes = []
        for fault in chosen:
            outcomes.append(try_fault(tree, fault))
            print(line(outcomes[-1]), flush=True)
    unnoticed = [outcome.fault.name for outcome in outcomes if not outcome.failed]
    print(f"{len(outcomes) - len(unnoticed)} of {len(outcomes)} faults noticed")
    return 1 if unnoticed else 0


def copy_tree(target: Path) -> None:
    """Copy the code and its tests, without anything compiled."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, target / name)


def try_fault(tree: Path, fault: Fault) -> Outcome:
    """Put one fault in, run its tests, and take it out again."""
    path = tree / fault.file
    text = path.read_text(encoding="utf-8")
    try:
        path.write_text(fault.applied(text), encoding="utf-8")
        run = run_tests(tree, fault.tests)
    finally:
        path.write_text(text, encoding="utf-8")
    return Outcome(fault, run.failed, run.summary)


@dataclass(frozen=True)
class TestRun:
    """One call of pytest."""

    __test__ = False
    code: int
    failed: tuple[str, ...]
    summary: str


def run_tests(tree: Path, tests: tuple[str, ...], timeout: float = TIMEOUT) -> TestRun:
    """Run tests in a tree up to the first failure."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
    # No bytecode: a fault of the same length, within the same second, would be hidden by the file of the one before.
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [*command, *tests], cwd=tree, env=environment, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return TestRun(1, ("(no end)",), f"no end after {timeout} s")
    failed = tuple(re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE))
    last = (done.stdout.strip() or done.stderr.strip() or "pytest said nothing").splitlines()[-1]
    return TestRun(done.returncode, failed, last)


def entry(fault: Fault) -> str:
    """A fault of the table: its name, what it is, its file, and the tests that are to notice it."""
    return "\n    ".join([fault.name, fault.description, f"in {fault.file}", *(f"noticed by {t}" for t in fault.tests)])


def line(outcome: Outcome) -> str:
    """One outcome in words."""
    noticed = f"noticed by {short(outcome.failed[0])}" if outcome.failed else f"UNNOTICED ({outcome.summary})"
    return f"{outcome.fault.name:32} {noticed}"


def short(node: str) -> str:
    """`file::test` without folders and parameters."""
    return node.partition("[")[0].rpartition("/")[2]


if __name__ == "__main__":
    sys.exit(main())

"""Golden curves from the command line, run in a checkout:

python -m tests.golden write              write the curves of the code as it is now
python -m tests.golden check              name the first step at which the code as it is now departs from them
python -m tests.golden compare A [B]      name the first step at which two commits part (B: the code as it is now)
python -m tests.golden rounding           measure by how much rounding alone changes the curves
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.golden import curves as golden
from tests.golden.comparison import Curves, first_difference, tolerance
from tests.golden.files import ROOT, differences, read, write


def main() -> int:
    """Run a command. Returns 1 if curves differ."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("write", "check", "rounding"):
        commands.add_parser(name)
    compare = commands.add_parser("compare")
    compare.add_argument("old", metavar="A")
    compare.add_argument("new", metavar="B", nargs="?")
    args = parser.parse_args()
    if args.command == "write":
        write(golden.curves())
        return 0
    if args.command == "rounding":
        return rounding()
    if args.command == "check":
        found = differences(read(), golden.curves())
    else:
        old, new = of_commit(args.old), of_commit(args.new) if args.new else golden.curves()
        found = [d for name in golden.CONFIGURATIONS if (d := first_difference(name, old, new))]
    for difference in found:
        print(difference)
    if not found:
        print("no difference" if args.command == "check" else "the curves of both have the same bits")
    return 1 if found else 0


def of_commit(commit: str) -> Curves:
    """The curves that the code of a commit computes, with this interpreter and these configurations."""
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory).resolve() / "tree"
        git("worktree", "add", "--detach", "--force", str(tree), commit)
        try:
            done = subprocess.run(
                [sys.executable, str(Path(golden.__file__).resolve())],
                cwd=tree,
                env=os.environ | {"PYTHONPATH": str(tree)},
                capture_output=True,
                text=True,
            )
        finally:
            git("worktree", "remove", "--force", str(tree))
    if done.returncode:
        sys.exit(f"error: the code of {commit} does not compute the curves: {done.stderr.strip().splitlines()[-1]}")
    computed: Curves = json.loads(done.stdout)
    return computed


def git(*arguments: str) -> None:
    """Run git in this checkout; an error ends the program with git's own words."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: git {' '.join(arguments[:2])}: {done.stderr.strip()}")


def rounding() -> int:
    """Print the greatest relative distance of float32 from float64 curves at each step, beside the tolerance."""
    single, double = golden.curves(), golden.curves("float64")
    print("step  rounding  tolerance  farthest")
    for step in range(1, golden.STEPS + 1):
        distance, name = max(
            (abs(single[name]["train_loss"][step - 1] / double[name]["train_loss"][step - 1] - 1), name)
            for name in golden.CONFIGURATIONS
        )
        print(f"{step:4}  {distance:8.1e}  {tolerance(step):9.1e}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

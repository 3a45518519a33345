"""What has a shell complete this program: commands, options, experiments, and files where a value may be any."""

import argparse
from typing import Any

from resnet_dist.errors import UserError
from tune_jobs.commands.options import subcommands

EXPERIMENTS_AND_FILES = "_resnet_dist_experiment_or_file"
"""A function in bash. Of names that contain `_file` shtab's script has directories completed with a slash."""


class Completion(argparse.Action):
    """Prints the script of a shell."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: object) -> None:
        """Load every command, say what its values are, print the script, and end."""
        try:
            import shtab
        except ImportError:
            raise UserError("--completion: needs shtab; install it with: pip install shtab") from None
        for command in subcommands(parser):
            command.load()  # type: ignore[attr-defined]
            for part in (command, *subcommands(command)):
                _complete_values(part, shtab)
        print(shtab.complete(parser, shell=values))  # noqa: T201
        parser.exit()


def _complete_values(parser: argparse.ArgumentParser, shtab: Any) -> None:
    """Say what values are: where nothing is said the script completes nothing, not even files."""
    from tune_jobs.grid.experiment import registered

    names = f'compgen -W \'{" ".join(registered())}\' -- "$1"; compgen -f -- "$1"'
    for action in parser._actions:
        if action.choices is not None or action.nargs == 0:
            continue
        action.complete = shtab.FILE  # type: ignore[attr-defined]
        if action.dest == "experiment":
            action.complete = shtab.FILE | {  # type: ignore[attr-defined]
                "bash": EXPERIMENTS_AND_FILES,
                "preamble": {"bash": f"{EXPERIMENTS_AND_FILES}() {{ {names}; }}"},
            }

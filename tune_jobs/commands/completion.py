"""What has a shell complete this program: commands, options, their values, experiments, and files."""

import argparse
from typing import Any, get_args

from resnet_dist.configuration.network_families import FAMILIES
from resnet_dist.configuration.sections import field_types, literals
from resnet_dist.configuration.solver import SOLVER_DEFAULTS
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import UserError
from tune_jobs.commands.options import subcommands

EXPERIMENTS_AND_FILES = "_resnet_dist_experiment_or_file"
"""A function in bash and zsh. Of names that contain `_file` shtab's script has directories completed with a slash."""

NAMES = {
    "network.family": tuple(FAMILIES),
    "solver.kind": tuple(SOLVER_DEFAULTS),
    "data.source": ("synthetic", "cifar10", "cifar100"),
}
"""Of settings that are text, what may be said beside places and code of the user's own."""


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
    hints = {
        f"{section}.{name}": hint
        for section, kind in field_types(TrainingConfig).items()
        for name, hint in field_types(kind).items()
    }
    for action in parser._actions:
        if action.choices is not None or action.nargs == 0 or action.type is not None:  # the types are of numbers
            continue
        if action.dest in hints and (known := _known_values(action.dest, hints[action.dest])) is not None:
            action.choices = known  # of which the parser will not hear: this process ends with the script
        else:
            action.complete = _experiment_or_file() if action.dest == "experiment" else shtab.FILE  # type: ignore[attr-defined]


def _experiment_or_file() -> dict[str, Any]:
    """The registered experiments beside files, in the words of each shell."""
    from tune_jobs.grid.experiment import registered

    names, function = " ".join(registered()), EXPERIMENTS_AND_FILES
    preamble = {
        "bash": f'{function}() {{ compgen -W \'{names}\' -- "$1"; compgen -f -- "$1"; }}',
        "zsh": f"{function}() {{ compadd {names}; _files; }}",
    }
    fish = f"(string split ' ' '{names}'; __fish_complete_path (commandline -ct))"
    return {"bash": function, "zsh": function, "fish": fish, "preamble": preamble}


def _known_values(setting: str, hint: Any) -> tuple[str, ...] | None:
    """What a setting's value may be, as far as it has a name; None where it may be a place."""
    options = get_args(hint) or (hint,)
    if setting in NAMES:
        return NAMES[setting]
    if bool in options:
        return ("true", "false")
    return None if str in options else literals(hint)

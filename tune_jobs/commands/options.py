"""Command-line options for every setting of a configuration, made from the dataclasses and their docstrings."""

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from resnet_dist.configuration.sections import describe_type, field_docs, field_types, section_name
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import ConfigurationError, UserError
from resnet_dist.nearest_name import nearest, suggestion
from resnet_dist.paths import require_no_device

_MANY_OPTIONS = 12
"""Options beyond which a usage line names only those that are required."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest option named, and whose help begins with examples.

    `examples` are command lines without the program's name.
    """

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **keywords: Any) -> None:
        keywords.setdefault("formatter_class", _Formatter)
        keywords.setdefault("allow_abbrev", False)
        super().__init__(*arguments, **keywords)
        self.examples = tuple(examples)

    def format_usage(self) -> str:
        """The usage, without the options that may be left out if there are many."""
        options = [action for action in self._actions if action.option_strings]
        if len(options) <= _MANY_OPTIONS:
            return super().format_usage()
        required = [action for action in self._actions if action.required or not action.option_strings]
        formatter = self._get_formatter()
        formatter.add_usage(None, required, self._mutually_exclusive_groups)
        return formatter.format_help().rstrip() + " [OPTION ...]\n"

    def format_help(self) -> str:
        """Examples first: the usage and the options may fill pages."""
        name = self.prog.partition(" ")[0]
        within = (command for command in subcommands(self) if isinstance(command, Parser))
        examples = self.examples or tuple(example for command in within for example in command.examples)
        shown = "".join(f"  {name} {example}\n" for example in examples)
        _, _, rest = super().format_help().partition("\n\n")
        title = "example" if len(examples) == 1 else "examples"
        return (f"{title}:\n{shown}\n" if shown else "") + f"{self.format_usage()}\n{rest}"

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and let the command that was given, whose options are known, report what it does not know."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = _chosen(self, parsed)
            option = next((one for one in unknown if one != "--"), "--").split("=")[0]
            if not option.startswith("-") or option == "--":
                command.error(f"{option!r} is one argument too many")
            names = sorted(_option_names(command))
            field = "." + option.lstrip("-").replace("-", "_")
            # `--depth`, said for `--network.depth`
            near = next((name for name in names if name.endswith(field)), None) or nearest(option, names, cutoff=0.75)
            command.error(f"{option} is not an option" + (f"; did you mean {near}?" if near else ""))
        return parsed

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        if wrong := re.match(r"argument \S+: invalid choice: '(.*)' \(choose from (.*)\)", message):
            allowed = wrong.group(2).replace("'", "")
            message = f"{wrong.group(1)!r} is not known; it must be one of {allowed}"
            message += suggestion(wrong.group(1), allowed.split(", "))
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)  # noqa: T201
        raise SystemExit(2)


def subcommands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parsers of a parser's commands or actions."""
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [command for action in actions for command in action.choices.values()]


def _chosen(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> argparse.ArgumentParser:
    """The parser of the command that was given: argparse has the outermost one report what none of them knows."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return _chosen(action.choices[getattr(parsed, action.dest)], parsed)
    return parser


def _option_names(parser: argparse.ArgumentParser) -> set[str]:
    return {name for action in parser._actions for name in action.option_strings}


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)


SHORTHANDS = {
    "run.workers": "--workers",
    "run.threads": "--threads",
    "run.seed": "--seed",
    "run.epochs": "--epochs",
    "run.precision": "--precision",
    "run.device": "--device",
    "run.exact": "--exact",
    "run.virtual_shards": "--virtual-shards",
}
"""Settings that have a second, shorter spelling."""


def add_settings(parser: argparse.ArgumentParser, shorthands: dict[str, str]) -> None:
    """Add an option for every setting. What is given ends up in `args.settings`, as {"section.field": text}."""
    parser.set_defaults(settings={})
    for section, kind in field_types(TrainingConfig).items():
        group = parser.add_argument_group(f"{section} settings", (kind.__doc__ or "").strip())
        docs, default = field_docs(kind), kind()
        assert section == section_name(kind)
        for field, hint in field_types(kind).items():
            name = f"{section}.{field}"
            value = getattr(default, field)
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            shown = str(shown).lower() if isinstance(shown, bool) else shown
            text = docs[field].replace("`", "").replace("%", "%%")
            if value not in (None, ""):
                text += f" (default: {shown}; {describe_type(hint)})"
            spellings = [shorthands[name]] if name in shorthands else []
            flag: dict[str, Any] = (
                {"nargs": "?", "const": "true"} if hint is bool else {}
            )  # `--exact` means `--exact true`
            group.add_argument(*spellings, f"--{name}", dest=name, action=_Setting, metavar="VALUE", help=text, **flag)


class _Setting(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        namespace.settings = namespace.settings | {self.dest: values}


STORAGE_HELP = "where results live: a directory, or s3://bucket/prefix"


def add_storage(parser: argparse.ArgumentParser) -> None:
    """Add `--storage`."""
    parser.add_argument("--storage", required=True, metavar="DIR|s3://…", help=STORAGE_HELP)


def add_trial(parser: argparse.ArgumentParser) -> None:
    """Add the trial that a command is about, and where it is stored."""
    parser.add_argument("trial", metavar="TRIAL", help="EXPERIMENT/ID, or the beginning of a trial's id")
    add_storage(parser)


def add_json(parser: argparse.ArgumentParser, text: str = "print JSON, and nothing else") -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help=text)


def positive(text: str) -> int:
    """A whole number from 1, as the `type` of an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def normalise(arguments: list[str]) -> list[str]:
    """Let `--batch-norm.momentum` be spelt with hyphens, as options often are, beside `--batch_norm.momentum`."""
    normal = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--") and "." in name:
            argument = "--" + name[2:].replace("-", "_") + equals + value
        normal.append(argument)
    return normal


def read_config(path: str) -> TrainingConfig:
    """A configuration from a TOML or JSON file: sections of settings, or a trial's `config.json`."""
    file = Path(path)
    require_no_device(file, f"--config {path}")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        plain = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:  # both decoders' errors name line and column
        raise ConfigurationError(f"--config {path}: {error}") from error
    except RecursionError:
        raise ConfigurationError(f"--config {path}: is nested too deeply") from None
    if not isinstance(plain, dict) or not plain:
        raise ConfigurationError(
            f"--config {path}: holds no settings; it must hold sections of them, as config.json does"
        )
    try:
        return TrainingConfig.from_dict(plain["config"] if {"layout", "config"} <= plain.keys() else plain)
    except ConfigurationError as error:
        raise ConfigurationError(f"--config {path}: {error}") from error

"""The command line: which commands there are, and how each of them ends."""

import argparse
import atexit
import contextlib
import errno
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from resnet_dist import logs
from resnet_dist.errors import UserError
from resnet_dist.paths import absolute
from tune_jobs.commands.completion import Completion
from tune_jobs.commands.options import Parser, normalise
from tune_jobs.commands.output import print_json

LOGGER = logging.getLogger(__name__)

GROUPS = {
    "first": {
        "train": "train one network",
        "grid": "plan, run, watch and report many runs",
        "tensorboard": "open TensorBoard on results",
    },
    "then, with what has been trained": {
        "results": "write one table of an experiment's results for other tools",
        "evaluate": "top-1 and top-5 error of a model that a trial left",
        "export": "put everything of a finished trial into one archive",
        "reproduce": "print what to run to get a trial again, or run it and compare",
    },
    "in storage and on a cluster": {
        "storage": "check a storage, make writes that wait",
        "data": "put data where a cluster's nodes find it",
        "cluster": "a Ray cluster on this machine, for trying out",
        "submit": "run a command of this program as a job on a Ray cluster",
        "job": "status, logs and end of submitted jobs",
    },
}
"""What a user does first, and next."""

COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}
"""Each is a module of `tune_jobs.commands` that adds its options (`add_arguments`)."""


class _Version(argparse.Action):
    """Prints the versions that numbers depend on."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib import metadata

        from resnet_dist.records.git_state import running_source

        source = running_source()
        commit = f"{source.commit}{', with changes' if source.dirty else ''}" if source.commit else "unknown"
        needed = "".join(f", {name} {metadata.version(name)}" for name in ("torch", "ray", "numpy"))
        python = sys.version.split()[0]
        said = f"resnet-dist {metadata.version('resnet_dist')}, commit {commit}, Python {python}{needed}"
        print(said)  # noqa: T201
        parser.exit()


class _Program(Parser):
    """The outermost parser, whose help shows the commands in their groups."""

    def format_help(self) -> str:
        """Usage, commands by group, options."""
        formatter = self._get_formatter()
        (commands,) = (action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        formatter.add_usage(self.usage, [commands], ())
        formatter.add_text(self.description)
        described = {action.dest: action for action in commands._choices_actions}
        for title, names in GROUPS.items():
            formatter.start_section(title)
            formatter.add_arguments([described[name] for name in names])
            formatter.end_section()
        formatter.start_section("options")
        formatter.add_arguments([action for action in self._actions if action.option_strings])
        formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()


class _Command(Parser):
    """The parser of a command, whose module is imported when the command is given: the others cost nothing."""

    def __init__(self, *, module: str, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.module = module

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Ask the module for the command's options, then parse."""
        self.load()
        return super().parse_known_args(args, namespace)

    def load(self) -> None:
        """Take up the command's options."""
        if self.module:
            importlib.import_module(self.module).add_arguments(self)
            self.module = ""


def make_parser() -> Parser:
    """The parser of the whole command line."""
    parser = _Program(
        prog="resnet-dist",
        description="Trains deep residual networks, one run or a whole study, on this machine or a Ray cluster.",
        epilog="`resnet-dist COMMAND --help` begins with an example. From Python: docs/python.md.",
    )
    parser.set_defaults(parser=parser)  # `submit` checks with it what a job is to run
    parser.add_argument("--version", action=_Version, nargs=0, help="print versions and commit, and end")
    parser.add_argument(
        "--completion",
        action=Completion,
        choices=("bash", "zsh", "fish"),
        help='print what has a shell complete commands and options, and end: eval "$(resnet-dist --completion bash)"',
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Command)
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, module=f"tune_jobs.commands.{name}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0, 1 for an error, 2 for a wrong command line, 130 for Ctrl-C."""
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        pass
    except Exception as error:
        # A library that is stopped in the middle of an import fails in ways of its own as it is left.
        if not _came_of_an_interrupt(error):
            raise
    given = [*(sys.argv[1:] if arguments is None else arguments), "", ""]
    trains = given[0] == "train" or given[:2] == ["grid", "run"]
    goes_on = "; the same command goes on from the last checkpoint" if trains else ""
    print(f"interrupted{goes_on}", file=sys.stderr)  # noqa: T201
    return 130


def _run(arguments: Sequence[str] | None) -> int:
    args = argparse.Namespace()
    try:
        args = make_parser().parse_args(normalise(list(sys.argv[1:] if arguments is None else arguments)))
        _require_directories()
        logs.configure()
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except UserError as error:
        _say_error(str(error), args)
        return 1
    except BrokenPipeError:  # the reader of our output has gone: `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ImportError as error:
        if "shared object" not in str(error):
            raise
        _say_error(f"a library cannot be loaded: {error}; give the process more memory, or install it again", args)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f"{error.filename}: " if error.filename else "standard output or a temporary file: "
        args.json = False  # the output may be what is full
        _say_error(f"{where}{error.strerror}; make room, then run the same command again", args)
        return 1


def _came_of_an_interrupt(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def entry_point() -> NoReturn:
    """Run a command and end the process with its exit code.

    It ends when all that is registered with `atexit` has run, and not after Python has taken itself apart: a thread of
    Arrow's that still waits for a storage would then ask for Python's lock, and die with a stack trace of Ray's.
    """
    code: object = 1  # of an error that nobody foresaw, after its traceback
    _open_standard_streams()

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)

    atexit.register(leave)
    try:
        code = main()
    except SystemExit as ended:  # a wrong command line, `--help`
        code = ended.code
        raise
    sys.exit(code)


def _require_directories() -> None:
    """Libraries end the process without a word of what is wrong if it has no working directory or no home."""
    try:
        os.getcwd()  # noqa: PTH109
    except OSError as error:
        raise UserError(f"the working directory is not there ({error.strerror}); change to one that is") from None
    absolute("~", "HOME")


def _open_standard_streams() -> None:
    """Have all three, or the next file that is opened would be one; and print what their encoding lacks as escapes."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdin, sys.stdout = sys.stdin or open(0), sys.stdout or open(1, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _say_error(message: str, args: argparse.Namespace) -> None:
    line = " ".join(message.split())
    if os.environ.get(logs.VARIABLE) == "json":
        LOGGER.error(line)
    else:
        print(f"error: {line}", file=sys.stderr)  # noqa: T201
    if getattr(args, "json", False):
        print_json({"error": line})

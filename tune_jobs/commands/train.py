"""`resnet-dist train`: one run, in this process or on Ray Train workers."""

import argparse
import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.storage.opening import open_storage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.logs import structured
from resnet_dist.plurals import counted
from resnet_dist.records.trial_record import error_text
from resnet_dist.storage.interface import TrialKeys
from tune_jobs.actions.train import check, described, train, with_data
from tune_jobs.commands.options import SHORTHANDS, Parser, add_json, add_settings, add_storage, read_config
from tune_jobs.commands.output import print_json, program
from tune_jobs.commands.terminal import make_console


def add_arguments(parser: Parser) -> None:
    """The options of `train`."""
    parser.examples = (
        "train --storage results --data.source cifar10",
        "train --storage results --data.source folder:pictures --epochs 20 --schedule.milestones 8,12",
    )
    parser.description = "Train one network, or go on with a run that was interrupted."
    add_storage(parser)
    parser.add_argument("--name", default="train", help="experiment under which the run is stored (default: train)")
    parser.add_argument(
        "--config", metavar="FILE", help="TOML or JSON file of settings; options given here override it"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be trained, and from where; train and write nothing"
    )
    add_json(parser, "print the result record as JSON, and nothing else")
    add_settings(parser, SHORTHANDS)
    parser.set_defaults(run=train_command)


def train_command(args: argparse.Namespace) -> int:
    """Train one network and print its errors."""
    config = read_config(args.config) if args.config else TrainingConfig()
    config = config.override(args.settings)
    console = make_console(quiet=args.json)
    if args.dry_run:
        return _dry_run(args, config, console)
    with Display(console, config.run.epochs) as display:
        run = train(config, args.storage, args.name, on_epoch=display.epoch, on_step=display.step, say=display.say)
    if args.json:
        print_json(run.to_dict())
        return 0
    result = run.result
    console.print(
        f"\nTest error after epoch {result['epochs']}: [bold]{100 * run.top1_error:.2f} %[/] (top-5: "
        f"{100 * result['top5_error']:.2f} %), {result['images_per_second']:.0f} images/s on "
        f"{counted(result['workers'], 'worker')}"
    )
    if run.config.data.caveat:
        console.print(run.config.data.caveat)
    console.print(f"Results:     {run.place}", soft_wrap=True)
    console.print(f"TensorBoard: {program()} tensorboard {run.storage}/{args.name}", soft_wrap=True)
    return 0


def _dry_run(args: argparse.Namespace, config: TrainingConfig, console: Console) -> int:
    """Say what would be trained, and from where. Images are decoded into the local cache if they are not there."""
    from resnet_dist.records.checkpoints import Checkpoints
    from resnet_dist.records.recorder import Recorder

    config, storage = check(config, args.name), open_storage(args.storage)
    config = with_data(config, storage)
    keys = TrialKeys(args.name, config.trial_id())
    steps = Checkpoints(storage, keys.checkpoints, config.identity()).complete()
    state, then = "missing", "would be trained from the beginning"
    if Recorder(storage, args.name, "", config).result() is not None:
        state, then = "finished", "is finished already; nothing would be done"
    elif steps:
        state, then = "unfinished", f"would go on from its checkpoint after step {steps[0]:,}"
    for line in described(config, storage, args.name):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"It {then}. Results would lie in {storage.uri}/{keys.prefix} Nothing was written.", soft_wrap=True)
    if args.json:
        print_json({"trial": config.trial_id(), "state": state, "config": config.to_dict()})
    return 0


class Display:
    """A progress bar on a terminal, and a line an epoch everywhere."""

    def __init__(self, console: Console, epochs: int) -> None:
        self.console = console
        self.epochs = epochs
        self.bar = Progress(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal or console.quiet,
        )
        self.task = self.bar.add_task("training", total=epochs, detail="")
        self.shown = 0.0

    def __enter__(self) -> "Display":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(escape(text), soft_wrap=True)

    def step(self, step: int, loss: Any) -> None:
        """Show the newest loss, at most twice a second: reading it waits for the device."""
        if not self.bar.disable and time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            self.bar.update(self.task, detail=f"step {step}, loss {loss.sum().item():.3f}")

    def epoch(self, line: dict[str, Any]) -> None:
        """Print an epoch's line."""
        self.bar.update(self.task, completed=line["epoch"])
        if structured():  # the log has it already
            return
        self.console.print(
            f"epoch {line['epoch']:>3}/{self.epochs}  step {line['step']:>6}  lr {line['learning_rate']:<6g} "
            f"train loss {line['train_loss']:.4f}  test error {error_text(line):>8} "
            f"(top-5 {error_text(line, 'top5_error')})  {line['images_per_second']:.0f} images/s",
            soft_wrap=True,
        )

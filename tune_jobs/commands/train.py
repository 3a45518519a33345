"""`resnet-dist train`: one run, in this process or on Ray Train workers."""

import argparse
import shlex

from cluster.storage.opening import open_storage
from resnet_dist.configuration.presets import PRESETS
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.plurals import counted
from resnet_dist.storage.interface import TrialKeys
from tune_jobs.actions.train import check, described, train, with_data
from tune_jobs.commands.display import RunDisplay
from tune_jobs.commands.options import SHORTHANDS, Parser, add_json, add_settings, add_storage, read_config
from tune_jobs.commands.output import program
from tune_jobs.commands.terminal import Terminal, make_console


def add_arguments(parser: Parser) -> None:
    """The options of `train`."""
    parser.examples = (
        "train --storage results --data.source cifar10",
        "train --storage results --data.source folder:pictures --epochs 20 --schedule.milestones 8,12",
    )
    parser.description = "Train one network, or go on with a run that was interrupted."
    add_storage(parser)
    parser.add_argument("--name", default="train", help="experiment under which the run is stored (default: train)")
    begins = parser.add_mutually_exclusive_group()
    begins.add_argument(
        "--config", metavar="FILE", help="TOML or JSON file of settings; options given here override it"
    )
    begins.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        help="recipe for ImageNet that options given here override: the paper's, or that of torchvision's script",
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
    if args.preset:
        config = TrainingConfig.preset(args.preset)
    config = config.override(args.settings)
    console = make_console(quiet=args.json)
    if args.dry_run:
        return _dry_run(args, config, console)
    with RunDisplay(console, config.run.epochs) as display:
        run = train(config, args.storage, args.name, on_epoch=display.epoch, on_step=display.step, say=display.say)
    console.answers(run.to_dict())
    result = run.result
    console.print(
        f"\nTest error after epoch {result['epochs']}: [bold]{100 * run.top1_error:.2f} %[/] (top-5: "
        f"{100 * result['top5_error']:.2f} %), {result['images_per_second']:.0f} images/s on "
        f"{counted(result['workers'], 'worker')}"
    )
    if run.config.data.caveat:
        console.print(run.config.data.caveat)
    console.say(f"Results:     {run.place}")
    console.say(f"TensorBoard: {program()} tensorboard {shlex.quote(f'{run.storage}/{args.name}')}")
    return 0


def _dry_run(args: argparse.Namespace, config: TrainingConfig, console: Terminal) -> int:
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
        console.say(line)
    console.say(f"It {then}. Results would lie in {storage.uri}/{keys.prefix}; nothing was written.")
    console.answers({"trial": config.trial_id(), "state": state, "config": config.to_dict()})
    return 0

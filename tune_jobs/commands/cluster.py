"""`resnet-dist cluster up | down`."""

import argparse

from cluster.ray_cluster import local
from resnet_dist.plurals import counted
from tune_jobs.commands.options import Parser, add_json, positive
from tune_jobs.commands.output import program
from tune_jobs.commands.terminal import make_console


def add_arguments(parser: Parser) -> None:
    """The options of `cluster …`."""
    parser.description = "A Ray cluster on this machine."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)
    start = actions.add_parser(
        "up",
        help="start it",
        description="Start a Ray cluster of several nodes on this machine.",
        examples=["cluster up --nodes 3 --cpus 1"],
    )
    start.add_argument("--nodes", type=positive, default=3, metavar="N", help="nodes, the head among them (default: 3)")
    start.add_argument("--cpus", type=positive, default=2, metavar="N", help="CPUs that each node offers (default: 2)")
    end = actions.add_parser(
        "down", help="end it", description="End exactly what `cluster up` started.", examples=["cluster down"]
    )
    for action, run in ((start, up), (end, down)):
        add_json(action)
        action.set_defaults(run=run)


def up(args: argparse.Namespace) -> int:
    """Start a local cluster and say what can be done with it."""
    console = make_console(quiet=args.json)
    with console.status("starting Ray") as status:
        cluster = local.up(args.nodes, args.cpus, lambda n: status.update(f"starting Ray: node {n} of {args.nodes}"))
    variables = {"RAY_ADDRESS": cluster.dashboard, **cluster.environment}
    console.answers({"dashboard": cluster.dashboard, "address": cluster.address, "environment": variables})
    for line in (
        f"Ray runs on {counted(args.nodes, 'node')} with {counted(args.cpus, 'CPU')} each: {cluster.dashboard}",
        f"  {program()} submit -- grid run demo --storage /absolute/path",
        f"  {program()} job status",
        f"  {program()} cluster down",
        "For Ray's own commands (the cluster asks for a token, which this names the file of):",
        "  export " + " ".join(f"{name}={value}" for name, value in variables.items()),
    ):
        console.say(line)
    return 0


def down(args: argparse.Namespace) -> int:
    """End the cluster that `up` started."""
    ended = local.down()
    console = make_console(quiet=args.json)
    console.answers({"ended": ended.dashboard if ended else None})
    console.print(f"Ended the cluster at {ended.dashboard}." if ended else "No cluster of `cluster up` runs here.")
    return 0

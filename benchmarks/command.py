"""How the command of a benchmark ends."""

import sys
from collections.abc import Callable
from typing import NoReturn

from resnet_dist.errors import UserError


def exit_with(main: Callable[[list[str]], int]) -> NoReturn:
    """Call it with the command line, and exit with what it returns; with 2, and one line, for a `UserError`."""
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

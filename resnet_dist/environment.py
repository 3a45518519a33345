"""Settings of the machine, not of a run: numbers that environment variables give."""

import os

from resnet_dist.errors import UserError


def seconds_of(variable: str, default: float, least: float, most: int) -> float:
    """Seconds that a variable gives, `default` if it is empty or not set. Raises a `UserError` outside the bounds."""
    text = os.environ.get(variable, "")
    try:
        seconds = float(text or default)
    except ValueError:
        seconds = -1.0
    if not least <= seconds <= most:
        raise UserError(f"{variable}={text!r} is not allowed; it must be seconds from {least} to {most}")
    return seconds

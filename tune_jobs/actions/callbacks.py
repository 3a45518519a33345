"""What an action tells of while it works, for whoever wants to show it: in types that load no torch."""

from collections.abc import Callable
from typing import Any

Say = Callable[[str], None]
"""Called with a line of plain text."""
OnEpoch = Callable[[dict[str, Any]], None]
"""Called with the line of metrics.jsonl of an epoch that has ended."""
OnStep = Callable[[int, Any], None]
"""Called with the number of a step and its loss, a tensor: reading it waits for the device."""

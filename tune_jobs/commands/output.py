"""What commands print with, and how this program was called."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any


def program() -> str:
    """How this program was called, for messages that say what to run next."""
    called = Path(sys.argv[0])
    if called.name != "resnet-dist":
        return "python -m tune_jobs"
    return "resnet-dist" if shutil.which("resnet-dist") == str(called) else os.path.relpath(called)


def print_json(value: Any) -> None:
    """Print a value for a script to read."""
    print(json.dumps(value, indent=1))  # noqa: T201

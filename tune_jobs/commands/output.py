"""What commands print with, and how this program was called."""

import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for the entrypoint of a job."""


def program() -> str:
    """How this program was called, for messages that say what to run next."""
    called = Path(sys.argv[0])
    if JOB in os.environ:  # whose reader is at another machine
        return "resnet-dist"
    if called.name != "resnet-dist":
        return "python -m tune_jobs"
    return "resnet-dist" if shutil.which("resnet-dist") == str(called) else os.path.relpath(called)


def print_json(value: Any) -> None:
    """Print a value for a script to read."""
    print(json_text(value))  # noqa: T201


def json_text(value: Any) -> str:
    """A value as JSON, which has no number that is not finite: null stands there."""
    return json.dumps(_finite(value), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value

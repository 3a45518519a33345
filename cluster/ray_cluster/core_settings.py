"""Settings of Ray's core, `RAY_` and a name in lower case, which it reads when it is loaded.

One that is not the number that it should be ends the process there and then, by a signal. Which names it knows, and
what each is to be, stands in its machine code alone: so it is loaded once in another process, if there are any.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from resnet_dist.errors import UserError


def require_core_settings() -> None:
    """Raise a `UserError` that names those that Ray's core cannot read."""
    given = [name for name in sorted(os.environ) if re.match("RAY_[a-z]", name)]
    if not given or "ray._raylet" in sys.modules or _is_loaded(given):
        return
    wrong = [name for name in given if not _is_loaded([name])] or given
    raise UserError(
        f"Ray's core cannot read {', '.join(f'{name}={os.environ[name]!r}' for name in wrong)}, and ends the process "
        "over it; give the number that it is to be, or unset it"
    )


def _is_loaded(kept: Collection[str]) -> bool:
    """Whether Ray's core can be loaded with these of its settings."""
    found = importlib.util.find_spec("ray")  # without importing it
    if found is None or not found.submodule_search_locations:
        return True  # said elsewhere
    core = Path(found.submodule_search_locations[0], "_raylet.so")
    environment = {name: value for name, value in os.environ.items() if name in kept or not name.startswith("RAY_")}
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(core)], env=environment, capture_output=True, check=False)
    return done.returncode >= 0

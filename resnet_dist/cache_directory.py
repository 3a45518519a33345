"""Where this user's caches lie on this machine."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """`RESNET_DIST_CACHE`, or else `resnet_dist` in `XDG_CACHE_HOME`, by default `~/.cache`."""
    if chosen := os.environ.get("RESNET_DIST_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "resnet_dist"

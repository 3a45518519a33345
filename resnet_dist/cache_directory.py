"""Where this user's caches lie on this machine."""

import os
from pathlib import Path

from resnet_dist.paths import absolute


def cache_directory() -> Path:
    """`RESNET_DIST_CACHE`, or else `resnet_dist` in `XDG_CACHE_HOME`, by default `~/.cache`."""
    if chosen := os.environ.get("RESNET_DIST_CACHE"):
        return absolute(chosen, "RESNET_DIST_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return absolute(base, "RESNET_DIST_CACHE") / "resnet_dist"

"""This Python by a path that a shell may have without quotes, as Ray has it, wherever the checkout lies."""

import atexit
import functools
import shutil
import tempfile

from cluster.ray_cluster import local


@functools.cache
def plain_python() -> str:
    """Its path, which may be one of a link that lasts as long as this process."""
    directory = tempfile.mkdtemp(prefix="python-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return str(local.plain_python(directory))

"""A directory that is kept a copy of a storage's event files: `resnet-dist tensorboard STORAGE --mirror-to DIRECTORY`.

It has the layout of the storage, so that `resnet-dist tensorboard DIRECTORY` shows it: by another process, which needs
no access to the storage.
"""

import shutil
import threading
from pathlib import Path

from cluster.signals import interrupted_by_sigterm
from cluster.storage.local import LocalStorage
from cluster.storage.opening import open_storage
from cluster.tensorboard.event_views import Copies, follow, say
from resnet_dist.errors import UserError

MARK = ".resnet-dist-mirror"
"""File by which a directory is known to hold nothing but such a copy."""


def mirror(storage_uri: str, directory: Path, reload_seconds: int = 10) -> int:
    """Copy what is new again and again until Ctrl-C or SIGTERM; returns the exit code 0.

    What an earlier process has copied to the directory is copied anew. Raises a `UserError` if the storage cannot be
    read, or the directory holds anything else.
    """
    storage = open_storage(storage_uri)
    if isinstance(storage, LocalStorage):
        raise UserError(f"--mirror-to: {storage.uri} is a directory, which needs no copy; leave --mirror-to out")
    try:
        with interrupted_by_sigterm():
            view = Copies(storage, directory, as_stored=True)
            view.experiments()  # says what is wrong before anything is touched
            _prepare(directory)
            say(f"Copying the event files of {storage.uri} to {directory} (Ctrl-C ends it)")
            follow(view, reload_seconds, threading.Event())
    except KeyboardInterrupt:
        return 0
    raise AssertionError("it is followed until it is interrupted")


def _prepare(directory: Path) -> None:
    """Make the directory, or empty it: a mirror knows nothing of what another process has copied."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        found = list(directory.iterdir())
        if found and not (directory / MARK).exists():
            raise UserError(f"--mirror-to: {directory} is not empty, and holds no earlier copy; give a new directory")
        for path in found:
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != MARK:
                path.unlink()
        (directory / MARK).touch()
    except OSError as error:
        raise UserError(f"--mirror-to: {directory} cannot be written: {error.strerror}; give another") from None

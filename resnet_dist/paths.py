"""Paths as users give them, made absolute, or refused where they can mean nothing or be recorded nowhere."""

import os
from pathlib import Path

from resnet_dist.errors import ConfigurationError


def absolute(path: str | os.PathLike[str], place: str) -> Path:
    """`path` from the root, `~` expanded; links stay. `place` says in errors where it was given."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise ConfigurationError(
            f"{place}: {os.fspath(path)!r}: no such home directory is known; set HOME, or write the path in full"
        ) from None


def recordable(path: str | os.PathLike[str], place: str) -> Path:
    """The same of a path that stands in records, which are UTF-8: one that is not is refused."""
    found = absolute(path, place)
    require_utf8(str(found), place)
    return found


def require_no_device(path: Path, place: str) -> None:
    """Raise a `ConfigurationError` of what could be read for ever, as /dev/zero; a pipe is read to its end."""
    try:
        endless = path.is_char_device() or path.is_block_device() or path.is_socket()
    except OSError:  # a name that is too long, say: whoever opens it says so
        return
    if endless:
        raise ConfigurationError(f"{place}: is a device or socket; give a file")


def require_utf8(text: str, place: str) -> None:
    """Raise a `ConfigurationError` if text, of a path's bytes perhaps, cannot stand in a record."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"{place}: {text!r} is not UTF-8; give it another name, or of a path a link (ln -s) whose name is"
        ) from None

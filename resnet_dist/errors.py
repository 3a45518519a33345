"""Errors that a user can cause. The command line prints them as one line; a traceback means a bug."""


class UserError(Exception):
    """Something the user can put right. The message is one line that says what is wrong and what to do."""

    def _render_traceback_(self) -> list[str]:
        """What IPython, and so a notebook, shows instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class ConfigurationError(UserError, ValueError):
    """A setting is unknown or has an impossible value."""

    def __init__(self, message: str, setting: str = "") -> None:
        super().__init__(message)
        self.setting = setting
        """The setting that the message begins with, such as `solver.kind`; empty where the catcher is to add it."""


class DataError(UserError):
    """A data source is missing, corrupt or not of the expected form."""


class StorageError(UserError):
    """Storage cannot be reached, read or written."""


class WaitingError(StorageError):
    """A run is over, and some of its writes are not in storage yet: they wait on local disk."""


class CheckpointError(UserError):
    """A checkpoint does not belong to this run."""


class DivergedError(UserError):
    """A loss, or the network's weights, statistics or outputs, are not finite. The same run would diverge again."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or else what kind it is, in 300 characters at most."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

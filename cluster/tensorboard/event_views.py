"""What TensorBoard is given to read: a directory of links or of copies, or S3 itself."""

import os
import sys
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

from cluster.storage.keys import BrowsableStorage
from cluster.storage.local import LocalStorage
from cluster.tensorboard.mirror import Mirror
from resnet_dist.errors import StorageError

DIRECT_RELOAD_SECONDS = 60
LONGEST_PAUSE = 12
"""A large storage in S3 is looked at less often, but not more rarely than after so many times the usual pause."""


class View(Protocol):
    """Event files of a storage as a local directory that TensorBoard can watch."""

    def experiments(self) -> dict[str, str]:
        """Prefix in storage of the event files of each experiment, by its name; `""` is the storage itself."""

    def refresh(self) -> int:
        """Bring the directory up to date. Returns how many listings it asked of a store, or 0 for a directory."""


class Links:
    """The event files of a directory, by symbolic links: nothing is copied."""

    def __init__(self, storage: LocalStorage, directory: Path) -> None:
        self.storage = storage
        self.directory = directory

    def experiments(self) -> dict[str, str]:
        """Prefix in storage of the event files of each experiment, by its name; `""` is the storage itself."""
        return _experiments(self.storage.folders)

    def refresh(self) -> int:
        """Link to what is new, and take away links to what is gone."""
        wanted: dict[str, Path] = {}
        for name, prefix in self.experiments().items():
            events = self.storage.root / prefix
            # TensorBoard names runs relative to its log directory: those of one experiment go without its name.
            wanted |= {name: events} if name else {item.name: item for item in events.iterdir()}
        for link in self.directory.iterdir():
            if wanted.get(link.name) != link.readlink():
                link.unlink()
        for name, target in wanted.items():
            link = self.directory / name
            if not link.is_symlink():
                link.symlink_to(target)
        return 0


class Copies:
    """The event files of a store that is not a file system, by a mirror of each experiment.

    They are copied to a directory of the experiment's name or, `as_stored`, to where the storage has them.
    """

    def __init__(self, storage: BrowsableStorage, directory: Path, as_stored: bool = False) -> None:
        self.storage = storage
        self.directory = directory
        self.as_stored = as_stored
        self._mirrors: dict[str, Mirror] = {}
        self._listings = 0

    def experiments(self) -> dict[str, str]:
        """Prefix in storage of the event files of each experiment, by its name; `""` is the storage itself."""
        return _experiments(self._counted, self._mirrors.keys())

    def refresh(self) -> int:
        """Copy what is new. Experiments that have vanished lose their copies as well."""
        self._listings = 0
        for name, prefix in self.experiments().items():
            if name not in self._mirrors:
                self._mirrors[name] = Mirror(
                    self.storage, prefix, self.directory / (prefix if self.as_stored else name)
                )
        for mirror in self._mirrors.values():
            mirror.sync()
            self._listings += mirror.pages
        return self._listings

    def _counted(self, prefix: str) -> tuple[str, ...]:
        self._listings += 1
        return self.storage.folders(prefix)


def follow(view: View, seconds: float, stop: threading.Event) -> None:
    """Refresh again and again; a failure is reported once, and once it is over."""
    failing = False
    while not stop.is_set():
        listings = 1
        try:
            listings = view.refresh()
        except Exception as error:  # nothing may end the news without a word
            if not failing and not stop.is_set():
                said = error if isinstance(error, (StorageError, OSError)) else repr(error)
                say(f"No news from storage, trying again every {seconds} s: {said}")
            failing = True
        else:
            if failing:
                say("Storage can be read again.")
            failing = False
        stop.wait(seconds * min(max(1, listings), LONGEST_PAUSE))


def say(line: str) -> None:
    """Tell the user."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _experiments(folders: Callable[[str], tuple[str, ...]], known: Collection[str] = ()) -> dict[str, str]:
    """Prefixes of event files by experiment. Those that are known are not asked again whether they have any."""
    names = folders("")
    if "tb" in names:
        return {"": "tb/"}
    shown = (name for name in names if not name.startswith("."))
    return {name: f"{name}/tb/" for name in shown if name in known or "tb" in folders(f"{name}/")}


def direct_source(storage: BrowsableStorage, experiments: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of a TensorBoard that reads S3 itself, with the loader that can.

    It lists every key below its directories at each reload, so each experiment's own is named; experiments that begin
    later are not shown.
    """
    # Imported here because only those who use S3 should pay for boto3.
    from cluster.storage.s3 import S3Storage

    assert isinstance(storage, S3Storage)
    places = {name: f"{storage.uri}/{prefix.rstrip('/')}" for name, prefix in experiments.items()}
    named = ",".join(f"{name}:{place}" for name, place in places.items())
    where = (
        ["--logdir", places.get("", f"{storage.uri}/tb")] if "" in places or not places else ["--logdir_spec", named]
    )
    variables = {"S3_ENDPOINT": storage.endpoint()}
    for name in ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"):
        variables[name] = os.environ.get(name, "when_required")  # the newer default is refused by some stores
    return [*where, "--load_fast", "false", "--reload_interval", str(DIRECT_RELOAD_SECONDS)], variables

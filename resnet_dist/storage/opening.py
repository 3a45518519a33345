"""Opens storage that a data source names by its URI. What kinds there are is the business of whoever registers."""

from collections.abc import Callable

from resnet_dist.storage.interface import RangedStorage

_openers: list[Callable[[str], RangedStorage]] = []


def register(opener: Callable[[str], RangedStorage]) -> None:
    """Let `open_uri` open storage by this function."""
    _openers[:] = [opener]


def open_uri(uri: str) -> RangedStorage:
    """Storage at a directory or at `s3://bucket/prefix`, as the program opens that of results (`cluster.storage`)."""
    assert _openers, "cluster.storage.opening has not been imported"
    return _openers[0](uri)

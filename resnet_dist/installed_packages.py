"""What is installed besides this program: which packages come from an index, and their versions."""

import json
from collections.abc import Iterable
from importlib import metadata


def is_published(module: str) -> bool:
    """Whether a top-level module belongs to packages that were installed from an index, and not from a directory."""
    distributions = metadata.packages_distributions().get(module, [])
    return bool(distributions) and not any(map(_is_local, distributions))


def version(package: str) -> str | None:
    """Version of an installed package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions(modules: Iterable[str]) -> dict[str, str]:
    """Version of each package that one of these top-level modules belongs to, by its name."""
    by_module = metadata.packages_distributions()
    names = {name for module in modules for name in by_module.get(module, [])}
    return {name: metadata.version(name) for name in sorted(names)}


def _is_local(distribution: str) -> bool:
    """Whether pip was given a directory, which may be edited, instead of a name."""
    said = json.loads(metadata.distribution(distribution).read_text("direct_url.json") or "{}")
    return "dir_info" in said

"""Settings that name code of the user's own, `module:callable`, and the hash of that code."""

import re
from dataclasses import dataclass

from resnet_dist.configuration.sections import Section, choices

_CUSTOM = re.compile(r"(?!(?:folder|shards|imagenet):)[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_custom(value: str) -> bool:
    """Whether a setting names code of the user's own: `module:callable` (docs/custom.md)."""
    return bool(_CUSTOM.fullmatch(value))


def choose(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is none of those allowed, nor names code of the user's own."""
    if not is_custom(value):
        choices(name, value, (*allowed, "module:callable"))


@dataclass(frozen=True)
class CodeConfig(Section):
    """Code of your own that other settings name as module:callable."""

    fingerprint: str = ""
    """Hash of its text. Filled in when the code is read; give it to insist on it."""

"""A deliberate fault, as `tests/faults.py` and its neighbours list them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """Text of one file that is replaced, each piece occurring exactly once."""

    name: str
    description: str
    file: str
    edits: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]
    """Files or tests to run, as pytest names them."""

    def applied(self, text: str) -> str:
        """The file's text with the fault in it. Raises a `ValueError` if the text has changed meanwhile."""
        for old, new in self.edits:
            if text.count(old) != 1:
                raise ValueError(f"{self.name}: {self.file} holds {old!r} {text.count(old)} times, not once")
            text = text.replace(old, new)
        return text


def fault(name: str, description: str, file: str, old: str, new: str, *tests: str) -> Fault:
    return Fault(name, description, file, ((old, new),), tests)

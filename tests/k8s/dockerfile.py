"""What a Dockerfile says, stage by stage, and what .dockerignore lets into the build."""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from tests.k8s.rendering import ROOT


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined."""

    name: str
    """Upper case, such as RUN."""
    text: str

    @property
    def words(self) -> list[str]:
        """The text as a shell would split it."""
        return shlex.split(self.text)


@dataclass
class Stage:
    """What lies between one FROM and the next."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        """Every instruction of that name."""
        return [instruction for instruction in self.instructions if instruction.name == name]


def stages() -> dict[str, Stage]:
    """The stages of the project's Dockerfile, by name, in order."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found: dict[str, Stage] = {}
    for line in filter(None, joined.splitlines()):
        name, _, text = line.partition(" ")
        if name == "FROM":
            base, _, alias = text.partition(" AS ")
            stage = found.setdefault(alias, Stage(alias, base))
            assert alias and not stage.instructions, f"a stage of its own name: {line}"
        else:
            stage.instructions.append(Instruction(name, text))
    return found


def lineage(stage: str) -> list[Stage]:
    """A stage and those that it is built from, the first one first."""
    every = stages()
    line = [every[stage]]
    while line[0].base in every:
        line.insert(0, every[line[0].base])
    return line


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a file, relative to the root, into the build: its last match decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keeps, pattern = pattern.startswith("!"), pattern.removeprefix("!")
        expression = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        # A pattern that matches a folder matches what is in it.
        if any(re.fullmatch(expression, str(part)) for part in (Path(path), *Path(path).parents)):
            sent = keeps
    return sent

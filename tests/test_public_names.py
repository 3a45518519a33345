"""What programs of other people may import: these names with these signatures, and nothing else is promised."""

import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "public_names.txt"
GUIDE = (ROOT / "docs" / "python.md").read_text()
PACKAGES = ("resnet_dist", "tune_jobs")


def signature(called: object) -> str:
    """As it is written in the code, without the modules that names come from: files move."""
    text = re.sub(r"\s+", " ", str(inspect.signature(called)))  # type: ignore[arg-type]
    return re.sub(r"\b(?:[a-z_]\w*\.)+", "", text).replace("'", "")


def described(package: str) -> list[str]:
    """A line for each public name, and for each public field, property and method of a public class."""
    lines = []
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        if not inspect.isclass(value):
            lines.append(f"{package}.{name}{signature(value)}")
            continue
        lines.append(f"{package}.{name}")
        fields = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        lines += [f"{package}.{name}.{field}" for field in fields]
        members = {} if issubclass(value, Exception) else dict(inspect.getmembers(value))
        for member, found in members.items():
            if member.startswith("_") or member in fields or not hasattr(value, member):
                continue
            lines.append(f"{package}.{name}.{member}{signature(found) if callable(found) else ''}")
    return lines


def test_names_and_signatures_are_those_that_were_promised() -> None:
    """Whoever changes one on purpose writes the file anew: `python -m tests.test_public_names`."""
    assert [line for package in PACKAGES for line in described(package)] == GOLDEN.read_text().splitlines()


@pytest.mark.parametrize("package", PACKAGES)
def test_the_guide_lists_them_all_and_no_others(package: str) -> None:
    (names,) = re.findall(rf"^From `{package}`: (.*?)\.$", GUIDE, re.MULTILINE | re.DOTALL)
    listed = re.findall(r"`(\w+)`", names)
    assert sorted(listed) == sorted(importlib.import_module(package).__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_help_teaches_each(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        text = inspect.getdoc(value) or ""
        assert text, name
        if inspect.isfunction(value):
            for parameter in inspect.signature(value).parameters:
                assert re.search(rf"\b{parameter}\b", text), f"{name} does not explain {parameter}"
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        module.no_such_name  # noqa: B018


def test_importing_all_of_them_loads_neither_torch_nor_ray() -> None:
    light = "from resnet_dist import TrainingConfig, UserError, TrainingRun, train, Evaluation, evaluate, load_model"
    grids = "from tune_jobs import *"
    check = "import sys; print({'torch', 'ray', 'pandas', 'matplotlib'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", f"{light}\n{grids}\n{check}"], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_a_room_stays_reachable_beside_the_names_of_its_package() -> None:
    import resnet_dist.networks
    import tune_jobs.report

    assert inspect.ismodule(tune_jobs.report) and inspect.ismodule(resnet_dist.networks)


if __name__ == "__main__":
    GOLDEN.write_text("".join(f"{line}\n" for package in PACKAGES for line in described(package)))

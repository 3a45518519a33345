"""The operations guide: every block of commands says whether it is run by tests, and those that do are run here."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from resnet_dist.ray_metrics import COUNTERS, GAUGES
from tests.image_trees import image_tree, write_directory
from tests.k8s import test_kuberay_rules as rules
from tests.k8s.rendering import OVERLAYS, ROOT, documents, of_kind, the
from tests.k8s.schemas import KUBERNETES, errors
from tests.tune_jobs.recorded import record_experiment, record_result
from tune_jobs.grid.experiment import load_experiment

GUIDE = ROOT / "docs" / "operations.md"
BLOCK = re.compile(r"^\*(Run by the tests|Not run here):\*\n\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = [text for mark, text in BLOCK.findall(GUIDE.read_text()) if mark == "Run by the tests"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the guide's commands need of a checkout, to be changed by them."""
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    for package in ("cluster", "resnet_dist", "tune_jobs"):
        (tmp_path / package).symlink_to(ROOT / package)
    return tmp_path


def _execute(block: str, checkout: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "RESNET_DIST_STORAGE": str(checkout / "results")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_block_says_whether_it_is_run() -> None:
    assert len(re.findall("^```sh$", GUIDE.read_text(), re.MULTILINE)) == len(BLOCK.findall(GUIDE.read_text())) > 10
    assert len(RUN) == 6, "each has a test below"


def test_the_overlay_of_ones_own_is_valid(checkout: Path) -> None:
    rendered = documents(_execute(RUN[0], checkout))
    job = the(rendered, "RayJob", "grid")
    assert job["spec"]["entrypoint"].split()[:6] == ["python", "-m", "tune_jobs", "grid", "run", "model-size"]
    assert the(rendered, "ConfigMap", "resnet-dist-settings")["data"]["RESNET_DIST_STORAGE"] == "s3://my-bucket/results"
    assert [error for document in rendered for error in errors(document, KUBERNETES[0])] == []
    rules.test_every_grid_is_submitted_by_a_pod_and_its_cluster_ends(rendered)
    rules.test_every_cluster_keeps_the_rules(rendered)
    for document in of_kind(rendered, "RayJob") + of_kind(rendered, "RayCluster"):
        images = re.findall(r"'image': '([^']+)'", str(document))
        assert images and all(image.startswith("registry.example.com/resnet-dist:") for image in images)

    # Monitoring is put on top of it.
    monitored = documents(_execute(RUN[5], checkout))
    added = {(d["kind"], d["metadata"]["name"]) for d in monitored if d not in rendered}
    assert added == {("PodMonitor", "ray"), ("NetworkPolicy", "metrics"), ("ConfigMap", "resnet-dist-dashboard")}


def test_storage_is_checked_and_the_plan_printed(checkout: Path) -> None:
    assert "15 trials" in _execute(RUN[1], checkout)


def test_data_are_put_into_storage(checkout: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("IMAGES", f"folder:{write_directory(checkout / 'images', image_tree())}")
    assert "are now in" in _execute(RUN[2], checkout)


def test_what_is_in_storage_is_told_and_reported(checkout: Path) -> None:
    experiment = load_experiment("model-size")
    storage, planned = record_experiment(checkout, experiment, seeds=1)
    record_result(storage, experiment.name, planned[0], 0.08)
    Path(storage.uri).rename(checkout / "results")
    told = _execute(RUN[3], checkout)
    assert "1 finished" in told and "4 missing" in told
    assert "8.00" in _execute(RUN[4], checkout)
    assert (checkout / "results" / "model-size" / "report" / "report.html").is_file()
    assert len((checkout / "trials.csv").read_text().splitlines()) == 1 + 5


def test_every_metric_is_in_the_guide() -> None:
    named = set(re.findall(r"`ray_(resnet_dist_\w+)`", GUIDE.read_text()))
    assert named == set(GAUGES) | {f"{name}_total" for name in COUNTERS}


def test_what_is_named_exists() -> None:
    text = GUIDE.read_text()
    for path in set(re.findall(r"`((?:k8s|tests|docs)/[\w./-]+)`", text)):
        assert (ROOT / path).exists(), path
    for overlay in re.findall(r"k8s/overlays/(\w+)", text):
        assert overlay in [*OVERLAYS, "mine"], overlay


def test_versions_agree_with_the_project() -> None:
    text = GUIDE.read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    ray = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert ray and f"Ray {ray.group(1)}" in text
    assert set(re.findall(r"\d+\.\d+\.\d+-ray\d+\.\d+\.\d+", text)) == {f"{version}-ray{ray.group(1)}"}
    assert set(re.findall(r"-ray(\S+?)-c", (ROOT / "Dockerfile").read_text())) == {ray.group(1)}
    assert f"Kubernetes {KUBERNETES[0]} to {KUBERNETES[1]}" in text
    assert len(set(re.findall(r"(?:--version |ref=v|KubeRay )(\d+\.\d+\.\d+)", text))) == 1

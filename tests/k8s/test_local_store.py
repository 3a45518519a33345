"""The store of the overlay `local`, run with the manifest's own arguments: its Job makes the bucket that runs use."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.storage.opening import open_storage
from tests.k8s.rendering import Document, the

Rendered = Callable[[str], list[Document]]


def test_the_job_makes_the_bucket_that_the_storage_is_in(
    rendered: Rendered, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    documents = rendered("local")
    settings = the(documents, "ConfigMap", "resnet-dist-settings")["data"]
    (store,) = the(documents, "Deployment", "store")["spec"]["template"]["spec"]["containers"]
    (maker,) = the(documents, "Job", "make-bucket")["spec"]["template"]["spec"]["containers"]
    (port,) = the(documents, "Service", "store")["spec"]["ports"]
    assert settings["AWS_ENDPOINT_URL"] == f"http://store:{port['port']}"
    assert str(store["ports"][0]["containerPort"]) in store["args"]

    replaced = {"0.0.0.0": "127.0.0.1", str(store["ports"][0]["containerPort"]): "0"}  # any port that is free
    arguments = [replaced.get(word, word) for word in store["args"]]
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RESNET_DIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    with subprocess.Popen(
        [str(Path(sys.executable).parent / "moto_server"), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stderr
            said = (re.search(r"Running on http://127\.0\.0\.1:(\d+)", line) for line in server.stderr)
            number = next(found[1] for found in said if found)
            # By name, as in the cluster: stores that are reached by address take buckets as paths in any case.
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://localhost:{number}")
            assert maker["command"][0] == "python"
            for _ in range(2):  # applying the overlay once more makes no difference
                subprocess.run([sys.executable, *maker["command"][1:]], check=True)
            storage = open_storage(settings["RESNET_DIST_STORAGE"])
            storage.check_writable()
            storage.put("trials/a", b"1")
            assert storage.get("trials/a") == b"1"
        finally:
            server.terminate()

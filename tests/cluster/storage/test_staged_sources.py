"""Data sources of the user's own: what they read is watched, and what is staged of them is used."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.ray_cluster.preflight import data_is_reachable
from cluster.storage.local import LocalStorage
from resnet_dist import custom_code
from resnet_dist.configuration.data import DataConfig
from resnet_dist.data.dataset import dataset_fingerprint, load_dataset, load_source
from resnet_dist.data.staged import bring, stage
from resnet_dist.errors import DataError, UserError
from tune_jobs.command_line import main

SOURCE = DataConfig(source="mine:faces", batch_size=2)


def text_of(file: Path, inputs: str = "") -> str:
    """A source that reads a file of arrays, and counts its calls beside it."""
    return (
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from resnet_dist.extension import DecodedImages\n"
        "def faces():\n"
        f"    with Path({str(file.with_name('calls'))!r}).open('a') as calls:\n"
        "        calls.write('.')\n"
        f"    images = np.load({str(file)!r})\n"
        "    labels = np.arange(len(images)) % 2\n"
        "    return DecodedImages(images, labels, images, labels, classes=('a', 'b'))\n"
        f"{inputs}"
    )


def write_images(file: Path, seed: int) -> None:
    file.parent.mkdir(exist_ok=True)
    np.save(file, np.random.default_rng(seed).integers(0, 255, (6, 3, 32, 32), dtype=np.uint8))


@pytest.fixture
def file(tmp_path: Path, cache: Path) -> Path:
    """What the source reads; the source is installed."""
    file = tmp_path / "faces" / "faces.npy"
    write_images(file, 1)
    custom_code.install({"mine.py": text_of(file)})
    return file


def calls(file: Path) -> int:
    return len(file.with_name("calls").read_text()) if file.with_name("calls").exists() else 0


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "results")


def test_a_file_that_a_source_reads_unsaid_is_noticed_when_it_changes(file: Path) -> None:
    before = dataset_fingerprint(SOURCE)
    dates = file.stat()
    write_images(file, 2)
    os.utime(file, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    after = dataset_fingerprint(SOURCE)
    assert after != before and calls(file) == 4, "new images are asked for twice"
    assert dataset_fingerprint(SOURCE) == after and calls(file) == 5
    assert load_source(replace(SOURCE, fingerprint=after)).fingerprint == after and calls(file) == 5
    assert load_source(replace(SOURCE, fingerprint=before)).fingerprint == before, "both are in the cache"


@pytest.mark.parametrize("said", ["file", "folder"])
def test_a_source_that_says_what_it_reads_is_called_only_when_that_changes(file: Path, said: str) -> None:
    inputs = [str(file if said == "file" else file.parent / "parts")]
    (file.parent / "parts").mkdir()
    (file.parent / "parts/one").write_text("1")
    custom_code.install({"mine.py": text_of(file, f"faces.inputs = {inputs}\n")})
    before = dataset_fingerprint(SOURCE)
    assert dataset_fingerprint(SOURCE) == before and calls(file) == 2
    write_images(file, 2)
    if said == "folder":
        assert dataset_fingerprint(SOURCE) == before and calls(file) == 2
        (file.parent / "parts/two").write_text("2")
    assert dataset_fingerprint(SOURCE) != before and calls(file) == 4


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ("'faces.npy'", "inputs must be a list of paths, not 'faces.npy'"),
        ("['/nowhere/x']", "/nowhere/x cannot be read"),
    ],
)
def test_wrong_inputs_are_one_line(file: Path, inputs: str, says: str) -> None:
    custom_code.install({"mine.py": text_of(file, f"faces.inputs = {inputs}\n")})
    with pytest.raises(DataError, match=says):
        load_dataset(SOURCE)


@pytest.mark.parametrize("inputs", ["", "faces.inputs = [{file!r}]\n"])
def test_a_host_without_the_files_uses_what_is_staged(
    file: Path, storage: LocalStorage, tmp_path: Path, inputs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    custom_code.install({"mine.py": text_of(file, inputs.format(file=str(file)))})
    original = load_source(SOURCE)
    assert stage(SOURCE, original, storage)
    file.unlink()
    monkeypatch.setenv("RESNET_DIST_CACHE", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match=r"faces\.npy"):
        load_source(SOURCE)
    assert data_is_reachable(SOURCE, storage)
    bound = replace(SOURCE, fingerprint=original.fingerprint)  # as a launch has it for its workers
    for data in (SOURCE, bound):
        brought = bring(data, storage)
        assert brought == bound and load_source(brought).fingerprint == original.fingerprint
        shutil.rmtree(tmp_path / "elsewhere")


def test_a_worker_takes_what_is_staged_and_does_not_call_the_source(
    file: Path, storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_source(SOURCE)
    stage(SOURCE, found, storage)
    monkeypatch.setenv("RESNET_DIST_CACHE", str(tmp_path / "elsewhere"))
    bound = replace(SOURCE, fingerprint=found.fingerprint)
    assert load_source(bring(bound, storage)).fingerprint == found.fingerprint and calls(file) == 2


def test_while_the_source_can_be_called_it_decides_and_not_what_was_staged(file: Path, storage: LocalStorage) -> None:
    stage(SOURCE, load_source(SOURCE), storage)
    write_images(file, 2)
    assert bring(SOURCE, storage).fingerprint == dataset_fingerprint(SOURCE)


def test_images_staged_of_another_text_are_not_this_texts(file: Path, storage: LocalStorage, tmp_path: Path) -> None:
    stage(SOURCE, load_source(SOURCE), storage)
    custom_code.install({"mine.py": text_of(tmp_path / "nowhere.npy")})
    assert bring(SOURCE, storage) == SOURCE
    with pytest.raises(DataError, match="needs its images staged"):
        load_source(SOURCE)


def test_staging_again_after_a_change_of_the_text_stores_the_new_images(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command, module = ["data", "stage", "mine:faces", str(tmp_path / "results")], tmp_path / "mine.py"
    custom_code.install({})
    said = []
    for text in (text_of(file), text_of(file), text_of(file).replace("np.load(", "255 - np.load(")):
        module.write_text(text)
        assert main(command) == 0
        said.append(capsys.readouterr().out)
    assert "are now in" in said[0] and "were already in" in said[1] and "are now in" in said[2]
    assert load_source(SOURCE).fingerprint in said[2]
    assert len([path for path in (tmp_path / "results/.data").iterdir() if path.name != "sources"]) == 2


@pytest.mark.parametrize("inputs", ["", "faces.inputs = []\n"])
def test_a_source_that_gives_other_images_at_each_call_is_refused(file: Path, inputs: str) -> None:
    drawn = "np.random.default_rng().integers(0, 9, (6, 3, 32, 32)).astype(np.uint8)"
    text = text_of(file, inputs).replace(f"np.load({str(file)!r})", drawn)
    custom_code.install({"mine.py": text})
    with pytest.raises(DataError, match="gives other images at each call; draw them from"):
        load_dataset(SOURCE)


@pytest.mark.parametrize("classes", ["(0, 1)", "('a', 'a')", "('a',)", "'ab'", "None"])
def test_classes_of_a_source_are_different_names(file: Path, classes: str) -> None:
    custom_code.install({"mine.py": text_of(file).replace("classes=('a', 'b')", f"classes={classes}")})
    with pytest.raises(DataError, match="they must be two or more different names"):
        load_dataset(SOURCE)


def test_a_list_of_classes_is_as_good_as_a_tuple(file: Path) -> None:
    expected = dataset_fingerprint(SOURCE)
    custom_code.install({"mine.py": text_of(file).replace("classes=('a', 'b')", "classes=['a', 'b']")})
    assert dataset_fingerprint(SOURCE) == expected and load_dataset(SOURCE).classes == ("a", "b")


@pytest.mark.parametrize("place", ["def faces():\n", "import numpy as np\n"])
def test_a_source_that_ends_the_program_is_one_line(file: Path, place: str) -> None:
    indent = "    " if place.startswith("def") else ""
    custom_code.install({"mine.py": text_of(file).replace(place, f"{place}{indent}raise SystemExit(3)\n")})
    with pytest.raises(UserError, match="SystemExit: 3"):
        load_dataset(SOURCE)

"""What a job uploads: code alone, with the commit and the patch that it is."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from cluster.ray_cluster.upload import LIMIT, pack
from resnet_dist.errors import UserError
from resnet_dist.records.git_state import source_state


def git(directory: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, "-C", str(directory), *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a package, an ignore file, and all that does not belong into an upload."""
    root = tmp_path / "checkout"
    (root / "resnet_dist").mkdir(parents=True)
    (root / "resnet_dist" / "workers.py").write_text("first = 1\n")
    (root / "mine.toml").write_text("name = 'mine'\n")
    (root / ".gitignore").write_text("*.pyc\nresnet_dist/_build.*\n/ignored/\n/results/\n.venv/\n")
    git(tmp_path, "init", "-q", str(root))
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    for name in (".venv/lib/torch.py", "results/trial/model.pt", "ignored/notes", "cache.pyc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"0" * 100)
    return root


def uploaded(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_an_upload_is_the_code_and_its_commit(checkout: Path, tmp_path: Path) -> None:
    into = tmp_path / "upload"
    package = pack(checkout, into)
    assert uploaded(into) == {"mine.toml", "resnet_dist/workers.py", "resnet_dist/_build.json"}
    assert (
        package.names == ("mine.toml", "resnet_dist/workers.py")
        and not package.dirty
        and package.commit == source_state(checkout / "resnet_dist").commit
    )
    state = source_state(into / "resnet_dist")
    assert (state.commit, state.dirty, state.origin, state.patch) == (package.commit, False, "build", b"")


@pytest.mark.parametrize("is_git", [True, False])
def test_results_are_not_uploaded_wherever_they_lie(checkout: Path, tmp_path: Path, is_git: bool) -> None:
    if not is_git:
        shutil.rmtree(checkout / ".git")
        (checkout / "cache.pyc").unlink()
    for name in ("first try/demo/experiment.json", "first try/demo/trials/0/model.pt", "0123456789abcdef.zip"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(b"0" * 100)
    pack(checkout, tmp_path / "upload")
    assert not any(name.startswith("first") or name.endswith(".zip") for name in uploaded(tmp_path / "upload"))


def test_changes_travel_as_a_patch_that_gives_the_code_back(checkout: Path, tmp_path: Path) -> None:
    (checkout / "resnet_dist" / "workers.py").write_text("first = 2\n")
    (checkout / "new.py").write_text("fresh = True\n")
    (checkout / "data").mkdir()
    (checkout / "data" / "images.bin").write_bytes(b"0")  # data are no code, whether git ignores them or not
    into = tmp_path / "upload"
    assert pack(checkout, into).dirty
    assert (into / "new.py").exists() and not (into / "data").exists()
    there, here = source_state(into / "resnet_dist"), source_state(checkout / "resnet_dist")
    assert there.dirty and there.patch == here.patch and there.commit == here.commit
    git(checkout, "stash", "-u")
    (tmp_path / "source.patch").write_bytes(there.patch)
    git(checkout, "apply", str(tmp_path / "source.patch"))
    assert (checkout / "resnet_dist" / "workers.py").read_text() == "first = 2\n"
    assert (checkout / "new.py").read_text() == "fresh = True\n"


def test_a_hooks_variables_do_not_make_another_repository_of_it(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "-q", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    pack(checkout, tmp_path / "upload")
    assert uploaded(tmp_path / "upload") == {
        "mine.toml",
        "resnet_dist/workers.py",
        "resnet_dist/_build.json",
    }


def test_what_looks_like_a_credential_stays_here_and_is_named(checkout: Path, tmp_path: Path) -> None:
    (checkout / ".env").write_text("AWS_SECRET_ACCESS_KEY=x\n")
    into = tmp_path / "upload"
    package = pack(checkout, into)
    assert package.left_out == (".env (its name is one for credentials)",)
    assert ".env" not in uploaded(into)
    left_out = json.loads((into / "resnet_dist" / "_build.json").read_text())["left_out"]
    assert left_out == list(source_state(into / "resnet_dist").left_out) and ".env" in left_out[0]


def test_a_stale_patch_of_an_earlier_upload_says_nothing_of_a_clean_one(checkout: Path, tmp_path: Path) -> None:
    into = tmp_path / "upload"
    pack(checkout, into)
    (into / "resnet_dist" / "_build.patch").write_text("stale")
    assert source_state(into / "resnet_dist").patch == b""


def test_a_folder_outside_any_checkout_is_uploaded_without_its_data(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    for name in (
        "resnet_dist/workers.py",
        "own.toml",
        "data/images.bin",
        ".venv/x",
        "results/y",
        "a/__pycache__/z",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    into = tmp_path / "upload"
    assert pack(folder, into).commit is None
    assert uploaded(into) == {"resnet_dist/workers.py", "own.toml"}


def test_a_folder_of_ones_own_is_uploaded_without_its_images_and_with_this_program(tmp_path: Path) -> None:
    folder, into = tmp_path / "study", tmp_path / "upload"
    for name in ("my.toml", "my_parts.py", "faces/train/a/0.png", "faces/test/a/0.png", "faces/read.me", "old.tar.xz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    package = pack(folder, into)
    assert package.names == ("faces/read.me", "my.toml", "my_parts.py") and package.added
    reason = "images, arrays or archives, and this is no git checkout: data are staged (data stage)"
    assert package.left_out == (f"2 files in faces ({reason})", f"1 file in old.tar.xz ({reason})")
    there = uploaded(into)
    assert {"resnet_dist/__main__.py", "tune_jobs/schemas/result.json", "cluster/__init__.py"} <= there
    assert not any("__pycache__" in name for name in there)
    here, state = source_state(Path(__file__).parents[3] / "resnet_dist"), source_state(into / "resnet_dist")
    assert (state.commit, state.patch) == (here.commit, here.patch) and package.commit == here.commit
    assert package.bytes == sum((into / name).stat().st_size for name in there)


def test_an_upload_that_is_too_large_names_the_largest_files(checkout: Path, tmp_path: Path) -> None:
    (checkout / "weights.bin").write_bytes(b"0" * 3_000_000)
    with pytest.raises(UserError, match=r"weights\.bin \(2\.9 MiB\)") as refused:
        pack(checkout, tmp_path / "upload", limit=2_000_000)
    assert "\n" not in str(refused.value)


def test_this_repository_is_far_below_rays_limit(tmp_path: Path) -> None:
    package = pack(Path(__file__).parents[3], tmp_path / "upload")
    assert "resnet_dist/workers.py" in package.names and not package.added, "it is the whole of it"
    assert package.bytes < LIMIT / 4 < 100 * 2**20


def test_a_working_directory_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no directory"):
        pack(tmp_path / "nowhere", tmp_path / "upload")


def _write(root: Path, *names: str, text: str = "x = 1\n") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def _repository(root: Path, *names: str) -> Path:
    _write(root, *names)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


def _add_submodule(checkout: Path, source: Path, name: str) -> None:
    git(checkout, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(source), name)
    git(checkout, "commit", "-qm", f"add {name}")


def test_code_in_a_submodule_travels_with_what_is_new_in_it(checkout: Path, tmp_path: Path) -> None:
    inner = _repository(tmp_path / "inner", "deepest.py")
    library = _repository(tmp_path / "library", "nets/wide.py", "notes.bin")
    _add_submodule(library, inner, "inner")
    _add_submodule(checkout, library, "library")
    git(checkout, "-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init", "--recursive")
    (checkout / "library" / "nets" / "new.py").write_text("y = 2\n")
    package = pack(checkout, tmp_path / "upload")
    there = {"library/nets/wide.py", "library/nets/new.py", "library/notes.bin", "library/inner/deepest.py"}
    assert there <= set(package.names) and there <= uploaded(tmp_path / "upload")
    assert package.left_out == ()
    assert not [name for name in uploaded(tmp_path / "upload") if ".git/" in name]


def test_a_submodule_that_is_not_checked_out_is_named(checkout: Path, tmp_path: Path) -> None:
    _add_submodule(checkout, _repository(tmp_path / "library", "wide.py"), "library")
    git(checkout, "submodule", "--quiet", "deinit", "--force", "library")
    package = pack(checkout, tmp_path / "upload")
    assert package.left_out == ("library (a submodule that is not checked out: git submodule update --init)",)


def test_a_checkout_inside_the_checkout_travels_too(checkout: Path, tmp_path: Path) -> None:
    _repository(checkout / "nested", "parts.py")
    (checkout / "nested" / "new.py").write_text("y = 2\n")
    assert {"nested/parts.py", "nested/new.py"} <= set(pack(checkout, tmp_path / "upload").names)


@pytest.mark.parametrize("is_git", [True, False])
def test_a_link_to_a_folder_brings_what_is_in_it(checkout: Path, tmp_path: Path, is_git: bool) -> None:
    _write(tmp_path / "shared", "lib/blocks.py", "lib/pictures/0.png")
    (checkout / "lib").symlink_to(tmp_path / "shared" / "lib")
    (checkout / "alias").symlink_to("resnet_dist")
    (checkout / "round").symlink_to("..")
    (checkout / "gone").symlink_to("nowhere")
    if not is_git:
        shutil.rmtree(checkout / ".git")
        (checkout / "cache.pyc").unlink()
    package = pack(checkout, tmp_path / "upload")
    there = uploaded(tmp_path / "upload")
    assert {"lib/blocks.py", "alias/workers.py"} <= set(package.names) and "lib/blocks.py" in there
    reason = "images, arrays or archives, and this is no git checkout: data are staged (data stage)"
    assert set(package.left_out) == {
        f"1 file in lib/pictures ({reason})",
        "round (a link to a folder that it lies in)",
        "gone (a link to nothing)",
    }
    assert not any(name.startswith("round") for name in there)


def test_what_git_lfs_has_not_fetched_is_named(checkout: Path, tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
    _write(checkout, "tables.bin", text=pointer)
    git(checkout, "add", "tables.bin")
    package = pack(checkout, tmp_path / "upload")
    assert package.left_out == ("tables.bin (git-lfs has not fetched it: git lfs pull)",)
    assert "tables.bin" not in uploaded(tmp_path / "upload")


def test_code_that_git_ignores_or_takes_for_data_is_named(checkout: Path, tmp_path: Path) -> None:
    with (checkout / ".gitignore").open("a") as ignored:
        ignored.write("local_settings.py\n/generated/\n*.log\n")
    git(checkout, "commit", "-qam", "ignore")
    _write(checkout, "local_settings.py", "generated/a.py", "generated/deep/b.so", "run.log", "nets/data/crops.py")
    _write(checkout, ".venv/lib/other.py", "resnet_dist/_build.json", "node_modules/x.json", ".cache/y.json")
    package = pack(checkout, tmp_path / "upload")
    unknown = "git does not know them, and a folder of that name is taken for data or results; git add sends them"
    ignored_reason = "git ignores it; git add --force has it sent"
    assert package.left_out == (
        f"1 file in nets/data ({unknown})",
        f"2 files in generated ({ignored_reason})",
        f"local_settings.py ({ignored_reason})",
    )


def test_what_a_sparse_checkout_leaves_out_is_not_missed(checkout: Path, tmp_path: Path) -> None:
    _write(checkout, "old/parts.py")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "old")
    git(checkout, "sparse-checkout", "set", "--no-cone", "/*", "!/old/")
    assert not (checkout / "old").exists()
    package = pack(checkout, tmp_path / "upload")
    assert "old/parts.py" not in package.names and package.left_out == () and not package.dirty


def test_a_checkout_of_this_program_below_another_name_is_not_this_program(checkout: Path, tmp_path: Path) -> None:
    _repository(tmp_path / "fork", "resnet_dist/workers.py", "tune_jobs/__main__.py")
    outer = _repository(tmp_path / "outer", "mine.toml")
    _add_submodule(outer, tmp_path / "fork", "resnet_dist")
    package = pack(outer, tmp_path / "upload")
    assert package.added and "tune_jobs/__main__.py" in uploaded(tmp_path / "upload")

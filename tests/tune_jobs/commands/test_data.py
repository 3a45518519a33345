"""`data shard` as a user gives it: a source that is none leaves nothing behind."""

from pathlib import Path

import pytest

from tests.imagenet_layout import write_imagenet
from tune_jobs.command_line import main


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("imagenet:{}/nowhere", "imagenet: there is no directory at"),
        ("folder:{}/nowhere", "/nowhere"),
        ("imagenet:{}/cut", "is cut off"),
        ("cifar10", "SOURCE: 'cifar10' is not allowed; give imagenet:PATH or folder:PATH"),
    ],
)
def test_what_is_no_source_is_said_in_a_line_and_leaves_nothing(
    source: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = write_imagenet(tmp_path / "cut", classes=2, train=1, val=1) / "ILSVRC2012_img_train.tar"
    archive.write_bytes(archive.read_bytes()[:-12_000])
    assert main(["data", "shard", source.format(tmp_path), str(tmp_path / "dest")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and not (tmp_path / "dest").exists()

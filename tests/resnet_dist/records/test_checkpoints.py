"""A checkpoint is complete or absent; a damaged one is named and passed over; none can run code."""

import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.storage.local import LocalStorage
from resnet_dist.errors import CheckpointError
from resnet_dist.records.checkpoints import Checkpoints, decode, encode
from tests.small_runs import small_config

PREFIX = "experiment/trials/0/checkpoints/"
IDENTITY = small_config().identity()


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.arange(1000.0) + step, "options": {"names": ["a"], "rate": 0.1}}


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoints:
    """Three checkpoints have been written, of which the newer two are kept."""
    checkpoints = Checkpoints(LocalStorage(tmp_path), PREFIX, IDENTITY)
    for step in (2, 4, 6):
        checkpoints.write(step, encode(state(step)))
    assert checkpoints.complete() == [6, 4]
    return checkpoints


def latest_step(checkpoints: Checkpoints) -> int | None:
    found = checkpoints.latest()
    return None if found is None else int(decode(found.data)["step"])


def test_the_newest_is_taken_and_is_what_was_written(kept: Checkpoints) -> None:
    newest = kept.latest()
    assert newest is not None and newest.metrics == []
    found = decode(newest.data)
    assert torch.equal(found.pop("weights"), torch.arange(1000.0) + 6)
    assert found == {"step": 6, "options": {"names": ["a"], "rate": 0.1}}


def test_metrics_lines_come_back_with_their_checkpoint(kept: Checkpoints) -> None:
    lines = [{"epoch": 1, "top1_error": 1 / 3}, {"epoch": 2, "top1_error": 0.1}]
    kept.write(8, encode(state(8)), lines)
    newest = kept.latest()
    assert newest is not None and newest.metrics == lines


def test_one_that_is_deleted_is_absent_from_the_first_deletion_on(
    kept: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[str] = []
    monkeypatch.setattr(kept.storage, "delete", deleted.append)
    kept.write(8, encode(state(8)))
    kept.delete_all()
    names = [key.removeprefix(PREFIX) for key in deleted]
    expected = [f"{step:010d}/{name}" for step in (4, 8, 6) for name in ("manifest.json", "state.pt")]
    assert names == expected


def test_a_flipped_bit_changes_no_state_unnoticed() -> None:
    data = encode(state(6))
    noticed = 0
    for position in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        try:
            found = decode(bytes(damaged))
        except Exception:  # of many kinds, where the archive itself is damaged
            noticed += 1
        else:
            assert torch.equal(found.pop("weights"), torch.arange(1000.0) + 6), position
            assert found == {"step": 6, "options": {"names": ["a"], "rate": 0.1}}, position
    assert noticed > 4000 / 7, "each bit of the weights' 4,000 bytes counts"


def bit_flipped(data: bytes) -> bytes:
    return data[:700] + bytes([data[700] ^ 1]) + data[701:]


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "state cut short": ("state.pt", lambda data: data[:-1]),
    "one bit of the state flipped": ("state.pt", bit_flipped),
    "state empty": ("state.pt", lambda data: b""),
    "state of another step": ("state.pt", lambda data: encode(state(4))),
    "manifest cut short": ("manifest.json", lambda data: data[:-10]),
    "manifest empty": ("manifest.json", lambda data: b""),
    "manifest not text": ("manifest.json", lambda data: b"\xff\xfe\x00"),
    "manifest a list": ("manifest.json", lambda data: b"[]"),
    "manifest without identity": ("manifest.json", lambda data: data.replace(b'"identity"', b'"other"')),
    "manifest with an impossible identity": ("manifest.json", lambda data: b'{"sha256": "", "identity": 3}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_is_named_in_one_line_and_the_one_before_it_used(
    damage: str, kept: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    part, change = DAMAGES[damage]
    key = f"{PREFIX}0000000006/{part}"
    data = kept.storage.get(key)
    assert data is not None and change(data) != data
    kept.storage.put(key, change(data))
    assert latest_step(kept) == 4
    (record,) = caplog.records
    assert f"{PREFIX}0000000006/ is damaged" in record.getMessage() and "\n" not in record.getMessage()
    assert record.exc_info is None


def test_a_missing_state_is_named_and_the_one_before_it_used(
    kept: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    kept.storage.delete(f"{PREFIX}0000000006/state.pt")
    assert latest_step(kept) == 4
    assert "0000000006/ is damaged (its state is missing)" in caplog.text


def test_a_checkpoint_without_its_manifest_does_not_exist(kept: Checkpoints, caplog: pytest.LogCaptureFixture) -> None:
    kept.storage.delete(f"{PREFIX}0000000006/manifest.json")
    assert kept.complete() == [4]
    assert latest_step(kept) == 4
    assert not caplog.records


def test_with_all_damaged_there_is_none(kept: Checkpoints, caplog: pytest.LogCaptureFixture) -> None:
    for step in (4, 6):
        kept.storage.put(f"{PREFIX}{step:010d}/state.pt", b"")
    assert kept.latest() is None
    assert len(caplog.records) == 2


def test_a_sound_one_is_kept_beside_damaged_ones_that_lie_ahead(kept: Checkpoints) -> None:
    kept.storage.put(f"{PREFIX}0000000006/state.pt", b"damaged")
    assert latest_step(kept) == 4
    kept.write(5, encode(state(5)))  # the run goes on, with other steps between its checkpoints
    assert kept.complete() == [5, 4]


def test_what_does_not_follow_the_form_is_no_checkpoint(kept: Checkpoints) -> None:
    for name in ("best/manifest.json", "manifest.json", "0000000009/more/manifest.json"):
        kept.storage.put(PREFIX + name, b"{}")
    assert kept.complete() == [6, 4]


class Bomb:
    """Makes a directory when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("content", ["code", "a list"])
def test_a_forged_state_is_refused_and_its_code_not_run(
    content: str, kept: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exploded = tmp_path / "exploded"
    buffer = io.BytesIO()
    torch.save({"step": 6, "bomb": Bomb(exploded)} if content == "code" else [6], buffer)
    data = buffer.getvalue()
    manifest = {"step": 6, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "identity": IDENTITY}
    kept.storage.put(f"{PREFIX}0000000006/state.pt", data)
    kept.storage.put(f"{PREFIX}0000000006/manifest.json", json.dumps(manifest).encode())
    assert latest_step(kept) == 4
    assert not exploded.exists()
    assert "something other than tensors and plain values" in caplog.text
    if content == "code":  # it is a bomb
        torch.load(io.BytesIO(data), weights_only=False)
        assert exploded.exists()


def test_one_of_another_configuration_is_refused_with_what_differs(kept: Checkpoints) -> None:
    changed = {"solver__learning_rate": 0.05, "data__batch_size": 8}
    other = Checkpoints(kept.storage, PREFIX, small_config(**changed).identity())
    with pytest.raises(CheckpointError, match=r"another configuration: data\.batch_size, solver\.learning_rate differ"):
        other.latest()


def test_deleting_all_leaves_nothing_not_even_states_without_manifest(kept: Checkpoints) -> None:
    kept.storage.put(f"{PREFIX}0000000008/state.pt", b"half")
    Checkpoints(kept.storage, PREFIX, IDENTITY).delete_all()
    assert kept.storage.list(PREFIX) == []

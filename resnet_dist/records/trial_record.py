"""A trial's records as bytes, and back: one place for who writes them and for who takes them for true.

`result.json` is complete in itself. It holds the metrics line of each epoch, the provenance, and size and SHA-256 of
the trial's other files; it is written once and last. A request to storage that was given up may still take effect
later, over something newer. For `result.json` that is a repetition, the same bytes; where it puts an older
`metrics.jsonl` or `model.pt` in place, the numbers stand in the result all the same, and the file does not have its
digest.
"""

import base64
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from resnet_dist.errors import StorageError
from resnet_dist.storage.interface import LAYOUT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PARTS = ("provenance", "files", "metrics")
"""What makes a result complete; records of earlier versions lack it, and are read together with the other files."""


DIVERGED = "a loss of its last epoch is not finite; a lower solver.learning_rate may help"
"""Why a trial has failed to which an earlier version has given a result, or lines up to the last epoch."""


def encode(record: Mapping[str, Any]) -> bytes:
    """A record as its file has it."""
    return (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()


def encode_metrics(lines: Iterable[Mapping[str, Any]]) -> bytes:
    """`metrics.jsonl`."""
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()


def parse(data: bytes) -> dict[str, Any]:
    """A record. Raises a `ValueError` if it is none."""
    value = _loads(data)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _loads(data: bytes) -> Any:
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_metrics(data: bytes) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, in order of epochs. Raises a `ValueError`, `KeyError` or `TypeError`."""
    # In one go: line by line it takes half as long again, and a large grid has a million of them.
    return _checked(_loads(b"[" + b",".join(line for line in data.splitlines() if line.strip()) + b"]"))


def encode_result(result: Mapping[str, Any]) -> bytes:
    """`result.json`, which ends with the SHA-256 of what stands before that."""
    said = encode(result).removesuffix(_END)
    return said + _DIGEST + _digest(said).encode() + b'"' + _END


_DIGEST, _END = b',\n "sha256": "', b"\n}\n"


def parse_result(data: bytes, trial_id: str) -> dict[str, Any]:
    """`result.json` of a trial, without its digest, which those of earlier versions lack.

    Raises a `ValueError`, `KeyError` or `TypeError` that says what is wrong with it.
    """
    result = parse(data)
    if "sha256" in result and result.pop("sha256") != _digest(data.rpartition(_DIGEST)[0]):
        raise ValueError("its SHA-256 is not the one that it was written with")
    if result["layout"] != LAYOUT:
        raise ValueError(f"storage layout {result['layout']!r}, this version reads {LAYOUT}")
    if result["trial"] != trial_id:
        raise ValueError(f"it belongs to trial {result['trial']}")
    if not 0 <= float(result["top1_error"]) <= 1:
        raise ValueError(f"top1_error {result['top1_error']!r} is not a fraction")
    if is_complete(result) and len(_checked(result["metrics"])) != result["epochs"]:
        raise ValueError(f"it has {len(result['metrics'])} lines of metrics for {result['epochs']} epochs")
    return result


def is_complete(result: Mapping[str, Any]) -> bool:
    """Whether a result has metrics, provenance and digests in it; those of earlier versions do not."""
    return all(part in result for part in PARTS)


def diverged(record: Mapping[str, Any]) -> bool:
    """Whether a result, or an epoch's line, has a loss that is not finite, as only earlier versions wrote them."""
    losses = (record[name] for name in ("train_loss", "test_loss") if name in record)
    return any(not isinstance(loss, int | float) or not math.isfinite(loss) for loss in losses)


def error_text(line: Mapping[str, Any], name: str = "top1_error") -> str:
    """An error of an epoch's line, with its unit; a dash if the epoch was not evaluated."""
    error = line.get(name)
    return f"{100 * error:.2f} %" if error is not None and math.isfinite(error) else "\N{EN DASH}"


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result's numbers, without what makes it complete."""
    return {name: value for name, value in result.items() if name not in PARTS}


def encode_mask(mask: "NDArray[np.bool_]") -> str:
    """Booleans [N] as text, a bit each, the first in the highest bit of the first byte."""
    import numpy as np

    return base64.b64encode(np.packbits(mask).tobytes()).decode()


def decode_mask(text: str, count: int) -> "NDArray[np.bool_]":
    """The booleans [count] of such a text. Raises a `ValueError` if it has not so many."""
    import numpy as np

    bits = np.unpackbits(np.frombuffer(base64.b64decode(text, validate=True), np.uint8))
    if not count <= len(bits) < count + 8:
        raise ValueError(f"{len(bits)} bits for {count} images")
    return bits[:count].astype(bool)


def describe_files(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of files by their names, as `files` of a result has them."""
    return {name: {"size": len(data), "sha256": _digest(data)} for name, data in sorted(files.items())}


def files_of_other_size(result: Mapping[str, Any], sizes: Mapping[str, int]) -> Iterator[str]:
    """Files that are missing from a listing of the trial, or have another size than those of its result."""
    return (name for name, file in result.get("files", {}).items() if sizes.get(name) != file["size"])


def is_the_results(result: Mapping[str, Any], name: str, data: bytes | None) -> bool:
    """Whether a file is the one that the result was written with, as far as the result tells."""
    file = result.get("files", {}).get(name)
    return file is None or (data is not None and _digest(data) == file["sha256"])


def require_the_results(result: Mapping[str, Any], name: str, data: bytes | None, place: str) -> None:
    """Raise a `StorageError` unless a file, which lies at `place`, is the one that the result was written with."""
    if not is_the_results(result, name, data):
        raise StorageError(
            f"{place}: {'is missing' if data is None else 'is damaged or replaced'}: it is not the file whose SHA-256 "
            "result.json has; put that one back, or delete the trial's folder and run it again"
        )


def _checked(rows: Any) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no JSON object")
    epochs = [int(row["epoch"]) for row in rows]
    if any(a >= b for a, b in itertools.pairwise(epochs)):
        raise ValueError("its epochs are not in order")
    return rows


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

"""A trained network: a trial's, wherever it is stored, or that of a file."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.storage.opening import Place, open_storage
from tune_jobs.results.recorded_trial import find_trial

if TYPE_CHECKING:
    from resnet_dist.records.model_file import Model


def load_model(model: Place, storage: Place | None = None, *, run_code: bool = False) -> "Model":
    """A trained network, on the CPU, with its settings, class names, and the mean and deviation of its images.

    model: a trial's `model.pt`, or an archive that `resnet-dist export` made; with `storage`, a trial in it:
        `experiment/id`, or the beginning of an id.
    storage: a directory or `s3://bucket/prefix`.
    run_code: let code of the trial's author run that an archive holds, if the network is made by it.

    Raises a `UserError` of one line if there is no such model, or if it is not the file that the trial wrote.
    """
    from resnet_dist.records.model_file import read_model

    with model_file(model, storage) as path:
        return read_model(path, run_code)


@contextlib.contextmanager
def model_file(model: Place, storage: Place | None) -> Iterator[Path]:
    """The file of a model for the duration of the block: the one at this path, or a copy of a stored trial's."""
    if storage is None:
        yield Path(model)
        return
    trial = find_trial(open_storage(storage), str(model))
    with tempfile.TemporaryDirectory(prefix="resnet-dist-model-") as folder:
        path = Path(folder) / "model.pt"
        path.write_bytes(trial.require_sound_model())
        yield path

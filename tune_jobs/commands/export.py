"""`resnet-dist export TRIAL`: everything of a finished trial in one archive, the same bytes each time."""

import argparse
import hashlib
import io
import shlex
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.storage.opening import open_storage
from resnet_dist.errors import UserError
from resnet_dist.records.trial_record import encode, encode_metrics, is_complete
from resnet_dist.storage.interface import TrialKeys
from tune_jobs.commands.options import Parser, add_json, add_trial
from tune_jobs.commands.terminal import make_console
from tune_jobs.results.recorded_trial import RecordedTrial, find_trial

FORMATS = {"torchvision": ".pth", "safetensors": ".safetensors", "onnx": ".onnx"}
"""How the names of files end, by what `resnet_dist.records.model_formats` writes."""


def add_arguments(parser: Parser) -> None:
    """The options of `export`."""
    parser.examples = ("export train/ID --storage results", "export train/ID --storage results --format onnx")
    parser.description = (
        "Write one ZIP archive with a finished trial's weights, metrics, settings, provenance, patch and "
        "TensorBoard event files, and a README that says how to use them. The same trial gives the same bytes. With "
        "--format: the network alone, as other programs read it."
    )
    add_trial(parser)
    parser.add_argument("--output", metavar="FILE", help="file to write (default: ID.zip, or as --format has it)")
    parser.add_argument(
        "--format",
        choices=("archive", *FORMATS),
        default="archive",
        help="archive: everything (default); torchvision: a state dict for torchvision.models.resnet… (.pth); "
        "safetensors: weights by our names; onnx: a graph from raw images to logits",
    )
    parser.add_argument(
        "--run-code", action="store_true", help="run the code of the trial's author that its network is made by"
    )
    add_json(parser)
    parser.set_defaults(run=export_command)


def export_command(args: argparse.Namespace) -> int:
    """Write the archive and say where it is."""
    trial = find_trial(open_storage(args.storage), args.trial)
    archive = args.format == "archive"
    data = export(trial)
    if not archive:
        data = in_format(data, args.format, args.run_code)
    name = f"{trial.trial_id}{'.zip' if archive else FORMATS[args.format]}"
    target = Path(args.output or name)
    if target.is_dir():
        target /= name
    if target.exists() and not target.is_file():  # a device could be read for ever
        raise UserError(f"--output {target}: is a pipe, socket or device; give the name of a file")
    if archive and target.exists() and not zipfile.is_zipfile(target):
        raise UserError(f"--output {target}: is there already, and is no archive; give another name")
    try:
        target.write_bytes(data)
    except OSError as error:
        raise UserError(f"--output {target}: cannot be written: {error.strerror or error}") from error
    console = make_console(quiet=args.json)
    digest = hashlib.sha256(data).hexdigest()
    console.answers({"trial": trial.trial_id, "file": str(target), "bytes": len(data), "sha256": digest})
    console.say(f"{target}: trial {trial.trial_id} of {trial.experiment}, {len(data) / 1e6:.1f} MB")
    return 0


def export(trial: RecordedTrial) -> bytes:
    """A ZIP archive of a finished trial's records, weights and event files, with a README.

    Nothing in it depends on when or where it is made. Raises a `UserError` if the trial is not finished, and a
    `StorageError` if its weights are not those that were written.
    """
    if trial.result is None:
        raise UserError(f"{trial.trial_id} of {trial.experiment} is not finished, so there is nothing to export yet")
    trial.require_sound_model()
    keys = TrialKeys(trial.experiment, trial.trial_id)
    events = keys.event_file(trial.name, "").rpartition("/")[0] + "/"
    files = {"README.md": readme(trial, trial.result).encode()}
    for prefix, folder in ((keys.prefix, ""), (events, "tb/")):
        for item in trial.storage.list(prefix):
            name = item.key.removeprefix(prefix)
            data = trial.storage.get(item.key)
            if "/" not in name and data is not None:
                files[folder + name] = data
    if is_complete(trial.result):  # which a late write cannot replace
        files |= {"metrics.jsonl": encode_metrics(trial.metrics), "provenance.json": encode(trial.provenance)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # not compressed: versions of zlib differ in what they make
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{trial.trial_id}/{name}", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])
    return buffer.getvalue()


def in_format(archive: bytes, name: str, run_code: bool = False) -> bytes:
    """The network in an exported archive in one of `FORMATS`. Raises a `UserError` if it cannot be expressed in it."""
    from resnet_dist.records import model_formats
    from resnet_dist.records.model_file import read_model

    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "trial.zip"
        file.write_bytes(archive)
        model = read_model(file, run_code)
    written: bytes = getattr(model_formats, f"{name}_file")(model)
    return written


def readme(trial: RecordedTrial, result: dict[str, Any]) -> str:
    """What is in the archive, and how to use it."""
    config, provenance = trial.config, trial.provenance
    code = provenance.get("code", {}).get("modules", {})
    commit = provenance.get("commit") or "an unknown commit"
    what = f"{trial.trial_id}.zip --run-code" if code else "model.pt"
    changed = " with the changes in source.patch" if trial.patch is not None else ""
    return f"""# Trial {trial.trial_id}

{trial.experiment}: {trial.name}. A {config.network.family} network of {config.network.depth} layers, trained for
{result["epochs"]} epochs on {config.data.source} (fingerprint {provenance.get("data_fingerprint", "unknown")}), seed \
{config.run.seed}.

| after the last epoch | |
|---|---|
| test error | {100 * result["top1_error"]:.2f} % |
| top-5 test error | {100 * result["top5_error"]:.2f} % |
| training loss | {result["train_loss"]:.4f} |

Source code: resnet_dist at {commit}{changed}.

| file | content |
|---|---|
| `model.pt` | final weights, settings, class names, and the mean and deviation that standardise images |
| `metrics.jsonl` | loss and errors, a line an epoch |
| `result.json` | the numbers after the last epoch |
| `config.json` | the settings |
| `provenance.json`, `source*.patch` | commit, uncommitted changes, versions, machines, data |
| `tb/` | TensorBoard's event files: `tensorboard --logdir tb` |

Evaluate it, with resnet_dist installed:

    resnet-dist evaluate {what} --data.source {shlex.quote(config.data.source)}
{_of_code(code)}
Load it in Python (`classes` of them; images are uint8 [N, 3, {config.data.size}, {config.data.size}]):

    from pathlib import Path
    from resnet_dist.records.model_file import read_model

    model = read_model(Path("model.pt"))
    network = model.network.double().eval()
    logits = network((images.double() - model.mean) / model.std)

Without resnet_dist, `torch.load("model.pt", weights_only=True)` gives a dictionary: "network" holds weights by name,
"config" the settings, "mean" and "std" what standardises images.

Train it again: `resnet-dist train --storage results --config config.json`.
"""


def _of_code(modules: Mapping[str, str]) -> str:
    """What the README says of code of the user's own."""
    if not modules:
        return ""
    return f"""
That runs code of the trial's author, {", ".join(sorted(modules))}: its text is in `provenance.json`, to be read by
whoever did not write it. Without the archive around it, `model.pt` needs these files beside it.
"""

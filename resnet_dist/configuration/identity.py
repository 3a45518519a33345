"""What determines the numbers of a run, and the id of its trial, which is a hash of that."""

import hashlib
import json
from typing import Any

IDENTITY_VERSION = 1
"""Part of every hash. Raise it when a change of the code changes the numbers of the same configuration."""


# Settings that came after trials had been stored. At these values, which say what the code did without them, they are
# left out of the identity, so that those trials keep theirs.
ADDED: dict[str, Any] = {
    "solver.beta1": None,
    "solver.beta2": None,
    "data.size": 32,
    "data.resize": "none",
    "data.split": 0.0,
    "data.augmentation": "shift",
    "data.test_crops": "one",
    "data.colour": 0.0,
    "data.cutout": 0,
    "data.mixup": 0.0,
    "data.transform": "",
    "data.shuffle_block": 32,
    "data.shuffle_window": 4,
    "network.weights_fingerprint": "",
    "network.reset": "nothing",
    "solver.state_fingerprint": "",
    "network.block": "",
    "network.bottleneck_stride": "1x1",
    "network.zero_last_scale": False,
    "network.stem_and_head": "paper",
    "network.activation": "relu",
    "network.activation_batch_norm": "none",
    "network.local_response_norm": False,
    "network.fully_connected": 4096,
    "network.dropout": 0.0,
    "loss.kind": "cross_entropy",
    "loss.label_smoothing": 0.0,
    "solver.reference_batch": 0,
    "solver.gradient_clip": 0.0,
    "solver.average_decay": 0.0,
    "schedule.warmup_shape": "constant",
    "code.fingerprint": "",
    "run.seed_initialisation": None,
    "run.seed_order": None,
    "run.seed_augmentation": None,
}

# Settings that cannot change the numbers of a run, with the reason. Every other field is part of the hash.
NOT_IDENTITY: dict[str, str] = {
    "data.source": "where the images lie; the fingerprint of their content stands for them (see identity())",
    "network.weights": "where the weights lie; their fingerprint stands for them",
    "solver.state": "where the state lies; its fingerprint stands for it",
    "run.workers": "law 1: worker count does not change the result",
    "run.threads": "recorded in provenance; differs by rounding, as workers do",
    "run.device": "recorded in provenance; differs by rounding, as the hardware does",
    "data.decoding_threads": "they give the same pixels, in another order, to whoever waits for each",
    "run.cuda_graph": "a captured update has the bits of the eager one",
    "run.checkpoint_seconds": "law 2: an interruption does not change the result",
    "run.checkpoints": "law 2: an interruption does not change the result",
    "run.checkpoint_epochs": "law 2: an interruption does not change the result",
    "run.checkpoint_steps": "law 2: an interruption does not change the result",
    "run.evaluation_epochs": "an evaluation changes nothing that is trained",
    "run.summary_steps": "logging",
    "run.histogram_epochs": "logging: weights and gradients are looked at, and nothing is drawn or changed",
}


def identity_of(plain: dict[str, Any], identified_by_content: bool) -> dict[str, Any]:
    """Of a configuration's plain values, which are used up, those that determine the numbers of the run.

    Data `identified_by_content` are known by their fingerprint, which must have been filled in; others by their name.
    """
    if identified_by_content:
        assert plain["data"]["fingerprint"], "load the data before asking for the identity of a run on it"
    else:
        plain["data"]["fingerprint"] = plain["data"]["source"]
    for section, key in (("network", "weights"), ("solver", "state")):
        assert plain[section][f"{key}_fingerprint"] or not plain[section][key], f"bind {section}.{key} first"
    for name in NOT_IDENTITY:
        section, _, key = name.partition(".")
        del plain[section][key]
    if not plain["run"]["exact"]:
        del plain["run"]["virtual_shards"]
    for name, value in ADDED.items():
        section, _, key = name.partition(".")
        if plain[section][key] == value:
            del plain[section][key]
    for section in ("loss", "code"):
        if not plain[section]:
            del plain[section]
    if plain["schedule"]["kind"] != "step":
        del plain["schedule"]["milestones"], plain["schedule"]["gamma"]
    if not plain["schedule"]["warmup_iterations"]:
        del plain["schedule"]["warmup_learning_rate"]
        plain["schedule"].pop("warmup_shape", None)
    return {"version": IDENTITY_VERSION, **plain}


def hash_of(identity: dict[str, Any]) -> str:
    """16 hexadecimal digits, the same on every machine."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

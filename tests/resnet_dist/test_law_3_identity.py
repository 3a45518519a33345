"""Law 3, its foundation: a trial's identity is a hash of what determines its numbers.

The hash is the same across processes, machines, key order and number formatting. Every setting either changes it or
stands on a list of those that cannot change the numbers, with the reason.
"""

import json
import os
import random
import subprocess
import sys
import tomllib
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin

import pytest

from resnet_dist.configuration.identity import NOT_IDENTITY
from resnet_dist.configuration.sections import field_types
from resnet_dist.configuration.training import TrainingConfig

# A change here changes the identity of every trial in every storage: raise IDENTITY_VERSION with it, knowingly.
GOLDEN: dict[str, dict[str, Any]] = {
    "7f598b3a346486fd": {},
    "ac6b568eb78409ac": {
        "schedule.milestones": [80, 160]
    },  # the default of earlier versions, whose trials keep their ids
    "abb29d8006504d41": {
        "network.depth": 110,
        "network.batch_norm_position": "after",
        "network.relu_after_addition": False,
        "network.initialisation": "head",
        "data.source": "cifar10",
        "schedule.milestones": [80, 160],
        "schedule.warmup_iterations": 400,
        "run.seed": 2**63 - 1,
    },
    "439ce5c32a71aa7a": {
        "data.source": "folder:/data/images",
        "data.fingerprint": "0123456789abcdef",
        "data.sampling": "permutation",
        "data.holdout": 5000,
        "batch_norm.momentum": "dynamic",
        "solver.kind": "adadelta",
        "schedule.kind": "constant",
        "run.precision": "bfloat16",
    },
}

FOLDER = {"data.source": "folder:/images", "data.fingerprint": "0123456789abcdef"}

# What else has to be set for a setting to have an effect.
IMAGENET = {"network.family": "imagenet-residual", "network.depth": 50, "data.size": 224}
WEIGHTS = {"network.weights": "a.pt", "network.weights_fingerprint": "0123456789abcdef"}
STATE = {"solver.state": "a.pt", "solver.state_fingerprint": "0123456789abcdef"}
CAFFENET = {"network.family": "caffenet", "network.depth": 8, "data.size": 227}
CONTEXT: dict[str, dict[str, Any]] = {
    "schedule.warmup_shape": {"schedule.warmup_iterations": 400},
    "network.activation": CAFFENET,
    "network.activation_batch_norm": CAFFENET,
    "network.local_response_norm": CAFFENET,
    "network.fully_connected": CAFFENET,
    "network.dropout": CAFFENET,
    "network.weights": WEIGHTS,
    "network.weights_fingerprint": WEIGHTS,
    "network.reset": WEIGHTS,
    "solver.state": STATE,
    "solver.state_fingerprint": STATE,
    "network.bottleneck_stride": IMAGENET,
    "network.stem_and_head": IMAGENET,
    "data.source": FOLDER,
    "data.fingerprint": FOLDER,
    "data.resize": FOLDER,
    "data.augmentation": FOLDER | {"data.source": "shards:/images"},
    "data.test_crops": FOLDER | {"data.source": "shards:/images"},
    "data.split": FOLDER,
    "solver.alpha": {"solver.kind": "rmsprop"},
    "solver.rho": {"solver.kind": "adadelta"},
    "solver.eps": {"solver.kind": "adagrad"},
    "solver.beta1": {"solver.kind": "adam"},
    "solver.beta2": {"solver.kind": "adamw"},
    "schedule.warmup_learning_rate": {"schedule.warmup_iterations": 400},
    "run.virtual_shards": {"run.exact": True},
}

# Other values for settings of which no neighbouring value is another valid one.
OTHER: dict[str, list[Any]] = {
    "network.family": ["plain", "preactivation", "nets:wide", "nets:deep"],
    "network.block": ["blocks:one", "blocks:other"],
    "loss.kind": ["losses:one", "losses:other"],
    "data.transform": ["transforms:one", "transforms:other"],
    "solver.kind": ["rmsprop", "adagrad", "adadelta", "adam", "adamw"],
    "code.fingerprint": ["0123456789abcdef", "fedcba9876543210"],
    "network.depth": [8, 26],
    "network.width": [15, 17],
    "network.bottleneck_stride": ["3x3"],
    "network.weights": ["EXPERIMENT/0123"],
    "network.weights_fingerprint": ["fedcba9876543210"],
    "solver.state": ["EXPERIMENT/0123"],
    "solver.state_fingerprint": ["fedcba9876543210"],
    "network.stem_and_head": ["script"],
    "data.source": ["folder:/elsewhere.zip"],
    "data.fingerprint": ["fedcba9876543210"],
    "batch_norm.momentum": [0.0, 0.2, "dynamic"],
    "schedule.milestones": [[], [80], [80, 160], [80, 120, 180]],
    "run.virtual_shards": [1, 4, 16],
    "run.seed_initialisation": [0, 7],
    "run.seed_order": [0, 7],
    "run.seed_augmentation": [0, 7],
}

SECTIONS: dict[str, Any] = {item.name: type(getattr(TrainingConfig(), item.name)) for item in fields(TrainingConfig)}
FIELDS = {f"{section}.{name}": hint for section, of in SECTIONS.items() for name, hint in field_types(of).items()}


def base(name: str) -> TrainingConfig:
    return TrainingConfig().override(CONTEXT.get(name, {}))


def value(config: TrainingConfig, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key)


def other_values(name: str) -> list[Any]:
    """Valid values of a setting that differ from the one in `base(name)`."""
    if name in OTHER:
        return OTHER[name]
    hint, current = FIELDS[name], value(base(name), name)
    if get_origin(hint) is Literal:
        return [choice for choice in get_args(hint) if choice != current]
    if isinstance(current, bool):
        return [not current]
    if isinstance(current, int):
        return [current + 1]
    assert isinstance(current, float)
    # The smallest possible change, too.
    return [current / 2, current * (1 - 2**-52)] if current else [0.5]


def test_the_golden_hashes_stand() -> None:
    assert [TrainingConfig().override(settings).trial_id() for settings in GOLDEN.values()] == list(GOLDEN)


@pytest.mark.parametrize("name", FIELDS)
def test_a_setting_changes_the_hash_or_is_listed_with_a_reason(name: str) -> None:
    config = base(name)
    hashes = {config.trial_id()}
    for other in (others := other_values(name)):
        changed = config.override({name: other})
        assert value(changed, name) != value(config, name)
        hashes.add(changed.trial_id())
    assert others
    assert len(hashes) == (1 if name in NOT_IDENTITY else 1 + len(others))


def test_the_list_names_settings_and_reasons() -> None:
    assert NOT_IDENTITY.keys() <= FIELDS.keys()
    assert all(reason.strip() for reason in NOT_IDENTITY.values())


def test_built_in_and_downloaded_data_are_identified_by_name() -> None:
    configs = [TrainingConfig().override({"data.source": name}) for name in ("synthetic", "cifar10", "cifar100")]
    hashes = {config.trial_id() for config in configs}
    assert len(hashes) == 3
    # Loading them fills in the fingerprint, which must not make another trial of it.
    assert {config.with_fingerprint("0123456789abcdef").trial_id() for config in configs} == hashes


def test_a_folder_is_identified_by_its_content_alone() -> None:
    here, there = (
        TrainingConfig().override({"data.source": path}).with_fingerprint("0123456789abcdef")
        for path in ("folder:/here", "folder:/there.tar.xz")
    )
    assert here.trial_id() == there.trial_id() != here.with_fingerprint("fedcba9876543210").trial_id()


def test_a_folder_whose_content_is_unknown_has_no_identity() -> None:
    with pytest.raises(AssertionError, match="load the data"):
        TrainingConfig().override({"data.source": "folder:/here"}).trial_id()


@pytest.mark.parametrize(
    ("base", "inert"),
    [
        ({"schedule.kind": "constant"}, {"schedule.milestones": [1], "schedule.gamma": 0.5}),
        ({"schedule.kind": "cosine"}, {"schedule.milestones": [1], "schedule.gamma": 0.5}),
        ({}, {"schedule.warmup_learning_rate": 0.5}),
        ({}, {"run.virtual_shards": 2}),
    ],
)
def test_settings_without_effect_do_not_make_another_trial(base: dict[str, Any], inert: dict[str, Any]) -> None:
    assert TrainingConfig().override(base).trial_id() == TrainingConfig().override(base | inert).trial_id()


def test_saying_a_default_does_not_make_another_trial() -> None:
    said = TrainingConfig().override({"solver.learning_rate": 0.1, "solver.nesterov": "true", "run.seed": 0})
    assert said.trial_id() == TrainingConfig().trial_id()


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("solver.learning_rate", [0.1, "0.1", "1e-1", "0.10", ".1", " 0.1 ", "100e-3"]),
        ("batch_norm.momentum", [1, 1.0, "1", "1.0", "1e0"]),
        ("solver.weight_decay", [0, 0.0, -0.0, "0", "-0.0"]),
        ("network.depth", [32, 32.0, "32", "32.0", "3.2e1"]),
        ("schedule.milestones", [[1, 2], (1, 2), [1.0, 2.0], "1,2", "1 2", "1, 2"]),
        ("data.flip", [False, "false", "False", "no", "off"]),
    ],
)
def test_the_hash_does_not_depend_on_how_a_number_is_written(name: str, spellings: list[Any]) -> None:
    assert len({TrainingConfig().override({name: spelling}).trial_id() for spelling in spellings}) == 1


def test_files_in_toml_and_json_give_the_same_hash() -> None:
    toml = "[solver]\nlearning_rate = 1e-1\n[batch_norm]\nmomentum = 1\n[network]\ndepth = 32\n"
    text = '{"network": {"depth": 32.0}, "batch_norm": {"momentum": 1.0}, "solver": {"learning_rate": 0.1}}'
    assert (
        TrainingConfig.from_dict(tomllib.loads(toml)).trial_id()
        == TrainingConfig.from_dict(json.loads(text)).trial_id()
        != TrainingConfig().trial_id()
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_hash_does_not_depend_on_the_order_of_keys(seed: int) -> None:
    config = TrainingConfig().override({"network.depth": 32, "run.seed": 4})
    order = random.Random(seed)

    def shuffled(table: dict[str, Any]) -> dict[str, Any]:
        return dict(order.sample(list(table.items()), len(table)))

    plain = shuffled({section: shuffled(values) for section, values in config.to_dict().items()})
    assert TrainingConfig.from_dict(plain).trial_id() == config.trial_id()


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_hash_is_the_same_in_another_process(hash_seed: str) -> None:
    program = (
        "import json, sys\n"
        "from resnet_dist.configuration.training import TrainingConfig\n"
        "print([TrainingConfig().override(s).trial_id() for s in json.load(sys.stdin)])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(list(GOLDEN.values())),
        env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == str(list(GOLDEN))

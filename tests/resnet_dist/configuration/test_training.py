import json
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.data import DataConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.configuration.schedule import ScheduleConfig
from resnet_dist.configuration.solver import OF_EVERY_SOLVER, SolverConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import ConfigurationError


def refusal(settings: dict[str, Any]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        TrainingConfig().override(settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_defaults_are_the_studys_20_layer_run() -> None:
    config = TrainingConfig()
    assert config.network == NetworkConfig(20, "residual", True, "before", "A", 16, "published")
    assert config.data == replace(DataConfig(), batch_size=128, sampling="replacement", shift=4, flip=True)
    assert config.batch_norm == BatchNormConfig(momentum=0.1, eps=1e-5)
    assert config.solver == SolverConfig("sgd", learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    assert config.schedule == ScheduleConfig("step", milestones=(80, 120), gamma=0.1, warmup_iterations=0)
    assert config.run.epochs == 200


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("sgd", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}),
        ("rmsprop", {"learning_rate": 0.01, "alpha": 0.9, "eps": 1e-8, "weight_decay": 0.0}),
        ("adagrad", {"learning_rate": 0.1, "eps": 1e-10, "weight_decay": 0.0}),
        ("adadelta", {"learning_rate": 1.0, "rho": 0.3, "eps": 1e-6, "weight_decay": 0.0}),
    ],
)
def test_a_solver_takes_the_studys_settings(kind: Any, settings: dict[str, Any]) -> None:
    solver = SolverConfig(kind=kind)
    names = {item.name for item in fields(solver)} - {"kind", "state", "state_fingerprint", *OF_EVERY_SOLVER}
    given = {name: getattr(solver, name) for name in names}
    assert {name: value for name, value in given.items() if value is not None} == settings


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        TrainingConfig().run.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"network.depth": 21},
            "network.depth: 21 is not 6n+2 for any n >= 1; the nearest are 20 and 26",
        ),
        ({"network.depth": 2}, "network.depth: 2 is not 6n+2 for any n >= 1; the nearest are 8 and 14"),
        ({"network.depth": -4}, "network.depth: -4 is not 6n+2 for any n >= 1; the nearest are 8 and 14"),
        ({"network.width": 0}, "network.width: 0 is not allowed; it must be from 1 to 4,096"),
        ({"network.shortcut": "D"}, "network.shortcut: 'D' is not allowed; it must be 'A', 'B' or 'C'"),
        (
            {"network.family": "imagenet-residual"},
            "network.depth: 20 is not allowed; it must be 18, 34, 50, 101 or 152 in a network for ImageNet",
        ),
        (
            {"network.zero_last_scale": True, "network.batch_norm_position": "after"},
            "network.zero_last_scale: True makes every output zero with network.batch_norm_position 'after', whose "
            "last batch norm the shortcut goes through; leave one out",
        ),
        (
            {"network.bottleneck_stride": "3x3"},
            "network.bottleneck_stride: '3x3' has no effect on a residual network; leave it out",
        ),
        (
            {"network.family": "imagenet-residual", "network.depth": 34, "network.stem_and_head": "script"},
            "network.stem_and_head: 'script' takes images of 193 to 224 pixels, not 32; give data.size 224",
        ),
        (
            {"data.size": 64, "data.source": "cifar10"},
            "data.size: 64 is not allowed: images of cifar10 are 32x32 pixels",
        ),
        (
            {"network.family": "plain", "network.shortcut": "B"},
            "network.shortcut: 'B' has no effect on a plain network; leave it out",
        ),
        (
            {"network.family": "plain", "network.batch_norm_position": "after"},
            "network.batch_norm_position: 'after' has no effect on a plain network; leave it out",
        ),
        (
            {"data.source": "cifar"},
            "data.source: 'cifar' is not known; it must be one of synthetic, cifar10, cifar100, folder:PATH, "
            "shards:DEST, module:callable; did you mean 'cifar10'?",
        ),
        ({"data.source": "folder:"}, "data.source: 'folder:' needs a path, as in folder:/data/cifar10.tar.xz"),
        ({"data.holdout": -1}, "data.holdout: -1 is not allowed; it must be at least 0"),
        (
            {"data.batch_size": 1},
            "data.batch_size: 1 is not allowed; it must be at least 2 (batch norm needs two images)",
        ),
        (
            {"data.accumulation": 65},
            "data.accumulation: 65 is not allowed; it must be from 1 to 64 "
            "(batch norm needs two images in each sub-batch)",
        ),
        ({"data.shift": 32}, "data.shift: 32 is not allowed; it must be from 0 to 31"),
        (
            {"batch_norm.momentum": 1.5},
            "batch_norm.momentum: 1.5 is not allowed; it must be from 0 to 1, or 'dynamic'",
        ),
        (
            {"batch_norm.momentum": "dynamc"},
            "batch_norm.momentum: 'dynamc' is not allowed; it must be 'dynamic' or a number; "
            "did you mean 'dynamic'?",
        ),
        ({"batch_norm.eps": 0}, "batch_norm.eps: 0.0 is not allowed; it must be greater than 0"),
        (
            {"solver.kind": "rmsprop", "solver.momentum": 0.9},
            "solver.momentum: 0.9 has no effect with solver.kind 'rmsprop', which takes learning_rate, alpha, eps, "
            "weight_decay; leave it out",
        ),
        (
            {"solver.momentum": 0},
            "solver.nesterov: True needs solver.momentum greater than 0; set nesterov to false",
        ),
        ({"solver.momentum": 1}, "solver.momentum: 1.0 is not allowed; it must be at least 0 and less than 1"),
        ({"solver.learning_rate": 0}, "solver.learning_rate: 0.0 is not allowed; it must be greater than 0"),
        ({"solver.weight_decay": -1}, "solver.weight_decay: -1.0 is not allowed; it must be at least 0"),
        (
            {"schedule.milestones": "160, 80"},
            "schedule.milestones: [160, 80] is not allowed; it must be increasing epochs from 1",
        ),
        (
            {"schedule.milestones": [0]},
            "schedule.milestones: [0] is not allowed; it must be increasing epochs from 1",
        ),
        ({"schedule.gamma": 0}, "schedule.gamma: 0.0 is not allowed; it must be greater than 0 and at most 1"),
        ({"run.seed": -1}, "run.seed: -1 is not allowed; it must be from 0 to 2^63 - 1"),
        (
            {"run.seed": 2**63},
            "run.seed: 9223372036854775808 is not allowed; it must be from 0 to 2^63 - 1",
        ),
        ({"run.virtual_shards": 6}, "run.virtual_shards: 6 is not allowed; it must be a power of two up to 1024"),
        (
            {"run.exact": True, "run.workers": 9},
            "run.workers: 9 is not allowed; it must be at most run.virtual_shards, 8, in exact mode",
        ),
        ({"run.epochs": 0}, "run.epochs: 0 is not allowed; it must be at least 1"),
        (
            {"run.precision": "bfloat1"},
            "run.precision: 'bfloat1' is not allowed; it must be 'float64', 'float32', 'bfloat16' or 'float16'; "
            "did you mean 'bfloat16'?",
        ),
        ({"rum.seed": 1}, "section: 'rum' is not known; it must be one of network, data, batch_norm, solver, "
         "loss, schedule, run, code; did you mean 'run'?"),
        ({"run": 1}, "run: is a section, not a setting; write run.<field>"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    assert refusal(settings) == message


def test_unknown_settings_are_refused_with_the_nearest() -> None:
    assert refusal({"run.sede": 1}).endswith("did you mean 'run.seed'?")


@pytest.mark.parametrize("seed", [10**400, "1" + "0" * 400], ids=["number", "text"])
def test_a_seed_of_any_size_is_refused_in_one_line(seed: Any) -> None:
    assert refusal({"run.seed": seed}).startswith("run.seed: ")


@given(
    st.fixed_dictionaries(
        {
            "network.depth": st.integers(1, 20).map(lambda n: 6 * n + 2),
            "data.shift": st.integers(0, 31),
            "batch_norm.momentum": st.floats(0, 1) | st.just("dynamic"),
            "solver.kind": st.sampled_from(["sgd", "rmsprop", "adagrad", "adadelta"]),
            "schedule.milestones": st.sets(st.integers(1, 300)).map(sorted),
            "run.seed": st.integers(0, 2**63 - 1),
        }
    )
)
def test_a_configuration_survives_json(settings: dict[str, Any]) -> None:
    config = TrainingConfig().override(settings)
    again = TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and again.trial_id() == config.trial_id()


def test_settings_left_out_take_their_defaults() -> None:
    assert TrainingConfig.from_dict({}) == TrainingConfig()
    assert TrainingConfig.from_dict({"run": {"seed": 5}}) == TrainingConfig().override({"run.seed": "5"})


def test_changing_the_solver_leaves_the_old_ones_settings_behind() -> None:
    config = TrainingConfig().override({"solver.learning_rate": 0.3})
    changed = config.override({"solver.kind": "rmsprop", "solver.alpha": 0.8})
    assert changed.solver == SolverConfig("rmsprop", learning_rate=0.01, alpha=0.8, eps=1e-8, weight_decay=0.0)
    assert config.override({"solver.kind": "sgd", "run.seed": 1}).solver == config.solver


def test_an_override_touches_nothing_else() -> None:
    config = TrainingConfig().override({"network.depth": 110, "schedule.warmup_iterations": 400})
    changed = config.override({"run.seed": 3})
    assert changed == replace(config, run=replace(config.run, seed=3))
    assert config.run.seed == 0


@pytest.mark.parametrize(
    ("epochs", "milestones"),
    [(200, (80, 120)), (100, (40, 60)), (5, (2, 3)), (3, (1, 2)), (2, (1,)), (1, ()), (400, (160, 240))],
)
def test_a_shortened_run_has_its_milestones_scaled(epochs: int, milestones: tuple[int, ...]) -> None:
    config = TrainingConfig().shortened(epochs)
    assert config.run.epochs == epochs and config.schedule.milestones == milestones


def test_images_from_a_folder_carry_a_caveat() -> None:
    assert DataConfig(source="cifar10").caveat is None
    assert "not comparable" in (DataConfig(source="folder:/images").caveat or "")


def test_a_folder_is_known_by_its_full_path_since_workers_have_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    for written, meant in (
        ("images.tar", f"{tmp_path}/images.tar"),
        ("~/images", "/home/someone/images"),
        ("/a", "/a"),
    ):
        config = TrainingConfig().override({"data.source": f"folder:{written}"})
        assert config.data.source == f"folder:{meant}"
        assert TrainingConfig.from_dict(config.to_dict()) == config

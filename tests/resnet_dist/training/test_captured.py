"""The captured update where nothing can be captured: a replay is a call, and must give the eager update's bits."""

import contextlib
from typing import Any

import pytest
import torch

from resnet_dist.configuration.solver import SOLVER_DEFAULTS, SolverConfig
from resnet_dist.training import captured
from resnet_dist.training.captured import WARM, CapturedUpdates, can_be_captured
from resnet_dist.training.device_solvers import DeviceSolver
from resnet_dist.training.gradients import Loss
from resnet_dist.training.numerics import settings_of_run
from resnet_dist.training.solvers import make_solver
from resnet_dist.training.state import Training
from resnet_dist.training.update import HostSolver, Update
from resnet_dist.workers import Workers, alone
from tests import pretended_cuda
from tests.pretended_cuda import WAITS
from tests.small_runs import small_config, small_dataset

VARIANTS: dict[str, dict[str, Any]] = {
    **{kind: {"solver__kind": kind} for kind in SOLVER_DEFAULTS},
    "permutation": {"data__sampling": "permutation"},
    "accumulation": {"data__accumulation": 3},
    "dynamic momentum, accumulation": {"batch_norm__momentum": "dynamic", "data__accumulation": 2},
    "momentum of batch norm": {"batch_norm__momentum": 0.1},
    "warm-up, drops": {"schedule__warmup_iterations": 5, "schedule__milestones": [1, 2]},
    "cosine": {"schedule__kind": "cosine"},
    "float32": {"run__precision": "float32"},
    "bfloat16": {"run__precision": "bfloat16", "batch_norm__momentum": "dynamic"},
    "later recipes": {
        "loss__label_smoothing": 0.1,
        "solver__gradient_clip": 0.5,
        "solver__average_decay": 0.9,
        "data__accumulation": 2,
        "data__mixup": 0.4,
        "data__cutout": 8,
        "data__colour": 0.3,
    },
    "pre-activation": {"network__family": "preactivation", "network__shortcut": "B"},
}
DATA: dict[str, Any] = {"run__epochs": 3, "data__batch_size": 6}
IMAGES = 26


@pytest.fixture(autouse=True)
def a_replay_is_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    # Shorter than an epoch, and no divisor of it: chunks begin and end anywhere.
    monkeypatch.setattr(captured, "CHUNK", 4)
    monkeypatch.setattr(captured, "capture", lambda call: call)


def trained(training: Training, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        training.start_epoch()
        losses.append(training.update().sum().item())
    return losses


def with_updates_captured(training: Training) -> Training:
    assert isinstance(training.updates, Update)
    training.updates = CapturedUpdates(training.updates)
    return training


def assert_same_bits(one: Training, other: Training) -> None:
    a, b = one.state(), other.state()
    assert a["step"] == b["step"] and torch.equal(a["losses"], b["losses"])
    for held in a.keys() & {"network", "average"}:
        assert all(torch.equal(value, b[held][name]) for name, value in a[held].items())
    for state, same in zip(a["solver"]["state"].values(), b["solver"]["state"].values(), strict=True):
        assert state.keys() == same.keys() and all(torch.equal(value, same[name]) for name, value in state.items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_captured_updates_have_the_bits_of_eager_ones_over_three_epochs(variant: str) -> None:
    config, dataset = small_config(**DATA | VARIANTS[variant]), small_dataset(train=IMAGES, test=5)
    with settings_of_run(exact=False):
        eager = Training(config, dataset, alone("cpu"))
        replayed = with_updates_captured(Training(config, dataset, alone("cpu")))
        assert trained(eager, eager.total_steps) == trained(replayed, eager.total_steps)
    assert_same_bits(eager, replayed)


@pytest.mark.parametrize("variant", ["sgd", "adam", "permutation", "dynamic momentum, accumulation"])
def test_a_run_that_resumes_inside_a_chunk_has_the_same_bits(variant: str) -> None:
    config, dataset = small_config(**DATA | VARIANTS[variant]), small_dataset(train=IMAGES, test=5)
    with settings_of_run(exact=False):
        whole = with_updates_captured(Training(config, dataset, alone("cpu")))
        trained(whole, whole.total_steps)
        begun = with_updates_captured(Training(config, dataset, alone("cpu")))
        trained(begun, WARM + 2)  # one step of a chunk of four
        resumed = with_updates_captured(Training(config, dataset, alone("cpu")))
        resumed.load(begun.state())
        trained(resumed, whole.total_steps - resumed.step)
    assert_same_bits(whole, resumed)


@pytest.mark.parametrize(
    "variant",
    [
        "sgd",
        "adamw",
        "dynamic momentum, accumulation",
        "permutation",
        "bfloat16",
        "later recipes",
    ],
)
def test_on_a_gpu_captured_and_eager_updates_are_one_arithmetic(variant: str) -> None:
    settings = DATA | VARIANTS[variant] | {"run__epochs": 2}
    dataset = small_dataset(train=IMAGES, test=5)
    with pretended_cuda.pretended_cuda(), settings_of_run(exact=False):
        eager = Training(small_config(**settings, run__cuda_graph=False), dataset, alone("cuda"))
        replayed = Training(small_config(**settings), dataset, alone("cuda"))
        assert isinstance(eager.updates, Update) and isinstance(replayed.updates, CapturedUpdates)
        steps = eager.total_steps
        assert trained(eager, steps) == trained(replayed, steps)
        WAITS.clear()
        replayed.step -= 2
        for _ in range(2):
            replayed.update()
        assert WAITS == []
        replayed.load(eager.state())
        assert_same_bits(eager, replayed)


def test_an_update_on_a_device_asks_the_host_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # On `meta` nothing has a value: whoever asks for one, branches on one, or brings a tensor of the CPU, fails.
    monkeypatch.setattr(Loss, "autocast", lambda self: contextlib.nullcontext())  # which knows no such device
    settings = VARIANTS["later recipes"]
    config = small_config(**DATA | settings, run__precision="float32", batch_norm__momentum="dynamic")
    with settings_of_run(exact=False):
        training = Training(config, small_dataset(train=IMAGES, test=5), Workers(0, 1, torch.device("meta")))
        update = training.updates
        assert isinstance(update, Update)
        width = training.batches.width
        drawn, numbers = torch.zeros(6, width, dtype=torch.int64), torch.tensor(update.numbers(0), dtype=torch.float64)
        for _ in range(2):
            loss = update.compute(drawn.to("meta"), numbers.to("meta"))
        assert loss.device.type == "meta"
        network = training.network
        forward = network.forward
        network.forward = lambda images: forward(images) * images.sum().item()
        with pytest.raises(RuntimeError, match="meta"):
            update.compute(drawn.to("meta"), numbers.to("meta"))


@pytest.mark.parametrize("settings", [{"momentum": 0.0, "nesterov": False}, {"nesterov": False}, {}])
@pytest.mark.parametrize("kind", SOLVER_DEFAULTS)
def test_the_solvers_of_a_gpu_are_torchs(kind: str, settings: dict[str, Any]) -> None:
    config = SolverConfig(kind, weight_decay=0.01, **settings if kind == "sgd" else {})
    start = [torch.randn(shape, generator=torch.Generator().manual_seed(0)).double() for shape in ((3, 4), (5,))]
    ours, theirs = ([torch.nn.Parameter(value.clone()) for value in start] for _ in range(2))
    torchs = make_solver(config, theirs)
    solver, reference = DeviceSolver(config, make_solver(config, ours)), HostSolver(torchs, torchs.step)
    for step in range(5):
        rate = 0.1 / (step + 1)
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.sin(a.detach() + step)
            b.grad = torch.sin(b.detach() + step)
        solver.apply(torch.tensor(solver.numbers(rate, step), dtype=torch.float64))
        reference.apply(reference.numbers(rate, step))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    solver.settle(5)
    state, expected = solver.optimizer.state_dict()["state"], reference.optimizer.state_dict()["state"]
    assert state.keys() == expected.keys()
    for of_parameter, of_theirs in zip(state.values(), expected.values(), strict=True):
        assert {name: value.dtype for name, value in of_parameter.items()} == {
            name: value.dtype for name, value in of_theirs.items()
        }
        for name, value in of_parameter.items():
            torch.testing.assert_close(value, of_theirs[name], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", SOLVER_DEFAULTS)
def test_a_parameter_without_a_gradient_stays_as_torch_leaves_it(kind: str) -> None:
    config, kept = SolverConfig(kind, weight_decay=0.01), []
    for make in (
        lambda optimizer: DeviceSolver(config, optimizer),
        lambda optimizer: HostSolver(optimizer, optimizer.step),
    ):
        used, unused = (torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
        solver = make(make_solver(config, [unused, used]))
        used.grad = torch.ones_like(used)
        solver.apply(torch.tensor(solver.numbers(0.1, 0), dtype=torch.float64))
        solver.settle(1)
        assert torch.equal(unused, torch.ones(2, dtype=torch.float64)) and not torch.equal(used, unused)
        kept.append(list(solver.optimizer.state_dict()["state"]))
    assert kept[0] == kept[1]


def test_what_may_ask_the_host_is_not_captured() -> None:
    gpu = torch.device("cuda", 0)
    assert can_be_captured(small_config(), Workers(0, 1, gpu))
    assert not can_be_captured(small_config(), Workers(0, 1, torch.device("cpu")))
    assert not can_be_captured(small_config(), Workers(0, 2, gpu))
    for settings in (
        {"run__exact": True},
        {"run__cuda_graph": False},
        {"solver__kind": "mine:solver", "solver__learning_rate": 0.1},
        {"network__family": "mine:network"},
        {"network__block": "mine:block"},
    ):
        assert not can_be_captured(small_config(**settings), Workers(0, 1, gpu)), settings

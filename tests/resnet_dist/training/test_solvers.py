import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.configuration.schedule import ScheduleConfig
from resnet_dist.configuration.solver import SOLVER_DEFAULTS, SolverConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.epochs import EpochPlan
from resnet_dist.networks.batch_norm import SynchronisedBatchNorm
from resnet_dist.networks.cifar import ResidualNetwork
from resnet_dist.training.schedule import batch_norm_momentum, full_rate, learning_rate
from resnet_dist.training.solvers import make_solver, step_of
from resnet_dist.training.state import Training
from resnet_dist.workers import alone
from tests.small_runs import small_config, small_dataset

Array = NDArray[np.float64]

# Torch7's optim as it stood in January 2016, in NumPy. Each update takes weights, their gradient and a state of its
# own, and gives the new weights.


def torch7_sgd(x: Array, gradient: Array, state: dict[str, Array], nesterov: bool = True, mom: float = 0.9) -> Array:
    gradient = gradient + 1e-4 * x
    if mom:
        # The first gradient starts the average; it is not weighed against zeros.
        state["average"] = mom * state["average"] + gradient if "average" in state else gradient.copy()
        gradient = gradient + mom * state["average"] if nesterov else state["average"]
    return x - 0.1 * gradient


def torch7_rmsprop(x: Array, gradient: Array, state: dict[str, Array]) -> Array:
    state["m"] = 0.9 * state.get("m", np.zeros_like(x)) + (1 - 0.9) * gradient**2
    return x - 0.01 * gradient / (np.sqrt(state["m"]) + 1e-8)


def torch7_adagrad(x: Array, gradient: Array, state: dict[str, Array]) -> Array:
    state["variance"] = state.get("variance", np.zeros_like(x)) + gradient**2
    return x - 0.1 * gradient / (np.sqrt(state["variance"]) + 1e-10)


def torch7_adadelta(x: Array, gradient: Array, state: dict[str, Array]) -> Array:
    state["variance"] = 0.3 * state.get("variance", np.zeros_like(x)) + (1 - 0.3) * gradient**2
    moved = state.get("moved", np.zeros_like(x))
    delta = np.sqrt(moved + 1e-6) / np.sqrt(state["variance"] + 1e-6) * gradient
    state["moved"] = 0.3 * moved + (1 - 0.3) * delta**2
    return x - delta


# Kingma and Ba 2015 (arXiv:1412.6980), algorithm 1; Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2, whose
# weight decay is multiplied by the learning rate here, as in torch.


def adam(x: Array, gradient: Array, state: dict[str, Array], penalty: float = 0.0) -> Array:
    gradient = gradient + penalty * x
    time = state["time"] = state.get("time", np.zeros(())) + 1
    state["mean"] = 0.9 * state.get("mean", np.zeros_like(x)) + (1 - 0.9) * gradient
    state["square"] = 0.999 * state.get("square", np.zeros_like(x)) + (1 - 0.999) * gradient**2
    mean, square = state["mean"] / (1 - 0.9**time), state["square"] / (1 - 0.999**time)
    return x - 0.001 * mean / (np.sqrt(square) + 1e-8)


def adamw(x: Array, gradient: Array, state: dict[str, Array]) -> Array:
    return adam(x, gradient, state) - 0.001 * 0.01 * x


SOLVERS: dict[str, tuple[SolverConfig, Callable[..., Array]]] = {
    "nesterov": (SolverConfig(), torch7_sgd),
    "momentum": (
        SolverConfig(nesterov=False),
        lambda x, gradient, state: torch7_sgd(x, gradient, state, nesterov=False),
    ),
    "gradient descent": (
        SolverConfig(nesterov=False, momentum=0.0),
        lambda x, gradient, state: torch7_sgd(x, gradient, state, mom=0.0),
    ),
    "rmsprop": (SolverConfig("rmsprop"), torch7_rmsprop),
    "adagrad": (SolverConfig("adagrad"), torch7_adagrad),
    "adadelta": (SolverConfig("adadelta"), torch7_adadelta),
    "adam": (SolverConfig("adam"), adam),
    "adam with an L2 penalty": (
        SolverConfig("adam", weight_decay=0.02),
        lambda x, gradient, state: adam(x, gradient, state, penalty=0.02),
    ),
    "adamw": (SolverConfig("adamw"), adamw),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_follows_its_formula_for_100_steps(name: str) -> None:
    config, update = SOLVERS[name]
    random = np.random.Generator(np.random.PCG64(5))
    start = random.normal(size=(6, 50))
    # Gradients from 1e-12 to 10: where the constants that keep a division finite stand shows in the small ones.
    scale = 10.0 ** random.uniform(-12, 1, start.shape)
    scale[:, 0] = 0
    noise = random.normal(size=(100, *start.shape))

    weights = nn.Parameter(torch.from_numpy(start.copy()))
    solver = make_solver(config, [weights])
    expected, state = start.copy(), dict[str, Array]()
    for step in range(100):
        weights.grad = torch.from_numpy(noise[step] * scale) + torch.from_numpy(scale) * weights.detach()
        solver.step()
        expected = update(expected, noise[step] * scale + scale * expected, state)
        np.testing.assert_allclose(weights.detach().numpy(), expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("setting", [{"solver.beta1": 0.5}, {"solver.beta2": 0.9}, {"solver.eps": 0.1}])
@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_adams_constants_reach_it(kind: str, setting: dict[str, float]) -> None:
    def after_two_steps(settings: dict[str, Any]) -> Tensor:
        weights = nn.Parameter(torch.ones(3, dtype=torch.float64))
        solver = make_solver(TrainingConfig().override({"solver.kind": kind} | settings).solver, [weights])
        for gradient in (1.0, -0.3):
            weights.grad = torch.full_like(weights, gradient)
            solver.step()
        return weights.detach()

    assert not torch.equal(after_two_steps(setting), after_two_steps({}))


@pytest.mark.parametrize("kind", SOLVER_DEFAULTS)
def test_an_update_is_that_of_torchs_own_step_to_the_bit(kind: str) -> None:
    updated = []
    for take in (step_of, lambda optimizer: optimizer.step):
        weights = nn.Parameter(torch.randn(50, generator=torch.Generator().manual_seed(0)))
        optimizer = make_solver(SolverConfig(kind, weight_decay=0.01), [weights])
        for step in range(3):
            weights.grad = torch.sin(weights.detach() + step)
            take(optimizer)()
        updated.append(weights.detach())
    assert torch.equal(*updated)


def test_an_update_imports_no_compiler_and_leaves_it_whole() -> None:
    program = f"""
import sys, tempfile, torch
from resnet_dist.configuration.run import RunConfig
from resnet_dist.configuration.solver import SolverConfig
from resnet_dist.training.gradients import Loss, make_gradients
from resnet_dist.training.solvers import make_solver, step_of
from resnet_dist.workers import Workers
weights = torch.nn.Parameter(torch.ones(3))
for kind in {list(SOLVER_DEFAULTS)}:
    optimizer = make_solver(SolverConfig(kind), [weights])
    optimizer.zero_grad()
    (weights ** 2).sum().backward()
    step_of(optimizer)()
    optimizer.load_state_dict(optimizer.state_dict())
with tempfile.TemporaryDirectory() as folder:
    torch.distributed.init_process_group("gloo", init_method=f"file://{{folder}}/store", rank=0, world_size=1)
    cpu = torch.device("cpu")
    network = torch.nn.Linear(2, 1)
    parallel = make_gradients(RunConfig(), network, Loss("float32", cpu), Workers(0, 2, cpu)).parallel
    parallel(torch.ones(1, 2)).sum().backward()
    torch.distributed.destroy_process_group()
assert network.weight.grad.tolist() == [[1, 1]]
assert not {{"torch._dynamo", "sympy"}} & sys.modules.keys()
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)) == 2
import torchvision
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("kind", ["rmsprop", "adagrad", "adadelta"])
def test_where_torch7_had_no_weight_decay_zero_gradients_change_nothing(kind: Any) -> None:
    weights = nn.Parameter(torch.ones(4))
    solver = make_solver(SolverConfig(kind), [weights])
    for _ in range(3):
        weights.grad = torch.zeros(4)
        solver.step()
    assert weights.eq(1).all()


@pytest.mark.parametrize("shortcut", ["A", "C"])
def test_sgd_decays_every_parameter_of_the_network(shortcut: Any) -> None:
    network = ResidualNetwork(
        NetworkConfig(depth=8, width=2, shortcut=shortcut), BatchNormConfig(), classes=10
    ).double()
    for parameter in network.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    make_solver(SolverConfig(), network.parameters()).step()
    for name, parameter in network.named_parameters():
        expected = torch.full_like(parameter, 1 - 0.1 * 1e-4 * (1 + 0.9))
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-15, atol=0, msg=name)


# The learning rate


def rate(config: SolverConfig, schedule: ScheduleConfig, *, step: int = 10**6, epoch: int = 0) -> float:
    return learning_rate(full_rate(config, 128), schedule, step, epoch, steps=2 * 10**6)


@pytest.mark.parametrize(
    ("second", "epoch", "expected"),
    [
        (160, 0, 0.1),
        (160, 79, 0.1),
        (160, 80, 0.01),
        (160, 119, 0.01),
        (160, 120, 0.01),
        (160, 159, 0.01),
        (160, 160, 0.001),
        (160, 199, 0.001),
        (120, 119, 0.01),
        (120, 120, 0.001),
    ],
)
def test_the_learning_rate_drops_at_the_start_of_each_milestone_to_exactly_the_studys(
    second: int, epoch: int, expected: float
) -> None:
    assert rate(SolverConfig(), ScheduleConfig(milestones=(80, second)), epoch=epoch) == expected


@pytest.mark.parametrize("step_rate", [(0, 0.001), (398, 0.001), (399, 0.001), (400, 0.1), (401, 0.1)])
def test_the_warm_up_lasts_400_iterations(step_rate: tuple[int, float]) -> None:
    step, expected = step_rate
    assert rate(SolverConfig(), ScheduleConfig(warmup_iterations=400), step=step) == expected


def test_without_a_warm_up_the_first_iteration_is_at_full_rate() -> None:
    assert rate(SolverConfig(), ScheduleConfig(), step=0) == 0.1


@pytest.mark.parametrize("kind", ["step", "constant", "cosine"])
def test_the_warm_up_comes_before_either_schedule(kind: Any) -> None:
    assert rate(SolverConfig(), ScheduleConfig(kind, warmup_iterations=400), step=399) == 0.001


def test_a_constant_rate_never_drops() -> None:
    assert rate(SolverConfig("adadelta"), ScheduleConfig("constant"), epoch=199) == 1.0


@pytest.mark.parametrize("start", [1e-1, 1e-2, 1e-3, 1e-4])
def test_the_studys_rates_stay_round_numbers(start: float) -> None:
    rates = [rate(SolverConfig(learning_rate=start), ScheduleConfig(), epoch=epoch) for epoch in (0, 80, 120)]
    assert [f"{value:.16g}" for value in rates] == [f"{value:.3g}" for value in rates]
    assert rates[1:] == [pytest.approx(start / 10, rel=1e-15), pytest.approx(start / 100, rel=1e-15)]


def test_a_linear_warm_up_rises_by_the_same_amount_at_each_update() -> None:
    schedule = ScheduleConfig(warmup_iterations=4, warmup_learning_rate=0.02, warmup_shape="linear")
    rates = [rate(SolverConfig(), schedule, step=step) for step in range(6)]
    assert rates == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1], rel=1e-15)


def test_the_rate_is_scaled_to_the_batch_if_it_is_meant_for_another() -> None:
    assert full_rate(SolverConfig(reference_batch=256), 1024) == pytest.approx(0.4, rel=1e-15)
    assert full_rate(SolverConfig(), 1024) == 0.1
    config = small_config(solver__reference_batch=8, schedule__warmup_iterations=2, schedule__warmup_shape="linear")
    for each in (config, config.override({"data.accumulation": 2})):
        assert trained(each, 4)[1] == pytest.approx([0.001, 0.1005, 0.2, 0.2], rel=1e-14)


def test_another_solver_keeps_what_every_solver_has() -> None:
    config = small_config(solver__gradient_clip=2, solver__average_decay=0.5, solver__weight_decay=0.3)
    solver = config.override({"solver.kind": "adam"}).solver
    assert (solver.gradient_clip, solver.average_decay, solver.weight_decay) == (2, 0.5, 0)


def trained(
    config: TrainingConfig, steps: int, from_state: dict[str, Any] | None = None
) -> tuple[Training, list[float]]:
    """Some steps of training on 96 images, from a checkpoint's state if there is one, and their learning rates."""
    training = Training(config, small_dataset(), alone("cpu"))
    if from_state is not None:
        training.load(from_state)
    rates = []
    for _ in range(steps):
        training.start_epoch()
        training.update()
        (group,) = training.solver.param_groups
        rates.append(group["lr"])
    return training, rates


# Of 0.1, at multiples of an eighth of the run: from half a cosine's values, (1 + cos x) / 2 at x = 0, π/4, π/2, ...
@pytest.mark.parametrize(
    ("eighths", "expected"),
    [(0, 0.1), (2, 0.05 * (1 + 0.5**0.5)), (4, 0.05), (6, 0.05 * (1 - 0.5**0.5)), (8, 0.0)],
)
@pytest.mark.parametrize("warmup", [0, 400])
def test_a_cosine_falls_from_the_full_rate_after_the_warm_up_to_zero_at_the_end(
    warmup: int, eighths: int, expected: float
) -> None:
    schedule = ScheduleConfig("cosine", warmup_iterations=warmup)
    steps = warmup + 8 * 1000
    step = warmup + eighths * 1000
    assert learning_rate(0.1, schedule, step, 0, steps) == pytest.approx(expected, rel=1e-12, abs=1e-17)


def test_a_cosine_has_no_jumps_and_its_last_update_still_moves() -> None:
    rates = [learning_rate(0.1, ScheduleConfig("cosine"), step, step // 10, 200) for step in range(200)]
    falls = [a - b for a, b in itertools.pairwise(rates)]
    assert all(0 < fall < 0.1 * np.pi / 2 / 200 for fall in falls)
    assert 0 < rates[-1] < 1e-5


def test_a_warm_up_as_long_as_the_run_leaves_nothing_of_the_cosine() -> None:
    schedule = ScheduleConfig("cosine", warmup_iterations=10)
    assert {learning_rate(0.1, schedule, step, 0, 10) for step in range(10)} == {0.001}


@pytest.mark.parametrize("interrupted_at", [None, 1, 2, 3, 8, 12, 17])
def test_training_steps_along_the_cosine_and_resumes_anywhere_on_it(interrupted_at: int | None) -> None:
    # Three epochs of six steps, of which two are warm-up: the cosine spans sixteen.
    config = small_config(run__epochs=3, schedule__kind="cosine", schedule__warmup_iterations=2)
    expected = [0.001] * 2 + [0.05 * (1 + np.cos(np.pi * k / 16)) for k in range(16)]
    if interrupted_at is None:
        assert trained(config, 18)[1] == pytest.approx(expected, rel=1e-14)
    else:
        training, _ = trained(config, interrupted_at)
        rest = expected[interrupted_at:][:2]
        assert trained(config, len(rest), training.state())[1] == pytest.approx(rest, rel=1e-14)


@pytest.mark.parametrize("interrupted_at", [None, 1, 2, 3, 5, 6, 7, 11, 12, 13])
def test_training_steps_at_the_schedules_rates_and_resumes_across_each_boundary(interrupted_at: int | None) -> None:
    # Six steps an epoch; a warm-up of two; drops after one epoch and after two.
    config = small_config(run__epochs=3, schedule__milestones=[1, 2], schedule__warmup_iterations=2)
    expected = [0.001] * 2 + [0.1] * 4 + [0.01] * 6 + [0.001] * 6
    if interrupted_at is None:
        assert trained(config, 18)[1] == expected
    else:
        training, before = trained(config, interrupted_at)
        assert before == expected[:interrupted_at]
        assert trained(config, 2, training.state())[1] == expected[interrupted_at : interrupted_at + 2]


# Batch norm's momentum


@pytest.mark.parametrize("momentum", [0.0, 0.01, 0.1, 1.0])
def test_a_constant_momentum_is_itself_at_every_step(momentum: float) -> None:
    plan = EpochPlan(96, 16, "replacement")
    config = BatchNormConfig(momentum)
    assert {batch_norm_momentum(config, plan, step, 3, part) for step in range(9) for part in range(3)} == {momentum}


def test_dynamic_momentum_is_one_over_the_batches_seen_in_the_epoch() -> None:
    plan = EpochPlan(100, 40, "permutation")
    momenta = [batch_norm_momentum(BatchNormConfig("dynamic"), plan, step, 1, 0) for step in range(6)]
    assert momenta == [1, 1 / 2, 1 / 3] * 2


def test_dynamic_momentum_starts_anew_where_epochs_are_of_unequal_length() -> None:
    plan = EpochPlan(50_000, 128, "replacement")
    config = BatchNormConfig("dynamic")
    ends = [0, 391, 782, 1172]
    for first, end in itertools.pairwise(ends):
        assert batch_norm_momentum(config, plan, first, 1, 0) == 1
        assert batch_norm_momentum(config, plan, end - 1, 1, 0) == 1 / (end - first)


def test_dynamic_momentum_counts_sub_batches() -> None:
    plan = EpochPlan(96, 48, "permutation")
    config = BatchNormConfig("dynamic")
    momenta = [batch_norm_momentum(config, plan, step, 3, part) for step in range(4) for part in range(3)]
    assert momenta == [1 / k for k in range(1, 7)] * 2


def statistics_and_reference(
    config: TrainingConfig, images: int, epochs: int = 2
) -> tuple[Training, dict[str, list[list[Array]]]]:
    """A run, and the mean and unbiased variance of the input of each batch norm for every sub-batch, by epoch."""
    training = Training(config, small_dataset(images), alone("cpu"))
    seen: dict[str, list[list[Array]]] = {}
    for name, module in training.network.named_modules():
        if isinstance(module, SynchronisedBatchNorm):
            epochs_of_layer: list[list[Array]] = [[] for _ in range(epochs)]
            seen[name] = epochs_of_layer

            def note(module: nn.Module, inputs: tuple[Tensor], to: list[list[Array]] = epochs_of_layer) -> None:
                values = inputs[0].detach().numpy().transpose(1, 0, 2, 3).reshape(inputs[0].shape[1], -1)
                to[training.epoch].append(np.stack([values.mean(1), values.var(1, ddof=1)]))

            module.register_forward_pre_hook(note)
    while training.epoch < epochs:
        training.start_epoch()
        training.update()
    return training, seen


def running(training: Training, name: str) -> Array:
    layer = training.network.get_submodule(name)
    assert isinstance(layer.running_mean, Tensor) and isinstance(layer.running_var, Tensor)
    return np.stack([layer.running_mean.numpy(), layer.running_var.numpy()])


@pytest.mark.parametrize(
    ("accumulation", "sampling", "lengths"),
    # 48 images in batches of 20: with replacement after 3 batches and after 2 more; by permutation 20, 20 and 8.
    [(1, "replacement", [3, 2]), (3, "permutation", [9, 9])],
)
@pytest.mark.parametrize("momentum", [0.0, 0.01, 0.1, 1.0, "dynamic"])
def test_running_statistics_are_a_running_average_over_two_epochs(
    momentum: float | str, accumulation: int, sampling: str, lengths: list[int]
) -> None:
    config = small_config(
        batch_norm__momentum=momentum, data__accumulation=accumulation, data__sampling=sampling, data__batch_size=20
    )
    training, seen = statistics_and_reference(config, images=48)
    assert len(seen) == 7
    for name, epochs in seen.items():
        assert [len(epoch) for epoch in epochs] == lengths
        average = np.stack([np.zeros(epochs[0][0].shape[1]), np.ones(epochs[0][0].shape[1])])
        for epoch in epochs:
            for k, batch in enumerate(epoch):
                weight = 1 / (1 + k) if isinstance(momentum, str) else momentum
                average = (1 - weight) * average + weight * batch
        np.testing.assert_allclose(running(training, name), average, rtol=1e-10, atol=1e-13)


def test_dynamic_statistics_at_an_epochs_end_are_its_plain_average() -> None:
    training, seen = statistics_and_reference(small_config(batch_norm__momentum="dynamic"), images=48)
    for name, (_, second) in seen.items():
        np.testing.assert_allclose(running(training, name), np.mean(second, axis=0), rtol=1e-12, atol=1e-14)


def test_dynamic_statistics_are_right_where_the_last_batch_is_smaller_than_the_number_of_sub_batches() -> None:
    # By permutation, 39 images in batches of 19 leave one image, which cannot be split.
    config = small_config(
        batch_norm__momentum="dynamic", data__sampling="permutation", data__batch_size=19, data__accumulation=3
    )
    training, seen = statistics_and_reference(config, images=39)
    for name, (_, second) in seen.items():
        assert len(second) == 2 * 3 + 1
        np.testing.assert_allclose(running(training, name), np.mean(second, axis=0), rtol=1e-12, atol=1e-14)

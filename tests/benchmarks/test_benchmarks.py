import json
import subprocess
import sys
from contextlib import closing
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import benchmarks.__main__ as command
from benchmarks import end_to_end, first_update, guard, launcher, planning, trial_overhead, two_workers
from benchmarks.conventional import ConventionalTrainer
from benchmarks.end_to_end import Ceiling, OurTrainer, Speeds
from benchmarks.process_cost import Cost
from benchmarks.targets import Target
from benchmarks.trial_overhead import Finished
from resnet_dist.errors import UserError
from resnet_dist.networks.cifar import ResidualNetwork
from resnet_dist.training.state import Training
from resnet_dist.workers import alone
from tests.small_runs import small_config, small_dataset
from tune_jobs.grid import run

CPU = torch.device("cpu")
DATASET = small_dataset()


def opponent(loader_workers: int = 0, **settings: Any) -> ConventionalTrainer:
    config = small_config(**settings)
    return ConventionalTrainer(config, DATASET.train_images, DATASET.train_labels, 10, CPU, loader_workers)


def take_weights(theirs: torch.nn.Module, ours: torch.nn.Module) -> None:
    pairs = list(zip(theirs.parameters(), ours.parameters(), strict=True))
    with torch.no_grad():
        for to, source in pairs:
            assert to.shape == source.shape
            to.copy_(source)


def test_opponent_computes_in_bfloat16_where_it_is_asked_to() -> None:
    config = small_config()
    (image,), (label,) = DATASET.train_images[:1], DATASET.train_labels[:1]
    images, labels = image[None].float() / 255, label[None]
    rounded, exact = (
        ConventionalTrainer(config, DATASET.train_images, DATASET.train_labels, 10, CPU, 0, precision)
        for precision in ("bfloat16", "float32")
    )
    rounded.network.load_state_dict(exact.network.state_dict())
    for trainer in (rounded, exact):
        trainer.update(images, labels)
    assert rounded.losses != exact.losses and rounded.losses == pytest.approx(exact.losses, rel=0.05)


@pytest.mark.parametrize("depth", [8, 20])
def test_opponent_has_the_same_network(depth: int) -> None:
    trainer = opponent(network__depth=depth)
    ours = Training(small_config(network__depth=depth), DATASET, alone("cpu")).network
    theirs = trainer.network.double()
    take_weights(theirs, ours)
    images = torch.randn(6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(theirs(images), ours(images), rtol=1e-10, atol=1e-10)


def test_opponent_makes_the_same_updates() -> None:
    config = small_config(data__shift=0, data__flip=False)
    training, trainer = Training(config, DATASET, alone("cpu")), opponent()
    take_weights(trainer.network.double(), training.network)
    standardised = (DATASET.train_images.double() - DATASET.mean) / DATASET.std
    training.start_epoch()
    for step in range(4):
        chosen = torch.from_numpy(training.batches.order.draw(step).indices)
        trainer.update(standardised[chosen], DATASET.train_labels[chosen])
        training.update()
    for theirs, ours in zip(trainer.network.parameters(), training.network.parameters(), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-9)
    assert trainer.losses == pytest.approx(training.losses[:4].flatten().tolist(), rel=1e-9)


def test_contenders_take_the_steps_that_they_are_asked_for() -> None:
    config = small_config(run__precision="float32")
    ours, ceiling, theirs = OurTrainer(config, DATASET, alone("cpu")), Ceiling(config, 10, CPU), opponent()
    updates = {id(ceiling.solver): 0, id(theirs.optimizer): 0}

    def count(solver: torch.optim.Optimizer, *_: Any) -> None:
        updates[id(solver)] += 1

    ceiling.solver.register_step_post_hook(count)
    theirs.optimizer.register_step_post_hook(count)
    for steps in (2, 7):  # six steps are an epoch
        ours.run(steps)
        ceiling.run(steps)
        theirs.run(steps)
    assert ours.training.step == 9
    assert list(updates.values()) == [9, 9]


def test_ceiling_has_the_network_and_solver_that_are_trained() -> None:
    config = small_config(run__precision="float32")
    ceiling, training = Ceiling(config, 10, CPU), Training(config, DATASET, alone("cpu"))
    assert isinstance(ceiling.network, ResidualNetwork)
    for bare, trained in zip(ceiling.network.parameters(), training.network.parameters(), strict=True):
        assert torch.equal(bare, trained)
        assert bare.stride() == trained.stride()
    assert ceiling.solver.defaults == training.solver.defaults
    assert ceiling.images.shape == (16, 3, 32, 32)


def test_ceiling_learns_its_one_batch() -> None:
    ceiling = Ceiling(small_config(run__precision="float32", solver__learning_rate=0.05), 10, CPU)
    before = F.cross_entropy(ceiling.network(ceiling.images), ceiling.labels).item()
    ceiling.run(60)
    assert F.cross_entropy(ceiling.network(ceiling.images), ceiling.labels).item() < before / 2


def test_opponent_reads_each_image_once_an_epoch_in_standard_units() -> None:
    trainer = opponent()
    batches = [next(trainer.batches) for _ in range(6)]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert images.shape == (96, 3, 32, 32)
    assert images.dtype == torch.float32
    assert labels.bincount().tolist() == DATASET.train_labels.bincount().tolist()
    # Shifted images have black borders: a corner is outside in seven of ten crops, the middle never.
    middle = images[:, :, 8:24, 8:24]
    assert abs(middle.mean().item()) < 0.1
    assert middle.std().item() == pytest.approx(1, abs=0.1)
    black = images.amin((0, 2, 3))
    assert ((images[:, :, 0, 0] == black).all(1).float().mean()).item() > 0.5


def test_opponent_trains_with_loader_processes_and_ends_them() -> None:
    trainer = opponent(loader_workers=1)
    with closing(trainer):
        trainer.run(2)
        assert len(torch.multiprocessing.active_children()) == 1
    assert len(trainer.losses) == 2
    assert torch.multiprocessing.active_children() == []


@pytest.mark.integration
def test_every_contender_is_measured_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_to_end, "SLICE_SECONDS", {"cpu": 0.001})
    monkeypatch.setattr(end_to_end, "precisions", lambda device: ("float32",))
    monkeypatch.setattr(end_to_end, "LEAST_ROUNDS", 2)
    speeds = end_to_end.measure(small_config(), DATASET, alone("cpu"), seconds=0, loader_workers=0)
    assert set(speeds.rounds) == {"conventional float32", "resnet_dist float32", "ceiling float32"}
    assert {len(rounds) for rounds in speeds.rounds.values()} == {2}
    assert all(speed > 0 for rounds in speeds.rounds.values() for speed in rounds)


SPEEDS = Speeds(
    {
        "conventional float32": [100.0, 50.0, 10.0],
        "resnet_dist float32": [90.0, 100.0, 9.0],
        "ceiling float32": [100.0, 125.0, 12.0],
    }
)


def test_speeds_are_compared_within_rounds() -> None:
    # 0.9, 2 and 0.9 times as fast; a ratio of medians would be 1.8.
    assert SPEEDS.ratio("resnet_dist float32", "conventional float32") == pytest.approx(0.9)
    targets = {target.name: target for target in end_to_end.targets(SPEEDS)}
    beside, ceiling = (targets[f"float32 beside the {other}"] for other in ("conventional trainer", "ceiling"))
    assert (beside.reached, beside.target, beside.state) == (0.9, 1.3, "short")
    assert (ceiling.reached, ceiling.target, ceiling.state) == (0.8, 0.9, "short")


def test_bfloat16_is_said_to_be_unmeasured_where_the_processor_lacks_it() -> None:
    target = end_to_end.targets(SPEEDS)[2]
    assert target.line() == (
        "bfloat16 beside the conventional trainer  reached       -  target at least 1.50 ×  "
        "not measured: this processor has no bfloat16"
    )


def test_bfloat16_has_a_target_of_its_own_where_it_is_measured() -> None:
    rounds = {
        "conventional bfloat16": [100.0, 50.0, 10.0],
        "resnet_dist bfloat16": [151.0, 75.0, 17.0],
        "ceiling bfloat16": [160.0, 80.0, 18.0],
    }
    targets = end_to_end.targets(Speeds(SPEEDS.rounds | rounds))
    assert [(target.target, target.state) for target in targets] == [
        (1.3, "short"),
        (0.9, "short"),
        (1.5, "ok"),  # 1.51
        (0.9, "ok"),
    ]


@pytest.mark.parametrize(
    ("line", "there"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16 fma", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: fp asimd bf16", True),
        ("flags\t\t: fpu avx2 avx512f fma", False),
        ("model name\t: avx512_bf16", False),
    ],
)
def test_bfloat16_is_known_by_the_processors_flags(tmp_path: Path, line: str, there: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\nbogomips\t: 1\n")
    assert end_to_end.has_bfloat16(CPU, tmp_path / "cpuinfo") is there


def test_a_line_gives_name_reached_target_and_state() -> None:
    assert Target("speed", 1.5, "×", 1.62).line(8) == "speed     reached  1.62 ×  target at least 1.50 ×  ok"
    assert Target("cost", 1.0, "s", 1.2).line() == "cost  reached  1.20 s  target at most 1.00 s  short"


@pytest.mark.parametrize(
    ("unit", "reached", "state"),
    [("×", 1.0, "ok"), ("×", 0.9999, "short"), ("s", 1.0, "ok"), ("s", 1.0001, "short"), ("s", None, "not measured")],
)
def test_a_target_missed_by_little_is_short(unit: Any, reached: float | None, state: str) -> None:
    assert Target("", 1.0, unit, reached).state == state


def test_trial_cost_is_the_time_of_a_slot_less_the_training() -> None:
    # Two slots, each of which takes a trial every 2 s, of which 1.7 s is training; they start half a second apart,
    # after a slow first trial. Records come in any order.
    first = [Finished(30.0 + 2 * turn, 1.7) for turn in range(5)]
    second = [Finished(30.5 + 2 * turn, 1.7) for turn in range(5)]
    assert trial_overhead.costs(second + first, slots=2) == pytest.approx([0.3] * 4)


def test_what_stands_for_a_trial_takes_what_a_trial_is_given() -> None:
    assert signature(launcher.stub(1, 1, "")).parameters.keys() == signature(run._train_trial).parameters.keys()


def test_a_launchers_growth_is_that_of_its_pace_once_all_slots_are_busy() -> None:
    # Eight slots start at once, a hundred trials follow at 0.1 s, a hundred at 0.3 s, and a last hundred at 0.2 s.
    gaps = [0.0] * 8 + [0.1] * 100 + [0.3] * 100 + [0.2] * 100
    starts = np.cumsum([0.0, *gaps]).tolist()
    launches = launcher.Launches(starts, megabytes=500.0)
    assert launches.growth(slots=8) == pytest.approx(2.0)
    growth, memory = launcher.targets(launches, slots=8)
    assert (growth.state, memory.state) == ("short", "ok")


def test_two_workers_are_compared_within_rounds() -> None:
    seconds = {"two workers": [0.12, 0.3], "plain": [0.1, 0.3], "one worker": [0.2, 0.5]}
    rounds = {f"{name} float32": [two_workers.Round(one, one) for one in taken] for name, taken in seconds.items()}
    plain, one = two_workers.targets(rounds, ("float32",))
    assert plain.reached == pytest.approx(1.1) and plain.state == "ok"
    assert one.reached == pytest.approx((0.2 / 0.12 + 0.5 / 0.3) / 2) and one.state == "ok"


def test_trials_of_the_grid_are_distinct_and_tiny() -> None:
    configs = trial_overhead.tiny_trials(20)
    assert len({config.trial_id() for config in configs}) == 20
    assert {(config.network.depth, config.network.width, config.run.workers) for config in configs} == {(8, 4, 1)}


def test_command_prints_a_line_a_target_and_fails_if_one_is_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    monkeypatch.setattr("resnet_dist.data.dataset.load_dataset", lambda data: DATASET)
    for cost, code in ((0.4, 0), (1.4, 1)):
        rounds = SPEEDS.rounds | {"resnet_dist float32": [135.0, 135.0, 13.0]}
        monkeypatch.setattr(end_to_end, "measure", lambda *_, rounds=rounds: Speeds(rounds))
        monkeypatch.setattr(trial_overhead, "measure", lambda count, cost=cost: [cost] * count)
        pair = {
            f"{name} float32": [two_workers.Round(seconds, seconds)]
            for name, seconds in (("two workers", 0.11), ("plain", 0.10), ("one worker", 0.20))
        }
        monkeypatch.setattr(two_workers, "measure", lambda seconds, precisions, pair=pair: pair)
        monkeypatch.setattr(end_to_end, "precisions", lambda device: ("float32",))
        monkeypatch.setattr(first_update, "first_updates", lambda *_: [first_update.FirstUpdate(2.0, 2.0)])
        monkeypatch.setattr(first_update, "peak_memory", lambda _: 900.0)
        monkeypatch.setattr(planning, "measure", lambda rounds: {"plan": [Cost(1.0, 50.0)] * rounds})
        assert command.main(["--quick"]) == code
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 11
        assert lines[-3].endswith("ok" if cost < 1 else "short")
        assert lines[-1].startswith("plan of 3,600 trials, memory") and lines[-1].endswith("ok")
        assert command.main(["--quick", "--json"]) == code
        record = json.loads(capsys.readouterr().out)
        assert [target["state"] for target in record["targets"]] == [
            *("ok", "ok", "not measured", "not measured"),
            *("ok", "ok", "ok", "ok", "ok" if cost < 1 else "short"),
            *("ok", "ok"),
        ]
        assert record["trial_cost_seconds"]["median"] == cost


def test_a_plans_cost_is_that_of_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "COMMANDS", {"plan": ("plan", "demo", "--no-measure")})
    ((cost,),) = planning.measure(1).values()
    assert 0.1 < cost.seconds < 60
    assert 20 < cost.megabytes < 150  # this process, with torch in it, is larger
    monkeypatch.setattr(planning, "COMMANDS", {"plan": ("plan", "no-such-experiment", "--no-measure")})
    with pytest.raises(UserError, match="no-such-experiment"):
        planning.measure(1)


def test_help_says_what_the_exit_codes_mean() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks", "--help"], capture_output=True, text=True, check=True)
    assert "--quick" in done.stdout
    assert "1 if something is short" in done.stdout


@pytest.mark.integration
def test_a_trial_in_a_grid_has_a_cost(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_overhead, "WARM_UP_ROUNDS", 1)
    measured = trial_overhead.measure(2)
    assert len(measured) == 2
    assert float(np.median(measured)) > 0


def test_an_update_that_has_become_slower_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = {"ours": [1.0, 3.0, 1.0], "plain PyTorch": [1.2, 3.6, 1.3], "the ceiling": [1.0, 2.0, 0.99]}
    monkeypatch.setattr(guard, "measure", lambda rounds: times)
    assert guard.main([]) == 0
    assert [target.reached for target in guard.targets(times)] == pytest.approx([1.2, 0.99])
    slower = [1.3 * value for value in times["ours"]]
    monkeypatch.setattr(guard, "measure", lambda rounds: times | {"ours": slower})
    assert guard.main([]) == 1
    assert capsys.readouterr().out.count("short") == 2


def test_the_guard_measures_each_contender_in_every_round() -> None:
    times = guard.measure(1, {"network.depth": 8, "data.batch_size": 8})
    assert [len(rounds) for rounds in times.values()] == [1, 1, 1]
    assert min(min(rounds) for rounds in times.values()) > 0

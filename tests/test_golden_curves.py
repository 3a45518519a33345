"""The golden loss curves: the code computes today what it computed when they were written."""

import copy
from typing import Any

import pytest

from tests.golden.comparison import tolerance
from tests.golden.curves import CONFIGURATIONS, STEPS, curve
from tests.golden.files import difference, read

GOLDEN: dict[str, Any] = dict(read())


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_curve_is_the_golden_one(name: str) -> None:
    found = difference(name, GOLDEN, {name: curve(CONFIGURATIONS[name])})
    assert found is None, f"{found}; if it is meant to, run: python -m tests.golden write"


def test_every_configuration_has_a_golden_file_of_its_own() -> None:
    assert GOLDEN.keys() == CONFIGURATIONS.keys()
    assert {len(golden["train_loss"]) for golden in GOLDEN.values()} == {STEPS}
    # The warm-up's first step has the weights of the first configuration, as those of other solvers have.
    assert len({golden["train_loss"][-1] for golden in GOLDEN.values()}) == len(GOLDEN)


@pytest.mark.parametrize("step", [1, 3, 4, STEPS])
def test_the_first_step_outside_the_tolerance_is_named(step: int) -> None:
    changed = copy.deepcopy(GOLDEN)
    losses = changed["plain"]["train_loss"]
    losses[step - 1] *= 1 + 0.9 * tolerance(step)
    assert difference("plain", GOLDEN, changed) is None
    for later in range(step - 1, STEPS):
        losses[later] *= 1.01
    found = difference("plain", GOLDEN, changed)
    assert found is not None and (found.what, found.index) == ("train_loss", step)
    assert f"plain: train_loss differs from step {step} on" in str(found)


def test_test_losses_count_too() -> None:
    changed = copy.deepcopy(GOLDEN)
    changed["plain"]["test_loss"][1] *= 1.01
    found = difference("plain", GOLDEN, changed)
    assert found is not None and "plain: test_loss differs from epoch 2 on" in str(found)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_differs(value: float) -> None:
    changed = copy.deepcopy(GOLDEN)
    changed["plain"]["train_loss"][4] = value
    found = difference("plain", GOLDEN, changed)
    assert found is not None and found.index == 5

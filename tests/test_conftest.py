"""A test finds its process as it began, whatever ran in it before: a command of another test, or a module's fixture."""

import logging
import os

import pytest

from resnet_dist import logs

NAME = "RESNET_DIST_TEST_LEFT_BEHIND"


@pytest.fixture(scope="module")
def set_up_log() -> None:
    """The log as a command that a module's fixture called has set it up: before what each test has of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for chosen in logs.FORMATS:
            patch.setenv(logs.VARIABLE, chosen)
            logs.configure()


def test_a_log_that_was_set_up_for_a_module_writes_nothing(
    set_up_log: None, capsys: pytest.CaptureFixture[str]
) -> None:
    below = "resnet_dist.data.cache"
    for name in (*logs.PACKAGES, below):
        logging.getLogger(name).info("said")
    assert capsys.readouterr().err == ""
    assert logging.getLogger(below).getEffectiveLevel() == logging.WARNING


@pytest.mark.parametrize("turn", [1, 2])
def test_a_variable_that_is_left_behind_is_gone(turn: int) -> None:
    assert NAME not in os.environ
    os.environ[NAME] = str(turn)

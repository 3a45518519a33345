from dataclasses import dataclass, fields
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.code import CodeConfig
from resnet_dist.configuration.data import DataConfig
from resnet_dist.configuration.loss import LossConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.configuration.run import RunConfig
from resnet_dist.configuration.schedule import ScheduleConfig
from resnet_dist.configuration.sections import (
    build,
    choices,
    convert,
    describe_type,
    field_docs,
    field_types,
    section_name,
    to_plain,
)
from resnet_dist.configuration.solver import SolverConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import ConfigurationError

SECTIONS: list[Any] = [
    NetworkConfig,
    DataConfig,
    BatchNormConfig,
    SolverConfig,
    LossConfig,
    ScheduleConfig,
    RunConfig,
    CodeConfig,
]


@dataclass(frozen=True)
class Fruit:
    apples: int = 1
    """How many
    apples."""
    colour: Literal["red", "green"] = "red"
    """Of the apples."""


def refusal(name: str, value: Any, hint: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        convert(name, value, hint)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sections_are_named_after_their_classes() -> None:
    assert [section_name(section) for section in SECTIONS] == [item.name for item in fields(TrainingConfig)]


@pytest.mark.parametrize("section", SECTIONS, ids=section_name)
def test_every_field_has_a_sentence_of_help_on_one_line(section: Any) -> None:
    docs = field_docs(section)
    assert list(docs) == list(field_types(section))
    for text in docs.values():
        assert text.endswith(".") and "\n" not in text and "  " not in text


def test_help_is_the_docstring_below_the_field() -> None:
    assert field_docs(Fruit) == {"apples": "How many apples.", "colour": "Of the apples."}


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "a whole number"),
        (float | None, "a number"),
        (bool | None, "true or false"),
        (str, "text"),
        (tuple[int, ...], "whole numbers separated by commas"),
        (Literal["A", "B", "C"], "'A', 'B' or 'C'"),
        (float | Literal["dynamic"], "'dynamic' or a number"),
    ],
)
def test_types_are_described_in_words(hint: Any, words: str) -> None:
    assert describe_type(hint) == words


@pytest.mark.parametrize(
    ("value", "hint", "converted"),
    [
        ("7", int, 7),
        (7.0, int, 7),
        ("7.0", int, 7),
        ("2e3", int, 2000),
        ("9223372036854775807", int, 2**63 - 1),  # as a float it would be rounded
        ("1e-1", float, 0.1),
        (1, float, 1.0),
        ("-0.0", float, 0.0),
        ("Yes", bool, True),
        ("off", bool, False),
        ("none", str, "none"),
        (None, float | None, None),
        ("0.5", float | None, 0.5),
        ("dynamic", float | Literal["dynamic"], "dynamic"),
        ("0.5", float | Literal["dynamic"], 0.5),
        ("80, 160", tuple[int, ...], (80, 160)),
        ("80 160", tuple[int, ...], (80, 160)),
        ([80, 160.0], tuple[int, ...], (80, 160)),
        ("", tuple[int, ...], ()),
    ],
)
def test_text_and_plain_values_become_the_declared_type(value: Any, hint: Any, converted: Any) -> None:
    result = convert("a.field", value, hint)
    assert result == converted and type(result) is type(converted)


def test_negative_zero_is_zero() -> None:
    assert str(convert("a.field", -0.0, float)) == "0.0"


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (7.5, int),
        ("7.5", int),
        (True, int),
        (True, float),
        ("nan", float),
        (float("inf"), float),
        ("many", int),
        ("", float),
        (None, int),
        (1, bool),
        ("maybe", bool),
        (5, str),
        (80, tuple[int, ...]),
        ("80, late", tuple[int, ...]),
        (["A"], Literal["A", "B"]),
        ({}, float),
    ],
)
def test_other_values_are_refused_by_name_with_what_is_allowed(value: Any, hint: Any) -> None:
    message = refusal("section.field", value, hint)
    shown = message.replace("a finite number", "a number")
    assert shown.startswith(f"section.field: {value!r} is not allowed; it must be {describe_type(hint)}")


@pytest.mark.parametrize("digits", [10**400, -(10**400), "1" + "0" * 400], ids=["large", "negative", "text"])
def test_numbers_beyond_floating_point_are_refused(digits: Any) -> None:
    assert "section.field" in refusal("section.field", digits, float)


@given(st.integers(-(2**80), 2**80))
def test_whole_numbers_are_kept_to_the_last_digit(number: int) -> None:
    assert convert("a.field", number, int) == convert("a.field", str(number), int) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_kept_to_the_last_bit(number: float) -> None:
    assert convert("a.field", number, float) == convert("a.field", repr(number), float) == number


def test_the_nearest_spelling_is_offered() -> None:
    assert refusal("data.sampling", "permutations", Literal["replacement", "permutation"]).endswith(
        "it must be 'replacement' or 'permutation'; did you mean 'permutation'?"
    )
    with pytest.raises(ConfigurationError, match=r"fruit: 'aple' is not known; .* apple, pear; did you mean 'apple'\?"):
        choices("fruit", "aple", ("apple", "pear"))
    choices("fruit", "pear", ("apple", "pear"))


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"netwerk": {}}, "section: 'netwerk' is not known; .*did you mean 'network'?"),
        ({"network": {"dept": 20}}, "setting: 'network.dept' is not known; .*did you mean 'network.depth'?"),
        ([], "[] is not allowed; it must be a table of sections"),
        ({"network": 20}, "network: 20 is not allowed; it must be a table of settings"),
        ({"network": {"depth": "deep"}}, "network.depth: 'deep' is not allowed; it must be a whole number"),
    ],
)
def test_unknown_keys_are_named(plain: Any, message: str) -> None:
    start, _, end = message.partition(".*")
    with pytest.raises(ConfigurationError) as caught:
        build(TrainingConfig, plain)
    assert str(caught.value).startswith(start) and str(caught.value).endswith(end)


def test_plain_values_are_what_json_has() -> None:
    assert to_plain(ScheduleConfig(milestones=(1, 2)))["milestones"] == [1, 2]
    assert to_plain(Fruit()) == {"apples": 1, "colour": "red"}

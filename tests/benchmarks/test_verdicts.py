"""The figures on the report's page are those of the simulation, which judges by the report's own rules.

A figure may be off by four times the simulation's standard error and what it is rounded by. Seeds are fixed.
"""

import math

import pytest

from benchmarks import verdicts
from tune_jobs.report.method import FALSE_ALARMS, LOOKS, RATE_TITLES, RATES, WHOLE_STUDY
from tune_jobs.report.statistics import LEAST_GROUPS

# Where each figure comes from: kind of test and verdict, in the page's order.
COLUMNS: tuple[tuple[verdicts.Kind | None, str], ...] = (
    *(("document", verdict) for verdict in ("equivalent", "consistent", "differs")),
    (None, "differs"),  # the whole study
    *(("baseline", verdict) for verdict in ("equivalent", "differs")),
    *(("pairs", verdict) for verdict in ("equivalent", "differs")),
)
STUDIES: dict[verdicts.Kind, int] = {"document": 200, "baseline": 1000, "pairs": 1000}
INDEPENDENT: dict[verdicts.Kind, float] = {"document": 30, "baseline": 2, "pairs": 1.5}
"""Rows of a study that are worth as much as independent ones: rows of a table share its baseline."""


def near(said: float, independent: float) -> object:
    """Equal to a figure in per cent, as well as so many independent rows or studies tell."""
    chance = min(max(said / 100, 0.0005), 0.9995)
    error = 100 * math.sqrt(chance * (1 - chance) * (1 / independent + 1 / 5000))
    return pytest.approx(said, abs=4 * error + (0.05 if said < 10 else 0.5))


def test_the_page_has_every_number_of_seeds_and_every_truth() -> None:
    assert [row[:2] for row in RATES] == [(seeds, 100 * truth) for seeds in verdicts.SEEDS for truth in verdicts.TRUTHS]
    assert {len(row) for row in (*RATES, RATE_TITLES)} == {2 + len(COLUMNS)}


@pytest.mark.parametrize("row", RATES, ids=lambda row: f"{row[0]} seeds, {row[1]} % off")
def test_the_page_says_what_made_up_studies_show(row: tuple[float | None, ...]) -> None:
    seeds, truth = int(row[0] or 0), (row[1] or 0) / 100
    found = {kind: verdicts.rates(kind, seeds, truth, STUDIES[kind], seed=1) for kind in verdicts.KINDS}
    for said, (kind, verdict) in zip(row[2:], COLUMNS, strict=True):
        if said is None:
            assert kind is None or found[kind] == {}
        elif kind is None:
            assert 100 * verdicts.whole_study(seeds, truth, 2000, seed=1) == near(said, 2000)
        else:
            assert 100 * found[kind].get(verdict, 0.0) == near(said, STUDIES[kind] * INDEPENDENT[kind])


def test_too_few_seeds_conclude_nothing_and_a_wrong_recipe_is_found_by_the_whole_study() -> None:
    rates = {(row[0], row[1]): row for row in RATES}
    assert all(rate is None for truth in (0, 0.1, 0.3, 0.5) for rate in rates[2, truth][2:])
    assert all((rates[seeds, 0.3][5] or 0) > 99 for seeds in verdicts.SEEDS if seeds > 2)
    assert all((row[4] or 0) + (row[5] or 0) / 10 < 5 for row in RATES if row[1] == 0)  # differs, where nothing does
    assert all((row[2] or 0) <= 6 and (row[6] or 0) <= 6 for row in RATES if row[1] == 0.5)  # equivalent at the margin


@pytest.mark.parametrize("seeds", FALSE_ALARMS)
def test_the_page_says_how_often_a_study_of_tables_raises_a_false_alarm(seeds: int) -> None:
    assert 100 * verdicts.false_alarms(seeds, studies=400, seed=1) == near(FALSE_ALARMS[seeds], 400)


@pytest.mark.parametrize("kind", LOOKS)
def test_the_page_says_what_looking_after_every_seed_does(kind: verdicts.Kind) -> None:
    assert 100 * verdicts.looks(kind, studies=1000, seed=1) == near(LOOKS[kind], 1000)


@pytest.mark.parametrize(("groups", "uneven"), WHOLE_STUDY)
def test_the_page_says_how_often_a_wrong_recipe_is_found(groups: int, uneven: bool) -> None:
    found = verdicts.whole_study(5, 0.002, 2000, groups, uneven, seed=1)
    assert 100 * found == near(WHOLE_STUDY[groups, uneven], 2000)


@pytest.mark.parametrize("groups", verdicts.GROUPS)
def test_a_right_recipe_is_not_found_wrong_too_often_where_configurations_vary_unequally(
    groups: int,
) -> None:
    # Four of the configurations share their training, and every third varies five times as much as the others.
    assert verdicts.whole_study(5, 0.0, 2000, groups, uneven=True, seed=1) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 2000)
    assert groups >= LEAST_GROUPS or verdicts.whole_study(5, 0.002, 2000, groups, seed=1) < 0.7


def test_a_line_is_printed_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts.main(["--studies", "1"])
    lines = capsys.readouterr().out.splitlines()
    kinds = len(verdicts.KINDS)
    assert len(lines) == len(RATES) * (kinds + 1) + len(FALSE_ALARMS) + 2 * len(verdicts.GROUPS) + kinds
    assert lines[0] == " 2 seeds, 0.0 % off, document: no test"
    assert lines[-2].startswith("looks after 3 to 10 seeds, 0.0 % off, baseline: p < 0.05 ")

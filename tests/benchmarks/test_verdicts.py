"""The figures on the report's page are those of the simulation."""

import pytest

from benchmarks import verdicts
from tune_jobs.report.method import FALSE_ALARMS, RATE_TITLES, RATES, rate_fields

# Where each figure comes from: kind of test and verdict, in the page's order.
COLUMNS = (
    *(("document", verdict) for verdict in ("equivalent", "consistent", "differs")),
    ("study", "differs"),
    *((kind, verdict) for kind in ("baseline", "pairs") for verdict in ("equivalent", "differs")),
)


def test_the_page_has_every_number_of_seeds_and_every_truth() -> None:
    assert [row[:2] for row in RATES] == [(seeds, 100 * truth) for seeds in verdicts.SEEDS for truth in verdicts.TRUTHS]
    assert {len(row) for row in (*RATES, *rate_fields(), RATE_TITLES)} == {2 + len(COLUMNS)}


@pytest.mark.parametrize("row", RATES, ids=lambda row: f"{row[0]} seeds, {row[1]} % off")
def test_the_page_says_what_made_up_studies_show(row: tuple[float | None, ...]) -> None:
    seeds, truth = int(row[0] or 0), (row[1] or 0) / 100
    found = {kind: verdicts.rates(kind, seeds, truth, studies=100, seed=1) for kind in verdicts.KINDS}
    for said, (kind, verdict) in zip(row[2:], COLUMNS, strict=True):
        if said is None:
            assert found[kind] == {}
        else:
            # 100 studies, or 700 rows that share 100 baselines: four times their own error, at the most.
            assert 100 * found[kind].get(verdict, 0.0) == pytest.approx(said, abs=20 if kind != "document" else 5)


def test_too_few_seeds_conclude_nothing_and_a_wrong_recipe_is_found_by_the_whole_study() -> None:
    rates = {(row[0], row[1]): row for row in RATES}
    assert all(rate is None for truth in (0, 0.1, 0.3, 0.5) for rate in (*rates[2, truth][2:5], *rates[2, truth][6:]))
    assert all((rates[seeds, 0.3][5] or 0) > 99 for seeds in verdicts.SEEDS)
    assert all((row[4] or 0) + (row[5] or 0) / 10 < 5 for row in RATES if row[1] == 0)  # differs, where nothing does
    assert all((row[2] or 0) <= 6 and (row[6] or 0) <= 6 for row in RATES if row[1] == 0.5)  # equivalent at the margin


@pytest.mark.parametrize("seeds", FALSE_ALARMS)
def test_the_page_says_how_often_a_study_of_tables_raises_a_false_alarm(seeds: int) -> None:
    assert 100 * verdicts.false_alarms(seeds, studies=100, seed=1) == pytest.approx(FALSE_ALARMS[seeds], abs=14)


def test_a_line_is_printed_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts.main(["--studies", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(RATES) * len(verdicts.KINDS) + len(FALSE_ALARMS)
    assert lines[0] == " 2 seeds, 0.0 % off, document: no test"

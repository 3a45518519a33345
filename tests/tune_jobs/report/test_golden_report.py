from pathlib import Path

import pytest

from tests.tune_jobs.golden_report import FILES, FOLDER, report_files


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return report_files(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", FILES)
def test_a_recorded_experiment_is_reported_as_it_always_was(name: str, written: dict[str, str]) -> None:
    # A change that is meant to alter the report: python -m tests.tune_jobs.golden_report
    assert written[name] == (FOLDER / name).read_text(encoding="utf-8")


def test_the_golden_files_hold_what_a_report_must_say() -> None:
    markdown, html = ((FOLDER / name).read_text(encoding="utf-8") for name in ("report.md", "report.html"))
    for said in (
        "Interim: 3 seeds a row are planned",
        "1 of 3 diverged",
        "Not finished: 2 of 12 trials",
        "equivalent",
        "differs",
        "no verdict: so few runs do not show how much runs differ",
        "The rows mix commits",
        "uncommitted changes",
        "seed 2 failed: the training loss is nan in epoch 3",
        "seed 1 at epoch 1 of 2",
        "Energy: not recorded",
        "optimistic",
    ):
        assert said in markdown
        assert said in html
    assert "**The whole study" not in markdown  # too few of its rows have three seeds
    assert Path(FOLDER / "tables.csv").read_text().count("'=RMSprop|1e-3") == 1

"""The list of deliberate faults stays applicable, and is printed with the tests that are to notice each."""

import ast

import pytest

from tests.fault import Fault
from tests.faults import FAULTS
from tests.mutations import ROOT, main


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_still_applies(fault: Fault) -> None:
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    changed = fault.applied(text)
    assert changed != text
    ast.parse(changed)
    for test in fault.tests:
        assert (ROOT / test.partition("::")[0]).exists(), test


def test_the_list_has_each_fault_with_its_file_and_its_tests(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    monkeypatch.setattr("sys.argv", ["mutations", "--list"])
    assert main() == 0
    entries = {text.split("\n")[0]: text for text in capsys.readouterr().out.strip().split("\n\n")}
    assert list(entries) == [fault.name for fault in FAULTS]
    for fault in FAULTS:
        assert fault.tests, f"{fault.name} goes unnoticed"
        assert all(said in entries[fault.name] for said in (fault.description, fault.file, *fault.tests))

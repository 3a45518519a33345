"""The list of deliberate faults stays applicable, and the document speaks of each."""

import ast

import pytest

from tests.faults import FAULTS, Fault
from tests.mutations import BEGIN, DOCUMENT, END, ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_still_applies(fault: Fault) -> None:
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    changed = fault.applied(text)
    assert changed != text
    ast.parse(changed)
    for test in fault.tests:
        assert (ROOT / test.partition("::")[0]).exists(), test


def test_the_document_lists_every_fault_and_a_test_that_notices_it() -> None:
    table = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = [row for row in table.splitlines() if row.startswith("| ") and "`" in row]
    for fault in FAULTS:
        (row,) = [row for row in rows if f"(`{fault.name}`)" in row]
        assert "::test_" in row, f"{fault.name} goes unnoticed"
    assert len(rows) == len(FAULTS)

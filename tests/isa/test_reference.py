"""docs/isa.md is written from the tables and says so as long as it is the same."""

from __future__ import annotations

from pathlib import Path

from gpuvm.isa.notes import NOTES
from gpuvm.isa.reference import reference
from gpuvm.isa.tables import BY_NAME


def test_the_document_is_the_tables() -> None:
    document = Path(__file__).resolve().parents[2] / "docs" / "isa.md"
    assert document.read_text() == reference(), "run: python -m gpuvm.isa.reference > docs/isa.md"


def test_every_operation_is_listed_once_and_notes_name_operations() -> None:
    text = reference()
    for name in BY_NAME:
        assert text.count(f"### {name}\n") == 1, name
    assert set(NOTES) <= set(BY_NAME)

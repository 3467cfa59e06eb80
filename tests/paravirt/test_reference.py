"""The document of the call interface against the tables that both sides run on."""

from pathlib import Path

import pytest

from gpuvm.paravirt import reference
from gpuvm.paravirt.abi import ARGUMENT_LAYOUTS, OPERATIONS, SLOT_SIZE, Op, Register, Shared

DOCUMENT = (Path(__file__).parents[2] / "docs" / "para.md").read_text()


def test_the_document_prints_the_tables() -> None:
    assert reference.operations() in DOCUMENT
    assert reference.results() in DOCUMENT


@pytest.mark.parametrize("register", Register)
def test_the_document_names_every_register(register: Register) -> None:
    name = register.name.removesuffix("_LOW").removesuffix("_HIGH")
    line = next(line for line in DOCUMENT.splitlines() if f"| {name} |" in line)
    assert f"{register.value:#04x}" in line


def test_the_document_names_every_word_of_the_shared_page() -> None:
    for word in Shared:
        assert f"| {word.value}" in DOCUMENT


def test_arguments_are_aligned_and_fit_a_slot() -> None:
    for op in Op:
        at = 8
        for field in OPERATIONS[op].arguments:
            size = {"u32": 4, "u64": 8}[field.type]
            at += size
        assert at - 8 == ARGUMENT_LAYOUTS[op].size <= SLOT_SIZE - 8
        if OPERATIONS[op].array:
            assert at % 8 == 0

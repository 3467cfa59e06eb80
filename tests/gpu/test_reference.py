"""The document of the device model is what the declarations say."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuvm.gpu.classes.method import Method, MethodTable
from gpuvm.gpu.reference import document


def test_the_document_is_up_to_date():
    path = Path(__file__).parents[2] / "docs" / "device-model.md"
    assert path.read_text() == document(), "run: python -m gpuvm.gpu.reference > docs/device-model.md"


def test_two_methods_at_one_offset_are_refused_with_both_names():
    with pytest.raises(ValueError, match="method B must not overlap A"):
        MethodTable(1, "X", (Method(0x200, "A[1]", count=1), Method(0x200, "B")))


def test_every_register_has_one_owner(rig):
    names = {}
    for block in rig.gpu.registers.blocks():
        for offset, register, _ in block.places():
            assert offset not in names, f"{register.name} and {names[offset]}"
            names[offset] = register.name
            assert rig.gpu.registers.name(offset).startswith(block.name)

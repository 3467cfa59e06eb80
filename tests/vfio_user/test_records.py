"""The table of records: sizes as in linux/vfio.h and the vfio-user specification, and every record comes back
as it went.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvm.vmm.vfio_user.errors import InvalidRequest
from gpuvm.vmm.vfio_user.protocol import Command
from gpuvm.vmm.vfio_user.records import CODECS, MESSAGES, Codec

SIZES = {
    "Header": 16,
    "Version": 4,
    "DmaMap": 32,
    "DmaUnmap": 24,
    "Bitmap": 16,
    "DeviceInfo": 16,
    "RegionInfo": 32,
    "SparseCap": 16,
    "SparseArea": 16,
    "RegionIoFds": 16,
    "IrqInfo": 16,
    "IrqSet": 20,
    "RegionAccess": 16,
    "DmaAccess": 16,
    "WriteCount": 8,
    "WriteEntry": 24,
    "DeviceFeature": 8,
}
BITS = {"H": 16, "I": 32, "Q": 64}


def test_sizes() -> None:
    assert {codec.name: codec.size for codec in CODECS} == SIZES


def test_every_command_is_in_the_table() -> None:
    assert set(MESSAGES) == {command.value for command in Command}


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@settings(deadline=None)
@given(data=st.data())
def test_a_record_comes_back(codec: Codec[Any], data: st.DataObject) -> None:
    values = [data.draw(st.integers(0, (1 << BITS[code]) - 1), name) for name, code in codec.fields]
    record = codec.record(*values)
    before = data.draw(st.binary(max_size=9))
    packed = codec.pack(record)
    assert packed == b"".join(
        value.to_bytes(BITS[code] // 8, "little")
        for value, (_, code) in zip(values, codec.fields, strict=True)
    )
    assert codec.unpack(before + packed + b"more", len(before)) == record


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_a_record_that_ends_early_is_refused(codec: Codec[Any]) -> None:
    with pytest.raises(InvalidRequest, match=f"{codec.name} takes {codec.size} bytes"):
        codec.unpack(bytes(codec.size - 1))
    with pytest.raises(InvalidRequest):
        codec.unpack(b"", 5)


def test_the_packages_own_modules_need_the_standard_library_alone() -> None:
    code = (
        "import sys; before = set(sys.modules); import gpuvm.vmm.vfio_user;"
        "new = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['gpuvm']\n"

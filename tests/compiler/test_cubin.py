"""The ELF: what this compiler writes, read by it and by pyelftools; broken files."""

from __future__ import annotations

import io
import random

import pytest
from elftools.elf.elffile import ELFFile
from ptx_text import HEADER

from gpuvm.compiler import CompileError, compile_ptx, cubin

TEXT = (
    HEADER
    + """
.const .align 4 .b8 table[8] = {1, 0, 0, 0, 2};
.global .align 8 .u64 pointer = generic(data);
.global .align 4 .u32 data[3] = {7, 8, 9};
.global .align 4 .u32 empty[5];
.global .align 1 .b8 bytes[8] = {0xFF(data), 0xFF00(data), 0xFF0000(data), 0xFF000000(data), 0, 0, 0, 0};
.visible .entry first (.param .u32 a, .param .align 8 .b8 b[24], .param .u8 c) .maxntid 128, 2, 1
{ .reg .b32 %r; .reg .b64 %x; .shared .align 16 .b8 s[40]; .local .b32 l[7];
  mov.u64 %x, l; st.local.u32 [%x], 3; mov.u64 %x, s; ld.shared.u32 %r, [%x]; bar.sync 3;
  mov.u64 %x, data; st.global.u32 [%x], %r; mov.u64 %x, table;
  ld.const.u32 %r, [%x]; st.global.u32 [empty], %r; ret; }
.visible .entry second () .reqntid 64 { ret; }
"""
)


def test_our_reader_finds_everything_again() -> None:
    program = cubin.read(compile_ptx(TEXT).cubin)
    first, second = program.kernels["first"], program.kernels["second"]
    assert first.parameters == [(0, 4), (8, 24), (32, 1)]
    assert first.parameter_size == 33
    assert (first.shared_size, first.barriers, first.local_negative) == (40, 4, 0)
    assert first.local_positive >= 28
    assert first.max_threads == (128, 2, 1)
    assert second.required_threads == (64, 1, 1)
    assert program.constants[2][:8] == bytes((1, 0, 0, 0, 2, 0, 0, 0))
    data, empty = program.variables["data"], program.variables["empty"]
    contents = program.data[data.section].contents
    assert contents is not None
    assert contents[data.offset : data.offset + 12] == b"\7\0\0\0\10\0\0\0\11\0\0\0"
    assert (empty.section, empty.size) == (".nv.global", 20)
    pointer = program.variables["pointer"]
    to_data = [r for r in program.relocations if r.target == data.section and r.addend == data.offset]
    assert (pointer.section, pointer.offset, 8) in [(r.section, r.offset, r.size) for r in to_data]
    assert [r.shift for r in to_data if r.size == 1] == [0, 8, 16, 24]


def test_other_readers_see_a_proper_elf() -> None:
    elf = ELFFile(io.BytesIO(compile_ptx(TEXT).cubin))
    assert (elf.header.e_machine, elf.header.e_flags & 0xFF, elf.elfclass) == ("EM_CUDA", 20, 64)
    sections = {s.name: s for s in elf.iter_sections()}
    text = sections[".text.first"]
    assert text.header.sh_info >> 24 == cubin.read(compile_ptx(TEXT).cubin).kernels["first"].registers
    symbols = {s.name: s for s in sections[".symtab"].iter_symbols()}
    assert symbols["first"].entry.st_size == text.header.sh_size
    assert sections[".nv.constant0.first"].header.sh_size == 0x20 + 33


def test_broken_files_are_refused_in_one_sentence() -> None:
    good = compile_ptx(TEXT).cubin
    for bad in (b"", b"PTX", good[:40], good[: len(good) // 2]):
        with pytest.raises(CompileError) as caught:
            cubin.read(bad)
        assert caught.value.kind == "cubin"
    rng = random.Random(1)
    for _ in range(150):
        damaged = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            damaged[rng.randrange(len(damaged))] = rng.getrandbits(8)
        try:
            cubin.read(bytes(damaged))
        except CompileError as error:
            assert error.kind == "cubin"  # noqa: PT017


def test_the_log_says_what_a_kernel_uses() -> None:
    log = compile_ptx(TEXT).log
    assert "Compiling entry function 'first' for 'sm_20'" in log
    assert "40 bytes smem" in log
    assert "8 bytes cmem[2]" in log

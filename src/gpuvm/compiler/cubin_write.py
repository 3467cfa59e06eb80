"""Writes an sm_20 cubin: a 64-bit ELF with the sections and attributes that nvcc's have."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from gpuvm.compiler import nvinfo

MACHINE_CUDA = 190
OSABI, ABIVERSION = 0x33, 4
FLAGS = 0x140114
"""sm_20 code for 64-bit addresses, virtual architecture 20."""
R_ABS32, R_ABS64 = 1, 2
R_ABS32_HI = 0x2F
"""This project's own: the address's upper 32 bits (byte-wise initialisers need nothing finer)."""
SHF_WRITE, SHF_ALLOC, SHF_EXEC = 1, 2, 4
PROGBITS, SYMTAB, STRTAB, NOBITS, REL, RELA = 1, 2, 3, 8, 9, 4
LOCAL, GLOBAL, WEAK = 0, 1, 2
NOTYPE, OBJECT, FUNC, SECTION = 0, 1, 2, 3
ADDRESS_TYPES = {4: R_ABS32, 8: R_ABS64}


@dataclass(slots=True)
class KernelImage:
    """One kernel as the linker leaves it."""

    name: str
    code: bytes
    registers: int
    shared_size: int = 0
    local_size: int = 0
    """Bytes of local memory from address 0 up."""
    stack_size: int = 0
    """Bytes of stack, below the stack pointer's start."""
    crs_stack: int = 0
    barriers: int = 0
    parameters: list[tuple[int, int]] = field(default_factory=list)
    parameter_size: int = 0
    constants: bytes = b""
    max_threads: tuple[int, int, int] | None = None
    required_threads: tuple[int, int, int] | None = None
    functions: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Device functions inside the code: offset and size."""


@dataclass(slots=True)
class DataImage:
    """One variable of the module, or an entry of the table of addresses."""

    name: str
    section: str
    offset: int
    size: int
    weak: bool = False


@dataclass(slots=True)
class Relocation:
    """`section[offset]` gets the address of `symbol` + addend; `size` 8, 4, or 1 with `shift`."""

    section: str
    offset: int
    symbol: str
    addend: int = 0
    size: int = 8
    shift: int = 0


@dataclass(slots=True)
class ModuleImage:
    """What a cubin holds."""

    kernels: list[KernelImage] = field(default_factory=list)
    constant2: bytes = b""
    constant14: bytes = b""
    init: bytes = b""
    """.nv.global.init"""
    init_align: int = 4
    zeroed: int = 0
    """Bytes of .nv.global"""
    zeroed_align: int = 4
    data: list[DataImage] = field(default_factory=list)
    relocations: list[Relocation] = field(default_factory=list)


class _Strings:
    def __init__(self) -> None:
        self.bytes = bytearray(1)
        self.at: dict[str, int] = {"": 0}

    def add(self, s: str) -> int:
        if s not in self.at:
            self.at[s] = len(self.bytes)
            self.bytes += s.encode() + b"\0"
        return self.at[s]


@dataclass(slots=True)
class _Section:
    name: str
    type: int
    flags: int
    data: bytes = b""
    size: int = 0
    link: int = 0
    info: int = 0
    align: int = 4
    entry: int = 0


class _Writer:
    def __init__(self, module: ModuleImage) -> None:
        self.module = module
        self.sections: list[_Section] = [
            _Section("", 0, 0, align=0),
            _Section(".shstrtab", STRTAB, 0, align=1),
            _Section(".strtab", STRTAB, 0, align=1),
            _Section(".symtab", SYMTAB, 0, link=2, align=8, entry=24),
        ]
        self.index: dict[str, int] = {}
        self.names = _Strings()
        self.symbols: list[bytes] = [bytes(24)]
        self.symbol_index: dict[str, int] = {}

    def section(self, name: str, kind: int, flags: int, data: bytes = b"", **more: int) -> int:
        s = _Section(name, kind, flags, data, more.pop("size", len(data)), **more)
        self.sections.append(s)
        self.index[name] = len(self.sections) - 1
        return self.index[name]

    def symbol(self, name: str, section: int, value: int, size: int, bind: int, kind: int) -> int:
        entry = struct.pack("<IBBHQQ", self.names.add(name), bind << 4 | kind, 0, section, value, size)
        self.symbols.append(entry)
        return len(self.symbols) - 1

    def write(self) -> bytes:
        m = self.module
        for k in m.kernels:
            text = self.section(
                f".text.{k.name}", PROGBITS, SHF_ALLOC | SHF_EXEC | k.barriers << 20, k.code, link=3, align=8
            )
            self.section(
                f".nv.constant0.{k.name}", PROGBITS, SHF_ALLOC, bytes(0x20 + k.parameter_size), info=text
            )
            self.section(f".nv.info.{k.name}", PROGBITS, SHF_ALLOC, info=text, align=1)
            if k.shared_size:
                self.section(
                    f".nv.shared.{k.name}",
                    NOBITS,
                    SHF_ALLOC | SHF_WRITE,
                    size=k.shared_size,
                    info=text,
                    align=16,
                )
            if k.local_size:
                self.section(
                    f".nv.local.{k.name}",
                    NOBITS,
                    SHF_ALLOC | SHF_WRITE,
                    size=k.local_size,
                    info=text,
                    align=16,
                )
            if k.constants:
                self.section(f".nv.constant16.{k.name}", PROGBITS, SHF_ALLOC, k.constants, info=text)
        if m.constant2:
            self.section(".nv.constant2", PROGBITS, SHF_ALLOC, m.constant2, align=16)
        if m.constant14:
            self.section(".nv.constant14", PROGBITS, SHF_ALLOC, m.constant14, align=8)
        if m.init:
            self.section(".nv.global.init", PROGBITS, SHF_ALLOC | SHF_WRITE, m.init, align=m.init_align)
        if m.zeroed:
            self.section(".nv.global", NOBITS, SHF_ALLOC | SHF_WRITE, size=m.zeroed, align=m.zeroed_align)
        for n in range(1, len(self.sections)):
            self.symbol("", n, 0, 0, LOCAL, SECTION)
        text_symbol = {k.name: self.index[f".text.{k.name}"] for k in m.kernels}
        for k in m.kernels:
            for name, (at, size) in k.functions.items():
                self.symbol_index.setdefault(
                    name, self.symbol(name, text_symbol[k.name], at, size, LOCAL, FUNC)
                )
        locals_end = len(self.symbols)
        for k in m.kernels:
            self.symbol_index[k.name] = self.symbol(k.name, text_symbol[k.name], 0, len(k.code), GLOBAL, FUNC)
        for d in m.data:
            bind = WEAK if d.weak else GLOBAL
            self.symbol_index[d.name] = self.symbol(
                d.name, self.index[d.section], d.offset, d.size, bind, OBJECT
            )
        self._relocations()
        info = bytearray()
        for k in m.kernels:
            at = self.symbol_index[k.name]
            info += nvinfo.attribute(nvinfo.MIN_STACK_SIZE, nvinfo.word_list(at, k.stack_size))
            info += nvinfo.attribute(nvinfo.FRAME_SIZE, nvinfo.word_list(at, k.stack_size))
            self.sections[text_symbol[k.name]].info = k.registers << 24 | at
            own = self.sections[self.index[f".nv.info.{k.name}"]]
            own.data = self._attributes(k)
            own.size = len(own.data)
        self.section(".nv.info", PROGBITS, SHF_ALLOC, bytes(info), align=1)
        return self._assemble(locals_end)

    def _attributes(self, k: KernelImage) -> bytes:
        out = bytearray()
        if k.parameters:
            out += nvinfo.attribute(
                nvinfo.CBANK_PARAM_OFFSETS, nvinfo.word_list(*(o for o, _ in k.parameters))
            )
        constant0 = self.index[f".nv.constant0.{k.name}"]
        out += nvinfo.attribute(
            nvinfo.PARAM_CBANK, nvinfo.word_list(constant0, 0x20 | k.parameter_size << 16)
        )
        out += nvinfo.half(nvinfo.CBANK_PARAM_SIZE, k.parameter_size)
        for n in range(len(k.parameters) - 1, -1, -1):
            out += nvinfo.parameter(n, *k.parameters[n])
        if k.max_threads:
            out += nvinfo.attribute(nvinfo.MAX_THREADS, nvinfo.word_list(*k.max_threads))
        if k.required_threads:
            out += nvinfo.attribute(nvinfo.REQNTID, nvinfo.word_list(*k.required_threads))
        if k.crs_stack:
            out += nvinfo.attribute(nvinfo.CRS_STACK_SIZE, nvinfo.word_list(k.crs_stack))
        return bytes(out)

    def _relocations(self) -> None:
        """REL entries keep the addend in place; RELA entries carry it (bytes of addresses, which have no
        place for it).
        """
        by_section: dict[str, list[Relocation]] = {}
        for r in self.module.relocations:
            by_section.setdefault(r.section, []).append(r)
        for name, items in by_section.items():
            plain = bytearray()
            with_addend = bytearray()
            target = self.sections[self.index[name]]
            data = bytearray(target.data)
            for r in items:
                symbol = self._symbol_of(r.symbol)
                if r.size in ADDRESS_TYPES:
                    plain += struct.pack("<QQ", r.offset, symbol << 32 | ADDRESS_TYPES[r.size])
                    data[r.offset : r.offset + r.size] = (r.addend & (1 << 8 * r.size) - 1).to_bytes(
                        r.size, "little"
                    )
                else:
                    with_addend += struct.pack(
                        "<QQq", r.offset, symbol << 32 | R_BYTE + r.shift // 8, r.addend
                    )
            target.data = bytes(data)
            if plain:
                self.section(
                    f".rel{name}", REL, 0, bytes(plain), link=3, info=self.index[name], align=8, entry=16
                )
            if with_addend:
                self.section(
                    f".rela{name}",
                    RELA,
                    0,
                    bytes(with_addend),
                    link=3,
                    info=self.index[name],
                    align=8,
                    entry=24,
                )

    def _symbol_of(self, name: str) -> int:
        if name == "$constant2":
            return self.index[".nv.constant2"]
        return self.symbol_index[name]

    def _assemble(self, locals_end: int) -> bytes:
        shnames = _Strings()
        for s in self.sections:
            shnames.add(s.name)
        self.sections[1].data = bytes(shnames.bytes)
        self.sections[2].data = bytes(self.names.bytes)
        self.sections[3].data = b"".join(self.symbols)
        self.sections[3].info = locals_end
        for s in self.sections[1:4]:
            s.size = len(s.data)
        header_size = 64 + 64 * len(self.sections)
        at = header_size
        body = bytearray()
        headers = bytearray()
        for s in self.sections:
            if s.align > 1:
                pad = -at % s.align
                body += bytes(pad)
                at += pad
            offset = at if s.type else 0
            headers += struct.pack(
                "<IIQQQQIIQQ",
                shnames.at[s.name],
                s.type,
                s.flags,
                0,
                offset,
                s.size,
                s.link,
                s.info,
                s.align,
                s.entry,
            )
            if s.type != NOBITS:
                body += s.data
                at += len(s.data)
        ident = b"\x7fELF" + bytes((2, 1, 1, OSABI, ABIVERSION)) + bytes(7)
        elf = struct.pack(
            "<16sHHIQQQIHHHHHH",
            ident,
            2,
            MACHINE_CUDA,
            1,
            0,
            0,
            64,
            FLAGS,
            64,
            56,
            0,
            64,
            len(self.sections),
            1,
        )
        return elf + bytes(headers) + bytes(body)


R_BYTE = 0x100
"""This project's own: one byte of a 64-bit address (R_BYTE + 0 the lowest), for byte-wise initialisers."""


def write(module: ModuleImage) -> bytes:
    """The cubin's bytes."""
    return _Writer(module).write()

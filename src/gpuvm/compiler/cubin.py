"""Reads sm_20 cubins: this compiler's and nvcc's, 32- and 64-bit ELF. Attributes are decoded in `nvinfo`."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

from elftools.elf.elffile import ELFFile

from gpuvm.compiler import nvinfo
from gpuvm.compiler.cubin_write import MACHINE_CUDA, R_ABS32, R_ABS64, R_BYTE
from gpuvm.compiler.errors import CompileError

MAXIMUM_SECTION = 1 << 32
PARAMETER_BASE = 0x20


@dataclass(slots=True)
class Kernel:
    """One kernel.

    Attributes
    ----------
    section : str
        Its text section; `offset` is where it starts there (nvcc: always 0).
    code : bytes
        The text section from `offset` on: the kernel and the device functions that it calls.
    shared_size, local_positive, local_negative, call_stack : int Bytes: static shared memory of a block;
        local memory of a thread from address 0 up and below the stack pointer's start; reconvergence stack of
        a warp (0: not said).
    barriers : int
        Named barriers used.
    parameters : list of (offset, size)
        Bytes, relative to c[0x0][0x20], in order.
    parameter_size : int
        Bytes of the parameter area.
    constants : dict
        Bank -> contents, of banks that belong to this kernel (0x10: the compiler's constants).
    max_threads, required_threads : tuple or None
        .maxntid and .reqntid.
    """

    name: str
    section: str
    offset: int
    code: bytes
    registers: int
    shared_size: int = 0
    local_positive: int = 0
    local_negative: int = 0
    call_stack: int = 0
    barriers: int = 0
    parameters: list[tuple[int, int]] = field(default_factory=list)
    parameter_size: int = 0
    constants: dict[int, bytes] = field(default_factory=dict)
    max_threads: tuple[int, int, int] | None = None
    required_threads: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the module: where it is and how large (bytes)."""

    section: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Relocation:
    """`section[offset]` becomes the address of `target` (a section) + `addend`.

    `size` is 4 (low word), 8, or 1: then it is byte `shift` / 8 of the address.
    """

    section: str
    offset: int
    size: int
    target: str
    addend: int
    shift: int = 0


@dataclass(slots=True)
class Data:
    """Memory that a module needs: contents (None: zeroed), size and alignment in bytes."""

    name: str
    size: int
    align: int
    contents: bytes | None


@dataclass(slots=True)
class Cubin:
    """A cubin.

    Attributes
    ----------
    kernels : dict
        By name.
    variables : dict
        Variables by name; their section is ".nv.global", ".nv.global.init" or ".nv.constant2".
    data : dict
        Section name -> `Data` for .nv.global, .nv.global.init.
    constants : dict
        Bank -> contents, of banks that all kernels share (2: variables, 0xe: table of addresses).
    relocations : list of Relocation
        Their sections are those of `data`, ".nv.constant<bank>" and text sections.
    wide : bool
        Whether addresses have 64 bits.
    """

    kernels: dict[str, Kernel] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    data: dict[str, Data] = field(default_factory=dict)
    constants: dict[int, bytes] = field(default_factory=dict)
    relocations: list[Relocation] = field(default_factory=list)
    wide: bool = True


def read(data: bytes) -> Cubin:
    """Read a cubin.

    Raises
    ------
    CompileError
        (kind "cubin") for bytes that are no cubin, or one for another chip.
    """
    try:
        return _Reader(data).read()
    except CompileError:
        raise
    except Exception as e:  # pyelftools raises what its parts raise on broken files
        raise CompileError(
            f"a cubin must be a whole ELF file; this one is broken ({type(e).__name__}: {e})", 0, "cubin"
        ) from e


class _Reader:
    def __init__(self, data: bytes) -> None:
        if data[:4] != b"\x7fELF":
            raise CompileError("a cubin starts with the ELF magic; this data does not", 0, "cubin")
        self.elf: Any = ELFFile(io.BytesIO(data))
        header = self.elf.header
        if header.e_machine not in ("EM_CUDA", MACHINE_CUDA):
            raise CompileError(
                f"a cubin is for the machine EM_CUDA (190); this ELF is for {header.e_machine}", 0, "cubin"
            )
        chip = header.e_flags & 0xFF
        if not 20 <= chip < 30:
            raise CompileError(f"this GPU runs sm_20 code; the cubin is for sm_{chip}", 0, "cubin")
        self.sections: list[Any] = list(self.elf.iter_sections())
        self.limit = len(data)
        self.out = Cubin(wide=self.elf.elfclass == 64)
        table: Any = self.elf.get_section_by_name(".symtab")
        self.symbols: list[Any] = list(table.iter_symbols()) if table is not None else []

    def contents(self, section: Any) -> bytes:
        header = section.header
        if header.sh_type == "SHT_NOBITS":
            return b""
        if header.sh_offset + header.sh_size > self.limit:
            raise CompileError(f"section {section.name} reaches past the end of the cubin", 0, "cubin")
        return bytes(section.data())

    def read(self) -> Cubin:
        texts: dict[int, str] = {}
        for number, s in enumerate(self.sections):
            if s.header.sh_size > MAXIMUM_SECTION:
                raise CompileError(
                    f"section {s.name} has {s.header.sh_size} bytes, which is too many", 0, "cubin"
                )
            name = s.name
            if name.startswith(".text."):
                texts[number] = name[6:]
            elif name in (".nv.global", ".nv.global.init"):
                filled = None if s.header.sh_type == "SHT_NOBITS" else self.contents(s)
                self.out.data[name] = Data(name, s.header.sh_size, max(1, s.header.sh_addralign), filled)
            elif name.startswith(".nv.constant") and name[12:].isdigit():
                self.out.constants[int(name[12:])] = self.contents(s)
        for symbol in self.symbols:
            self._symbol(symbol, texts)
        for s in self.sections:
            self._own_section(s)
        stack = self.elf.get_section_by_name(".nv.info")
        if stack is not None:
            self._module_attributes(self.contents(stack))
        for s in self.sections:
            if s.header.sh_type in ("SHT_REL", "SHT_RELA"):
                self._relocations(s)
        return self.out

    def _symbol(self, symbol: Any, texts: dict[int, str]) -> None:
        entry = symbol.entry
        number = entry.st_shndx
        if not isinstance(number, int) or number >= len(self.sections):
            return
        kind = entry.st_info.type
        if kind == "STT_FUNC" and number in texts and entry.st_info.bind != "STB_LOCAL":
            s = self.sections[number]
            code = self.contents(s)
            self.out.kernels[symbol.name] = Kernel(
                symbol.name,
                s.name,
                entry.st_value,
                code[entry.st_value :],
                registers=s.header.sh_info >> 24,
                barriers=s.header.sh_flags >> 20 & 0x1F,
            )
        elif kind == "STT_OBJECT":
            section = self.sections[number].name
            if section in self.out.data or section == ".nv.constant2":
                self.out.variables[symbol.name] = Variable(section, entry.st_value, entry.st_size)

    def _own_section(self, s: Any) -> None:
        """Sections named after a kernel."""
        name = s.name
        for prefix in (".nv.shared.", ".nv.local.", ".nv.info.", ".nv.constant16."):
            if name.startswith(prefix):
                kernel = self.out.kernels.get(name[len(prefix) :])
                if kernel is None:
                    return
                if prefix == ".nv.shared.":
                    kernel.shared_size = s.header.sh_size
                elif prefix == ".nv.local.":
                    kernel.local_positive = s.header.sh_size
                elif prefix == ".nv.info.":
                    self._kernel_attributes(kernel, self.contents(s))
                else:
                    kernel.constants[16] = self.contents(s)

    @staticmethod
    def _kernel_attributes(kernel: Kernel, data: bytes) -> None:
        ordered: dict[int, tuple[int, int]] = {}
        offsets: list[int] = []
        for number, payload in nvinfo.read(data):
            values = [int.from_bytes(payload[k : k + 4], "little") for k in range(0, len(payload) - 3, 4)]
            if number == nvinfo.KPARAM_INFO and len(values) == 3:
                ordered[values[1] & 0xFFFF] = (values[1] >> 16, values[2] >> 18)
            elif number == nvinfo.CBANK_PARAM_SIZE:
                kernel.parameter_size = int.from_bytes(payload, "little")
            elif number == nvinfo.PARAM_CBANK and len(values) == 2:
                base = values[1] & 0xFFFF
                if base != PARAMETER_BASE:
                    raise CompileError(
                        f"{kernel.name}: sm_20 parameters start at c[0x0][0x20], not {base:#x}", 0, "cubin"
                    )
                kernel.parameter_size = kernel.parameter_size or values[1] >> 16
            elif number == nvinfo.CBANK_PARAM_OFFSETS:
                offsets = values
            elif number == nvinfo.MAX_THREADS and len(values) == 3:
                kernel.max_threads = (values[0], values[1], values[2])
            elif number == nvinfo.REQNTID and len(values) == 3:
                kernel.required_threads = (values[0], values[1], values[2])
            elif number == nvinfo.CRS_STACK_SIZE and values:
                kernel.call_stack = values[0]
        if ordered:
            kernel.parameters = [ordered[k] for k in sorted(ordered)]
        else:
            ends = [*offsets[1:], kernel.parameter_size]
            kernel.parameters = (
                [(o, max(0, e - o)) for o, e in zip(offsets, ends, strict=True)] if offsets else []
            )

    def _module_attributes(self, data: bytes) -> None:
        for number, payload in nvinfo.read(data):
            if number in (nvinfo.MIN_STACK_SIZE, nvinfo.FRAME_SIZE) and len(payload) == 8:
                index = int.from_bytes(payload[:4], "little")
                size = int.from_bytes(payload[4:], "little")
                if index < len(self.symbols):
                    kernel = self.out.kernels.get(self.symbols[index].name)
                    if kernel is not None and size < 1 << 24:
                        kernel.local_negative = max(kernel.local_negative, size)

    def _relocations(self, s: Any) -> None:
        number = s.header.sh_info
        if number >= len(self.sections):
            raise CompileError(f"section {s.name} relocates a section that is not there", 0, "cubin")
        target = self.sections[number]
        place = target.name
        if not (place in self.out.data or place.startswith((".nv.constant", ".text."))):
            return
        contents = self.contents(target)
        for r in s.iter_relocations():
            entry = r.entry
            kind = entry.r_info_type
            if entry.r_info_sym >= len(self.symbols):
                raise CompileError(
                    f"section {s.name} refers to symbol {entry.r_info_sym}, which is not there", 0, "cubin"
                )
            symbol = self.symbols[entry.r_info_sym]
            index = symbol.entry.st_shndx
            if not isinstance(index, int) or index >= len(self.sections):
                raise CompileError(f"{symbol.name} is used and not defined in this cubin", 0, "cubin")
            if kind in (R_ABS32, R_ABS64):
                size, shift = (4 if kind == R_ABS32 else 8), 0
            elif R_BYTE <= kind < R_BYTE + 8:
                size, shift = 1, 8 * (kind - R_BYTE)
            else:
                raise CompileError(f"relocation type {kind} in {s.name} is not known", 0, "cubin")
            offset = entry.r_offset
            if offset + size > target.header.sh_size:
                raise CompileError(f"a relocation in {s.name} lies outside its section", 0, "cubin")
            addend = (
                entry.r_addend
                if "r_addend" in entry
                else int.from_bytes(contents[offset : offset + size], "little")
            )
            self.out.relocations.append(
                Relocation(
                    place, offset, size, self.sections[index].name, addend + symbol.entry.st_value, shift
                )
            )


__all__ = ["Cubin", "Data", "Kernel", "Relocation", "Variable", "read"]

"""Where a module's variables live: shared offsets, constant bank 2, global data, and the table of addresses
c[0xe].

Shared and constant variables get their final places before any code is made, so code uses plain numbers. The
address of a global variable is known only to the loader: code reads it from c[0xe], which relocations fill.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gpuvm.compiler.errors import CompileError
from gpuvm.compiler.ptx import ast
from gpuvm.compiler.ptx.parser import float_bits, type_size

PARAMETER_BASE = 0x20
"""c[0x0] offset of a kernel's first parameter."""
CONSTANT_BANK = 2
ADDRESS_BANK = 0xE
LITERAL_BANK = 0x10
MAXIMUM_SHARED = 48 << 10
MAXIMUM_CONSTANT = 64 << 10
MAXIMUM_GLOBAL = 6 << 30
MAXIMUM_INITIALISED = 256 << 20
MAXIMUM_PARAMETERS = 4096 - PARAMETER_BASE


@dataclass(slots=True)
class Symbol:
    """One variable. `offset` is in its section (or, for shared and const, the address itself)."""

    name: str
    space: str
    size: int
    align: int
    offset: int = 0
    init: bytes | None = None
    relocations: list[tuple[int, str, int, bool, int | None]] = field(default_factory=list)
    """(offset in the variable, symbol, addend, generic, byte shift)"""
    linkage: str = ""
    defined: bool = True


def variable_size(v: ast.Variable) -> int:
    """Bytes of a variable."""
    return type_size(v.type) * v.vector * v.count


def align_up(value: int, align: int) -> int:
    return value + align - 1 & -align


def initial_bytes(v: ast.Variable) -> tuple[bytes | None, list[tuple[int, str, int, bool, int | None]]]:
    """A variable's initial contents and the addresses in it."""
    if v.init is None:
        return None, []
    size = type_size(v.type)
    out = bytearray(variable_size(v))
    relocations: list[tuple[int, str, int, bool, int | None]] = []
    at = 0
    for item in v.init:
        if isinstance(item, ast.SymbolRef):
            relocations.append((at, item.name, item.offset, item.generic, item.shift))
        elif v.type in ("f32", "f64"):
            bits = item.bits
            if bits is None or item.width != size * 8:
                bits = float_bits(float(item.value), size * 8)
            out[at : at + size] = bits.to_bytes(size, "little")
        elif isinstance(item.value, float) and item.bits is None:
            raise CompileError(f"{v.name} holds integers; its initial value {item.value} is none", v.line)
        else:
            value = item.bits if item.bits is not None else int(item.value)
            out[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        at += size
    return bytes(out), relocations


class Layout:
    """Symbols of one module and the places they were given."""

    def __init__(self, module: ast.Module) -> None:
        self.module = module
        self.pointer = module.address_size // 8
        self.symbols: dict[str, Symbol] = {}
        self.functions: dict[str, ast.Function] = {}
        self.constant = bytearray()
        self.constant_relocations: list[tuple[int, str, int, bool, int | None]] = []
        self.addresses: dict[str, int] = {}
        """Symbol -> offset of its 64-bit address in c[0xe]."""
        self.shared_end = 0
        self.dynamic_align = 16
        for v in module.variables:
            self.variable(v)
        for f in module.functions:
            known = self.functions.get(f.name)
            if known is not None and known.body is not None:
                if f.body is not None:
                    raise CompileError(f"{f.name} is defined twice", f.line)
                continue
            self.functions[f.name] = f

    def variable(self, v: ast.Variable) -> None:
        """Give a variable of module level its place."""
        if v.space not in ("global", "const", "shared"):
            raise CompileError(f"{v.name}: a .{v.space} variable must be inside a function", v.line)
        known = self.symbols.get(v.name)
        if known is not None and (known.defined and v.linkage != "extern"):
            raise CompileError(f"{v.name} is defined twice", v.line)
        size = variable_size(v)
        limit = (
            MAXIMUM_CONSTANT
            if v.space == "const"
            else MAXIMUM_SHARED
            if v.space == "shared"
            else MAXIMUM_GLOBAL
        )
        if size > limit or (v.init is not None and size > MAXIMUM_INITIALISED):
            raise CompileError(
                f"{v.name} has {size} bytes; a .{v.space} variable has at most {limit}", v.line
            )
        init, relocations = initial_bytes(v)
        s = Symbol(v.name, v.space, size, v.align, init=init, relocations=relocations, linkage=v.linkage)
        if v.space == "const":
            if v.linkage == "extern":
                s.defined = False
            else:
                s.offset = align_up(len(self.constant), v.align)
                self.constant.extend(bytes(s.offset - len(self.constant)))
                self.constant.extend(init or bytes(size))
                self.constant_relocations.extend((s.offset + r[0], *r[1:]) for r in relocations)
                if len(self.constant) > MAXIMUM_CONSTANT:
                    raise CompileError(
                        f"constant variables need {len(self.constant)} bytes; the chip has 65536", v.line
                    )
        elif v.space == "shared":
            if init is not None:
                raise CompileError(f"{v.name}: shared memory cannot be initialised", v.line)
            if v.linkage == "extern" and v.count == 0:
                s.space = "dynamic"
                self.dynamic_align = max(self.dynamic_align, v.align)
            else:
                s.offset = align_up(self.shared_end, v.align)
                self.shared_end = s.offset + size
                if self.shared_end > MAXIMUM_SHARED:
                    raise CompileError(
                        f"shared variables need {self.shared_end} bytes; the chip has 49152", v.line
                    )
        elif v.linkage == "extern":
            s.defined = False
        self.symbols[v.name] = s

    def address(self, symbol: str) -> int:
        """Offset in c[0xe] of the 64-bit address of a global variable, constant variable or function."""
        if symbol not in self.addresses:
            self.addresses[symbol] = 8 * len(self.addresses)
        return self.addresses[symbol]

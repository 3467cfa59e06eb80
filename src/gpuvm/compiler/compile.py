"""PTX to cubin: the whole pipeline, function by function, and the link of each kernel with the functions it
calls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpuvm.compiler import cubin_write, structure
from gpuvm.compiler.cubin_write import DataImage, KernelImage, ModuleImage, Relocation
from gpuvm.compiler.emit import Code, Line, emit
from gpuvm.compiler.errors import CompileError
from gpuvm.compiler.expand import Expander
from gpuvm.compiler.finish import finish
from gpuvm.compiler.flow import Body, flatten
from gpuvm.compiler.layout import MAXIMUM_SHARED, Layout, align_up, variable_size
from gpuvm.compiler.lower import calls, compare, convert, floating, integer, memory, special, sync
from gpuvm.compiler.lower.core import Lowering
from gpuvm.compiler.mir import Fn, Value
from gpuvm.compiler.optimize import optimize
from gpuvm.compiler.ptx import ast
from gpuvm.compiler.ptx.parser import parse
from gpuvm.compiler.regalloc import allocate
from gpuvm.isa.encoder import encode
from gpuvm.isa.errors import EncodeError
from gpuvm.isa.instruction import Imm, Instruction, Mem, Operand, Target

HANDLER_MODULES = (calls, compare, convert, floating, integer, memory, special, sync)
MAXIMUM_REGISTERS = 63
MINIMUM_REGISTERS = 16
STACK_ENTRY = 16
"""Bytes of one entry of the reconvergence stack."""
CALL_STACK_BYTES = 1024
"""Stack for recursion, when the depth is not known."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to compile.

    Attributes
    ----------
    max_registers : int
        Most registers a thread may use, 16 to 63 (0: no limit but the chip's).
    optimize : int
        0 to 4; 0 keeps loops and branches as they are written.
    """

    max_registers: int = 0
    optimize: int = 3


@dataclass(frozen=True, slots=True)
class CompileResult:
    """A cubin and what a user wants to know of its kernels, in the words of `ptxas -v`."""

    cubin: bytes
    log: str


def compile_ptx(text: str | bytes, *, max_registers: int = 0, optimize: int = 3) -> CompileResult:
    """Compile a PTX module to an sm_20 cubin.

    Parameters
    ----------
    text : str or bytes
        PTX of ISA 1.4 to 8.x; bytes may end in a NUL.
    max_registers : int
        Most registers a thread may use (16 to 63); 0 for the chip's 63.
    optimize : int
        0 to 4, as the driver API's JIT option.

    Raises
    ------
    CompileError
        With the line, for text that is not PTX, that Fermi cannot run, or that refers to something missing.
    """
    if isinstance(text, bytes):
        try:
            text = text.split(b"\0", 1)[0].decode()
        except UnicodeDecodeError as e:
            raise CompileError(f"PTX is UTF-8 text; byte {e.start} is not") from None
    return _Compiler(parse(text), Options(max_registers, optimize)).run()


class _Compiler:
    def __init__(self, module: ast.Module, options: Options) -> None:
        self.module = module
        self.options = options
        self.layout = Layout(module)
        self.bodies: dict[str, Body] = {}
        self.codes: dict[str, Code] = {}
        self.lowered: dict[str, Lowering] = {}
        self.image = ModuleImage()
        self.log: list[str] = []

    def run(self) -> CompileResult:
        for f in list(self.layout.functions.values()):
            if f.body is not None:
                self.bodies[f.name] = flatten(f)
        Expander(self.layout, self.bodies, self.options.optimize > 0).run()
        self.callees = {name: callees(body) for name, body in self.bodies.items()}
        order, recursive = call_order(self.callees)
        self.recursive = recursive
        self.stack = bool(recursive)
        self._plan_shared()
        for name in order:
            self._function(name)
        for name, body in self.bodies.items():
            if body.function.entry:
                self.image.kernels.append(self._link(name, body))
        self._data()
        return CompileResult(cubin_write.write(self.image), "\n".join(self.log) + ("\n" if self.log else ""))

    # ---- shared memory

    def _plan_shared(self) -> None:
        """Places of shared variables: the module's first, then those of device functions, then each kernel's
        own.
        """
        named: set[str] = set()
        for body in self.bodies.values():
            for s in self.layout.symbols.values():
                if s.space == "shared" and _mentions(body, s.name):
                    named.add(s.name)
        base = max((self.layout.symbols[n].offset + self.layout.symbols[n].size for n in named), default=0)
        self.shared: dict[str, dict[str, int]] = {}
        for name, body in self.bodies.items():
            if not body.function.entry:
                self.shared[name], base = _place_shared(body, base)
        self.shared_base = base
        self.shared_end: dict[str, int] = {}
        for name, body in self.bodies.items():
            if body.function.entry:
                self.shared[name], self.shared_end[name] = _place_shared(body, base)
        dynamic = [s.name for s in self.layout.symbols.values() if s.space == "dynamic"]
        shared_dynamic = any(
            _mentions(b, d) for d in dynamic for b in self.bodies.values() if not b.function.entry
        )
        if shared_dynamic:
            # one place for all kernels, since a function has one code
            end = align_up(max(self.shared_end.values(), default=0), self.layout.dynamic_align)
            self.shared_end = dict.fromkeys(self.shared_end, end)
        self.dynamic = {
            name: align_up(end, self.layout.dynamic_align) if dynamic else end
            for name, end in self.shared_end.items()
        }
        self.dynamic_common = max(self.dynamic.values(), default=0)
        for name, end in self.shared_end.items():
            if end > MAXIMUM_SHARED:
                line = self.bodies[name].function.line
                raise CompileError(
                    f"{name} needs {end} bytes of shared memory; a block has at most {MAXIMUM_SHARED}", line
                )

    # ---- code

    def _limit(self, f: ast.Function) -> int:
        limit = MAXIMUM_REGISTERS
        if self.options.max_registers:
            limit = min(limit, max(MINIMUM_REGISTERS, self.options.max_registers))
        if f.directives.get("maxnreg"):
            limit = min(limit, max(MINIMUM_REGISTERS, f.directives["maxnreg"][0]))
        return limit

    def _function(self, name: str) -> None:
        body = self.bodies[name]
        f = body.function
        structure.structure(body)
        dynamic = self.dynamic.get(name, self.dynamic_common)
        low = Lowering(body, self.layout, self.shared[name], dynamic, name in self.recursive)
        fn = low.run()
        fn.max_registers = self._limit(f)
        optimize(fn, self.options.optimize)
        assignment = self._allocate(fn)
        finish(fn, assignment, self.options.optimize)
        self.codes[name] = emit(fn, assignment, self.stack)
        self.lowered[name] = low

    def _allocate(self, fn: Fn) -> dict[Value, int]:
        clobbers: dict[str, tuple[int, int]] = {}
        for callee in fn.calls:
            code = self.codes.get(callee)
            if code is None or callee in self.recursive:
                clobbers[callee] = ((1 << MAXIMUM_REGISTERS) - 1 & ~(1 << 1), 0x7F)
            else:
                general, predicates = self._clobbered(callee)
                clobbers[callee] = general & ~(1 << 1) if self.stack else general, predicates
        fn.reserve_stack_pointer = self.stack
        return allocate(fn, clobbers)

    def _clobbered(self, name: str) -> tuple[int, int]:
        general = predicates = 0
        seen: set[str] = set()
        work = [name]
        while work:
            n = work.pop()
            if n in seen:
                continue
            seen.add(n)
            code = self.codes[n]
            general |= code.general_mask
            predicates |= code.predicate_mask
            work.extend(code.calls)
        return general, predicates

    # ---- link

    def _link(self, name: str, body: Body) -> KernelImage:
        """One kernel with the functions it reaches, as bytes."""
        names = self._reached(name)
        starts: dict[str, int] = {}
        at = 0
        for n in names:
            starts[n] = at
            at += 8 * len(self.codes[n].lines)
        frames, local_size = self._frames(name, names)
        code = bytearray()
        for n in names:
            c = self.codes[n]
            for k, line in enumerate(c.lines):
                code += self._encode(line, c, starts, starts[n] + 8 * k, frames)
        f = body.function
        low = self.lowered[name]
        registers = max(self.codes[n].registers for n in names)
        stack = CALL_STACK_BYTES if any(n in self.recursive for n in names) else 0
        barriers = max(self.codes[n].barriers for n in names)
        image = KernelImage(
            name,
            bytes(code),
            registers,
            shared_size=self.shared_end[name],
            local_size=local_size,
            stack_size=stack,
            crs_stack=self._reconvergence_stack(name),
            barriers=barriers,
            parameters=low.param_list,
            parameter_size=low.param_size,
            constants=self.codes[name].constants,
            max_threads=_three(f.directives.get("maxntid")),
            required_threads=_three(f.directives.get("reqntid")),
            functions={n: (starts[n], 8 * len(self.codes[n].lines)) for n in names[1:]},
        )
        if any(self.lowered[n].used_dynamic for n in names):
            # what the launch adds begins where the code expects it
            image.shared_size = self.dynamic[name]
        spills = 4 * sum(self.codes[n].spill_stores for n in names)
        loads = 4 * sum(self.codes[n].spill_loads for n in names)
        self.log.append(
            f"ptxas info    : Compiling entry function '{name}' for 'sm_20'\n"
            f"ptxas info    : Function properties for {name}\n"
            f"    {local_size + stack} bytes stack frame, {spills} bytes spill stores, "
            f"{loads} bytes spill loads\n"
            f"ptxas info    : Used {registers} registers, {image.shared_size} bytes smem, "
            f"{0x20 + image.parameter_size} bytes cmem[0]"
            + (f", {len(self.layout.constant)} bytes cmem[2]" if self.layout.constant else "")
        )
        return image

    def _reconvergence_stack(self, name: str) -> int:
        """Bytes of a warp's stack that always suffice; 0 if recursion leaves no bound.

        Entries of parted paths hold disjoint sets of threads, so there are fewer than 32 of them at any time.
        """

        def entries(n: str, depth: int) -> int:
            code = self.codes[n]
            inner = [entries(c, depth + 1) + 1 for c in code.calls]
            return code.pushes + max(inner, default=0)

        if any(n in self.recursive for n in self._reached(name)):
            return 0
        return STACK_ENTRY * (32 + entries(name, 0))

    def _reached(self, name: str) -> list[str]:
        names = [name]
        for n in names:
            names.extend(c for c in self.codes[n].calls if c not in names)
        return names

    def _frames(self, kernel: str, names: list[str]) -> tuple[dict[str, int], int]:
        """Local address of each function's frame: behind the frames of all its callers."""
        base = dict.fromkeys(names, 0)
        for _ in range(len(names)):
            changed = False
            for n in names:
                own = 0 if n in self.recursive else self.codes[n].local_size
                for c in self.codes[n].calls:
                    if c not in self.recursive or n not in self.recursive:
                        want = base[n] + own
                        if want > base[c]:
                            base[c] = want
                            changed = True
            if not changed:
                break
        size = max(
            (base[n] + (0 if n in self.recursive else self.codes[n].local_size) for n in names), default=0
        )
        return base, size

    def _encode(
        self, line: Line, code: Code, starts: dict[str, int], pc: int, frames: dict[str, int]
    ) -> bytes:
        src: tuple[Operand, ...] = line.src
        if line.frame:
            if line.frame.startswith("argument of "):
                callee = line.frame[12:]
                extra = frames[callee] + self.lowered[callee].places["$arguments"]
            else:
                extra = frames[line.frame]
            src = tuple(
                replace(s, offset=s.offset + extra)
                if isinstance(s, Mem)
                else Imm(s.value + extra)
                if isinstance(s, Imm) and line.name == "MOV32I"
                else s
                for s in src
            )
        if line.label is not None:
            to = starts[line.label] if isinstance(line.label, str) else starts[code.name] + 8 * code.labels[line.label]
            src = (*src, Target(to))
        ins = Instruction(line.name, line.dst, src, line.mods, line.guard, line.sync)
        try:
            return encode(ins, pc)
        except EncodeError as e:
            raise CompileError(f"internal: no encoding for {ins}: {e}", line.line, "internal") from e

    # ---- data

    def _data(self) -> None:
        image, layout = self.image, self.layout
        image.constant2 = bytes(layout.constant)
        relocations: list[tuple[str, int, str, int, int, int]] = []
        init = bytearray()
        for s in layout.symbols.values():
            if s.space == "const" and s.defined:
                image.data.append(DataImage(s.name, ".nv.constant2", s.offset, s.size, s.linkage == "weak"))
            if s.space != "global" or not s.defined:
                continue
            if s.init is None:
                image.zeroed = align_up(image.zeroed, s.align)
                image.zeroed_align = max(image.zeroed_align, s.align)
                image.data.append(DataImage(s.name, ".nv.global", image.zeroed, s.size, s.linkage == "weak"))
                image.zeroed += max(s.size, 1)
            else:
                init.extend(bytes(-len(init) % s.align))
                image.init_align = max(image.init_align, s.align)
                image.data.append(
                    DataImage(s.name, ".nv.global.init", len(init), s.size, s.linkage == "weak")
                )
                for at, symbol, addend, _generic, shift in s.relocations:
                    relocations.append(
                        (".nv.global.init", len(init) + at, symbol, addend, *self._width(shift))
                    )
                init.extend(s.init)
        image.init = bytes(init)
        for at, symbol, addend, _generic, shift in layout.constant_relocations:
            relocations.append((".nv.constant2", at, symbol, addend, *self._width(shift)))
        image.constant14 = bytes(8 * len(layout.addresses))
        for symbol, at in layout.addresses.items():
            relocations.append((".nv.constant14", at, symbol, 0, 8, 0))
        known = {d.name for d in image.data} | {k.name for k in image.kernels} | {"$constant2"}
        for k in image.kernels:
            known |= k.functions.keys()
        for section, at, symbol, addend, size, shift in relocations:
            target = layout.symbols.get(symbol)
            if target is not None and target.space == "shared":
                raise CompileError(f"the address of shared variable {symbol} is no constant", 0, "link")
            if symbol not in known:
                raise CompileError(f"{symbol} is used and not defined in this module", 0, "link")
            image.relocations.append(Relocation(section, at, symbol, addend, size, shift))

    def _width(self, shift: int | None) -> tuple[int, int]:
        return (self.layout.pointer, 0) if shift is None else (1, shift)


def _three(values: tuple[int, ...] | None) -> tuple[int, int, int] | None:
    if not values:
        return None
    x, y, z = (*values, 1, 1)[:3]
    return x, y, z


def _mentions(body: Body, name: str) -> bool:
    if name in body.variables:
        return False
    for block in body.blocks:
        for item in block.items:
            if isinstance(item, ast.Instr):
                for o in item.args:
                    if (isinstance(o, ast.Name) and o.name == name) or (
                        isinstance(o, ast.Address) and o.base == name
                    ):
                        return True
            elif isinstance(item, ast.Call) and any(
                isinstance(o, ast.Name) and o.name == name for o in item.arguments
            ):
                return True
    return False


def _place_shared(body: Body, base: int) -> tuple[dict[str, int], int]:
    places: dict[str, int] = {}
    for unique, v in body.variables.items():
        if v.space == "shared":
            base = align_up(base, v.align)
            places[unique] = base
            base += variable_size(v)
    return places, base


def callees(body: Body) -> list[str]:
    found: dict[str, None] = {}
    for block in body.blocks:
        for item in block.items:
            if isinstance(item, ast.Call):
                found[item.target] = None
    return list(found)


def call_order(callees: dict[str, list[str]]) -> tuple[list[str], set[str]]:
    """Functions, callees first, and those that may call themselves."""
    from gpuvm.compiler import graph

    names = list(callees)
    number = {n: k for k, n in enumerate(names)}
    succs = [[number[c] for c in callees[n] if c in number] for n in names]
    recursive: set[str] = set()
    order: list[str] = []
    for comp in graph.components(succs, list(range(len(names)))):
        if len(comp) > 1 or comp[0] in succs[comp[0]]:
            recursive.update(names[k] for k in comp)
        order.extend(names[k] for k in comp)
    return order, recursive

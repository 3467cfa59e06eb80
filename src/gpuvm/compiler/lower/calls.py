"""Functions: parameters as words, CAL with arguments in R4 and up, and parameters of kernels in c[0x0].

A function's parameters are flattened to words, each parameter at its alignment. The first 24 words travel in
R4 to R27, results in the same registers; further words travel through local memory (see `ARGUMENT_AREA`).
"""

from __future__ import annotations

from gpuvm.compiler.errors import CompileError, unsupported
from gpuvm.compiler.flow import Body
from gpuvm.compiler.layout import PARAMETER_BASE, align_up, variable_size
from gpuvm.compiler.lower.core import HIGH, Lowering, width
from gpuvm.compiler.lower.memory import _NARROW, Access, Location, _emit_load, _widen
from gpuvm.compiler.mir import CB, ZERO, Imm, Inst, Src, SymbolWord, Value
from gpuvm.compiler.ptx import ast

FIRST_REGISTER = 4
REGISTER_WORDS = 24
REFUSED = {
    "vprintf": "printf needs a module with 64-bit addresses",
    "malloc": "the heap needs a module with 64-bit addresses",
    "free": "the heap needs a module with 64-bit addresses",
    "__assertfail": "assert needs a module with 64-bit addresses",
    "cudaLaunchDeviceV2": "kernels cannot launch kernels on this chip",
    "cudaGetParameterBufferV2": "kernels cannot launch kernels on this chip",
}


def word_count(v: ast.Variable) -> int:
    return -(-variable_size(v) // 4)


def word_offsets(params: list[ast.Variable] | tuple[ast.Variable, ...]) -> tuple[list[int], int]:
    """First word of each parameter, and the number of words in all."""
    offsets = []
    at = 0
    for p in params:
        at = align_up(at, max(1, min(p.align, 16) // 4))
        offsets.append(at)
        at += word_count(p)
    return offsets, at


def _fixed(low: Lowering, k: int) -> Value:
    v = low.fn.value()
    v.fixed = FIRST_REGISTER + k
    return v


def _address_taken(body: Body, name: str) -> bool:
    for block in body.blocks:
        for item in block.items:
            if isinstance(item, ast.Instr) and item.op in ("mov", "cvta", "add", "sub"):
                for o in item.args[1:]:
                    if isinstance(o, ast.Name) and o.name == name:
                        return True
    return False


def enter(low: Lowering) -> None:
    """A function's entry: parameters from registers and memory become variables."""
    if low.function.entry:
        return
    b = low.builder
    offsets, total = word_offsets(low.function.params)
    in_registers = [_fixed(low, k) for k in range(min(total, REGISTER_WORDS))]
    inst = Inst("ENTER", list(in_registers), [], {})
    inst.block = b.block
    for v in in_registers:
        v.inst = inst
    b.block.insts.append(inst)
    spill_base = 0
    if total > REGISTER_WORDS:
        spill_base = low.fn.local_size = align_up(low.fn.local_size, 4)
        low.fn.local_size += 4 * (total - REGISTER_WORDS)
        low.places["$arguments"] = spill_base
        if low.fn.uses_stack:
            raise unsupported(
                f"{low.function.name} with {4 * total} bytes of arguments",
                low.function.line,
                "a recursive or indirectly called function takes at most 96 bytes of arguments",
            )
    words: list[Src] = []
    for k in range(total):
        if k < REGISTER_WORDS:
            words.append(b.one("COPY", [in_registers[k]]))
        else:
            words.append(_frame_load(low, spill_base + 4 * (k - REGISTER_WORDS)))
    for p, first in zip(low.function.params, offsets, strict=True):
        count = word_count(p)
        if p.space == "reg":
            low.write(p.name, words[first])
            if count == 2:
                low.write(p.name + HIGH, words[first + 1])
            continue
        for k in range(count):
            low.write(f"{p.name}#{k}", words[first + k])
        if _address_taken(low.body, p.name):
            at = low.fn.local_size = align_up(low.fn.local_size, max(4, p.align))
            low.fn.local_size += 4 * count
            low.local[p.name] = at
            for k in range(count):
                _frame_store(low, at + 4 * k, words[first + k])


def _frame_load(low: Lowering, offset: int) -> Src:
    base, _, more = low.frame_address(offset)
    mods: dict[str, int | bool | str] = {"size": "32", "off": more}
    if isinstance(base, SymbolWord):
        mods.update(off=base.addend, frame=True)
        base = ZERO
    elif isinstance(base, Imm):
        mods["off"] = base.value
        base = ZERO
    return low.builder.one("LDL", [base], mods)


def _frame_store(low: Lowering, offset: int, s: Src) -> None:
    base, _, more = low.frame_address(offset)
    mods: dict[str, int | bool | str] = {"size": "32", "off": more}
    if isinstance(base, SymbolWord):
        mods.update(off=base.addend, frame=True)
        base = ZERO
    elif isinstance(base, Imm):
        mods["off"] = base.value
        base = ZERO
    low.builder.emit("STL", [], [base, s], mods)


def leave(low: Lowering) -> None:
    """Before RET: results into their registers."""
    b = low.builder
    offsets, total = word_offsets(low.function.returns)
    if total > REGISTER_WORDS:
        raise unsupported(
            f"{low.function.name} with {4 * total} bytes of results",
            low.function.line,
            "a function returns at most 96 bytes",
        )
    out: list[Src] = []
    for v, first in zip(low.function.returns, offsets, strict=True):
        for k in range(word_count(v)):
            name = (v.name + HIGH * k) if v.space == "reg" else f"{v.name}#{k}"
            fixed = _fixed(low, first + k)
            b.emit("COPY", [fixed], [low.read(name)])
            out.append(fixed)
    b.emit("LEAVE", [], out)


def parameter_address(low: Lowering, name: str) -> tuple[Src, Src, int]:
    raise unsupported(f"the address of {name}", low.line, "only a function's own parameters have an address")


# ---- loads and stores of parameters


def load_parameter(low: Lowering, i: ast.Instr, a: Access, targets: list[ast.Operand]) -> bool:
    """ld.param; False if the address is a register (then it is a kernel's parameter, read by LDC)."""
    address = i.args[1]
    if not isinstance(address, ast.Address) or address.base is None:
        return False
    name = address.base
    if low.register(name) is not None:
        if not low.function.entry:
            low_address = Location(low, "local", address)
            del low_address
            raise unsupported(
                i.text, i.line, "a function reads parameters by name, or by address with ld.local"
            )
        return False
    for k, o in enumerate(targets):
        at = address.offset + k * a.size
        if name in low.parameters:
            _kernel_parameter(low, i, a, o, low.parameters[name] + at)
            continue
        v = low.body.variables.get(name)
        if v is None or v.space != "param":
            raise CompileError(f"{name} is no parameter", i.line)
        if at < 0 or at + a.size > 4 * word_count(v):
            raise CompileError(f"{i.text} reads past the end of {name}", i.line)
        if a.size >= 4:
            _widen(low, o, tuple(low.read(f"{name}#{at // 4 + w}") for w in range(a.size // 4)), a.type)
        else:
            word = low.read(f"{name}#{at // 4}")
            _widen(low, o, (low.builder.bfe(word, at % 4 * 8, a.size * 8, a.type[0] == "s"),), a.type)
    return True


def _kernel_parameter(low: Lowering, i: ast.Instr, a: Access, o: ast.Operand, at: int) -> None:
    if at < 0 or at + a.size > low.param_size:
        raise CompileError(f"{i.text} reads past the end of the parameters", i.line)
    at += PARAMETER_BASE
    if a.size >= 4:
        _widen(low, o, tuple(CB(0, at + 4 * w) for w in range(a.size // 4)), a.type)
    else:
        place = Location(low, "param", ast.Address(None, at))
        _widen(low, o, tuple(_emit_load(low, i, "param", _NARROW[a.type], 1, place)), a.type)


def store_parameter(low: Lowering, i: ast.Instr, a: Access, sources: list[ast.Operand]) -> None:
    """st.param into a call's argument or the function's result."""
    address = i.args[0]
    if not isinstance(address, ast.Address) or address.base is None or low.register(address.base) is not None:
        raise unsupported(i.text, i.line, "arguments and results are stored by name")
    if i.guard is not None:
        raise unsupported(i.text, i.line, "a guarded store to a parameter; branch around the call instead")
    name = address.base
    v = low.body.variables.get(name)
    if v is None or v.space != "param" or name in low.parameters:
        raise CompileError(f"{name} is no argument or result", i.line)
    b = low.builder
    for k, o in enumerate(sources):
        at = address.offset + k * a.size
        if at < 0 or at + a.size > 4 * word_count(v):
            raise CompileError(f"{i.text} writes past the end of {name}", i.line)
        if a.size >= 4:
            words = low.double(o, a.type) if a.size == 8 else (low.word(o, a.type),)
            for w, s in enumerate(words):
                low.write(f"{name}#{at // 4 + w}", s)
            continue
        bits = 8 * a.size
        shift = at % 4 * 8
        old = low.read(f"{name}#{at // 4}")
        mask = (1 << bits) - 1
        piece = b.shl(b.lop("AND", low.word(o, "b32"), Imm(mask)), Imm(shift))
        kept = b.lop("AND", old, Imm(~(mask << shift) & 0xFFFFFFFF))
        low.write(f"{name}#{at // 4}", b.lop("OR", kept, piece))


# ---- calls


def call(low: Lowering, c: ast.Call) -> None:
    """A call that was not inlined."""
    target = low.layout.functions.get(c.target)
    if target is None:
        if low.register(c.target) is not None:
            raise unsupported("an indirect call", c.line, "call the function by its name")
        raise CompileError(f"{c.target} is not declared", c.line, "link")
    if target.body is None:
        reason = REFUSED.get(c.target)
        if reason is not None:
            raise unsupported(f"a call of {c.target}", c.line, reason)
        raise CompileError(f"{c.target} is called and not defined in this module", c.line, "link")
    if target.entry:
        raise CompileError(f"{c.target} is a kernel and cannot be called", c.line)
    if len(c.arguments) != len(target.params) or len(c.returns) != len(target.returns):
        raise CompileError(
            f"{c.target} takes {len(target.params)} arguments and returns {len(target.returns)} values",
            c.line,
        )
    b = low.builder
    words = _arguments(low, c, target)
    fixed: list[Src] = []
    for k, s in enumerate(words):
        if k < REGISTER_WORDS:
            v = _fixed(low, k)
            b.emit("COPY", [v], [s])
            fixed.append(v)
        else:
            b.emit("STL", [], [ZERO, s], {"size": "32", "off": 4 * (k - REGISTER_WORDS), "callee": c.target})
    offsets, total = word_offsets(target.returns)
    results = [_fixed(low, k) for k in range(total)]
    inst = b.emit("CAL", list(results), fixed)
    inst.target = c.target
    low.fn.calls.append(c.target)
    copies = [b.one("COPY", [r]) for r in results]
    for name, result, first in zip(c.returns, target.returns, offsets, strict=True):
        if name == "_":
            continue
        is_register = low.register(name) is not None
        for k in range(word_count(result)):
            low.write((name + HIGH * k) if is_register else f"{name}#{k}", copies[first + k])


def _arguments(low: Lowering, c: ast.Call, target: ast.Function) -> list[Src]:
    offsets, total = word_offsets(target.params)
    words: list[Src] = [ZERO] * total
    for o, p, first in zip(c.arguments, target.params, offsets, strict=True):
        count = word_count(p)
        if isinstance(o, ast.Name) and low.register(o.name) is None and o.name in low.body.variables:
            got: tuple[Src, ...] = tuple(low.read(f"{o.name}#{k}") for k in range(count))
        elif width(p.type) == 64:
            got = low.double(o, p.type)
        else:
            got = (low.word(o, p.type),)
        words[first : first + count] = got
    return words

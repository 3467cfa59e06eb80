"""PTX that needs control flow of its own becomes calls of the PTX library, and small functions are inlined.

Works on blocks before SSA: inlining is renaming, copying blocks and binding parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gpuvm.compiler import library
from gpuvm.compiler.errors import CompileError, unsupported
from gpuvm.compiler.flow import Body, Copy, End, FlowBlock, Item, Register, Select, flatten
from gpuvm.compiler.layout import Layout
from gpuvm.compiler.lower.calls import word_count
from gpuvm.compiler.ptx import ast
from gpuvm.compiler.ptx.parser import type_size

INLINE_ITEMS = 24
"""A function of at most so many instructions is inlined."""
GROWTH = 4000
"""No more inlining into a function that has grown so large."""

_INTEGER64 = ("u64", "s64")


def library_call(i: ast.Instr) -> str:
    """Name of the library function that stands for an instruction; "" if the chip does it."""
    kind = i.mods[-1] if i.mods else ""
    if i.op in ("div", "rem") and kind in _INTEGER64:
        return "gpuvm_udiv64"
    if kind == "f64":
        rounding = next((m for m in i.mods if m in library.ROUNDINGS), "")
        if i.op == "div" or (i.op == "rcp" and "approx" not in i.mods):
            return f"gpuvm_div_{rounding or 'rn'}_f64"
        if i.op == "sqrt":
            return f"gpuvm_sqrt_{rounding or 'rn'}_f64"
        if i.op == "rsqrt" and "ftz" not in i.mods:
            return "gpuvm_rsqrt_f64"
    if kind == "f32" and "rn" in i.mods and i.op in ("div", "rcp", "sqrt"):
        return f"gpuvm_{i.op}_{'ftz' if 'ftz' in i.mods else 'rn'}_f32"
    if i.op in ("atom", "red"):
        return _atomic(i)
    return ""


def _atomic(i: ast.Instr) -> str:
    kind = i.mods[-1]
    op = next(
        (m for m in i.mods if m in ("add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas")), ""
    )
    space = next(
        (m.partition("::")[0] for m in i.mods if m.partition("::")[0] in ("global", "shared")), "generic"
    )
    if "v2" in i.mods or "v4" in i.mods or not op or not library.supported(op, kind):
        raise unsupported(i.text, i.line, "the chip has no such atomic operation and none can be made of it")
    if space == "global" and library.native_global(op, kind):
        return ""
    return f"gpuvm_atom_{space}_{op}_{kind}"


class Expander:
    """Rewrites bodies in place; adds library functions to the module as they are needed."""

    def __init__(self, layout: Layout, bodies: dict[str, Body], inline: bool = True) -> None:
        self.layout = layout
        self.bodies = bodies
        self.inline = inline
        self.counter = 0

    def run(self) -> None:
        work = list(self.bodies)
        for name in work:
            added = self._library(self.bodies[name])
            work.extend(added)
        order, recursive = self._order()
        self.recursive = recursive
        for name in order:
            self._inline(self.bodies[name])
        # functions that nobody calls any more
        needed = {n for n, b in self.bodies.items() if b.function.entry}
        todo = list(needed)
        while todo:
            for callee in _callees(self.bodies[todo.pop()]):
                if callee in self.bodies and callee not in needed:
                    needed.add(callee)
                    todo.append(callee)
        for name in list(self.bodies):
            if name not in needed:
                del self.bodies[name]

    def _order(self) -> tuple[list[str], set[str]]:
        from gpuvm.compiler.compile import call_order

        return call_order({n: _callees(b) for n, b in self.bodies.items()})

    # ---- library

    def _library(self, body: Body) -> list[str]:
        added: list[str] = []
        for block in body.blocks:
            out: list[Item] = []
            for item in block.items:
                if isinstance(item, ast.Call):
                    item = self._service(item, added)
                name = library_call(item) if isinstance(item, ast.Instr) else ""
                if not name:
                    out.append(item)
                    continue
                assert isinstance(item, ast.Instr)
                added.extend(self._need(name))
                self._call(body, item, name, out)
            block.items = out
        return added

    def _need(self, name: str) -> list[str]:
        """Bring a library function, and what it calls, into the module."""
        if name in self.bodies:
            return []
        f = library.function(name, self.layout.module.address_size)
        self.layout.functions[name] = f
        self.bodies[name] = flatten(f)
        added = [name]
        for callee in _callees(self.bodies[name]):
            added.extend(self._need(callee))
        return added

    def _service(self, item: ast.Call, added: list[str]) -> ast.Call:
        """A call of printf and the like, which every module may declare, goes to this project's function."""
        name = library.SERVICES.get(item.target, "")
        declared = self.layout.functions.get(item.target)
        if not name or declared is None or declared.body is not None or self.layout.pointer != 8:
            return item
        if name not in self.layout.functions:
            module = library.services()
            for v in module.variables:
                self.layout.variable(v)
            for f in module.functions:
                if f.body is not None:
                    self.layout.functions[f.name] = f
                    self.bodies[f.name] = flatten(f)
                    added.append(f.name)
        return replace(item, target=name)

    def _temporary(self, body: Body, kind: str) -> str:
        self.counter += 1
        name = f"$t{self.counter}"
        body.registers[name] = Register(kind)
        return name

    def _call(self, body: Body, i: ast.Instr, name: str, out: list[Item]) -> None:
        if name.startswith("gpuvm_atom_"):
            self._atomic_call(body, i, name, out)
        elif name == "gpuvm_udiv64":
            self._divide64(body, i, name, out)
        else:
            arguments: list[ast.Name | ast.Number] = (
                [ast.Number(1.0)] if name.startswith("gpuvm_div") and i.op == "rcp" else []
            )
            d = i.args[0]
            for a in i.args[1:]:
                if not isinstance(a, ast.Name | ast.Number):
                    raise CompileError(f"{i.text}: an operand has the wrong form", i.line)
                arguments.append(a)
            if not isinstance(d, ast.Name):
                raise CompileError(f"{i.text}: the result must be a register", i.line)
            self._invoke(body, name, arguments, [d], i.line, out)

    def _invoke(
        self,
        body: Body,
        name: str,
        arguments: list[ast.Name | ast.Number],
        results: list[ast.Name],
        line: int,
        out: list[Item],
    ) -> None:
        """A call with arguments and results in registers, whichever way the function declares them."""
        f = self.layout.functions[name]
        passed: list[ast.Name | ast.Number] = []
        for p, a in zip(f.params, arguments, strict=True):
            if p.space == "reg":
                passed.append(a)
                continue
            buffer = self._buffer(body, p)
            out.append(ast.Instr("st", ("param", p.type), (ast.Address(buffer), a), line))
            passed.append(ast.Name(buffer))
        if f.returns and f.returns[0].space == "reg":
            out.append(ast.Call(name, (results[0].name,), tuple(passed), None, line))
            return
        buffer = self._buffer(body, f.returns[0])
        out.append(ast.Call(name, (buffer,), tuple(passed), None, line))
        for k, r in enumerate(results):
            if r.name != "_":
                out.append(ast.Instr("ld", ("param", "b64"), (r, ast.Address(buffer, 8 * k)), line))

    def _buffer(self, body: Body, like: ast.Variable) -> str:
        self.counter += 1
        name = f"$b{self.counter}"
        body.variables[name] = replace_name(like, name)
        return name

    def _divide64(self, body: Body, i: ast.Instr, name: str, out: list[Item]) -> None:
        if len(i.args) != 3:
            raise CompileError(f"{i.text} takes 3 operands, not {len(i.args)}", i.line)
        d, x, y = i.args
        sign = i.mods[-1] == "s64"
        quotient = i.op == "div"
        line = i.line

        def put(op: str, mods: str, *args: ast.Operand) -> None:
            out.append(ast.Instr(op, tuple(mods.split(".")), args, line))

        if not isinstance(d, ast.Name):
            raise CompileError(f"{i.text}: the result must be a register", i.line)
        if not sign:
            results = [d, ast.Name("_")] if quotient else [ast.Name("_"), d]
            self._invoke(body, name, [x, y], results, line, out)  # type: ignore[list-item]
            return
        a, b, r = (ast.Name(self._temporary(body, "b64")) for _ in range(3))
        negative, p = ast.Name(self._temporary(body, "b64")), ast.Name(self._temporary(body, "pred"))
        put("abs", "s64", a, x)
        put("abs", "s64", b, y)
        if quotient:
            put("xor", "b64", negative, x, y)
        else:
            put("mov", "b64", negative, x)
        put("setp", "lt.s64", p, negative, ast.Number(0))
        self._invoke(body, name, [a, b], [r, ast.Name("_")] if quotient else [ast.Name("_"), r], line, out)
        put("neg", "s64", a, r)
        put("selp", "b64", d, a, r, p)

    def _atomic_call(self, body: Body, i: ast.Instr, name: str, out: list[Item]) -> None:
        result = i.op == "atom"
        address = i.args[1 if result else 0]
        if not isinstance(address, ast.Address):
            raise CompileError(f"{i.text} needs an address in brackets", i.line)
        bits = self.layout.module.address_size
        pointer = ast.Name(self._temporary(body, f"b{bits}"))
        base: ast.Operand = ast.Number(0) if address.base is None else ast.Name(address.base)
        out.append(ast.Instr("add", (f"u{bits}",), (pointer, base, ast.Number(address.offset)), i.line))
        rest = i.args[2 if result else 1 :]
        kind = i.mods[-1]
        operands: list[ast.Name | ast.Number] = []
        for a in rest:
            t = ast.Name(self._temporary(body, f"b{type_size(kind) * 8}"))
            out.append(ast.Instr("mov", (kind,), (t, a), i.line))
            operands.append(t)
        if len(operands) != len(self.layout.functions[name].params) - 1:
            raise CompileError(f"{i.text} has {len(i.args)} operands", i.line)
        if {"acq_rel", "release"} & set(i.mods):
            out.append(ast.Instr("membar", ("gl",), (), i.line))
        d = i.args[0] if result else ast.Name("_")
        if not isinstance(d, ast.Name):
            raise CompileError(f"{i.text}: the result must be a register", i.line)
        if d.name == "_":
            d = ast.Name(self._temporary(body, f"b{type_size(kind) * 8}"))
        self._invoke(body, name, [pointer, *operands], [d], i.line, out)
        if {"acq_rel", "acquire"} & set(i.mods):
            out.append(ast.Instr("membar", ("gl",), (), i.line))

    # ---- inlining

    def _inlinable(self, name: str) -> bool:
        body = self.bodies.get(name)
        if body is None or name in self.recursive or body.function.entry:
            return False
        if any(v.space == "shared" for v in body.variables.values()):
            return False
        items = sum(len(b.items) for b in body.blocks)
        if name.startswith("gpuvm_atom_") or name.endswith("_f32"):
            return True
        return self.inline and "noinline" not in body.function.directives and items <= INLINE_ITEMS

    def _inline(self, body: Body) -> None:
        size = sum(len(b.items) for b in body.blocks)
        n = 0
        while n < len(body.blocks):
            block = body.blocks[n]
            for at, item in enumerate(block.items):
                if isinstance(item, ast.Call) and size < GROWTH and self._inlinable(item.target):
                    callee = self.bodies[item.target]
                    size += sum(len(b.items) for b in callee.blocks)
                    self._splice(body, block, at, item, callee)
                    break
            n += 1

    def _splice(self, body: Body, block: FlowBlock, at: int, call: ast.Call, callee: Body) -> None:
        """Replace a call by a copy of the function's blocks."""
        f = callee.function
        if len(call.arguments) != len(f.params) or len(call.returns) != len(f.returns):
            raise CompileError(
                f"{f.name} takes {len(f.params)} arguments and returns {len(f.returns)} values", call.line
            )
        self.counter += 1
        prefix = f"${self.counter}:"
        own = callee.registers.keys() | callee.variables.keys()
        rename = _renamer(prefix, own)
        for name, r in callee.registers.items():
            body.registers[prefix + name] = r
        for name, v in callee.variables.items():
            body.variables[prefix + name] = replace_name(v, prefix + name)
        after = len(body.blocks)
        body.blocks.append(FlowBlock(block.items[at + 1 :], block.end))
        first = len(body.blocks)
        for b in callee.blocks:
            end = replace(b.end, targets=[t + first for t in b.end.targets], name=rename(b.end.name))
            if end.kind == "ret":
                end = End("jump", [after], line=end.line)
            body.blocks.append(FlowBlock([_rename_item(i, rename) for i in b.items], end))
        entry: list[Item] = []
        for p, a in zip(f.params, call.arguments, strict=True):
            self._bind(body, prefix + p.name, p, a, call.line, entry)
        block.items = block.items[:at] + entry
        block.end = End("jump", [first], line=call.line)
        leave: list[Item] = []
        for v, to in zip(f.returns, call.returns, strict=True):
            if to == "_":
                continue
            if v.space == "reg":
                leave.append(
                    ast.Instr("mov", (v.type,), (ast.Name(to), ast.Name(prefix + v.name)), call.line)
                )
            elif to in body.registers:
                leave.append(
                    ast.Instr(
                        "ld", ("param", v.type), (ast.Name(to), ast.Address(prefix + v.name)), call.line
                    )
                )
            else:
                leave.extend(
                    Copy(f"{to}#{k}", f"{prefix}{v.name}#{k}", call.line) for k in range(word_count(v))
                )
        body.blocks[after].items = leave + body.blocks[after].items

    def _bind(
        self, body: Body, name: str, p: ast.Variable, a: ast.Name | ast.Number, line: int, out: list[Item]
    ) -> None:
        buffer = isinstance(a, ast.Name) and a.name in body.variables and a.name not in body.registers
        if p.space == "reg":
            out.append(ast.Instr("mov", (p.type,), (ast.Name(name), a), line))
        elif buffer:
            assert isinstance(a, ast.Name)
            out.extend(Copy(f"{name}#{k}", f"{a.name}#{k}", line) for k in range(word_count(p)))
        else:
            out.append(ast.Instr("st", ("param", p.type), (ast.Address(name), a), line))


def replace_name(v: ast.Variable, name: str) -> ast.Variable:
    """The same declaration under another name."""
    return ast.Variable(name, v.space, v.type, v.align, v.vector, v.count, v.array, v.init, v.linkage, v.line)


def _renamer(prefix: str, own: set[str]) -> Callable[[str], str]:
    def rename(name: str) -> str:
        if name in own or name.rpartition(".")[0] in own or name.startswith("$select"):
            return prefix + name
        stem, mark, word = name.partition("#")
        return f"{prefix}{stem}{mark}{word}" if mark and stem in own else name

    return rename


def _rename_operand(o: ast.Operand, rename: Callable[[str], str]) -> ast.Operand:
    if isinstance(o, ast.Name):
        return ast.Name(rename(o.name), o.offset)
    if isinstance(o, ast.Address):
        return o if o.base is None else ast.Address(rename(o.base), o.offset)
    if isinstance(o, ast.Vector):
        return ast.Vector(tuple(_rename_operand(x, rename) for x in o.items))  # type: ignore[misc]
    if isinstance(o, ast.Not):
        return ast.Not(rename(o.name))
    if isinstance(o, ast.Pair):
        return ast.Pair(rename(o.first), rename(o.second))
    return o


def _rename_item(item: Item, rename: Callable[[str], str]) -> Item:
    if isinstance(item, ast.Instr):
        guard = None if item.guard is None else rename(item.guard)
        args = tuple(_rename_operand(o, rename) for o in item.args)
        return ast.Instr(item.op, item.mods, args, item.line, guard, item.guard_not)
    if isinstance(item, ast.Call):
        arguments = tuple(_rename_operand(o, rename) for o in item.arguments)
        returns = tuple(rename(r) for r in item.returns)
        return ast.Call(rename(item.target), returns, arguments, item.prototype, item.line)  # type: ignore[arg-type]
    if isinstance(item, Copy):
        return Copy(rename(item.target), rename(item.source), item.line)
    return Select(rename(item.var), item.value, item.line)


def _callees(body: Body) -> list[str]:
    found: dict[str, None] = {}
    for block in body.blocks:
        for item in block.items:
            if isinstance(item, ast.Call):
                found[item.target] = None
    return list(found)

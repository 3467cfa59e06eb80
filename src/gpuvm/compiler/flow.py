"""A PTX body as basic blocks of not-yet-SSA instructions: scopes flattened, labels resolved, guards made
control flow.

A guarded instruction that writes no register stays in its block and keeps its guard; any other becomes a
small block of its own behind a branch (short blocks turn into guarded instructions again after register
allocation).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gpuvm.compiler.errors import CompileError
from gpuvm.compiler.ptx import ast


@dataclass(frozen=True, slots=True)
class Select:
    """Pseudo instruction of the structuriser: the selector `var` becomes the constant `value`."""

    var: str
    value: int
    line: int = 0


@dataclass(frozen=True, slots=True)
class Copy:
    """Pseudo instruction of the inliner: `target` becomes `source` (names of one-word variables)."""

    target: str
    source: str
    line: int = 0


Item = ast.Instr | ast.Call | Select | Copy


@dataclass(slots=True)
class End:
    """How a block ends; kinds as in `mir.Term`, with the predicate's register name and "select" (var `cmp`
    value).
    """

    kind: str
    targets: list[int] = field(default_factory=list)
    name: str = ""
    inverted: bool = False
    value: int = 0
    cmp: str = "EQ"
    uniform: bool = False
    line: int = 0


@dataclass(slots=True)
class FlowBlock:
    items: list[Item] = field(default_factory=list)
    end: End = field(default_factory=lambda: End("exit"))


@dataclass(slots=True)
class Register:
    type: str
    vector: int = 1


@dataclass(slots=True)
class Body:
    """All that is known of a function before SSA."""

    function: ast.Function
    blocks: list[FlowBlock] = field(default_factory=list)
    registers: dict[str, Register] = field(default_factory=dict)
    variables: dict[str, ast.Variable] = field(default_factory=dict)
    """Variables and parameters declared inside, by their unique name."""
    prototypes: dict[str, ast.Prototype] = field(default_factory=dict)
    selectors: int = 0

    def add(self, end: End | None = None) -> int:
        self.blocks.append(FlowBlock(end=end or End("exit")))
        return len(self.blocks) - 1

    def successors(self) -> list[list[int]]:
        return [b.end.targets for b in self.blocks]


# Instructions without a result that carry their guard themselves.
GUARDABLE = frozenset(
    ("st", "_stsul", "membar", "fence", "prefetch", "prefetchu", "discard", "applypriority")
)
FLOW = frozenset(("bra", "brx", "ret", "exit", "trap"))


class _Flattener:
    """Walks the tree once; names of inner scopes get a suffix."""

    def __init__(self, function: ast.Function) -> None:
        self.body = Body(function)
        self.labels: dict[str, int] = {}
        self.targets: dict[str, ast.Targets] = {}
        self.scopes: list[dict[str, str]] = [{}]
        self.counter = 0
        self.current = self.body.add()
        self.open = True
        self.started = {0}
        self.guarded: tuple[str, bool, int, int] | None = None
        self.family: list[dict[str, tuple[ast.RegisterDecl, str]]] = [{}]

    # ---- names

    def declare(self, name: str) -> str:
        scope = self.scopes[-1]
        if name in scope:
            raise CompileError(f"{name} is declared twice in one scope", 0)
        unique = name if len(self.scopes) == 1 else f"{name}@{self.counter}"
        scope[name] = unique
        return unique

    def look_up(self, name: str) -> str:
        for scope in reversed(self.scopes):
            found = scope.get(name)
            if found is not None:
                return found
        stem = name.rstrip("0123456789")
        digits = name[len(stem) :]
        for k in range(len(self.family) - 1, -1, -1):
            families = self.family[k]
            # `%r<10>` declares %r0 .. %r9; a stem may itself end in digits
            for cut in range(len(stem), len(name)):
                decl = families.get(name[:cut])
                if decl is not None:
                    index = name[cut:]
                    if str(int(index)) == index and int(index) < (decl[0].count or 0):
                        unique = name + decl[1]
                        self.scopes[k][name] = unique
                        self.body.registers[unique] = Register(decl[0].type, decl[0].vector)
                        return unique
        if "." in name and not digits.startswith("."):
            base, _, component = name.rpartition(".")
            owner = self.look_up(base)
            if owner in self.body.registers and self.body.registers[owner].vector > 1:
                letter = {"r": "x", "g": "y", "b": "z", "a": "w"}.get(component, component)
                return f"{owner}.{letter}"
        return name

    def rename(self, operand: ast.Operand) -> ast.Operand:
        if isinstance(operand, ast.Name):
            unique = self.look_up(operand.name)
            return operand if unique == operand.name else ast.Name(unique, operand.offset)
        if isinstance(operand, ast.Address):
            if operand.base is None:
                return operand
            return ast.Address(self.look_up(operand.base), operand.offset)
        if isinstance(operand, ast.Vector):
            return ast.Vector(tuple(self.rename(x) for x in operand.items))  # type: ignore[misc]
        if isinstance(operand, ast.Not):
            return ast.Not(self.look_up(operand.name))
        if isinstance(operand, ast.Pair):
            return ast.Pair(self.look_up(operand.first), self.look_up(operand.second))
        return operand

    # ---- blocks

    def label(self, name: str) -> int:
        if name not in self.labels:
            self.labels[name] = self.body.add()
        return self.labels[name]

    def start(self, block: int) -> None:
        """Begin `block`; a block still open falls through into it."""
        if self.open:
            self.body.blocks[self.current].end = End("jump", [block])
        self.current = block
        self.open = True
        self.started.add(block)

    def close(self, end: End) -> None:
        self.body.blocks[self.current].end = end
        self.open = False

    def put(self, item: Item) -> None:
        if not self.open:
            self.start(self.body.add())
        self.body.blocks[self.current].items.append(item)

    def search(self, name: str, targets: list[int], low: int, line: int, uniform: bool) -> int:
        """A tree of comparisons that jumps to targets[register - low]; returns its first block."""
        if all(t == targets[0] for t in targets):
            return targets[0]
        half = len(targets) // 2
        below = self.search(name, targets[:half], low, line, uniform)
        above = self.search(name, targets[half:], low + half, line, uniform)
        end = End("select", [below, above], name, value=low + half, cmp="LT", uniform=uniform, line=line)
        return self.body.add(end)

    # ---- statements

    def walk(self, statements: tuple[ast.Statement, ...]) -> None:
        for s in statements:
            if isinstance(s, ast.Targets):
                self.targets[s.name] = s
            elif isinstance(s, ast.Prototype):
                self.body.prototypes[s.name] = s
        for s in statements:
            if isinstance(s, ast.Instr):
                self.instruction(s)
            elif isinstance(s, ast.RegisterDecl):
                if s.count is None:
                    self.body.registers[self.declare(s.name)] = Register(s.type, s.vector)
                else:
                    suffix = "" if len(self.scopes) == 1 else f"@{self.counter}"
                    self.family[-1][s.name] = (s, suffix)
            elif isinstance(s, ast.Label):
                self.start(self.label(s.name))
            elif isinstance(s, ast.Call):
                self.call(s)
            elif isinstance(s, ast.Variable):
                unique = self.declare(s.name)
                self.body.variables[unique] = s
            elif isinstance(s, ast.Scope):
                self.counter += 1
                self.scopes.append({})
                self.family.append({})
                self.walk(s.body)
                self.scopes.pop()
                self.family.pop()

    def call(self, s: ast.Call) -> None:
        renamed = ast.Call(
            self.look_up(s.target),
            tuple(self.look_up(r) for r in s.returns),
            tuple(self.rename(a) for a in s.arguments),  # type: ignore[misc]
            s.prototype,
            s.line,
        )
        if s.guard is None:
            self.put(renamed)
            return
        self.behind_guard(self.look_up(s.guard), s.guard_not, [renamed], s.line)

    def behind_guard(self, guard: str, inverted: bool, items: list[Item], line: int) -> None:
        if not self.open:
            self.start(self.body.add())
        if self.guarded is not None and self.guarded[:2] == (guard, inverted):
            inner, after = self.guarded[2:]
            block = self.body.blocks[inner]
            if (
                self.current == after
                and not self.body.blocks[after].items
                and not _writes(block.items[-1], guard)
            ):
                block.items.extend(items)
                return
        inner = self.body.add()
        after = self.body.add()
        self.close(End("branch", [inner, after], guard, inverted, line=line))
        self.start(inner)
        self.body.blocks[inner].items.extend(items)
        self.start(after)
        self.guarded = (guard, inverted, inner, after)

    def instruction(self, s: ast.Instr) -> None:
        op = s.op
        guard = None if s.guard is None else self.look_up(s.guard)
        if op in FLOW:
            self.flow(s, guard)
            return
        args = tuple(self.rename(a) for a in s.args)
        if guard is not None and op not in GUARDABLE and not (op == "bar" and "red" not in s.mods):
            plain = ast.Instr(op, s.mods, args, s.line)
            self.behind_guard(guard, s.guard_not, [plain], s.line)
            return
        self.put(ast.Instr(op, s.mods, args, s.line, guard, s.guard_not))

    def flow(self, s: ast.Instr, guard: str | None) -> None:
        if not self.open:
            self.start(self.body.add())
        kernel = self.body.function.entry
        op = s.op
        if op == "bra":
            if len(s.args) != 1 or not isinstance(s.args[0], ast.Name):
                raise CompileError("bra needs one label", s.line)
            end = End("jump", [self.label(s.args[0].name)], line=s.line)
        elif op == "brx":
            if len(s.args) != 2 or not isinstance(s.args[0], ast.Name) or not isinstance(s.args[1], ast.Name):
                raise CompileError("brx.idx needs an index register and a list of targets", s.line)
            table = self.targets.get(s.args[1].name)
            if table is None:
                raise CompileError(f"brx.idx needs a .branchtargets list; {s.args[1].name} is none", s.line)
            name = self.look_up(s.args[0].name)
            first = self.search(name, [self.label(x) for x in table.labels], 0, s.line, "uni" in s.mods)
            end = End("jump", [first], line=s.line)
        elif op == "trap":
            end = End("trap", line=s.line)
        else:
            end = End("exit" if kernel or op == "exit" else "ret", line=s.line)
        end.uniform = "uni" in s.mods
        if guard is None:
            self.close(end)
            return
        after = self.body.add()
        if end.kind == "jump":
            self.close(
                End("branch", [end.targets[0], after], guard, s.guard_not, uniform=end.uniform, line=s.line)
            )
        else:
            inner = self.body.add(end)
            self.close(End("branch", [inner, after], guard, s.guard_not, uniform=end.uniform, line=s.line))
        self.start(after)


def flatten(function: ast.Function) -> Body:
    """Blocks of a function's body; block 0 is the entry and nothing jumps to it."""
    assert function.body is not None
    f = _Flattener(function)
    for v in (*function.params, *function.returns):
        unique = f.declare(v.name)
        f.body.variables[unique] = v
        if v.space == "reg":
            f.body.registers[unique] = Register(v.type)
    f.start(f.body.add())
    f.walk(function.body)
    if f.open:
        f.close(End("exit" if function.entry else "ret", line=function.line))
    for name, number in f.labels.items():
        if number not in f.started:
            raise CompileError(f"label {name} is branched to and not defined", function.line)
    return f.body


def _writes(item: Item, register: str) -> bool:
    if isinstance(item, ast.Call):
        return True
    if not isinstance(item, ast.Instr) or not item.args:
        return False
    first = item.args[0]
    return (isinstance(first, ast.Name) and first.name == register) or (
        isinstance(first, ast.Pair) and register in (first.first, first.second)
    )

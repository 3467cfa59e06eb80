"""Outlined slow paths that translated code calls: one loop over lanes each, exact for every address and
space.

Lane addresses, data and results pass through the context's scratch area (see `layout`). They are LLVM IR that
is
compiled once per process and linked to every kernel by address.
"""

from __future__ import annotations

from gpuvm.jit import layout as at
from gpuvm.jit.helpers_control import blocks_ir, stack_ir
from gpuvm.jit.launch import ErrorKind

SPACE_GENERIC, SPACE_SHARED, SPACE_LOCAL = 0, 1, 2
ATOM_OPS = ("ADD", "MIN", "MAX", "INC", "DEC", "AND", "OR", "XOR", "EXCH", "CAS")
ATOM_TYPES = ("U32", "S32", "U64", "F32")

RARE = ("gpuvm_load", "gpuvm_store")
"""Helpers that are hardly ever called, from code that has much in registers: these keep all of them, so that a
call that does not happen costs nothing."""

SIGNATURES = {
    "gpuvm_fail": "declare void @gpuvm_fail(ptr, i32, i32, i64, i32) noreturn cold",
    "gpuvm_load": "declare preserve_allcc void @gpuvm_load(ptr, ptr, i32, i32, i32, i64, i32) cold",
    "gpuvm_store": "declare preserve_allcc void @gpuvm_store(ptr, ptr, i32, i32, i32, i64, i32) cold",
    "gpuvm_atom": "declare void @gpuvm_atom(ptr, ptr, i32, i32, i64, i32)",
    "gpuvm_lock": "declare i64 @gpuvm_lock(ptr, i32, i32, i64, i32)",
    "gpuvm_unlock": "declare void @gpuvm_unlock(ptr, i32, i64, i32)",
    "gpuvm_push": "declare void @gpuvm_push(ptr, ptr, i32, i32, i64, i32, i32)",
    "gpuvm_pop": "declare void @gpuvm_pop(ptr, ptr, i32)",
    "gpuvm_leave": "declare void @gpuvm_leave(ptr, ptr, i32, i64, i32)",
    "gpuvm_exit": "declare void @gpuvm_exit(ptr, i64)",
    "gpuvm_join": "declare void @gpuvm_join(ptr, ptr, i64, i32)",
    "gpuvm_blocks": "declare void @gpuvm_blocks(ptr, ptr, i32, i64)",
    "gpuvm_arrive": "declare void @gpuvm_arrive(ptr, i32, i32, i32)",
}


def field(name: str, base: str, offset: int, kind: str) -> str:
    return (
        f"  %p.{name} = getelementptr i8, ptr {base}, i64 {offset}\n  %{name} = load {kind}, ptr %p.{name}\n"
    )


def fail_ir() -> str:
    stores = ""
    for name, offset, kind in (
        ("kind", at.ERROR_KIND, "i32"), ("pc", at.ERROR_PC, "i32"),
        ("address", at.ERROR_ADDRESS, "i64"), ("write", at.ERROR_WRITE, "i32"),
    ):  # fmt: skip
        stores += (
            f"  %q.{name} = getelementptr i8, ptr %ctx, i64 {offset}\n  store {kind} %{name}, ptr %q.{name}\n"
        )
    return (
        "define void @gpuvm_fail(ptr %ctx, i32 %kind, i32 %pc, i64 %address, i32 %write) noreturn cold ATTRS {\n"
        + stores
        + "  call void @gpuvm_raise(ptr %ctx)\n  unreachable\n}\n"
    )


def resolve_ir() -> str:
    """Host address of word `word` of a lane's access; leaves with an error if there is none."""

    def fail(kind: ErrorKind) -> str:
        return f"  call void @gpuvm_fail(ptr %ctx, i32 {kind.value}, i32 %pc, i64 %va, i32 %write)\n  unreachable\n"

    return (
        "define internal ptr @resolve(ptr %ctx, ptr %local, i32 %lanes, i32 %lane, i64 %va, i64 %size, i64 %word, "
        "i32 %space, i32 %pc, i32 %write) ATTRS {\n"
        "  %low = sub i64 %size, 1\n  %rest = and i64 %va, %low\n  %odd = icmp ne i64 %rest, 0\n"
        "  br i1 %odd, label %misaligned, label %which\n"
        "misaligned:\n" + fail(ErrorKind.MISALIGNED) + "which:\n"
        "  switch i32 %space, label %generic [ i32 1, label %in.shared i32 2, label %in.local ]\n"
        "generic:\n"
        + field("sw", "%ctx", at.SHARED_WINDOW, "i64")
        + field("lw", "%ctx", at.LOCAL_WINDOW, "i64")
        + "  %so = sub i64 %va, %sw\n  %is.s = icmp ult i64 %so, 16777216\n"
        "  br i1 %is.s, label %in.shared, label %not.shared\n"
        "not.shared:\n  %lo = sub i64 %va, %lw\n  %is.l = icmp ult i64 %lo, 16777216\n"
        "  br i1 %is.l, label %in.local, label %global\n"
        "global:\n  %beyond = icmp uge i64 %va, 1099511627776\n  br i1 %beyond, label %far, label %near\n"
        "far:\n"
        + fail(ErrorKind.UNMAPPED)
        + "near:\n"
        + field("alias", "%ctx", at.ALIAS, "ptr")
        + "  %g1 = getelementptr i8, ptr %alias, i64 %va\n  %g.add = shl i64 %word, 2\n"
        "  %g2 = getelementptr i8, ptr %g1, i64 %g.add\n  ret ptr %g2\n"
        "in.shared:\n  %s.off = phi i64 [ %va, %which ], [ %so, %generic ]\n"
        + field("ssize", "%ctx", at.SHARED_SIZE, "i64")
        + "  %s.end = add i64 %s.off, %size\n  %s.bad = icmp ugt i64 %s.end, %ssize\n"
        "  br i1 %s.bad, label %range, label %shared.ok\n"
        "range:\n"
        + fail(ErrorKind.SHARED_RANGE)
        + "shared.ok:\n"
        + field("sbase", "%ctx", at.SHARED, "ptr")
        + "  %s.w = shl i64 %word, 2\n  %s.at = add i64 %s.off, %s.w\n"
        "  %s.p = getelementptr i8, ptr %sbase, i64 %s.at\n  ret ptr %s.p\n"
        "in.local:\n  %l.off = phi i64 [ %va, %which ], [ %lo, %not.shared ]\n"
        + field("lpos", "%ctx", at.LOCAL_POSITIVE, "i64")
        + field("lneg", "%ctx", at.LOCAL_NEGATIVE, "i64")
        + "  %l.end = add i64 %l.off, %size\n  %l.low = icmp ule i64 %l.end, %lpos\n"
        "  br i1 %l.low, label %local.ok, label %local.high\n"
        "local.high:\n  %l.start = sub i64 16777216, %lneg\n  %l.in1 = icmp uge i64 %l.off, %l.start\n"
        "  %l.in2 = icmp ule i64 %l.end, 16777216\n  %l.in = and i1 %l.in1, %l.in2\n"
        "  br i1 %l.in, label %local.neg, label %local.bad\n"
        "local.bad:\n" + fail(ErrorKind.LOCAL_RANGE) + "local.neg:\n"
        "  %l.n1 = sub i64 %l.off, %l.start\n  %l.n2 = add i64 %l.n1, %lpos\n  br label %local.ok\n"
        "local.ok:\n  %l.at = phi i64 [ %l.off, %in.local ], [ %l.n2, %local.neg ]\n"
        "  %l.word = lshr i64 %l.at, 2\n  %l.word2 = add i64 %l.word, %word\n"
        "  %wide = zext i32 %lanes to i64\n  %wlane = zext i32 %lane to i64\n"
        "  %l.row = mul i64 %l.word2, %wide\n  %l.col = add i64 %l.row, %wlane\n  %l.byte = shl i64 %l.col, 2\n"
        "  %l.sub = and i64 %l.at, 3\n  %l.sum = add i64 %l.byte, %l.sub\n"
        "  %l.p = getelementptr i8, ptr %local, i64 %l.sum\n  ret ptr %l.p\n}\n"
    )


def _loop(body: str, result: str = "void") -> str:
    """A loop over the set bits of %mask; `body` continues at label %next."""
    return (
        f"entry:\n  %q.pc = getelementptr i8, ptr %ctx, i64 {at.ERROR_PC}\n  store i32 %pc, ptr %q.pc\n"
        + field("scratch", "%ctx", at.SCRATCH, "ptr")
        + "  br label %head\nhead:\n  %left = phi i64 [ %mask, %entry ], [ %less, %next ]\n"
        "  %none = icmp eq i64 %left, 0\n  br i1 %none, label %out, label %turn\n"
        "turn:\n  %lane64 = call i64 @llvm.cttz.i64(i64 %left, i1 true)\n  %lane = trunc i64 %lane64 to i32\n"
        "  %p.va = getelementptr i64, ptr %scratch, i64 %lane64\n  %va = load i64, ptr %p.va\n"
        + body
        + "next:\n  %left1 = sub i64 %left, 1\n  %less = and i64 %left, %left1\n  br label %head\nout:\n  ret "
        + result
        + "\n}\n"
    )


def load_ir() -> str:
    size = "  %size32 = and i32 %code, 255\n  %size = zext i32 %size32 to i64\n"
    result = (
        f"  %r.base = getelementptr i8, ptr %scratch, i64 {at.SCRATCH_RESULT}\n"
        "  %r.first = getelementptr i32, ptr %r.base, i64 %lane64\n"
    )
    body = (
        size
        + result
        + (
            "  switch i32 %code, label %words [ i32 1, label %u8 i32 257, label %s8 i32 2, label %u16 i32 258, label %s16 ]\n"
        )
    )
    for name, kind, ext in (
        ("u8", "i8", "zext"),
        ("s8", "i8", "sext"),
        ("u16", "i16", "zext"),
        ("s16", "i16", "sext"),
    ):
        body += (
            f"{name}:\n  %{name}.p = call ptr @resolve(ptr %ctx, ptr %local, i32 %lanes, i32 %lane, i64 %va, i64 %size, "
            f"i64 0, i32 %space, i32 %pc, i32 0)\n  %{name}.x = load {kind}, ptr %{name}.p\n"
            f"  %{name}.y = {ext} {kind} %{name}.x to i32\n  store i32 %{name}.y, ptr %r.first\n  br label %next\n"
        )
    body += (
        "words:\n  %count = lshr i64 %size, 2\n  br label %each\n"
        "each:\n  %w = phi i64 [ 0, %words ], [ %w1, %each ]\n"
        "  %w.p = call ptr @resolve(ptr %ctx, ptr %local, i32 %lanes, i32 %lane, i64 %va, i64 %size, i64 %w, "
        "i32 %space, i32 %pc, i32 0)\n  %w.x = load i32, ptr %w.p\n  %w.row = shl i64 %w, 6\n"
        "  %r.p = getelementptr i32, ptr %r.first, i64 %w.row\n  store i32 %w.x, ptr %r.p\n"
        "  %w1 = add i64 %w, 1\n  %more = icmp ult i64 %w1, %count\n  br i1 %more, label %each, label %next\n"
    )
    return (
        "define preserve_allcc void @gpuvm_load(ptr %ctx, ptr %local, i32 %pc, i32 %code, i32 %space, i64 %mask, i32 %lanes) cold ATTRS {\n"
        + _loop(body)
    )


def store_ir() -> str:
    body = (
        "  %size32 = and i32 %code, 255\n  %size = zext i32 %size32 to i64\n"
        f"  %d.base = getelementptr i8, ptr %scratch, i64 {at.SCRATCH_DATA}\n"
        "  %d.first = getelementptr i32, ptr %d.base, i64 %lane64\n"
        "  switch i32 %size32, label %words [ i32 1, label %b8 i32 2, label %b16 ]\n"
    )
    for name, kind in (("b8", "i8"), ("b16", "i16")):
        body += (
            f"{name}:\n  %{name}.p = call ptr @resolve(ptr %ctx, ptr %local, i32 %lanes, i32 %lane, i64 %va, i64 %size, "
            f"i64 0, i32 %space, i32 %pc, i32 1)\n  %{name}.x = load i32, ptr %d.first\n"
            f"  %{name}.y = trunc i32 %{name}.x to {kind}\n  store {kind} %{name}.y, ptr %{name}.p\n  br label %next\n"
        )
    body += (
        "words:\n  %count = lshr i64 %size, 2\n  br label %each\n"
        "each:\n  %w = phi i64 [ 0, %words ], [ %w1, %each ]\n"
        "  %w.p = call ptr @resolve(ptr %ctx, ptr %local, i32 %lanes, i32 %lane, i64 %va, i64 %size, i64 %w, "
        "i32 %space, i32 %pc, i32 1)\n  %w.row = shl i64 %w, 6\n"
        "  %d.p = getelementptr i32, ptr %d.first, i64 %w.row\n  %w.x = load i32, ptr %d.p\n  store i32 %w.x, ptr %w.p\n"
        "  %w1 = add i64 %w, 1\n  %more = icmp ult i64 %w1, %count\n  br i1 %more, label %each, label %next\n"
    )
    return (
        "define preserve_allcc void @gpuvm_store(ptr %ctx, ptr %local, i32 %pc, i32 %code, i32 %space, i64 %mask, i32 %lanes) cold ATTRS {\n"
        + _loop(body)
    )


def atom_ir() -> str:
    """One atomic operation per lane, lowest first. Local memory has none: LOCAL_RANGE."""
    rmw = {
        "U32": {"ADD": "add", "MIN": "umin", "MAX": "umax", "INC": "uinc_wrap", "DEC": "udec_wrap", "AND": "and",
                "OR": "or", "XOR": "xor", "EXCH": "xchg"},
        "S32": {"ADD": "add", "MIN": "min", "MAX": "max", "INC": "uinc_wrap", "DEC": "udec_wrap", "AND": "and",
                "OR": "or", "XOR": "xor", "EXCH": "xchg"},
        "U64": {"ADD": "add", "MIN": "umin", "MAX": "umax", "AND": "and", "OR": "or", "XOR": "xor", "EXCH": "xchg"},
        "F32": {"ADD": "fadd"},
    }  # fmt: skip
    body = field("lw", "%ctx", at.LOCAL_WINDOW, "i64") + (
        "  %lo = sub i64 %va, %lw\n  %is.l = icmp ult i64 %lo, 16777216\n  br i1 %is.l, label %inlocal, label %fine\n"
        f"inlocal:\n  call void @gpuvm_fail(ptr %ctx, i32 {ErrorKind.LOCAL_RANGE.value}, i32 %pc, i64 %va, i32 1)\n"
        "  unreachable\nfine:\n  %type = lshr i32 %code, 4\n  %is64 = icmp eq i32 %type, 2\n"
        "  %size = select i1 %is64, i64 8, i64 4\n"
        "  %p = call ptr @resolve(ptr %ctx, ptr %local, i32 %lanes, i32 %lane, i64 %va, i64 %size, i64 0, i32 0, i32 %pc, i32 1)\n"
        f"  %d.base = getelementptr i8, ptr %scratch, i64 {at.SCRATCH_DATA}\n"
        "  %d0 = getelementptr i32, ptr %d.base, i64 %lane64\n  %d1 = getelementptr i32, ptr %d0, i64 64\n"
        "  %d2 = getelementptr i32, ptr %d0, i64 128\n  %d3 = getelementptr i32, ptr %d0, i64 192\n"
        "  %a = load i32, ptr %d0\n  %a.hi = load i32, ptr %d1\n  %b = load i32, ptr %d2\n  %b.hi = load i32, ptr %d3\n"
        "  %a.w = zext i32 %a to i64\n  %a.h = zext i32 %a.hi to i64\n  %a.s = shl i64 %a.h, 32\n  %a64 = or i64 %a.w, %a.s\n"
        "  %b.w = zext i32 %b to i64\n  %b.h = zext i32 %b.hi to i64\n  %b.s = shl i64 %b.h, 32\n  %b64 = or i64 %b.w, %b.s\n"
        "  %af = bitcast i32 %a to float\n"
        f"  %r.base = getelementptr i8, ptr %scratch, i64 {at.SCRATCH_RESULT}\n"
        "  %r0 = getelementptr i32, ptr %r.base, i64 %lane64\n  %r1 = getelementptr i32, ptr %r0, i64 64\n"
    )
    cases, blocks = "", ""
    for t, kind in enumerate(ATOM_TYPES):
        for o, op in enumerate(ATOM_OPS):
            wide = kind == "U64"
            i = "i64" if wide else "i32"
            value, other = ("%a64", "%b64") if wide else ("%a", "%b")
            label = f"op{t}.{o}"
            if op == "CAS" and kind in ("U32", "S32", "U64"):
                text = (
                    f"  %x.{label}.c = cmpxchg ptr %p, {i} {value}, {i} {other} seq_cst seq_cst\n"
                    f"  %x.{label} = extractvalue {{ {i}, i1 }} %x.{label}.c, 0\n"
                )
            elif op in rmw[kind]:
                name = rmw[kind][op]
                if kind == "F32":
                    text = f"  %x.{label}.f = atomicrmw fadd ptr %p, float %af seq_cst\n  %x.{label} = bitcast float %x.{label}.f to i32\n"
                else:
                    text = f"  %x.{label} = atomicrmw {name} ptr %p, {i} {value} seq_cst\n"
            else:
                continue
            cases += f" i32 {o + 16 * t}, label %{label}"
            blocks += f"{label}:\n{text}"
            if wide:
                blocks += (
                    f"  %x.{label}.lo = trunc i64 %x.{label} to i32\n  %x.{label}.sh = lshr i64 %x.{label}, 32\n"
                    f"  %x.{label}.hi = trunc i64 %x.{label}.sh to i32\n  store i32 %x.{label}.lo, ptr %r0\n"
                    f"  store i32 %x.{label}.hi, ptr %r1\n  br label %next\n"
                )
            else:
                blocks += f"  store i32 %x.{label}, ptr %r0\n  br label %next\n"
    body += f"  switch i32 %code, label %bad [{cases} ]\n{blocks}bad:\n"
    body += f"  call void @gpuvm_fail(ptr %ctx, i32 {ErrorKind.ILLEGAL_INSTRUCTION.value}, i32 %pc, i64 0, i32 0)\n  unreachable\n"
    return (
        "define void @gpuvm_atom(ptr %ctx, ptr %local, i32 %pc, i32 %code, i64 %mask, i32 %lanes) ATTRS {\n"
        + _loop(body)
    )


def lock_ir() -> str:
    """Take locks lane by lane; returns the mask of lanes that got theirs. `space`: 0 global, 1 shared."""
    key = (
        "  %word = lshr i64 %va, 2\n  %is.s = icmp eq i32 %space, 1\n"
        "  %limit = select i1 %is.s, i64 16383, i64 4095\n"
        "  %index = and i64 %word, %limit\n"
        + field("sl", "%ctx", at.SHARED_LOCKS, "ptr")
        + field("gl", "%ctx", at.GLOBAL_LOCKS, "ptr")
        + "  %table = select i1 %is.s, ptr %sl, ptr %gl\n  %lock = getelementptr i8, ptr %table, i64 %index\n"
    )
    take = (
        key + "  %c = cmpxchg ptr %lock, i8 0, i8 1 seq_cst seq_cst\n  %won = extractvalue { i8, i1 } %c, 1\n"
        "  %one = zext i1 %won to i64\n  %bit = shl i64 %one, %lane64\n  %old = load i64, ptr %got\n"
        "  %new = or i64 %old, %bit\n  store i64 %new, ptr %got\n  br label %next\n"
    )
    give = key + "  store atomic i8 0, ptr %lock seq_cst, align 1\n  br label %next\n"
    lock = _loop(take, "i64 %result").replace(
        "entry:\n", "entry:\n  %got = alloca i64\n  store i64 0, ptr %got\n"
    )
    lock = lock.replace("out:\n", "out:\n  %result = load i64, ptr %got\n")
    return (
        "define i64 @gpuvm_lock(ptr %ctx, i32 %pc, i32 %space, i64 %mask, i32 %lanes) ATTRS {\n"
        + lock
        + "define void @gpuvm_unlock(ptr %ctx, i32 %space, i64 %mask, i32 %lanes) ATTRS {\n"
        + _loop(give).replace(
            f"  %q.pc = getelementptr i8, ptr %ctx, i64 {at.ERROR_PC}\n  store i32 %pc, ptr %q.pc\n", ""
        )
    )


def helpers_ir() -> str:
    """All helpers, to be appended to the runtime's module (ATTRS is replaced there)."""
    return (
        "declare void @gpuvm_raise(ptr) noreturn\ndeclare i64 @llvm.cttz.i64(i64, i1)\n"
        + fail_ir()
        + resolve_ir()
        + load_ir()
        + store_ir()
        + atom_ir()
        + lock_ir()
        + stack_ir()
        + blocks_ir()
    )

"""The compiler's own PTX library: functions that stand for instructions the chip has not.

`library.ptx` is made from `library.cu`; atomics that the chip lacks are loops written here, one function for
each combination of space, operation and type.
"""

from __future__ import annotations

import functools
from importlib import resources

from gpuvm.compiler.ptx import ast
from gpuvm.compiler.ptx.parser import parse

PREFIX = "gpuvm_"
_HEADER = ".version 3.2\n.target sm_20\n.address_size {bits}\n"
ROUNDINGS = ("rn", "rz", "rm", "rp")

# Operations on values of each kind of type: the PTX that makes %s of the old value %r and the operand %v.
_NEW_VALUE = {
    "add": "add.{t} %s, %r, %v;",
    "min": "min.{t} %s, %r, %v;",
    "max": "max.{t} %s, %r, %v;",
    "and": "and.{b} %s, %r, %v;",
    "or": "or.{b} %s, %r, %v;",
    "xor": "xor.{b} %s, %r, %v;",
    "exch": "mov.{b} %s, %v;",
    "inc": "setp.ge.{t} %q, %r, %v;\n add.{t} %s, %r, 1;\n selp.{b} %s, 0, %s, %q;",
    "dec": (
        "setp.eq.{t} %q, %r, 0;\n setp.gt.or.{t} %q, %r, %v, %q;\n sub.{t} %s, %r, 1;\n"
        " selp.{b} %s, %v, %s, %q;"
    ),
    "cas": "setp.eq.{b} %q, %r, %v;\n selp.{b} %s, %w, %r, %q;",
}
_SUPPORTED = {
    "add": "u32 s32 u64 s64 f32 f64", "min": "u32 s32 u64 s64", "max": "u32 s32 u64 s64",
    "inc": "u32", "dec": "u32", "and": "b32 b64", "or": "b32 b64", "xor": "b32 b64",
    "exch": "b32 b64", "cas": "b32 b64",
}  # fmt: skip


def supported(op: str, kind: str) -> bool:
    """Whether an atomic operation can be made at all."""
    return kind in _SUPPORTED.get(op, "").split()


# Single precision: exact where no intermediate result leaves the normal range (which %p says at the end),
# else in double precision. With a reciprocal good to one unit, one Newton step and one correction round every
# quotient right: checked for all divisors against the quotients nearest to a tie. The root was checked for
# all arguments. The divisor is at most 2**126, so its reciprocal is normal; the dividend at least 2**-100, so
# remainders are exact.
_DIVISION = """
rcp.approx.ftz.f32 %r, %y; neg.f32 %n, %y;
fma.rn.f32 %e, %n, %r, 0f3F800000; fma.rn.f32 %r, %r, %e, %r;
mul.rn.f32 %q, %x, %r; fma.rn.f32 %e, %n, %q, %x; fma.rn.f32 %d, %e, %r, %q; abs.f32 %q, %d;
"""
_SINGLE = {
    "div": (
        "{reg} %x, {reg} %y",
        _DIVISION + "abs.f32 %n, %x; setp.ge.f32 %p, %n, 0f0D800000; setp.ge.and.f32 %p, %q, 0f01000000, %p;"
        "mov.b32 %b, %x; setp.eq.or.u32 %p, %b, 0, %p; setp.le.and.f32 %p, %q, 0f7E800000, %p;"
        "abs.f32 %n, %y; setp.le.and.f32 %p, %n, 0f7E800000, %p;",
        "%x, %y",
    ),
    "rcp": (
        "{reg} %y",
        "mov.f32 %x, 0f3F800000;"
        + _DIVISION
        + "setp.ge.f32 %p, %q, 0f01000000; setp.le.and.f32 %p, %q, 0f7E800000, %p;"
        "abs.f32 %n, %y; setp.le.and.f32 %p, %n, 0f7E800000, %p;",
        "%y",
    ),
    "sqrt": (
        "{reg} %x",
        "rsqrt.approx.ftz.f32 %r, %x; mul.rn.f32 %q, %x, %r; mul.rn.f32 %n, %r, 0f3F000000; neg.f32 %e, %n;"
        "fma.rn.f32 %e, %e, %q, 0f3F000000; fma.rn.f32 %q, %q, %e, %q; fma.rn.f32 %n, %n, %e, %n;"
        "neg.f32 %e, %q; fma.rn.f32 %e, %e, %q, %x; fma.rn.f32 %d, %e, %n, %q;"
        "setp.ge.f32 %p, %x, 0f17800000; setp.le.and.f32 %p, %x, 0f67800000, %p;",
        "%x",
    ),
}


def _single(name: str) -> str:
    """div, rcp or sqrt of floats, round to nearest."""
    _, op, mode, _ = name.split("_")
    params, fast, operands = _SINGLE[op]
    own = "".join(f" .reg .f32 {r};" for r in ("%x", "%y") if r not in params)
    ftz = ".ftz" if mode == "ftz" else ""
    return (
        _HEADER.format(bits=64) + f".func (.reg .f32 %d) {name} ({params.format(reg='.reg .f32')})\n{{\n"
        f".reg .f32 %r, %n, %e, %q;{own} .reg .b32 %b; .reg .pred %p;\n"
        f"{fast}\n@%p bra done;\n_{op}{ftz}.rn.f32 %d, {operands};\ndone: ret;\n}}"
    )


@functools.cache
def _arithmetic() -> dict[str, ast.Function]:
    text = resources.files("gpuvm.compiler").joinpath("library.ptx").read_text()
    return {f.name: f for f in parse(text).functions}


@functools.cache
def function(name: str, address_bits: int) -> ast.Function:
    """A library function by name: one of library.ptx, or "gpuvm_atom_<space>_<op>_<type>"."""
    if name.startswith(PREFIX + "atom_"):
        space, op, kind = name[len(PREFIX) + 5 :].split("_")
        return parse(_atomic(name, space, op, kind, address_bits)).functions[0]
    if name.endswith("_f32"):
        return parse(_single(name)).functions[0]
    return _arithmetic()[name]


def _atomic(name: str, space: str, op: str, kind: str, address_bits: int) -> str:
    """A function that does one atomic operation and returns the old value.

    Shared memory: load and lock, store and unlock, again where the lock was taken. The successful threads of
    a warp store before any thread tries again, so they cannot wait for each other. Global memory: compare and
    swap until nobody came between. Generic: whichever the address says.
    """
    bits = kind[1:]
    address = f"b{address_bits}"
    names = {"t": kind, "b": f"b{bits}"}
    compute = _NEW_VALUE[op].format(**names)
    third = f", .reg .b{bits} %w" if op == "cas" else ""
    lines = [
        _HEADER.format(bits=address_bits),
        f".func (.reg .b{bits} %r) {name} (.reg .{address} %a, .reg .b{bits} %v{third})",
        "{",
        f".reg .pred %p, %q;\n.reg .b{bits} %s, %o;\n.reg .{address} %l;",
    ]
    shared = (
        f"again:\n _ldslk.b{bits} %p, %r, [%l];\n {compute}\n"
        f" @%p _stsul.b{bits} [%l], %s;\n @!%p bra again;\n ret;"
    )
    native = kind in _NATIVE_GLOBAL.get(op, "").split()
    if native:
        extra = ", %w" if op == "cas" else ""
        other = f" atom.global.{op}.{kind} %r, [%a], %v{extra};\n ret;"
    else:
        other = (
            f" ld.volatile.global.b{bits} %r, [%a];\nretry:\n mov.b{bits} %o, %r;\n {compute}\n"
            f" atom.global.cas.b{bits} %r, [%a], %o, %s;\n"
            f" setp.ne.b{bits} %p, %r, %o;\n @%p bra retry;\n ret;"
        )
    if space == "shared":
        lines.append(f" mov.{address} %l, %a;\n{shared}")
    elif space == "global":
        lines.append(other)
    else:
        lines.append(
            f" isspacep.shared %p, %a;\n @!%p bra elsewhere;\n cvta.to.shared.u{address_bits} %l, %a;\n"
            f"{shared}\nelsewhere:\n{other}"
        )
    lines.append("}")
    return "\n".join(lines)


_NATIVE_GLOBAL = {
    "add": "u32 s32 u64 s64 f32",
    "min": "u32 s32",
    "max": "u32 s32",
    "inc": "u32",
    "dec": "u32",
    "and": "b32",
    "or": "b32",
    "xor": "b32",
    "exch": "b32 b64",
    "cas": "b32 b64",
}


def native_global(op: str, kind: str) -> bool:
    """Whether ATOM does it."""
    return kind in _NATIVE_GLOBAL.get(op, "").split()


SERVICES = {
    "vprintf": "gpuvm_vprintf",
    "__assertfail": "gpuvm_assertfail",
    "malloc": "gpuvm_malloc",
    "free": "gpuvm_free",
}
"""What a kernel may call without defining it, and the function of services.ptx that does it."""


@functools.cache
def services() -> ast.Module:
    """The functions of `SERVICES` and the variable through which the driver tells them of its memory."""
    return parse(resources.files("gpuvm.compiler").joinpath("services.ptx").read_text())


def build() -> None:
    """Make library.ptx and services.ptx again."""
    from pathlib import Path

    from gpuvm.compiler.nvrtc import compile_cuda

    here = Path(__file__).parent
    for name in ("library", "services"):
        source = here / f"{name}.cu"
        ptx, _ = compile_cuda(source.read_bytes(), source.name, ["--relocatable-device-code=true"])
        lines = [line for line in ptx.splitlines() if not line.startswith("//") and line.strip()]
        (here / f"{name}.ptx").write_text("\n".join(lines) + "\n")

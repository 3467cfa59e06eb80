"""How a register's value is kept between basic blocks: as a constant, a scalar, affine parts, vectors, or a
64-bit pair.

A class is a tuple. `meet` finds the class that can hold what two paths bring; `Variables` reads and writes
the
stack slots that LLVM turns into registers.
"""

from __future__ import annotations

from gpuvm.jit.emit import FALSE, TRUE, Emitter, PVal, Scalar, Val, Wide

Class = tuple[object, ...]
"""("k", n) constant, ("u",) scalar, ("uf",) float scalar, ("a", ((axis, const or None), ...)) affine, ("v",)
units,
("vf",) float units whose NaNs may not be canonical, ("w", half, shape) half of a 64-bit pair."""

SCALAR: Class = ("u",)
VECTOR: Class = ("v",)


def is_nan(bits: int) -> bool:
    return bits & 0x7F800000 == 0x7F800000 and bits & 0x007FFFFF != 0


def affine_class(v: Val) -> Class:
    return ("a", tuple((axis, c if isinstance(c, int) else None) for axis, c in v.co))


def classify(v: Val) -> Class:
    """The narrowest class of a 32-bit value."""
    if v.k == "u":
        if isinstance(v.x, int):
            return ("k", v.x)
        return ("uf",) if v.fx is not None and (v.x is None or v.raw) and v.raw else SCALAR
    if v.k == "a":
        return affine_class(v)
    return ("vf",) if v.f is not None and v.raw else VECTOR


def pair_shape(lo: Val, hi: Val) -> Class | None:
    """The shape of a 64-bit pair that should stay one, None if the words are kept apart."""
    if (
        lo.wide is None
        or hi.wide is None
        or lo.wide[0] is not hi.wide[0]
        or (lo.wide[1], hi.wide[1]) != (0, 1)
    ):
        return None
    w = lo.wide[0]
    if w.lanes is not None and w.pair is not None:
        return ("l",)
    if w.pair is not None:
        return None
    if not w.terms:
        return None if isinstance(w.base, int) else ("b",)
    terms = []
    for index, sign, factor in w.terms:
        if index.k == "u":
            return None
        terms.append((affine_class(index) if index.k == "a" else VECTOR, sign, factor))
    return ("t", tuple(terms))


def plain(c: Class) -> Class:
    """The class of the 32-bit word of a pair that falls apart."""
    if c[0] == "w":
        shape = c[2]
        assert isinstance(shape, tuple)
        return SCALAR if shape[0] == "b" else VECTOR
    return c


def meet(a: Class | None, b: Class | None) -> Class | None:
    """What holds both."""
    if a is None or b is None:
        return b if a is None else a
    if a == b:
        return a
    a, b = plain(a), plain(b)
    if a == b:
        return a
    for x, y in ((a, b), (b, a)):
        if x[0] == "k":
            assert isinstance(x[1], int)
            if y[0] in ("uf", "vf"):
                return (SCALAR if y[0] == "uf" else VECTOR) if is_nan(x[1]) else y
            if y[0] in ("k", "u"):
                return SCALAR
            return VECTOR if y[0] == "a" else y
    kinds = {a[0], b[0]}
    if kinds == {"u", "uf"}:
        return SCALAR
    if kinds == {"uf", "vf"}:
        return ("vf",)
    if kinds == {"a"}:
        left, right = a[1], b[1]
        assert isinstance(left, tuple)
        assert isinstance(right, tuple)
        if [axis for axis, _ in left] == [axis for axis, _ in right]:
            return ("a", tuple((p[0], p[1] if p == q else None) for p, q in zip(left, right, strict=True)))
    return VECTOR


PClass = str
"""A predicate between blocks: "t" or "f" (constant), "u" (scalar), "v" (lane mask)."""


def pclassify(p: PVal) -> PClass:
    if p.k == "u":
        return ("t" if p.x else "f") if isinstance(p.x, bool) else "u"
    return "v"


def pmeet(a: PClass | None, b: PClass | None) -> PClass | None:
    if a is None or b is None:
        return b if a is None else a
    if a == b:
        return a
    return "v" if "v" in (a, b) else "u"


class Variables:
    """Stack slots of a translated function, made when first named."""

    def __init__(self, em: Emitter) -> None:
        self.em = em
        self.slots: dict[str, str] = {}

    def slot(self, name: str, kind: str) -> str:
        known = self.slots.setdefault(name, kind)
        assert known == kind, name
        return f"%{name}"

    def read(self, name: str, kind: str) -> str:
        return self.em.op(f"load {kind}, ptr {self.slot(name, kind)}")

    def write(self, name: str, kind: str, value: str) -> None:
        self.em.do(f"store {kind} {value}, ptr {self.slot(name, kind)}")

    def parts(self, name: str, c: Class) -> list[tuple[str, str]]:
        """(slot name, type) of everything a class keeps, in the order of `values`."""
        em = self.em
        kind = c[0]
        if kind == "k":
            return []
        if kind == "u":
            return [(f"{name}.u", "i32")]
        if kind == "uf":
            return [(f"{name}.uf", "float")]
        if kind == "a":
            assert isinstance(c[1], tuple)
            return [(f"{name}.ab", "i32")] + [
                (f"{name}.ac{axis}", "i32") for axis, const in c[1] if const is None
            ]
        if kind == "v":
            return [(f"{name}.v{n}", em.vi) for n in range(em.shape.units)]
        if kind == "vf":
            return [(f"{name}.f{n}", em.vf) for n in range(em.shape.units)]
        if kind == "w":
            shape = c[2]
            assert isinstance(shape, tuple)
            if c[1] == 1:
                return []  # the low word's slots hold both
            if shape[0] == "l":
                return [(f"{name}.l{n}", em.vl) for n in range(em.shape.units)]
            got = [(f"{name}.w", "i64")]
            if shape[0] == "t":
                for n, (index, _, _) in enumerate(shape[1]):
                    got += self.parts(f"{name}.t{n}", index)
            return got
        raise AssertionError(c)

    def values(self, v: Val, c: Class) -> list[str]:
        """What to store for value `v` in class `c`."""
        em = self.em
        kind = c[0]
        if kind == "k" or (kind == "w" and c[1] == 1):
            return []
        if kind == "u":
            return [em.s32(em.scalar(v))]
        if kind == "uf":
            return [em.fscalar(v)]
        if kind == "a":
            assert isinstance(c[1], tuple)
            co = dict(v.co)
            return [em.s32(v.base)] + [em.s32(co.get(axis, 0)) for axis, const in c[1] if const is None]
        if kind == "v":
            return list(em.units(v))
        if kind == "vf":
            return list(em.funits(v))
        assert v.wide is not None
        w, shape = v.wide[0], c[2]
        assert isinstance(shape, tuple)
        if shape[0] == "l":
            return list(em.wide_lanes(w))
        got = [em.s64(w.base)]
        if shape[0] == "t":
            for (index, _, _), (index_class, _, _) in zip(w.terms, shape[1], strict=True):
                got += self.values(index, index_class)
        return got

    def load(self, name: str, c: Class) -> Val:
        """Read a 32-bit value (not of class "w")."""
        em = self.em
        kind = c[0]
        if kind == "k":
            assert isinstance(c[1], int)
            return em.const(c[1])
        names = [self.read(*part) for part in self.parts(name, c)]
        if kind == "u":
            return em.uniform(names[0])
        if kind == "uf":
            return em.funiform(names[0])
        if kind == "a":
            assert isinstance(c[1], tuple)
            rest = iter(names[1:])
            co: list[tuple[int, Scalar]] = [
                (axis, next(rest) if const is None else const) for axis, const in c[1]
            ]
            return Val("a", base=names[0], co=tuple(co))
        return em.floats(names) if kind == "vf" else em.vector(names)

    def load_pair(self, name: str, shape: Class) -> Wide:
        em = self.em
        if shape[0] == "l":
            lanes = [self.read(*part) for part in self.parts(name, ("w", 0, shape))]
            whole = Wide(lanes=lanes)
            lo = Val("v", thunk=lambda: em._half(whole, 0))
            hi = Val("v", thunk=lambda: em._half(whole, 1))
            whole.pair, whole.lo, whole.hi = (lo, hi), lo, hi
            return whole
        base = self.read(f"{name}.w", "i64")
        terms = []
        if shape[0] == "t":
            assert isinstance(shape[1], tuple)
            for n, (index, sign, factor) in enumerate(shape[1]):
                terms.append((self.load(f"{name}.t{n}", index), sign, factor))
        return Wide(base=base, terms=tuple(terms))

    def pparts(self, name: str, c: PClass) -> list[tuple[str, str]]:
        return {"u": [(f"{name}.u", "i1")], "v": [(f"{name}.b", self.em.mi)]}.get(c, [])

    def pvalues(self, p: PVal, c: PClass) -> list[str]:
        if c == "u":
            return [self.em.i1(p.x)]
        return [self.em.bits(p)] if c == "v" else []

    def pload(self, name: str, c: PClass) -> PVal:
        if c in ("t", "f"):
            return TRUE if c == "t" else FALSE
        (part,) = self.pparts(name, c)
        got = self.read(*part)
        return PVal("u", x=got) if c == "u" else PVal("v", bits=got)

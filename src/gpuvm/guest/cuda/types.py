"""Enumerations, handles and structures of the CUDA driver API, built from the data tables beside this file.

They behave as the ones of cuda-python: enumerations are integers with a name, handles convert to int and
know their address in memory (`getPtr`), structures have plain attributes. None of them needs a CUDA library.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Iterator
from typing import Any

from gpuvm.guest.cuda.enum_data import CONSTANTS, ENUMS
from gpuvm.guest.cuda.struct_data import HANDLES, INTEGERS, STRUCTURES


class EnumType(type):
    """Type of the enumerations: iterable, sized, with `__members__`."""

    __members__: dict[str, Any]
    __singletons__: dict[int, Any]

    def __iter__(cls) -> Iterator[Any]:
        return iter(cls.__singletons__.values())

    def __len__(cls) -> int:
        return len(cls.__singletons__)

    def __contains__(cls, item: object) -> bool:
        return item in cls.__singletons__

    def __getitem__(cls, name: str) -> Any:
        return cls.__members__[name]

    def __repr__(cls) -> str:
        return f"<enum '{cls.__name__}'>"


class CudaEnum(int, metaclass=EnumType):
    """An integer with a name; one object a value."""

    _name: str
    __members__: dict[str, Any] = {}
    __singletons__: dict[int, Any] = {}

    def __new__(cls, value: int) -> Any:
        member = cls.__singletons__.get(int(value))
        if member is None:
            raise ValueError(f"{value} is not a valid {cls.__name__}")
        return member

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self._name}: {int(self)}>"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        return type(self), (int(self),)

    @property
    def name(self) -> str:
        return self._name

    @property
    def value(self) -> int:
        return int(self)


def _make_enum(name: str, lines: str) -> type[CudaEnum]:
    enum: Any = EnumType(name, (CudaEnum,), {"__members__": {}, "__singletons__": {}, "__module__": __name__})
    for line in lines.split("\n"):
        if not line.strip():
            continue
        member_name, text = line.split()
        value = int(text)
        member = enum.__singletons__.get(value)
        if member is None:
            member = int.__new__(enum, value)
            member._name = member_name
            enum.__singletons__[value] = member
        enum.__members__[member_name] = member
        setattr(enum, member_name, member)
    return enum  # type: ignore[no-any-return]


class Boxed:
    """An integer that C code may also read and write at `getPtr()`."""

    __slots__ = ("__weakref__", "_box", "_value")
    _ctype: Any = ctypes.c_uint64

    def __init__(self, init_value: Any = 0, _ptr: int = 0) -> None:
        value = int(init_value)
        if value < 0 and self._ctype is ctypes.c_uint64:
            raise OverflowError(f"{type(self).__name__} must not be negative, got {value}")
        self._value = value
        self._box: Any = None
        if _ptr:
            self._box = self._ctype.from_address(_ptr)

    def __int__(self) -> int:
        return self._value if self._box is None else int(self._box.value)

    def getPtr(self) -> int:
        """Address of the value in memory."""
        if self._box is None:
            self._box = self._ctype(self._value)
        return ctypes.addressof(self._box)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and int(self) == int(other)

    def __hash__(self) -> int:
        return hash((type(self).__name__, int(self)))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {int(self)}>"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        return type(self), (int(self),)


class Handle(Boxed):
    """An opaque pointer."""

    __slots__ = ()

    def __index__(self) -> int:
        return int(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {int(self):#x}>"

    __str__ = __repr__


def address_of(value: Any) -> int:
    """Return the address that a `void *` argument names: an int, None (0), or any object with the buffer
    protocol.

    Raises
    ------
    TypeError
        If the object is none of these.
    """
    if type(value) is int:
        return value
    if value is None:
        return 0
    try:
        return operator.index(value)
    except TypeError:
        pass
    try:
        return _buffer_address(value)
    except TypeError:
        pass
    try:
        return int(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"Provided argument is of type {type(value)} but expected Type None, int or object with Buffer "
            "Protocol"
        ) from None


def _buffer_address(value: Any) -> int:
    raw = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(value), ctypes.byref(raw), _ANY_CONTIGUOUS)
    try:
        return int(raw.buf or 0)
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(raw))


_ANY_CONTIGUOUS = 0x80 | 0x18


class _PyBuffer(ctypes.Structure):
    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


ctypes.pythonapi.PyObject_GetBuffer.argtypes = [ctypes.py_object, ctypes.c_void_p, ctypes.c_int]
ctypes.pythonapi.PyBuffer_Release.argtypes = [ctypes.c_void_p]

_SCALARS: dict[str, tuple[int, Any]] = {
    "int": (4, 0),
    "unsigned int": (4, 0),
    "unsigned short": (2, 0),
    "size_t": (8, 0),
    "unsigned long long": (8, 0),
    "float": (4, 0.0),
}


class _Field:
    """One attribute of a structure, converted on the way in and out as its C type asks."""

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind
        self.slot = "_" + name
        self.type: Any = NAMES.get(kind)

    def default(self) -> Any:
        if self.kind in _SCALARS:
            return _SCALARS[self.kind][1]
        if self.kind == "Any" or isinstance(self.type, EnumType):
            return 0
        if self.kind.startswith("list["):
            return []
        if self.kind == "bytes":
            return b""
        return self.type() if self.type is not None else 0

    def __get__(self, owner: Any, _: Any = None) -> Any:
        if owner is None:
            return self
        values = owner._values
        if self.name not in values:
            values[self.name] = self.default()
        value = values[self.name]
        if isinstance(self.type, EnumType):
            return self.type(value)
        return value

    def __set__(self, owner: Any, value: Any) -> None:
        kind = self.type
        if self.kind == "Any":
            owner._keep[self.name] = value
            value = address_of(value)
        elif isinstance(kind, EnumType):
            value = int(value)
        elif isinstance(kind, type) and issubclass(kind, Boxed) and not isinstance(value, kind):
            value = kind(0 if value is None else value)
        elif self.kind in _SCALARS:
            value = float(value) if self.kind == "float" else int(value)
        owner._values[self.name] = value


class Structure:
    """A C structure as an object with attributes."""

    _fields: tuple[_Field, ...] = ()
    _reserved_after: tuple[str, ...] = ()
    """Fields behind which C has a pointer without a name of its own here."""

    def __init__(self, _ptr: int = 0) -> None:
        self._values: dict[str, Any] = {}
        self._keep: dict[str, Any] = {}
        self._image: Any = None

    def getPtr(self) -> int:
        """Address of a C image of the structure as it is now; it lives as long as this object.

        Raises
        ------
        TypeError
            If the structure holds unions or lists, which have no fixed image.
        """
        self._image = self._pack()
        return ctypes.addressof(self._image)

    def _pack(self) -> Any:
        members: list[tuple[str, Any, Any]] = []
        for field in self._fields:
            # An enumeration is taken raw: 0 need not be one of its members.
            value = self._values.get(field.name, field.default())
            if field.kind == "bytes":
                value = getattr(self, field.name)
            if isinstance(field.type, EnumType):
                members.append((field.name, ctypes.c_int, int(value)))
            elif isinstance(value, Boxed):
                members.append((field.name, value._ctype, int(value)))
                if field.name in self._reserved_after:
                    members.append((f"reserved_after_{field.name}", ctypes.c_void_p, None))
            elif field.kind in _SCALARS or field.kind == "Any":
                kind = _CTYPES[field.kind]
                members.append((field.name, kind, value))
            elif field.kind == "bytes":
                members.append(
                    (field.name, ctypes.c_ubyte * len(value), (ctypes.c_ubyte * len(value))(*value))
                )
            else:
                raise TypeError(
                    f"{type(self).__name__}.{field.name} has no fixed C image: pass its values themselves"
                )
        image = type("Image", (ctypes.Structure,), {"_fields_": [(n, t) for n, t, _ in members]})()
        for name, _, value in members:
            setattr(image, name, value)
        return image

    def __repr__(self) -> str:
        lines = []
        for field in self._fields:
            try:
                value = getattr(self, field.name)
            except ValueError:
                value = "<ValueError>"
            lines.append(f"{field.name} : {value}")
        return "\n".join(lines)


_CTYPES: dict[str, Any] = {
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "unsigned short": ctypes.c_ushort,
    "size_t": ctypes.c_size_t,
    "unsigned long long": ctypes.c_ulonglong,
    "float": ctypes.c_float,
    "Any": ctypes.c_uint64,
}

NAMES: dict[str, Any] = {}
"""Every type and constant of the API by its name."""


def _build() -> None:
    NAMES.update(CONSTANTS)
    for name, lines in ENUMS.items():
        NAMES[name] = _make_enum(name, lines)
    for name in HANDLES.split():
        NAMES[name] = type(name, (Handle,), {"__slots__": (), "__module__": __name__})
    for name in INTEGERS.split():
        NAMES[name] = type(name, (Boxed,), {"__slots__": (), "__module__": __name__})
    for name in ("CUdevice_v1", "CUdevice"):
        NAMES[name]._ctype = ctypes.c_int
    for name in ("cuuint32_t", "GLenum", "GLuint", "VdpDevice"):
        NAMES[name]._ctype = ctypes.c_uint32
    structures: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    current: list[tuple[str, str]] = []
    for line in STRUCTURES.strip("\n").split("\n"):
        if line.startswith("    "):
            field, kind = line.strip().split(" ", 1)
            current.append((field, kind))
        else:
            name, _, base = line.partition(" : ")
            current = []
            structures[name] = (base, current)
    for name, (base, _) in structures.items():
        parent = NAMES[base] if base else Structure
        NAMES[name] = type(name, (parent,), {"__module__": __name__})
    for name, (base, fields) in structures.items():
        if not base:
            made = tuple(_Field(each, kind) for each, kind in fields)
            NAMES[name]._fields = made
            for one in made:
                setattr(NAMES[name], one.name, one)
    NAMES["CUuuid_st"].bytes = _Bytes(16)
    NAMES["CUDA_MEMCPY3D_st"]._reserved_after = ("srcArray", "dstArray")


class _Bytes:
    """The 16 bytes of a CUuuid."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __get__(self, owner: Any, _: Any = None) -> Any:
        return self if owner is None else owner._values.get("bytes", bytes(self._size))

    def __set__(self, owner: Any, value: bytes) -> None:
        if len(value) != self._size:
            raise ValueError(f"bytes length must be {self._size}, is {len(value)}")
        owner._values["bytes"] = bytes(value)


_build()
CUresult: Any = NAMES["CUresult"]
CUdeviceptr: Any = NAMES["CUdeviceptr"]

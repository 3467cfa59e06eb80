"""From a cubin to what lies in VRAM: one segment of code, constants and variables, with addresses patched in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gpuvm.guest.cuda.core import fail


@dataclass(slots=True)
class LoadedKernel:
    """A kernel as the launch code needs it. Sizes are bytes; `entry` is an offset in the code segment.

    Attributes
    ----------
    layout : list of (offset, size)
        Parameters, from c[0x0][0x20].
    constants : dict
        Bank -> (offset in the module's memory, size).
    local_negative : int
        Without what the ABI reserves at the top.
    """

    name: str
    entry: int
    registers: int
    shared: int
    barriers: int
    local_positive: int
    local_negative: int
    call_stack: int
    layout: list[tuple[int, int]]
    constants: dict[int, tuple[int, int]] = field(default_factory=dict)
    constant_size: int = 0
    max_threads: int = 1024


@dataclass(slots=True)
class Segments:
    """A module's memory: `size` bytes, of which `pieces` (offset, bytes) are initialised and the rest is
    zero."""

    size: int
    code: int
    pieces: list[tuple[int, bytes]]
    kernels: list[LoadedKernel]
    variables: dict[str, tuple[int, int]] = field(default_factory=dict)
    patches: list[Any] = field(default_factory=list)


def build(segments: Segments, base: int) -> bytearray:
    """Return the module's memory for GPU virtual address `base`."""
    data = bytearray(segments.size)
    for offset, piece in segments.pieces:
        data[offset : offset + len(piece)] = piece
    for where, size, target in segments.patches:
        value = int.from_bytes(data[where : where + size], "little") + base + target
        data[where : where + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    return data


def compile_text(text: bytes, options: Any) -> tuple[bytes, str, int]:
    from gpuvm.compiler import CompileError, compile_ptx
    try:
        result = compile_ptx(text)
    except CompileError as error:
        raise fail("INVALID_PTX", str(error)) from None
    return result.cubin, result.log, 20


def layout(cubin: bytes) -> Segments:
    import io, struct
    from elftools.elf.elffile import ELFFile
    from gpuvm.compiler import nvinfo
    elf = ELFFile(io.BytesIO(cubin))
    secs = list(elf.iter_sections())
    at = 0
    pieces=[]; kernels=[]; place={}
    for n,sec in enumerate(secs):
        if sec.name.startswith((".text.", ".nv.constant2", ".nv.constant14", ".nv.constant16", ".nv.global")):
            at = -(-at // 256) * 256
            place[n] = at
            if sec["sh_type"] != "SHT_NOBITS":
                pieces.append((at, sec.data()))
            at += sec["sh_size"]
    names={s.name:n for n,s in enumerate(secs)}
    for n,sec in enumerate(secs):
        if sec.name.startswith(".text."):
            name=sec.name[6:]
            info=dict(); params=[]
            for k,v in nvinfo.read(secs[names[".nv.info."+name]].data()):
                if k==nvinfo.KPARAM_INFO:
                    _,oo,pk=struct.unpack("<III",v); params.append((oo&0xffff,oo>>16,pk>>18))
            params.sort()
            c={}
            for sn,b in ((".nv.constant2",2),(".nv.constant14",14),(".nv.constant16."+name,16)):
                if sn in names: c[b]=(place[names[sn]], -(-secs[names[sn]]["sh_size"]//256)*256)
            def size(x): return secs[names[x+name]]["sh_size"] if x+name in names else 0
            stack=0
            syms=list(elf.get_section_by_name(".symtab").iter_symbols())
            for k,v in nvinfo.read(secs[names[".nv.info"]].data()):
                if k==nvinfo.MIN_STACK_SIZE:
                    i,sz=struct.unpack("<II",v)
                    if syms[i].name==name: stack=sz
            kernels.append(LoadedKernel(name, place[n], sec["sh_info"]>>24, size(".nv.shared."), sec["sh_flags"]>>20&0x7f, size(".nv.local."), stack, 0, [(o,sz) for _,o,sz in params], c))
    variables={}; patches=[]
    syms=list(elf.get_section_by_name(".symtab").iter_symbols())
    for sy in syms:
        if sy["st_info"]["type"]=="STT_OBJECT" and sy["st_shndx"] in place:
            variables[sy.name]=(place[sy["st_shndx"]]+sy["st_value"], sy["st_size"])
    for sec in secs:
        if sec["sh_type"]=="SHT_REL":
            base=place.get(sec["sh_info"])
            for r in sec.iter_relocations():
                sy=syms[r["r_info_sym"]]
                patches.append((base+r["r_offset"], 8 if r["r_info_type"]==2 else 4, place[sy["st_shndx"]]+sy["st_value"]))
    return Segments(-(-at//256)*256+256, 0, pieces, kernels, variables, patches)

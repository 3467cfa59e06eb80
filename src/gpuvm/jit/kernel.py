"""The frame around translated code: module header, a function's prologue, the loop that claims thread blocks.

Both translators (`general`, which is right for any code, and `structured`, which is fast) fill in `@warp`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gpuvm.jit import layout as at
from gpuvm.jit.emit import Emitter, Shape
from gpuvm.jit.helpers import SIGNATURES
from gpuvm.jit.native import Target

# Alias scopes: global (10, 11), shared (12, 13), local (14, 15); what is the executor's own is noalias !9.
METADATA = """
!0 = !{}
!1 = !{!"branch_weights", i32 1, i32 1000}
!2 = distinct !{!2}
!3 = distinct !{!3, !2}
!4 = distinct !{!4, !2}
!5 = distinct !{!5, !2}
!6 = distinct !{!6, !2}
!9 = !{!3, !4, !5}
!10 = !{!3}
!11 = !{!4, !5, !6}
!12 = !{!4}
!13 = !{!3, !5, !6}
!14 = !{!5}
!15 = !{!3, !4, !6}
!16 = !{!6}
!20 = distinct !DICompileUnit(language: DW_LANG_C, file: !21, isOptimized: true, runtimeVersion: 0,
  emissionKind: LineTablesOnly)
!21 = !DIFile(filename: "fermi", directory: "/")
!22 = !DISubroutineType(types: !0)
!23 = distinct !DISubprogram(name: "warp", scope: !21, file: !21, line: 1, type: !22, unit: !20,
  spFlags: DISPFlagDefinition)
!24 = distinct !DISubprogram(name: "kernel", scope: !21, file: !21, line: 1, type: !22, unit: !20,
  spFlags: DISPFlagDefinition)
!25 = !DILocation(line: 0, scope: !24)
!26 = !{i32 2, !"Debug Info Version", i32 3}
!27 = !{i32 2, !"Dwarf Version", i32 4}
!llvm.dbg.cu = !{!20}
!llvm.module.flags = !{!26, !27}
"""


@dataclass
class Mix:
    """What one run of a basic block counts, besides the block itself."""

    pc: int
    instructions: int = 0
    doubles: int = 0
    specials: int = 0
    shared: int = 0
    loads: int = 0
    stores: int = 0
    segments: int = 0
    atomics: int = 0
    barriers: int = 0


@dataclass
class Shapes:
    """How a node's work looks, for choosing how many lanes to run together."""

    scalars: int = 0
    vectors: int = 0
    gathers: int = 0
    scatters: int = 0


@dataclass
class Frame:
    """What a translation ends up needing and counting."""

    shape: Shape
    banks: dict[int, int] = field(default_factory=dict)
    """Constant banks used, and the highest byte read at a fixed offset (64 KiB if indexed)."""
    mixes: list[Mix] = field(default_factory=list)
    state_bytes: int = 0
    barriers: bool = False


def counter(em: Emitter, index: int, amount: str = "1") -> None:
    """Add to a 64-bit counter of this worker."""
    p = em.op(f"getelementptr i64, ptr %counters, i64 {index}")
    old = em.op(f"load i64, ptr {p}, !alias.scope !16, !noalias !9")
    em.do(f"store i64 {em.op(f'add i64 {old}, {amount}')}, ptr {p}, !alias.scope !16, !noalias !9")


def prologue(em: Emitter, frame: Frame) -> None:
    """SSA names every `@warp` starts with."""
    em.do(
        "%job = load ptr, ptr " + em.op(f"getelementptr i8, ptr %ctx, i64 {at.JOB}") + ", !invariant.load !0"
    )
    fields = (
        ("alias", at.ALIAS, "ptr"), ("shared", at.SHARED, "ptr"), ("shared.size", at.SHARED_SIZE, "i64"),
        ("local.all", at.LOCAL, "ptr"), ("local.stride", at.LOCAL_STRIDE, "i64"),
        ("local.positive", at.LOCAL_POSITIVE, "i64"), ("local.negative", at.LOCAL_NEGATIVE, "i64"),
        ("counters", at.COUNTERS, "ptr"), ("scratch", at.SCRATCH, "ptr"), ("banks", at.CONSTANTS, "ptr"),
    )  # fmt: skip
    for name, offset, kind in fields:
        p = em.op(f"getelementptr i8, ptr %ctx, i64 {offset}")
        em.do(f"%{name} = load {kind}, ptr {p}, !invariant.load !0")
    for name, offset in (("block.x", at.BLOCK_X), ("block.y", at.BLOCK_Y), ("block.z", at.BLOCK_Z)):
        p = em.op(f"getelementptr i8, ptr %ctx, i64 {offset}")
        em.do(f"%{name} = load i32, ptr {p}, !noalias !9")
    em.do(f"%dummy = getelementptr i8, ptr %scratch, i64 {at.SCRATCH_DUMMY}")
    em.do(
        "%stop.at = load ptr, ptr "
        + em.op(f"getelementptr i8, ptr %job, i64 {at.JOB_STOP}")
        + ", !invariant.load !0"
    )
    em.do(f"%first = mul i32 %group, {frame.shape.lanes}")
    wide = em.op("zext i32 %group to i64")
    em.do(f"%local = getelementptr i8, ptr %local.all, i64 {em.op(f'mul i64 {wide}, %local.stride')}")
    for bank in range(18):
        em.do(f"%bank{bank}.at = getelementptr i8, ptr %banks, i64 {bank * 8}")
        em.do(f"%bank{bank} = load ptr, ptr %bank{bank}.at, !invariant.load !0")


def initial_mask(em: Emitter, shape: Shape) -> str:
    """Lanes of this group that hold a thread."""
    if shape.full:
        return "-1"
    rest = em.op(f"sub i32 {shape.threads}, %first")
    count = em.call("i32", "llvm.umin.i32", [("i32", rest), ("i32", str(shape.lanes))])
    gone = em.op(f"sub i32 {shape.lanes}, {count}")
    if shape.lanes != 32:
        gone = em.op(f"{'zext' if shape.lanes > 32 else 'trunc'} i32 {gone} to {em.mi}")
    return em.op(f"lshr {em.mi} -1, {gone}")


def poll(em: Emitter) -> None:
    """At a loop back-edge: leave the launch if it was told to stop at once; wait here if it was told to.

    Waiting is an instruction that traps (see `fault`), because a call would cost the loop its registers.
    """
    word = em.op("load atomic i32, ptr %stop.at monotonic, align 4")
    told = em.op(f"icmp ugt i32 {word}, {at.STOP_BLOCK}")
    stop, end, park, go = em.new_label("stop"), em.new_label("end"), em.new_label("park"), em.new_label("go")
    em.do(f"br i1 {told}, label %{stop}, label %{go}, !prof !1")
    em.place(stop)
    waits = em.op(f"icmp eq i32 {word}, {at.STOP_PARK}")
    em.do(f"br i1 {waits}, label %{park}, label %{end}")
    em.place(end)
    em.declare(SIGNATURES["gpuvm_fail"])
    em.do("call void @gpuvm_fail(ptr %ctx, i32 -2, i32 -1, i64 0, i32 0)")
    em.do("unreachable")
    em.place(park)
    mark = ", ".join(f"0x{byte:02x}" for byte in at.PARK_MARK.to_bytes(4, "little"))
    em.do(f'call void asm sideeffect ".byte {mark}", ""()')
    em.do(f"br label %{go}")
    em.place(go)


def entry_ir(frame: Frame) -> str:
    """`@kernel(ctx)`: claims blocks in order and runs their groups."""
    shape = frame.shape
    if frame.barriers:
        run = (
            f"  call void @gpuvm_blocks(ptr %ctx, ptr @warp, i32 {shape.groups | shape.lanes << 16}, "
            f"i64 {frame.state_bytes})\n  br label %done\n"
        )
    else:
        run = (
            f"  %states.at = getelementptr i8, ptr %ctx, i64 {at.STATES}\n  %state = load ptr, ptr %states.at\n"
            "  br label %group\ngroup:\n  %g = phi i32 [ 0, %run ], [ %g1, %group ]\n"
            "  call void @warp(ptr %ctx, ptr %state, i32 %g), !dbg !25\n  %g1 = add i32 %g, 1\n"
            f"  %g.more = icmp ult i32 %g1, {shape.groups}\n  br i1 %g.more, label %group, label %done\n"
        )
    return f"""
define void @kernel(ptr %ctx) KERNEL !dbg !24 {{
entry:
  %job.at = getelementptr i8, ptr %ctx, i64 {at.JOB}
  %job = load ptr, ptr %job.at
  %end.at = getelementptr i8, ptr %job, i64 {at.JOB_END}
  %end = load i64, ptr %end.at
  %chunk.at = getelementptr i8, ptr %job, i64 {at.JOB_CHUNK}
  %chunk = load i64, ptr %chunk.at
  %stop.p = getelementptr i8, ptr %job, i64 {at.JOB_STOP}
  %stop = load ptr, ptr %stop.p
  %failed.at = getelementptr i8, ptr %job, i64 {at.JOB_FAILED}
  %gx.at = getelementptr i8, ptr %job, i64 {at.JOB_GRID_X}
  %gx32 = load i32, ptr %gx.at
  %gx = zext i32 %gx32 to i64
  %gy.at = getelementptr i8, ptr %job, i64 {at.JOB_GRID_Y}
  %gy32 = load i32, ptr %gy.at
  %gy = zext i32 %gy32 to i64
  %bx.at = getelementptr i8, ptr %ctx, i64 {at.BLOCK_X}
  %by.at = getelementptr i8, ptr %ctx, i64 {at.BLOCK_Y}
  %bz.at = getelementptr i8, ptr %ctx, i64 {at.BLOCK_Z}
  %ran.at = getelementptr i8, ptr %ctx, i64 {at.BLOCKS_RUN}
  br label %claim
claim:
  %told = load atomic i32, ptr %stop monotonic, align 4
  %failed = load atomic i32, ptr %failed.at monotonic, align 4
  %either = or i32 %told, %failed
  %leave = icmp ne i32 %either, 0
  br i1 %leave, label %out, label %take
take:
  %from = atomicrmw add ptr %job, i64 %chunk monotonic
  %none = icmp uge i64 %from, %end
  br i1 %none, label %out, label %some
some:
  %to0 = add i64 %from, %chunk
  %past = icmp ugt i64 %to0, %end
  %to = select i1 %past, i64 %end, i64 %to0
  br label %block
block:
  %b = phi i64 [ %from, %some ], [ %b1, %done ]
  %x64 = urem i64 %b, %gx
  %row = udiv i64 %b, %gx
  %y64 = urem i64 %row, %gy
  %z64 = udiv i64 %row, %gy
  %x = trunc i64 %x64 to i32
  %y = trunc i64 %y64 to i32
  %z = trunc i64 %z64 to i32
  store i32 %x, ptr %bx.at
  store i32 %y, ptr %by.at
  store i32 %z, ptr %bz.at
  br label %run
run:
{run}done:
  %ran = load i64, ptr %ran.at
  %ran1 = add i64 %ran, 1
  store i64 %ran1, ptr %ran.at
  %b1 = add i64 %b, 1
  %more = icmp ult i64 %b1, %to
  br i1 %more, label %block, label %claim
out:
  ret void
}}
"""


def module_ir(target: Target, em: Emitter, frame: Frame, inline: bool) -> str:
    """The whole module: header, `@warp` from the emitter, `@kernel`, declarations, metadata."""
    attributes = target.attributes()
    if frame.barriers:
        em.declare(SIGNATURES["gpuvm_blocks"])
    declared = sorted(em.declared)
    body = "\n".join(em.out)
    # Line n + 1 is code offset n.
    locations = "".join(
        f"!{number} = !DILocation(line: {pc + 1}, scope: !23)\n" for pc, number in em.locations.items()
    )
    hint = "alwaysinline" if inline and not frame.barriers else "noinline"
    return (
        target.header()
        + "define internal void @warp(ptr noalias %ctx, ptr noalias %state, i32 %group) "
        + f"{hint} KERNEL !dbg !23 {{\nentry:\n"
        + body + "\n}\n" + entry_ir(frame) + "\n".join(declared) + "\n" + METADATA + locations
    ).replace("KERNEL", attributes)  # fmt: skip

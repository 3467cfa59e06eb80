"""PTX of other times and makers, and PTX that is wrong."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from device import Device
from ptx_text import HEADER

from gpuvm.compiler import CompileError, compile_ptx, cubin

OLD = """
	.version 1.4
	.target sm_10, map_f64_to_f32
	// compiled with open64
	.file	1	"<command-line>"
	.entry mad (
		.param .u64 __cudaparm_mad_a,
		.param .u64 __cudaparm_mad_b,
		.param .u64 __cudaparm_mad_c,
		.param .s32 __cudaparm_mad_n)
	{
	.reg .u16 %rh<4>;
	.reg .u32 %r<6>;
	.reg .u64 %rd<10>;
	.reg .f32 %f<5>;
	.reg .pred %p<3>;
	.loc	15	3	0
$LDWbegin_mad:
	mov.u16 	%rh1, %ctaid.x;
	mov.u16 	%rh2, %ntid.x;
	mul.wide.u16 	%r1, %rh1, %rh2;
	cvt.u32.u16 	%r2, %tid.x;
	add.u32 	%r3, %r2, %r1;
	ld.param.s32 	%r4, [__cudaparm_mad_n];
	setp.le.s32 	%p1, %r4, %r3;
	@%p1 bra 	$Lt_0_1026;
	cvt.s64.s32 	%rd1, %r3;
	mul.lo.u64 	%rd2, %rd1, 4;
	ld.param.u64 	%rd3, [__cudaparm_mad_a];
	add.u64 	%rd4, %rd3, %rd2;
	ld.global.f32 	%f1, [%rd4+0];
	ld.param.u64 	%rd5, [__cudaparm_mad_b];
	add.u64 	%rd6, %rd5, %rd2;
	ld.global.f32 	%f2, [%rd6+0];
	mad.f32 	%f3, %f1, %f2, %f2;
	ld.param.u64 	%rd7, [__cudaparm_mad_c];
	add.u64 	%rd8, %rd7, %rd2;
	st.global.f32 	[%rd8+0], %f3;
$Lt_0_1026:
	exit;
$LDWend_mad:
	} // mad
"""


def test_ptx_1_4_truncates_the_product_of_mad(device: Device) -> None:
    module = device.load(OLD)
    assert module.program.wide
    rng = np.random.default_rng(4)
    a, b = rng.random(50).astype("f4"), rng.random(50).astype("f4")
    out = device.allocate(200)
    assert module.launch("mad", 2, 32, device.upload(a), device.upload(b), out, 50).error is None
    product = a.astype("f8") * b
    truncated = (product.view("u8") & ~np.uint64((1 << 29) - 1)).view("f8").astype("f4")
    assert np.array_equal(device.download(out, "f4", 50), truncated + b)


def test_modules_of_the_first_nvccs(device: Device) -> None:
    """Local variables at module level, and prototypes that end with their line."""
    module = device.load(
        """.version 2.1
        .target sm_20
        .visible .func (.param .s32 result) twice (.param .s32 x)

        .local .u32 %L1[2];
        .entry sequence (.param .u64 p) {
         .reg .u32 %r<9>; .reg .u64 %rd<3>;
         mov.u32 %r0, %tid.x; mov.u32 %r1, %L1; st.local.u32 [%r1+4], %r0; ld.local.u32 %r2, [%L1+4];
         ld.param.u64 %rd0, [p]; mul.wide.u32 %rd1, %r0, 4; add.u64 %rd0, %rd0, %rd1;
         st.global.u32 [%rd0], %r2; exit; }"""
    )
    out = device.allocate(128)
    assert module.launch("sequence", 1, 32, out).error is None
    assert device.download(out, "u4", 32).tolist() == list(range(32))


def test_addresses_of_32_bits(device: Device) -> None:
    module = device.load(
        """.version 3.2
        .target sm_20
        .address_size 32
        .global .u32 g[4] = {5, 6, 7, 8};
        .global .u32 pg = g;
        .entry k (.param .u32 p) {
         .reg .u32 %r<9>; .reg .pred %p; .local .u32 l[4]; .shared .u32 s[32];
         mov.u32 %r0, %tid.x; ld.param.u32 %r1, [p]; shl.b32 %r2, %r0, 2; add.u32 %r1, %r1, %r2;
         and.b32 %r3, %r0, 3; shl.b32 %r3, %r3, 2; mov.u32 %r4, g;
         add.u32 %r4, %r4, %r3; ld.global.u32 %r5, [%r4];
         mov.u32 %r6, l; add.u32 %r6, %r6, %r3; st.local.u32 [%r6], %r5;
         cvta.local.u32 %r6, %r6; ld.u32 %r7, [%r6];
         ld.global.u32 %r8, [pg]; ld.global.u32 %r8, [%r8+12]; add.u32 %r7, %r7, %r8;
         mov.u32 %r4, s; add.u32 %r4, %r4, %r2; cvta.shared.u32 %r4, %r4; st.u32 [%r4], %r7;
         isspacep.shared %p, %r4; @%p add.u32 %r7, %r7, 100;
         st.global.u32 [%r1], %r7; red.global.add.u32 [%r1], 1;
         atom.global.cas.b32 %r5, [%r1], %r5, %r5; ret; }"""
    )
    out = device.allocate(128)
    assert module.launch("k", 1, 32, out).error is None
    assert device.download(out, "u4", 32).tolist() == [(5, 6, 7, 8)[t & 3] + 8 + 101 for t in range(32)]


def test_llvms_nvptx_back_end(device: Device) -> None:
    binding = pytest.importorskip("llvmlite.binding")
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    module = binding.parse_assembly(
        """target triple = "nvptx64-nvidia-cuda"
        declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
        define void @k(ptr addrspace(1) %p, i32 %n) {
         %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
         %c = icmp slt i32 %t, %n
         br i1 %c, label %a, label %z
        a: %i = phi i32 [0,%0],[%j,%a]
         %s = phi i64 [1,%0],[%u,%a]
         %e = sext i32 %i to i64
         %m = mul i64 %s, 3
         %u = add i64 %m, %e
         %j = add i32 %i, 1
         %d = icmp sle i32 %j, %t
         br i1 %d, label %a, label %b
        b: %q = getelementptr i64, ptr addrspace(1) %p, i32 %t
         store i64 %u, ptr addrspace(1) %q
         br label %z
        z: ret void
        }
        !nvvm.annotations = !{!0}
        !0 = !{ptr @k, !"kernel", i32 1}"""
    )
    target = binding.Target.from_triple("nvptx64-nvidia-cuda")
    machine = target.create_target_machine(cpu="sm_20", features="+ptx32", opt=2)
    text = machine.emit_assembly(module)
    assert ".target sm_20" in text
    out = device.allocate(256)
    assert device.load(text).launch("k", 1, 32, out, 20).error is None
    want = []
    for t in range(32):
        s = 1
        for i in range(t + 1):
            s = 3 * s + i
        want.append(s if t < 20 else 0)
    assert device.download(out, "u8", 32).tolist() == want


def kernel(body: str) -> str:
    return f"{HEADER}.visible .entry k (.param .u64 p) {{\n{body}\nret; }}"


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        ("foo.bar %r1;", 5, ["foo.bar", "no PTX instruction"]),
        (".reg .b32 %r<2>;\nadd.u32 %r0, %r1;", 6, ["add.u32", "3 operands"]),
        (".reg .b32 %r<2>;\nadd.u32 %r0, %r1, %r2;", 6, ["%r2", "not declared"]),
        (".reg .b32 %r<2>;\nbra NOWHERE;", 4, ["NOWHERE"]),
        (".reg .b32 %r<2>;\nmov.u32 %r0 %r1;", 6, ["expected"]),
        (".reg .b32 %r<3>;\nshfl.sync.up.b32 %r0, %r1, 1, 0, -1;", 6, ["shfl.sync.up.b32", "sm_20"]),
        (".reg .b32 %r<3>;\nadd.f16x2 %r0, %r1, %r2;", 6, ["f16x2"]),
        (".reg .b64 %x<3>;\ncvta.to.param.u64 %x0, %x1;", 6, ["param"]),
        (".reg .pred %p; .reg .b32 %r<3>;\nvote.sync.ballot.b32 %r0, %p, 255;", 6, ["0xffffffff"]),
        (".reg .b32 %r;\nmov.u32 %r, 12$;", 6, ["$"]),
        ("call nobody;", 5, ["nobody", "not declared"]),
        (".shared .b8 big[50000];", 5, ["50000"]),
        ("bar.sync 16;", 5, ["16 barriers"]),
    ],
)
def test_mistakes_name_the_line_and_the_cause(body: str, line: int, words: list[str]) -> None:
    with pytest.raises(CompileError) as caught:
        compile_ptx(kernel(body))
    for w in words:
        assert w in str(caught.value)
    assert abs(caught.value.line - line) <= 1


def test_undefined_functions_are_link_errors() -> None:
    with pytest.raises(CompileError) as caught:
        compile_ptx(HEADER + ".extern .func f ();\n.visible .entry k () { call f; ret; }")
    assert caught.value.kind == "link"


@pytest.mark.parametrize("seed", range(8))
def test_damaged_text_is_an_error_and_never_a_crash(seed: int) -> None:
    rng = random.Random(seed)
    pieces = re.findall(r"\s+|[\w.$%]+|[^\w\s]", OLD)
    spare = [p for p in pieces if p.strip()] + [
        "-1",
        "4294967296",
        "{",
        "}",
        ".v4",
        "0f7F800000",
        "99999999999999999999",
    ]
    for _ in range(25):
        damaged = list(pieces)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(damaged))
            damaged[at] = rng.choice(("", rng.choice(spare), damaged[at][::-1]))
        try:
            result = compile_ptx("".join(damaged))
        except CompileError as error:
            assert error.kind != "internal"  # noqa: PT017
        else:
            assert cubin.read(result.cubin).kernels


def test_large_text_compiles_in_time_proportional_to_its_size() -> None:
    body = ".reg .b32 %r<4>; .reg .b64 %x; ld.param.u64 %x, [p]; mov.u32 %r0, %tid.x;\n"
    body += "\n".join(f"mad.lo.u32 %r{n % 3}, %r{(n + 1) % 3}, {n + 3}, %r0;" for n in range(4000))
    result = compile_ptx(kernel(body + "st.global.u32 [%x], %r0;"))
    assert len(cubin.read(result.cubin).kernels["k"].code) < 8 * 4100

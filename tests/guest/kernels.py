"""PTX of the kernels that the guest's stories launch."""

HEADER = ".version 3.2\n.target sm_20\n.address_size 64\n"

INDEX = """
    mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ntid.x; mov.u32 %r2, %tid.x;
    mad.lo.u32 %r3, %r0, %r1, %r2;
    mul.wide.u32 %d1, %r3, 4;
"""

REGISTERS = ".reg .pred %p<4>; .reg .u32 %r<16>; .reg .u64 %d<16>; .reg .f32 %f<8>;"

STORE = (
    HEADER
    + f"""
.visible .entry store(.param .u64 out, .param .u32 value)
{{
    {REGISTERS}
    {INDEX}
    ld.param.u64 %d0, [out]; ld.param.u32 %r4, [value];
    add.u64 %d2, %d0, %d1;
    add.u32 %r5, %r4, %r3;
    st.global.u32 [%d2], %r5;
    ret;
}}
.visible .entry load(.param .u64 out, .param .u64 from)
{{
    {REGISTERS}
    ld.param.u64 %d0, [out]; ld.param.u64 %d1, [from];
    ld.global.u32 %r0, [%d1];
    st.global.u32 [%d0], %r0;
    ret;
}}
.visible .entry spin(.param .u64 out)
{{
    {REGISTERS}
    ld.param.u64 %d0, [out];
again:
    ld.volatile.global.u32 %r0, [%d0];
    setp.eq.u32 %p0, %r0, 0;
    @%p0 bra again;
    ret;
}}
.visible .entry stop() {{ trap; }}
.visible .entry shared_beyond(.param .u64 out)
{{
    {REGISTERS}
    ld.param.u64 %d0, [out];
    mov.u32 %r0, 40000;
    ld.shared.u32 %r1, [%r0];
    st.global.u32 [%d0], %r1;
    ret;
}}
"""
)

VARIABLES = (
    HEADER
    + f"""
.global .align 4 .u32 counter = 41;
.global .align 4 .b8 room[65536];
.const .align 4 .u32 table[4] = {{10, 20, 30, 40}};
.visible .entry count(.param .u64 out)
{{
    {REGISTERS}
    ld.param.u64 %d0, [out];
    mov.u32 %r2, %tid.x;
    atom.global.add.u32 %r3, [counter], 1;
    mul.wide.u32 %d1, %r2, 4;
    mov.u64 %d2, table;
    add.u64 %d3, %d2, %d1;
    ld.const.u32 %r4, [%d3];
    mov.u64 %d4, room;
    add.u64 %d5, %d4, %d1;
    ld.global.u32 %r5, [%d5];
    add.u32 %r4, %r4, %r5;
    add.u64 %d6, %d0, %d1;
    st.global.u32 [%d6], %r4;
    ret;
}}
"""
)

SHARED = (
    HEADER
    + f"""
.extern .shared .align 4 .b8 dynamic[];
.visible .entry reverse(.param .u64 data)
{{
    {REGISTERS}
    .shared .align 4 .b8 fixed[1024];
    ld.param.u64 %d0, [data];
    mov.u32 %r2, %tid.x; mov.u32 %r1, %ntid.x;
    mul.wide.u32 %d1, %r2, 4;
    add.u64 %d2, %d0, %d1;
    ld.global.u32 %r3, [%d2];
    shl.b32 %r4, %r2, 2;
    mov.u32 %r5, dynamic; add.u32 %r6, %r5, %r4;
    st.shared.u32 [%r6], %r3;
    mov.u32 %r7, fixed; add.u32 %r8, %r7, %r4;
    st.shared.u32 [%r8], %r2;
    bar.sync 0;
    sub.u32 %r9, %r1, %r2; sub.u32 %r9, %r9, 1;
    shl.b32 %r10, %r9, 2;
    add.u32 %r11, %r5, %r10;
    ld.shared.u32 %r12, [%r11];
    add.u32 %r13, %r7, %r10;
    ld.shared.u32 %r14, [%r13];
    add.u32 %r12, %r12, %r14;
    st.global.u32 [%d2], %r12;
    ret;
}}
"""
)

LOCAL = (
    HEADER
    + f"""
.visible .entry local_sum(.param .u64 out, .param .u32 n)
{{
    {REGISTERS}
    .local .align 4 .b8 array[1024];
    {INDEX}
    ld.param.u64 %d0, [out]; ld.param.u32 %r4, [n];
    mov.u64 %d3, array;
    mov.u32 %r5, 0;
fill:
    mul.wide.u32 %d4, %r5, 4; add.u64 %d5, %d3, %d4;
    add.u32 %r6, %r5, %r3;
    st.local.u32 [%d5], %r6;
    add.u32 %r5, %r5, 1;
    setp.lt.u32 %p0, %r5, %r4;
    @%p0 bra fill;
    mov.u32 %r5, 0; mov.u32 %r7, 0;
sum:
    mul.wide.u32 %d4, %r5, 4; add.u64 %d5, %d3, %d4;
    ld.local.u32 %r6, [%d5];
    add.u32 %r7, %r7, %r6;
    add.u32 %r5, %r5, 1;
    setp.lt.u32 %p0, %r5, %r4;
    @%p0 bra sum;
    add.u64 %d2, %d0, %d1;
    st.global.u32 [%d2], %r7;
    ret;
}}
"""
)

MIXED = (
    HEADER
    + """
.visible .entry mixed(.param .u64 out, .param .u8 a, .param .s16 b, .param .f64 c, .param .f32 d, .param .s64
e) {
    .reg .u64 %d0; .reg .u32 %r<2>; .reg .f64 %g<6>; .reg .f32 %f0; .reg .s64 %e0; .reg .u16 %h<2>; .reg .s16
    %s0; ld.param.u64 %d0, [out];
    ld.param.u8 %h0, [a]; cvt.rn.f64.u16 %g0, %h0; st.global.f64 [%d0], %g0;
    ld.param.s16 %s0, [b]; cvt.rn.f64.s16 %g1, %s0; st.global.f64 [%d0+8], %g1;
    ld.param.f64 %g2, [c]; st.global.f64 [%d0+16], %g2;
    ld.param.f32 %f0, [d]; cvt.f64.f32 %g3, %f0; st.global.f64 [%d0+24], %g3;
    ld.param.s64 %e0, [e]; st.global.s64 [%d0+32], %e0;
    ret;
}
"""
)

REGISTERS_MANY = (
    HEADER
    + ".visible .entry heavy(.param .u64 out)\n{\n    .reg .u64 %d0; .reg .f32 %f<60>;\n"
    + (
        "    ld.param.u64 %d0, [out];\n"
        + "".join(f"    ld.volatile.global.f32 %f{i}, [%d0+{4 * i}];\n" for i in range(52))
        + "".join(f"    add.f32 %f{i}, %f{i}, %f{51 - i};\n" for i in range(52))
        + "".join(f"    st.volatile.global.f32 [%d0+{4 * i}], %f{i};\n" for i in range(52))
        + "    ret;\n}\n"
    )
)

RECURSION = (
    HEADER
    + f"""
.func (.param .u32 result) sum(.param .u32 n)
{{
    .reg .pred %p<2>; .reg .u32 %r<8>;
    ld.param.u32 %r0, [n];
    setp.eq.u32 %p0, %r0, 0;
    @%p0 bra end;
    sub.u32 %r1, %r0, 1;
    {{
        .param .u32 given; .param .u32 got;
        st.param.u32 [given], %r1;
        call (got), sum, (given);
        ld.param.u32 %r2, [got];
    }}
    add.u32 %r0, %r0, %r2;
end:
    st.param.u32 [result], %r0;
    ret;
}}
.visible .entry triangle(.param .u64 out)
{{
    {REGISTERS}
    {INDEX}
    ld.param.u64 %d0, [out];
    {{
        .param .u32 given; .param .u32 got;
        st.param.u32 [given], %r3;
        call (got), sum, (given);
        ld.param.u32 %r4, [got];
    }}
    add.u64 %d2, %d0, %d1;
    st.global.u32 [%d2], %r4;
    ret;
}}
"""
)

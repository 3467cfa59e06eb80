"""CUDA C programs through NVRTC, this compiler and the executor, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from device import Device

from gpuvm.compiler import CompileError, compile_ptx

nvrtc = pytest.importorskip("cuda.bindings.nvrtc")

from gpuvm.compiler.nvrtc import compile_cuda  # noqa: E402


def build(device: Device, source: str, **options: Any) -> Any:
    return device.load(compile_cuda(source)[0], **options)


def test_global_variables_hold_initial_values_and_addresses_of_each_other(device: Device) -> None:
    module = build(
        device,
        """
        __device__ int numbers[4] = {10, 20, 30, 40};
        __device__ int *second = &numbers[1];
        __device__ double ratio = 0.1;
        __device__ unsigned long long counter;
        __constant__ short table[3] = {-1, 2, -3};
        __constant__ const int *where = &numbers[2];
        extern "C" __global__ void k(double *out, int i) {
            out[0] = numbers[i]; out[1] = *second; out[2] = ratio; out[3] = table[i & 1]; out[4] = where[1];
            counter += 7;
        }""",
    )
    out = device.allocate(40)
    assert module.launch("k", 1, 1, out, 3).error is None
    assert device.download(out, "f8", 5).tolist() == [40, 20, 0.1, 2, 40]
    assert device.download(module.variable("counter"), "u8", 1)[0] == 7


def test_structures_pass_by_value_and_are_indexed(device: Device) -> None:
    module = build(
        device,
        """
        struct S { char tag; int a[6]; double d; short z[3]; };
        extern "C" __global__ void k(S s, int *out, const int *index) {
            int i = threadIdx.x;
            out[i] = s.a[index[i]] + s.tag + (int)s.d + s.z[index[i] % 3];
        }""",
    )
    kind = np.dtype([("tag", "i1"), ("a", "i4", 6), ("d", "f8"), ("z", "i2", 3)], align=True)
    s = np.zeros(1, kind)
    s["tag"], s["a"], s["d"], s["z"] = -5, [[1, 20, 300, 4000, 50000, 600000]], 7.9, [[-1, -20, -300]]
    index = np.arange(32, dtype="i4") % 6
    out, where = device.allocate(128), device.upload(index)
    assert module.launch("k", 1, 32, s.tobytes(), out, where).error is None
    want = s["a"][0][index] - 5 + 7 + s["z"][0][index % 3]
    assert np.array_equal(device.download(out, "i4", 32), want)


def test_local_arrays_and_generic_pointers_to_every_space(device: Device) -> None:
    module = build(
        device,
        """
        __device__ __noinline__ int pick(const int *p, int i, int depth) {
            int copy[8];
            for (int k = 0; k < 8; k++) copy[(k + depth) & 7] = p[k];
            return copy[(i + depth) & 7];
        }
        extern "C" __global__ void k(int *global, int *out, int n) {
            __shared__ int shared[8];
            int local[8];
            int t = threadIdx.x;
            if (t < 8) shared[t] = 100 + t;
            for (int k = 0; k < 8; k++) local[(k * 3) & 7] = 1000 * t + k;
            __syncthreads();
            const int *p = t % 3 == 0 ? global : t % 3 == 1 ? shared : local;
            out[t] = pick(p, t & 7, n);
        }""",
    )
    data = np.arange(8, dtype="i4") * 11
    g, out = device.upload(data), device.allocate(256)
    assert module.launch("k", 1, 64, g, out, 3).error is None
    want = []
    for t in range(64):
        local = [0] * 8
        for k in range(8):
            local[k * 3 & 7] = 1000 * t + k
        want.append((data.tolist(), list(range(100, 108)), local)[t % 3][t & 7])
    assert device.download(out, "i4", 64).tolist() == want


def test_recursion_keeps_each_threads_own_frames(device: Device) -> None:
    module = build(
        device,
        """
        __device__ __noinline__ int ackermann(int m, int n) {
            if (m == 0) return n + 1;
            if (n == 0) return ackermann(m - 1, 1);
            return ackermann(m - 1, ackermann(m, n - 1));
        }
        __device__ __noinline__ long long fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
        extern "C" __global__ void k(long long *out) {
            int t = threadIdx.x;
            out[t] = fib(t & 7) * 1000 + ackermann(t & 1, t & 3);
        }""",
    )
    out = device.allocate(256)
    assert module.launch("k", 1, 32, out).error is None
    fib = [0, 1, 1, 2, 3, 5, 8, 13]

    def ackermann(m: int, n: int) -> int:
        return n + 1 if m == 0 else n + 2

    assert device.download(out, "i8", 32).tolist() == [
        fib[t & 7] * 1000 + ackermann(t & 1, t & 3) for t in range(32)
    ]


def test_functions_with_many_arguments_and_structures_as_results(device: Device) -> None:
    module = build(
        device,
        """
        struct Big { double a; int b[5]; float c; };
        __device__ __noinline__ Big mix(Big x, char c, short s, long long l, float f, double d, Big y) {
            Big r; r.a = x.a + y.a * d + l;
            for (int k = 0; k < 5; k++) r.b[k] = x.b[k] * s + y.b[4 - k] + c;
            r.c = x.c - y.c * f;
            return r;
        }
        extern "C" __global__ void k(double *out, int s) {
            Big x, y;
            int t = threadIdx.x;
            x.a = t; y.a = 2 * t; x.c = 1.5f; y.c = t;
            for (int k = 0; k < 5; k++) { x.b[k] = k + t; y.b[k] = 10 * k; }
            Big r = mix(x, (char)-t, (short)s, 1ll << 33, 0.5f, 0.25, y);
            r = mix(r, 1, 2, t, 2.0f, 0.5, x);
            out[2 * t] = r.a + r.b[t % 5];
            out[2 * t + 1] = r.c;
        }""",
    )

    def mix(x: Any, c: int, s: int, long: int, f: float, d: float, y: Any) -> Any:
        return (x[0] + y[0] * d + long, [x[1][k] * s + y[1][4 - k] + c for k in range(5)], x[2] - y[2] * f)

    out = device.allocate(16 * 32)
    assert module.launch("k", 1, 32, out, -3).error is None
    got = device.download(out, "f8", 64).reshape(32, 2)
    for t in range(32):
        x = (float(t), [k + t for k in range(5)], 1.5)
        y = (2.0 * t, [10 * k for k in range(5)], float(t))
        r = mix(mix(x, -t, -3, 1 << 33, 0.5, 0.25, y), 1, 2, t, 2.0, 0.5, x)
        assert got[t].tolist() == [r[0] + r[1][t % 5], r[2]]


ATOMICS = [
    ("int", "i4", "atomicAdd", lambda a, b: a + b),
    ("unsigned", "u4", "atomicAdd", lambda a, b: a + b),
    ("unsigned long long", "u8", "atomicAdd", lambda a, b: a + b),
    ("int", "i4", "atomicMin", min),
    ("int", "i4", "atomicMax", max),
    ("unsigned", "u4", "atomicMax", max),
    ("long long", "i8", "atomicMin", min),
    ("unsigned long long", "u8", "atomicMax", max),
    ("unsigned", "u4", "atomicAnd", lambda a, b: a & b),
    ("unsigned", "u4", "atomicOr", lambda a, b: a | b),
    ("unsigned long long", "u8", "atomicXor", lambda a, b: a ^ b),
    ("unsigned", "u4", "atomicInc", lambda a, b: 0 if a >= b else a + 1),
    ("unsigned", "u4", "atomicDec", lambda a, b: b if a == 0 or a > b else a - 1),
    ("float", "f4", "atomicAdd", lambda a, b: a + b),
]


@pytest.mark.parametrize("space", ["global", "shared", "generic"])
def test_atomics_of_all_types_count_every_thread(slow_device: Device, space: str) -> None:
    count_atomics(slow_device, space, ATOMICS)


@pytest.mark.parametrize("space", ["global", "shared"])
def test_the_executor_agrees_on_atomics(device: Device, space: str) -> None:
    count_atomics(device, space, [ATOMICS[1], ATOMICS[2], ATOMICS[13]])


def count_atomics(device: Device, space: str, chosen: list[tuple[str, str, str, Any]]) -> None:
    kernels = []
    for n, (kind, _, name, _) in enumerate(chosen):
        extra = ""
        if space == "shared":
            target = "s"
        elif space == "generic":
            extra = "if (flag) p = s;"
            target = "p"
        else:
            target = "g"
        kernels.append(
            f"""
            extern "C" __global__ void k{n}({kind} *g, const {kind} *v, int flag) {{
                __shared__ {kind} s[4];
                int t = threadIdx.x;
                {kind} *p = g;
                if (t < 4) s[t] = g[t];
                __syncthreads();
                {extra}
                {name}(&{target}[t & 3], v[t]);
                __syncthreads();
                if (t < 4 && {1 if space == "shared" else "flag" if space == "generic" else 0}) g[t] = s[t];
            }}"""
        )
    module = build(device, "\n".join(kernels))
    rng = np.random.default_rng(1)
    for n, (_, dtype, name, f) in enumerate(chosen):
        start = rng.integers(0, 50, 4).astype(dtype)
        values = (rng.integers(0, 9, 96) if name != "atomicInc" else np.full(96, 7)).astype(dtype)
        if name == "atomicDec":
            values[:] = 5
        if dtype[0] == "i":
            values -= 4
        for flag in (0, 1) if space == "generic" else (0,):
            g, v = device.upload(start), device.upload(values)
            assert module.launch(f"k{n}", 1, 96, g, v, flag).error is None
            want = [int(x) for x in start]
            for t, x in enumerate(values):
                want[t & 3] = int(f(want[t & 3], int(x)))
            assert device.download(g, dtype, 4).tolist() == want, (name, dtype)


def test_double_precision_sums_by_compare_and_swap(device: Device) -> None:
    module = build(
        device,
        """
        extern "C" __global__ void k(unsigned long long *sum, unsigned *order) {
            unsigned long long old = *sum, seen;
            do {
                seen = old;
                double next = __longlong_as_double(seen) + threadIdx.x;
                old = atomicCAS(sum, seen, (unsigned long long)__double_as_longlong(next));
            } while (old != seen);
            order[atomicExch(&order[64], threadIdx.x)] = threadIdx.x;
        }""",
    )
    total, order = device.upload(np.zeros(1)), device.upload(np.full(65, 64, "u4"))
    assert module.launch("k", 1, 64, total, order).error is None
    assert device.download(total, "f8", 1)[0] == 2016


def test_f64_atomic_add_is_made_of_compare_and_swap(device: Device) -> None:
    module = device.load(
        """.version 5.0
        .target sm_60
        .address_size 64
        .visible .entry k (.param .u64 p, .param .u64 q) {
          .reg .b64 %x<4>; .reg .f64 %d<4>; .reg .b32 %r; .shared .f64 s;
          ld.param.u64 %x0, [p]; ld.param.u64 %x2, [q]; mov.u32 %r, %tid.x; cvt.rn.f64.u32 %d0, %r;
          mov.f64 %d2, 0d0000000000000000; st.shared.f64 [s], %d2; bar.sync 0;
          red.global.add.f64 [%x0], %d0;
          atom.shared.add.f64 %d1, [s], %d0;
          bar.sync 0; ld.shared.f64 %d3, [s]; st.global.f64 [%x2], %d3; ret; }"""
    )
    a, b = device.upload(np.zeros(1)), device.allocate(8)
    assert module.launch("k", 1, 96, a, b).error is None
    assert device.download(a, "f8", 1)[0] == device.download(b, "f8", 1)[0] == 96 * 95 / 2


def test_votes_barriers_with_values_and_special_registers(device: Device) -> None:
    module = build(
        device,
        """
        extern "C" __global__ void k(unsigned *out) {
            int t = threadIdx.x + blockDim.x * threadIdx.y;
            unsigned b = __ballot_sync(0xffffffff, t % 3 == 0);
            out[8 * t] = b;
            out[8 * t + 1] = __any_sync(0xffffffff, t == 40) | __all_sync(0xffffffff, t < 64) << 1;
            out[8 * t + 2] = __syncthreads_count(t & 1);
            out[8 * t + 3] = __syncthreads_and(t < 100) | (__syncthreads_or(t == 5) != 0) << 1;
            unsigned lane, mask;
            asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
            asm volatile("mov.u32 %0, %%lanemask_le;" : "=r"(mask));
            out[8 * t + 4] = lane;
            out[8 * t + 5] = mask;
            out[8 * t + 6] = threadIdx.y << 16 | blockIdx.x << 8 | gridDim.x;
            out[8 * t + 7] = __popc(b & mask);
        }""",
    )
    out = device.allocate(96 * 32)
    assert module.launch("k", 1, (32, 3), out).error is None
    got = device.download(out, "u4", 96 * 8).reshape(96, 8)
    for t in range(96):
        lane, warp = t % 32, t // 32
        ballot = sum(1 << k for k in range(32) if (32 * warp + k) % 3 == 0)
        mask = (2 << lane) - 1
        assert got[t].tolist() == [
            ballot, (warp == 1) | (warp < 2) << 1, 48, 1 | 2, lane, mask, (t // 32) << 16 | 1,
            (ballot & mask).bit_count(),
        ]  # fmt: skip


def test_dynamic_shared_memory_follows_the_static(device: Device) -> None:
    module = build(
        device,
        """
        extern __shared__ int pool[];
        extern "C" __global__ void k(int *out, int n) {
            __shared__ int fixed[33];
            int t = threadIdx.x;
            fixed[t] = t; pool[t] = 2 * t;
            if (t == 0) fixed[32] = -1;
            __syncthreads();
            out[t] = pool[(t + 1) % n] + fixed[(t + 5) % n] * 1000 + fixed[32];
        }""",
    )
    out = device.allocate(128)
    assert module.launch("k", 1, 32, out, 32, dynamic_shared=128).error is None
    want = [2 * ((t + 1) % 32) + (t + 5) % 32 * 1000 - 1 for t in range(32)]
    assert device.download(out, "i4", 32).tolist() == want


def test_spills_do_not_change_results(slow_device: Device) -> None:
    body = "\n".join(f"float v{k} = a[(t * {k + 3}) % 64] * {k + 1}.0f;" for k in range(26))
    mix = "\n".join(
        f"for (int i = 0; i < n; i++) {{ v{k} = v{k} * 0.5f + v{(k * 7 + 3) % 26}; }}"
        for k in range(0, 26, 3)
    )
    total = " + ".join(f"v{k} * {k % 5}" for k in range(26))
    source = f"""extern "C" __global__ void k(const float *a, float *out, int n) {{
        int t = threadIdx.x; {body} if (t & 1) {{ {mix} }} out[t] = {total}; }}"""
    ptx = compile_cuda(source)[0]
    device = slow_device
    data = np.random.default_rng(2).random(64).astype("f4")
    results = []
    for registers in (0, 32, 16):
        slow_device.reset()
        module = device.load(ptx, max_registers=registers)
        assert module.program.kernels["k"].registers <= (registers or 63)
        a, out = device.upload(data), device.allocate(256)
        assert module.launch("k", 1, 32, a, out, 3).error is None
        results.append(device.download(out, "u4", 32).tolist())
    assert results[0] == results[1] == results[2]


def test_wide_and_narrow_vector_accesses(device: Device) -> None:
    module = build(
        device,
        """
        extern "C" __global__ void k(const uchar4 *a, const short2 *b, const double2 *c,
            const ushort4 *e, int4 *out) {
            int t = threadIdx.x;
            uchar4 u = a[t]; short2 s = b[t]; double2 d = c[t]; ushort4 w = e[t];
            out[t] = make_int4(u.x + 256 * u.w, s.x * s.y, (int)(d.x + d.y),
                w.x + w.y + w.z + w.w + u.y + u.z);
        }""",
    )
    rng = np.random.default_rng(3)
    a, e = rng.integers(0, 256, (32, 4)).astype("u1"), rng.integers(0, 65536, (32, 4)).astype("u2")
    b, c = rng.integers(-3000, 3000, (32, 2)).astype("i2"), rng.integers(-99, 99, (32, 2)).astype("f8")
    out = device.allocate(512)
    given = [device.upload(x) for x in (a, b, c, e)]
    assert module.launch("k", 1, 32, *given, out).error is None
    want = np.stack(
        [a[:, 0] + 256 * a[:, 3].astype("i4"), b[:, 0].astype("i4") * b[:, 1], c.sum(1).astype("i4"),
         e.sum(1).astype("i4") + a[:, 1] + a[:, 2]], 1
    )  # fmt: skip
    assert np.array_equal(device.download(out, "i4", 128).reshape(32, 4), want)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("o[0] = __shfl_sync(0xffffffff, threadIdx.x, 3);", "shfl"),
        ("o[0] = __match_any_sync(0xffffffff, o[1]);", "match"),
    ],
)
def test_what_the_chip_cannot_do_is_refused_by_name_and_line(body: str, reason: str) -> None:
    target = ["--gpu-architecture=compute_70"] if "match" in body else []
    ptx = compile_cuda(f'extern "C" __global__ void k(int *o) {{ {body} }}', options=target)[0]
    with pytest.raises(CompileError) as caught:
        compile_ptx(ptx)
    assert reason in str(caught.value)
    assert caught.value.kind == "unsupported"
    assert reason in ptx.splitlines()[caught.value.line - 1]

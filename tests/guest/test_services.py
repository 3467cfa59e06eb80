"""What kernels ask of their driver: printf, assert, malloc and free."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import numpy as np
import pytest
from guest_support import Lab, ok
from hypothesis import given
from hypothesis import strategies as st

from gpuvm.compiler.nvrtc import compile_cuda
from gpuvm.guest.cuda.services import formatted
from gpuvm.guest.cuda.types import NAMES

E = NAMES["CUresult"]
LIMIT = NAMES["CUlimit"]

SOURCE = r"""
extern "C" __device__ void __assertfail(const char *, const char *, unsigned, const char *, unsigned long);
struct Node { int value; Node *next; };

extern "C" __global__ void print(int n, float x)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        printf("%d|%s|%6.2f|%-4u|%llx|%c|%*d|%%|%hhd\n", i, i & 1 ? "odd" : (const char *)0, x * i, i * 3u,
               0x123456789abcULL + i, 'A' + i, 6, -i, 257 + i);
}

extern "C" __global__ void flood() { printf("%s%d\n", "0123456789", threadIdx.x + blockIdx.x * blockDim.x); }

extern "C" __global__ void check(const int *p)
{
    if (p[threadIdx.x] == 5) __assertfail("p != 5", "file.cu", 7, "check", 1);
}

extern "C" __global__ void lists(unsigned long long *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    Node *head = 0;
    unsigned long long sum = 0;
    for (int k = 0; k < n; k++) {
        Node *node = (Node *)malloc(sizeof(Node) + 24 * ((i + k) % 7));
        if (!node) { sum = ~0ull; break; }
        node->value = k + i;
        node->next = head;
        head = node;
    }
    while (head) {
        if (sum != ~0ull) sum += head->value;
        Node *next = head->next;
        free(head);
        head = next;
    }
    out[i] = sum;
}

extern "C" __global__ void take(void **out, unsigned long long size) { out[threadIdx.x] = malloc(size); }
extern "C" __global__ void give(void **in) { free(in[threadIdx.x]); }
"""


@pytest.fixture(scope="module")
def ptx() -> bytes:
    return compile_cuda(SOURCE, "services.cu")[0].encode()


class Program:
    def __init__(self, lab: Lab, ptx: bytes, **limits: int) -> None:
        self.cuda = lab.cuda
        ok(self.cuda.cuInit(0))
        self.context = ok(self.cuda.cuCtxCreate(0, 0))
        for name, value in limits.items():
            ok(self.cuda.cuCtxSetLimit(LIMIT[f"CU_LIMIT_{name}"], value))
        self.module = ok(self.cuda.cuModuleLoadData(ptx))

    def launch(self, name: str, grid: int, block: int, *arguments: tuple[Any, Any]) -> None:
        function = ok(self.cuda.cuModuleGetFunction(self.module, name.encode()))
        values = tuple(a[0] for a in arguments), tuple(a[1] for a in arguments)
        ok(self.cuda.cuLaunchKernel(function, grid, 1, 1, block, 1, 1, 0, 0, values, 0))

    def read(self, address: Any, dtype: str, count: int) -> np.ndarray:
        out = np.zeros(count, dtype)
        ok(self.cuda.cuMemcpyDtoH(out, address, out.nbytes))
        return out


@pytest.fixture
def lab() -> Any:
    lab = Lab()
    yield lab
    lab.close()


def test_printf_prints_at_the_next_synchronisation(
    lab: Lab, ptx: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    program = Program(lab, ptx)
    program.launch("print", 2, 4, (6, ctypes.c_int), (1.5, ctypes.c_float))
    ok(lab.cuda.cuCtxSynchronize())
    expected = [
        f"{i}|{'odd' if i & 1 else '(null)'}|{1.5 * i:6.2f}|{3 * i:<4}|{0x123456789ABC + i:x}|{chr(65 + i)}|"
        f"{-i:6}|%|{1 + i}"
        for i in range(6)
    ]
    assert sorted(capsys.readouterr().out.splitlines()) == expected
    program.launch("print", 1, 1, (1, ctypes.c_int), (0.0, ctypes.c_float))
    ok(lab.cuda.cuCtxDestroy(program.context))
    assert capsys.readouterr().out.startswith("0|(null)|")


def test_more_output_than_the_buffer_holds_loses_the_rest(
    lab: Lab, ptx: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    program = Program(lab, ptx, PRINTF_FIFO_SIZE=8192)
    for _ in range(2):
        program.launch("flood", 10, 64)
        ok(lab.cuda.cuCtxSynchronize())
        lines = capsys.readouterr().out.splitlines()
        assert 0 < len(set(lines)) == len(lines) < 640
        assert all(line.startswith("0123456789") and 0 <= int(line[10:]) < 640 for line in lines)
    assert lab.cuda.cuCtxSetLimit(LIMIT.CU_LIMIT_PRINTF_FIFO_SIZE, 1 << 20)[0] == E.CUDA_ERROR_INVALID_VALUE


def test_a_failed_assertion_stops_the_context_with_its_own_error(
    lab: Lab, ptx: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    program = Program(lab, ptx)
    values = np.arange(8, dtype="i4")
    buffer = ok(lab.cuda.cuMemAlloc(values.nbytes))
    ok(lab.cuda.cuMemcpyHtoD(buffer, values, values.nbytes))
    program.launch("check", 1, 4, (buffer, None))
    ok(lab.cuda.cuCtxSynchronize())
    program.launch("check", 1, 8, (buffer, None))
    assert lab.cuda.cuCtxSynchronize() == (E.CUDA_ERROR_ASSERT,)
    assert "file.cu:7: check: block: [0,0,0], thread: [5,0,0] Assertion `p != 5` failed." in caplog.text
    ok(lab.cuda.cuCtxDestroy(program.context))


def test_threads_build_lists_on_the_heap_and_give_all_of_it_back(lab: Lab, ptx: bytes) -> None:
    program = Program(lab, ptx, MALLOC_HEAP_SIZE=4 << 20)
    threads = 64 * 20
    out = ok(lab.cuda.cuMemAlloc(8 * threads))
    i = np.arange(threads, dtype="u8")
    for _ in range(4):
        # Each round needs more than a quarter of the heap: what is freed must come back.
        program.launch("lists", threads // 64, 64, (out, None), (10, ctypes.c_int))
        assert (program.read(out, "u8", threads) == 45 + 10 * i).all()


def test_a_full_heap_gives_null_and_blocks_never_overlap(lab: Lab, ptx: bytes) -> None:
    program = Program(lab, ptx, MALLOC_HEAP_SIZE=1 << 20)
    out = ok(lab.cuda.cuMemAlloc(8 * 256))
    program.launch("take", 1, 256, (out, None), (10000, ctypes.c_ulonglong))
    first = program.read(out, "u8", 256)
    got = np.sort(first[first != 0])
    assert 64 < got.size < 256
    assert (np.diff(got.astype("i8")) >= 10000).all()
    assert (got % 16 == 0).all()
    program.launch("give", 1, 256, (out, None))
    program.launch("take", 1, 256, (out, None), (10000, ctypes.c_ulonglong))
    again = program.read(out, "u8", 256)
    assert set(again[again != 0]) == set(got)
    program.launch("take", 1, 1, (out, None), (1 << 60, ctypes.c_ulonglong))
    assert program.read(out, "u8", 1)[0] == 0


def test_freeing_what_is_no_block_is_an_error(lab: Lab, ptx: bytes) -> None:
    program = Program(lab, ptx)
    out = ok(lab.cuda.cuMemAlloc(64))
    ok(lab.cuda.cuMemcpyHtoD(out, np.array([int(out) + 32], "u8"), 8))
    program.launch("give", 1, 1, (out, None))
    assert lab.cuda.cuCtxSynchronize() == (E.CUDA_ERROR_LAUNCH_FAILED,)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value.ljust(-(-len(value) // 8) * 8, b"\0")


@pytest.mark.parametrize(
    ("template", "values", "expected"),
    [
        (b"%5d|%-5d|%05d|%+d", [7, 7, -7 & (1 << 64) - 1, 7], b"    7|7    |-0007|+7"),
        (b"%u %x %#o %X", [1 << 31, 255, 8, 255], b"2147483648 ff 010 FF"),
        (b"%lld %hhu %hd", [(1 << 64) - 1, 511, 0xFFFF], b"-1 255 -1"),
        (b"%p %c%%", [0x1234, 65], b"0x1234 A%"),
        (b"%.3e %g %.*f", [struct.unpack("<Q", struct.pack("<d", v))[0] for v in (1.5, 0.25)] + [1, 0], None),
    ],
)
def test_formats_of_c(template: bytes, values: list[int], expected: bytes | None) -> None:
    out = formatted(text(template) + b"".join(struct.pack("<Q", v) for v in values))
    assert out == (expected if expected is not None else b"1.500e+00 0.25 0.0")


@given(st.binary(max_size=40), st.binary(max_size=64))
def test_any_record_is_printed_and_none_takes_the_machine(template: bytes, values: bytes) -> None:
    assert len(formatted(text(template) + values)) < 40 * 5000

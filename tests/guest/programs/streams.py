"""Page-locked buffers, streams, events, host functions, and threads that share the primary context."""

import ctypes
import threading

import cuda.bindings.driver as cuda
import numpy as np

PTX = b"""
.version 3.2
.target sm_20
.address_size 64
.visible .entry scale(.param .u64 data, .param .f32 factor, .param .u32 n)
{
    .reg .pred %p; .reg .u32 %r<6>; .reg .u64 %d<4>; .reg .f32 %f<3>;
    mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ntid.x; mov.u32 %r2, %tid.x;
    mad.lo.u32 %r3, %r0, %r1, %r2;
    ld.param.u32 %r4, [n];
    setp.ge.u32 %p, %r3, %r4;
    @%p bra done;
    ld.param.u64 %d0, [data];
    mul.wide.u32 %d1, %r3, 4;
    add.u64 %d2, %d0, %d1;
    ld.global.f32 %f0, [%d2];
    ld.param.f32 %f1, [factor];
    mul.f32 %f2, %f0, %f1;
    st.global.f32 [%d2], %f2;
done:
    ret;
}
"""


def ok(result):
    assert result[0] == cuda.CUresult.CUDA_SUCCESS, cuda.cuGetErrorString(result[0])
    return result[1:] if len(result) > 2 else result[-1]


ok(cuda.cuInit(0))
device = ok(cuda.cuDeviceGet(0))
context = ok(cuda.cuDevicePrimaryCtxRetain(device))
ok(cuda.cuCtxSetCurrent(context))
module = ok(cuda.cuModuleLoadData(PTX))
kernel = ok(cuda.cuModuleGetFunction(module, b"scale"))
PARTS, N = 4, 1 << 14
host = ok(cuda.cuMemHostAlloc(PARTS * N * 4, cuda.CU_MEMHOSTALLOC_PORTABLE))
view = np.frombuffer((ctypes.c_float * (PARTS * N)).from_address(host), np.float32)
view[:] = np.arange(PARTS * N)
finished = []
start, end = ok(cuda.cuEventCreate(0)), ok(cuda.cuEventCreate(0))
ok(cuda.cuEventRecord(start, 0))


def part(index):
    ok(cuda.cuCtxSetCurrent(context))
    stream = ok(cuda.cuStreamCreate(cuda.CUstream_flags.CU_STREAM_NON_BLOCKING))
    pointer = ok(cuda.cuMemAlloc(N * 4))
    at = host + index * N * 4
    ok(cuda.cuMemcpyHtoDAsync(pointer, at, N * 4, stream))
    arguments = ((pointer, float(index + 2), N), (None, ctypes.c_float, ctypes.c_uint))
    ok(cuda.cuLaunchKernel(kernel, N // 128, 1, 1, 128, 1, 1, 0, stream, arguments, 0))
    ok(cuda.cuMemcpyDtoHAsync(at, pointer, N * 4, stream))
    done = callback_type(lambda data: finished.append(data))
    callbacks.append(done)
    ok(
        cuda.cuLaunchHostFunc(
            stream, cuda.CUhostFn(_ptr=ctypes.addressof(ctypes.c_void_p.from_buffer(done))), index + 1
        )
    )
    ok(cuda.cuStreamSynchronize(stream))
    ok(cuda.cuMemFree(pointer))
    ok(cuda.cuStreamDestroy(stream))


callback_type, callbacks = ctypes.CFUNCTYPE(None, ctypes.c_void_p), []
threads = [threading.Thread(target=part, args=(index,)) for index in range(PARTS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
ok(cuda.cuEventRecord(end, 0))
ok(cuda.cuEventSynchronize(end))
assert ok(cuda.cuEventElapsedTime(start, end)) > 0
assert sorted(finished) == [1, 2, 3, 4]
expected = (
    np.arange(PARTS * N, dtype=np.float32).reshape(PARTS, N)
    * np.arange(2, 2 + PARTS, dtype=np.float32)[:, None]
)
assert np.array_equal(view.reshape(PARTS, N), expected)
del view
ok(cuda.cuMemFreeHost(host))
ok(cuda.cuDevicePrimaryCtxRelease(device))
print("streams are right")

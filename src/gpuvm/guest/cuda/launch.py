"""Launches, function attributes, occupancy queries."""

from __future__ import annotations

import ctypes
from typing import Any

from gpuvm.guest.cuda import attributes as device
from gpuvm.guest.cuda.arguments import pack
from gpuvm.guest.cuda.base import ApiBase
from gpuvm.guest.cuda.context import Context, Stream
from gpuvm.guest.cuda.core import entry, fail
from gpuvm.guest.cuda.loader import PTX_VERSION
from gpuvm.guest.cuda.module import Function
from gpuvm.guest.cuda.occupancy import active_blocks, best_block
from gpuvm.guest.cuda.types import NAMES

FunctionAttribute: Any = NAMES["CUfunction_attribute"]
FuncCache: Any = NAMES["CUfunc_cache"]
LaunchAttributeID: Any = NAMES["CUlaunchAttributeID"]
CUfunction: Any = NAMES["CUfunction"]

B2D_SIZE = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_int)
SPLIT_48K, SPLIT_16K = 3, 1


class LaunchApi(ApiBase):
    """Execution control and occupancy."""

    def _function(self, handle: Any) -> Function:
        """Return the kernel that a CUfunction or CUkernel names.

        Raises
        ------
        CudaError
            INVALID_HANDLE
        """
        function = self._functions.get(int(handle or 0))
        if function is None:
            raise fail("INVALID_HANDLE", "a CUfunction must come from a module that is loaded")
        return function

    def _launch(
        self,
        f: Any,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        dynamic: int,
        hStream: Any,
        parameters: Any,
        extra: Any,
    ) -> None:
        context = self._current()
        function = self._resolve(f, context)
        stream = self._stream(hStream, context)
        words = pack(function.layout, function.parameter_size, parameters, extra)
        self._start(context, function, stream, grid, block, dynamic, words)

    def _start(
        self,
        context: Context,
        function: Function,
        stream: Stream,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        dynamic: int,
        words: list[int],
    ) -> None:
        """Check a launch whose arguments are packed, and queue it."""
        if function.module.context is not context:
            raise fail("INVALID_HANDLE", "a kernel is launched in the context that its module is loaded in")
        threads = block[0] * block[1] * block[2]
        if min(grid) <= 0 or min(block) <= 0 or dynamic < 0:
            raise fail(
                "INVALID_VALUE", f"a launch must have at least one block and one thread, got {grid} {block}"
            )
        if any(n > most for n, most in zip(grid, device.MAX_GRID, strict=True)):
            raise fail("INVALID_VALUE", f"a grid must be at most {device.MAX_GRID}, got {grid}")
        if any(n > most for n, most in zip(block, device.MAX_BLOCK, strict=True)) or (
            threads > device.MAX_THREADS_PER_BLOCK
        ):
            limit = device.MAX_THREADS_PER_BLOCK
            raise fail(
                "INVALID_VALUE",
                f"a block must be at most {device.MAX_BLOCK} and {limit} threads, got {block}",
            )
        program = function.program
        shared = program.shared + dynamic
        if shared > device.SHARED_PER_BLOCK:
            raise fail(
                "INVALID_VALUE", f"a block has {device.SHARED_PER_BLOCK} bytes of shared memory, not {shared}"
            )
        if threads > function.max_threads:
            raise fail(
                "LAUNCH_OUT_OF_RESOURCES",
                f"{function.name} with {program.registers} registers runs at most {function.max_threads} "
                f"threads a block, got {threads}",
            )
        if function.required is not None and block != function.required:
            raise fail(
                "INVALID_VALUE", f"{function.name} runs with blocks of {function.required} only, got {block}"
            )
        preference = function.cache_config or context.cache_config
        split = (
            SPLIT_16K if preference == FuncCache.CU_FUNC_CACHE_PREFER_L1 and shared <= 16 << 10 else SPLIT_48K
        )
        program = function.sized_program(context.limits)
        gpu = context.gpu
        with gpu.channel.lock:
            local = gpu.local_memory(program)
            launch = gpu.compute.launch_words(program, grid, block, shared, words, local, split)
            context.submit(stream, launch)

    @entry
    def cuLaunchKernel(
        self,
        f: Any,
        gridDimX: Any,
        gridDimY: Any,
        gridDimZ: Any,
        blockDimX: Any,
        blockDimY: Any,
        blockDimZ: Any,
        sharedMemBytes: Any,
        hStream: Any,
        kernelParams: Any,
        extra: Any,
    ) -> None:
        grid = (int(gridDimX), int(gridDimY), int(gridDimZ))
        block = (int(blockDimX), int(blockDimY), int(blockDimZ))
        self._launch(f, grid, block, int(sharedMemBytes), hStream, kernelParams, extra)

    @entry
    def cuLaunchKernelEx(self, config: Any, f: Any, kernelParams: Any, extra: Any) -> None:
        if config is None:
            raise fail("INVALID_VALUE")
        for attribute in list(config.attrs)[: int(config.numAttrs)]:
            wanted = attribute.id
            if (
                wanted == LaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
                and not attribute.value.cooperative
            ):
                continue
            if wanted in (
                LaunchAttributeID.CU_LAUNCH_ATTRIBUTE_IGNORE,
                LaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PRIORITY,
                LaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT,
            ):
                continue
            raise fail(
                "NOT_SUPPORTED",
                f"launch attribute {wanted.name} needs a newer GPU than compute capability 2.0",
            )
        grid = (int(config.gridDimX), int(config.gridDimY), int(config.gridDimZ))
        block = (int(config.blockDimX), int(config.blockDimY), int(config.blockDimZ))
        self._launch(f, grid, block, int(config.sharedMemBytes), config.hStream, kernelParams, extra)

    # Functions' attributes
    # -----------------------------------------------------------------------------------

    def _get_attribute(self, attrib: Any, function: Function) -> int:
        name = FunctionAttribute(int(attrib)).name.removeprefix("CU_FUNC_ATTRIBUTE_")
        program = function.program
        values = {
            "MAX_THREADS_PER_BLOCK": function.max_threads,
            "SHARED_SIZE_BYTES": program.shared,
            "CONST_SIZE_BYTES": function.constant_size,
            "LOCAL_SIZE_BYTES": function.local_size,
            "NUM_REGS": program.registers,
            "PTX_VERSION": PTX_VERSION,
            "BINARY_VERSION": 20,
            "CACHE_MODE_CA": 0,
            "MAX_DYNAMIC_SHARED_SIZE_BYTES": function.max_dynamic,
            "PREFERRED_SHARED_MEMORY_CARVEOUT": function.carveout,
            "CLUSTER_SIZE_MUST_BE_SET": 0,
            "REQUIRED_CLUSTER_WIDTH": 0,
            "REQUIRED_CLUSTER_HEIGHT": 0,
            "REQUIRED_CLUSTER_DEPTH": 0,
            "NON_PORTABLE_CLUSTER_SIZE_ALLOWED": 0,
            "CLUSTER_SCHEDULING_POLICY_PREFERENCE": 0,
        }
        if name not in values:
            raise fail("INVALID_VALUE")
        return values[name]

    def _set_attribute(self, attrib: Any, value: int, function: Function) -> None:
        attribute = FunctionAttribute(int(attrib))
        if attribute == FunctionAttribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
            if not 0 <= value <= device.SHARED_PER_BLOCK - function.program.shared:
                raise fail("INVALID_VALUE")
            function.max_dynamic = value
        elif attribute == FunctionAttribute.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
            if not -1 <= value <= 100:
                raise fail("INVALID_VALUE")
            function.carveout = value
        else:
            raise fail("INVALID_VALUE")

    @entry
    def cuFuncGetAttribute(self, attrib: Any, hfunc: Any) -> Any:
        return self._get_attribute(attrib, self._resolve(hfunc, self._current()))

    @entry
    def cuFuncSetAttribute(self, hfunc: Any, attrib: Any, value: Any) -> None:
        self._set_attribute(attrib, int(value), self._resolve(hfunc, self._current()))

    @entry
    def cuFuncSetCacheConfig(self, hfunc: Any, config: Any) -> None:
        self._resolve(hfunc, self._current()).cache_config = FuncCache(int(config))

    @entry
    def cuFuncSetSharedMemConfig(self, hfunc: Any, config: Any) -> None:
        self._resolve(hfunc, self._current())
        NAMES["CUsharedconfig"](int(config))

    @entry
    def cuFuncGetModule(self, hfunc: Any) -> Any:
        return NAMES["CUmodule"](self._resolve(hfunc, self._current()).module.handle)

    @entry
    def cuFuncGetName(self, hfunc: Any) -> Any:
        return self._resolve(hfunc, self._current()).name.encode()

    @entry
    def cuFuncGetParamInfo(self, func: Any, paramIndex: Any) -> Any:
        layout = self._resolve(func, self._current()).layout
        if not 0 <= int(paramIndex) < len(layout):
            raise fail("INVALID_VALUE")
        return layout[int(paramIndex)]

    @entry
    def cuFuncIsLoaded(self, function: Any) -> Any:
        self._resolve(function, self._current())
        return NAMES["CUfunctionLoadingState"].CU_FUNCTION_LOADING_STATE_LOADED

    @entry
    def cuFuncLoad(self, function: Any) -> None:
        self._resolve(function, self._current())

    # Occupancy
    # -----------------------------------------------------------------------------------------------

    @entry
    def cuOccupancyMaxActiveBlocksPerMultiprocessor(
        self, func: Any, blockSize: Any, dynamicSMemSize: Any
    ) -> Any:
        function = self._resolve(func, self._current())
        return self._active(function, int(blockSize), int(dynamicSMemSize))

    @entry
    def cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        self, func: Any, blockSize: Any, dynamicSMemSize: Any, flags: Any
    ) -> Any:
        NAMES["CUoccupancy_flags"](int(flags))
        function = self._resolve(func, self._current())
        return self._active(function, int(blockSize), int(dynamicSMemSize))

    def _active(self, function: Function, threads: int, dynamic: int) -> int:
        if threads <= 0 or dynamic < 0:
            raise fail("INVALID_VALUE")
        return active_blocks(function.need, threads, dynamic)

    def _potential(self, func: Any, to_shared: Any, dynamic: int, limit: int) -> tuple[int, int]:
        context = self._current()
        function = self._resolve(func, context)
        if limit < 0 or dynamic < 0:
            raise fail("INVALID_VALUE")
        count = context.gpu.driver.graph.multiprocessors
        if not (callable(to_shared) or int(to_shared or 0)):
            blocks, threads = best_block(function.need, dynamic, limit)
            return blocks * count, threads
        size_of = to_shared if callable(to_shared) else B2D_SIZE(int(to_shared))
        top = min(function.need.max_threads, limit or device.MAX_THREADS_PER_BLOCK)
        best = (0, 0)
        for threads in range(top, 0, -device.WARP):
            blocks = active_blocks(function.need, threads, int(size_of(threads)))
            if blocks * threads > best[0] * best[1]:
                best = (blocks, threads)
        return best[0] * count, best[1]

    @entry
    def cuOccupancyMaxPotentialBlockSize(
        self, func: Any, blockSizeToDynamicSMemSize: Any, dynamicSMemSize: Any, blockSizeLimit: Any
    ) -> Any:
        return self._potential(func, blockSizeToDynamicSMemSize, int(dynamicSMemSize), int(blockSizeLimit))

    @entry
    def cuOccupancyMaxPotentialBlockSizeWithFlags(
        self,
        func: Any,
        blockSizeToDynamicSMemSize: Any,
        dynamicSMemSize: Any,
        blockSizeLimit: Any,
        flags: Any,
    ) -> Any:
        NAMES["CUoccupancy_flags"](int(flags))
        return self._potential(func, blockSizeToDynamicSMemSize, int(dynamicSMemSize), int(blockSizeLimit))

    @entry
    def cuOccupancyAvailableDynamicSMemPerBlock(self, func: Any, numBlocks: Any, blockSize: Any) -> Any:
        function = self._resolve(func, self._current())
        blocks, threads = int(numBlocks), int(blockSize)
        if blocks <= 0 or threads <= 0 or active_blocks(function.need, threads) < blocks:
            raise fail("INVALID_VALUE")
        share = device.SHARED_PER_BLOCK // blocks // 128 * 128
        return max(share - function.program.shared, 0)

"""Modules: an image compiled or read, laid out in VRAM, its kernels and variables by name."""

from __future__ import annotations

import time
from typing import Any

from gpuvm.guest.cuda import attributes as device
from gpuvm.guest.cuda import services
from gpuvm.guest.cuda.base import ApiBase
from gpuvm.guest.cuda.context import Allocation, Context
from gpuvm.guest.cuda.core import CudaError, entry, fail, handles
from gpuvm.guest.cuda.image import read_image, select
from gpuvm.guest.cuda.loader import LoadedKernel, Segments, build, compile_text, layout
from gpuvm.guest.cuda.occupancy import Need, max_threads
from gpuvm.guest.cuda.options import JitOptions
from gpuvm.guest.cuda.types import NAMES
from gpuvm.guest.driver.compute import STACK_RESERVED, Program
from gpuvm.guest.driver.push import SUBCHANNEL_COMPUTE, Compute, increment

CUmodule: Any = NAMES["CUmodule"]
CUfunction: Any = NAMES["CUfunction"]
CUdeviceptr: Any = NAMES["CUdeviceptr"]
FuncCache: Any = NAMES["CUfunc_cache"]
CUlimit: Any = NAMES["CUlimit"]


class Function:
    """A kernel of a loaded module."""

    def __init__(self, module: Module, kernel: LoadedKernel, program: Program) -> None:
        self.handle = next(handles)
        self.module = module
        self.name = kernel.name
        self.program = program
        self.layout = kernel.layout
        self.parameter_size = max((offset + size for offset, size in kernel.layout), default=0)
        self.constant_size = kernel.constant_size
        self.required = kernel.required
        self.local_size = kernel.local_positive + kernel.local_negative
        self.max_threads = min(max_threads(program.registers), kernel.max_threads)
        self.max_dynamic = device.SHARED_PER_BLOCK - program.shared
        self.carveout = -1
        self.cache_config: Any = FuncCache.CU_FUNC_CACHE_PREFER_NONE
        self._sized: dict[int, Program] = {}
        self.legacy_block: tuple[int, int, int] | None = None
        self.legacy_shared = 0
        self.legacy_arguments = bytearray()

    @property
    def need(self) -> Need:
        """For occupancy."""
        prefer_l1 = self.cache_config == FuncCache.CU_FUNC_CACHE_PREFER_L1
        capacity = device.SHARED_PREFERRED_L1 if prefer_l1 else device.SHARED_PER_BLOCK
        return Need(self.program.registers, self.program.shared, self.max_threads, capacity)

    def sized_program(self, limits: dict[Any, int]) -> Program:
        """The program with a stack as large as the context's limit asks for."""
        program = self.program
        if program.local_negative <= STACK_RESERVED:
            return program
        stack = limits[CUlimit.CU_LIMIT_STACK_SIZE]
        sized = self._sized.get(stack)
        if sized is None:
            sized = self._sized[stack] = Program(
                program.code,
                program.entry,
                program.registers,
                program.shared,
                program.barriers,
                program.local_positive,
                max(program.local_negative, STACK_RESERVED + stack),
                program.call_stack,
                program.constants,
            )
        return sized


class Module:
    """A loaded module.

    Attributes
    ----------
    functions : dict of str to Function
    variables : dict of str to (GPU virtual address, bytes)
    """

    def __init__(self, context: Context, segments: Segments) -> None:
        self.handle = next(handles)
        self.context = context
        self._allocation: Allocation | None = context.allocate(max(segments.size, 1))
        base = self._allocation.address
        self._allocation.module = True
        try:
            data = build(segments, base)
            stream = context.default_stream
            if data:
                context.write(base, data)
            context.fill(stream, base + segments.filled, b"\0", segments.size - segments.filled)
            if services.SYMBOL in segments.variables:
                context.services = context.services or services.Services(context)
                context.write(base + segments.variables[services.SYMBOL][0], context.services.address)
            # New code may take the place of code that the instruction caches hold.
            context.gpu.compute.forget()
            context.submit(stream, increment(SUBCHANNEL_COMPUTE, Compute.FLUSH, Compute.FLUSH_CODE))
        except BaseException:
            context.free(self._allocation)
            raise
        self.functions = {
            kernel.name: Function(self, kernel, self._program(kernel, segments, base))
            for kernel in segments.kernels
        }
        self.variables = {name: (base + offset, size) for name, (offset, size) in segments.variables.items()}

    def unload(self) -> None:
        """Free the module's memory; queued work that uses it is waited for."""
        allocation, self._allocation = self._allocation, None
        if allocation is not None and self.context.alive:
            self.context.synchronize()
            self.context.gpu.compute.forget()
            self.context.free(allocation)

    def _program(self, kernel: LoadedKernel, segments: Segments, base: int) -> Program:
        return Program(
            base,
            kernel.entry,
            max(kernel.registers, 2),
            kernel.shared,
            kernel.barriers,
            -(-kernel.local_positive // 16) * 16,
            -(-(kernel.local_negative + STACK_RESERVED) // 16) * 16 if kernel.local_negative else 0,
            -(-kernel.call_stack // 16) * 16,
            tuple((bank, base + offset, size) for bank, (offset, size) in sorted(kernel.constants.items())),
        )


class ModuleApi(ApiBase):
    """Module, library and linker functions."""

    # Loading
    # -------------------------------------------------------------------------------------------------

    def _segments(self, image: bytes, options: JitOptions) -> Segments:
        """Compile or read an image; the logs go where the options say."""
        begin = time.perf_counter()
        try:
            kind, data = select(image)
            log = ""
            if kind == "ptx":
                data, log = compile_text(data, options)
            segments = layout(data)
        except CudaError as error:
            options.write_logs("", error.detail)
            raise
        options.write_wall_time((time.perf_counter() - begin) * 1e3)
        options.write_logs(log, "")
        return segments

    def _add(self, context: Context, segments: Segments) -> Module:
        module = Module(context, segments)
        self._modules[module.handle] = module
        for function in module.functions.values():
            self._functions[function.handle] = function
        return module

    def _remove(self, module: Module) -> None:
        self._modules.pop(module.handle, None)
        for function in module.functions.values():
            self._functions.pop(function.handle, None)
        module.unload()

    def _load(self, image: bytes, options: JitOptions) -> Any:
        context = self._current()
        return CUmodule(self._add(context, self._segments(image, options)).handle)

    def _module(self, hmod: Any) -> Module:
        module = self._modules.get(int(hmod or 0))
        if module is None:
            raise fail("INVALID_HANDLE")
        return module

    @entry
    def cuModuleLoad(self, fname: Any) -> Any:
        self._current()
        return self._load(file_bytes(fname), no_options())

    @entry
    def cuModuleLoadData(self, image: Any) -> Any:
        self._current()
        return self._load(read_image(image), no_options())

    @entry
    def cuModuleLoadDataEx(self, image: Any, numOptions: Any, options: Any, optionValues: Any) -> Any:
        self._current()
        return self._load(read_image(image), JitOptions(int(numOptions), options, optionValues))

    @entry
    def cuModuleLoadFatBinary(self, fatCubin: Any) -> Any:
        self._current()
        return self._load(read_image(fatCubin), no_options())

    @entry
    def cuModuleUnload(self, hmod: Any) -> None:
        self._current()
        self._remove(self._module(hmod))

    @entry
    def cuModuleGetFunction(self, hmod: Any, name: Any) -> Any:
        self._current()
        function = self._module(hmod).functions.get(name_text(name))
        if function is None:
            raise fail("NOT_FOUND", f"the module must have a kernel {name_text(name)!r}")
        return CUfunction(function.handle)

    @entry
    def cuModuleGetFunctionCount(self, mod: Any) -> Any:
        self._current()
        return len(self._module(mod).functions)

    @entry
    def cuModuleEnumerateFunctions(self, numFunctions: Any, mod: Any) -> Any:
        self._current()
        functions = list(self._module(mod).functions.values())[: int(numFunctions)]
        return [CUfunction(each.handle) for each in functions]

    @entry
    def cuModuleGetGlobal(self, hmod: Any, name: Any) -> Any:
        self._current()
        variable = self._module(hmod).variables.get(name_text(name))
        if variable is None:
            raise fail("NOT_FOUND", f"the module must have a variable {name_text(name)!r}")
        return CUdeviceptr(variable[0]), variable[1]

    @entry
    def cuModuleGetLoadingMode(self) -> Any:
        return NAMES["CUmoduleLoadingMode"].CU_MODULE_EAGER_LOADING


def no_options() -> JitOptions:
    return JitOptions(0, None, None)


def name_text(name: Any) -> str:
    return name.decode() if isinstance(name, (bytes, bytearray)) else str(name)


def file_bytes(path: Any) -> bytes:
    try:
        with open(name_text(path).rstrip("\0"), "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise fail("FILE_NOT_FOUND", f"{name_text(path)} must be a file; there is none") from None
    except OSError as error:
        raise fail("FILE_NOT_FOUND", f"{name_text(path)} must be readable: {error.strerror}") from None

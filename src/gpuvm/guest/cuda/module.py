"""Modules: an image compiled or read, laid out in VRAM, its kernels and variables by name; libraries and the
linker."""

from __future__ import annotations

import ctypes
import time
from typing import Any

from gpuvm.guest.cuda import attributes as device
from gpuvm.guest.cuda.base import ApiBase
from gpuvm.guest.cuda.context import Allocation, Context
from gpuvm.guest.cuda.core import CudaError, entry, fail, handles
from gpuvm.guest.cuda.image import read_image, select
from gpuvm.guest.cuda.loader import LoadedKernel, Segments, build, compile_text, layout
from gpuvm.guest.cuda.occupancy import Need, max_threads
from gpuvm.guest.cuda.options import JitOptions
from gpuvm.guest.cuda.types import NAMES, address_of
from gpuvm.guest.driver.compute import STACK_RESERVED, Program
from gpuvm.guest.driver.copy import m2mf_linear
from gpuvm.guest.driver.push import SUBCHANNEL_COMPUTE, Compute, increment

CUmodule: Any = NAMES["CUmodule"]
CUfunction: Any = NAMES["CUfunction"]
CUdeviceptr: Any = NAMES["CUdeviceptr"]
CUlibrary: Any = NAMES["CUlibrary"]
CUkernel: Any = NAMES["CUkernel"]
CUlinkState: Any = NAMES["CUlinkState"]
InputType: Any = NAMES["CUjitInputType"]
FuncCache: Any = NAMES["CUfunc_cache"]
CUlimit: Any = NAMES["CUlimit"]
ENTRY_ALIGN = 256


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
                source = (ctypes.c_char * len(data)).from_buffer(data)
                context.staging.upload(
                    ctypes.addressof(source),
                    len(data),
                    lambda at, staged, length: context.submit(stream, m2mf_linear(base + at, staged, length)),
                )
            context.fill(stream, base + segments.filled, b"\0", segments.size - segments.filled)
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


class Library:
    """A context-independent library: an image that is loaded into each context that uses it."""

    def __init__(self, segments: Segments) -> None:
        self.handle = next(handles)
        self.segments = segments
        self.modules: dict[int, Module] = {}
        self.kernels: dict[str, int] = {kernel.name: next(handles) for kernel in segments.kernels}


class LinkState:
    """Inputs of cuLink*."""

    def __init__(self, options: JitOptions) -> None:
        self.handle = next(handles)
        self.options = options
        self.inputs: list[tuple[str, bytes]] = []
        self.output: Any = None


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
        return self._load(_file(fname), _none())

    @entry
    def cuModuleLoadData(self, image: Any) -> Any:
        self._current()
        return self._load(read_image(image), _none())

    @entry
    def cuModuleLoadDataEx(self, image: Any, numOptions: Any, options: Any, optionValues: Any) -> Any:
        self._current()
        return self._load(read_image(image), JitOptions(int(numOptions), options, optionValues))

    @entry
    def cuModuleLoadFatBinary(self, fatCubin: Any) -> Any:
        self._current()
        return self._load(read_image(fatCubin), _none())

    @entry
    def cuModuleUnload(self, hmod: Any) -> None:
        self._current()
        self._remove(self._module(hmod))

    @entry
    def cuModuleGetFunction(self, hmod: Any, name: Any) -> Any:
        self._current()
        function = self._module(hmod).functions.get(_name(name))
        if function is None:
            raise fail("NOT_FOUND", f"the module must have a kernel {_name(name)!r}")
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
        variable = self._module(hmod).variables.get(_name(name))
        if variable is None:
            raise fail("NOT_FOUND", f"the module must have a variable {_name(name)!r}")
        return CUdeviceptr(variable[0]), variable[1]

    @entry
    def cuModuleGetLoadingMode(self) -> Any:
        return NAMES["CUmoduleLoadingMode"].CU_MODULE_EAGER_LOADING

    # Libraries
    # -----------------------------------------------------------------------------------------------

    def _open_library(self, image: bytes, options: JitOptions) -> Any:
        library = Library(self._segments(image, options))
        self._libraries[library.handle] = library
        for name, handle in library.kernels.items():
            self._kernels[handle] = (library, name)
        return CUlibrary(library.handle)

    def _library(self, handle: Any) -> Library:
        library = self._libraries.get(int(handle or 0))
        if library is None:
            raise fail("INVALID_HANDLE")
        return library

    def _loaded(self, library: Library, context: Context) -> Module:
        module = library.modules.get(context.handle)
        if module is None or module.handle not in self._modules:
            module = self._add(context, library.segments)
            library.modules[context.handle] = module
        return module

    def _resolve(self, handle: Any, context: Context) -> Function:
        """Return the kernel that a CUfunction, or a CUkernel in the current context, names."""
        kernel = self._kernels.get(int(handle or 0))
        if kernel is None:
            return self._function(handle)
        return self._loaded(kernel[0], context).functions[kernel[1]]

    @entry
    def cuLibraryLoadData(
        self,
        code: Any,
        jitOptions: Any,
        jitOptionsValues: Any,
        numJitOptions: Any,
        libraryOptions: Any,
        libraryOptionValues: Any,
        numLibraryOptions: Any,
    ) -> Any:
        return self._open_library(
            read_image(code), JitOptions(int(numJitOptions), jitOptions, jitOptionsValues)
        )

    @entry
    def cuLibraryLoadFromFile(
        self,
        fileName: Any,
        jitOptions: Any,
        jitOptionsValues: Any,
        numJitOptions: Any,
        libraryOptions: Any,
        libraryOptionValues: Any,
        numLibraryOptions: Any,
    ) -> Any:
        return self._open_library(
            _file(fileName), JitOptions(int(numJitOptions), jitOptions, jitOptionsValues)
        )

    @entry
    def cuLibraryUnload(self, library: Any) -> None:
        held = self._library(library)
        del self._libraries[held.handle]
        for handle in held.kernels.values():
            del self._kernels[handle]
        for module in held.modules.values():
            if module.handle in self._modules:
                self._remove(module)

    @entry
    def cuLibraryGetKernel(self, library: Any, name: Any) -> Any:
        handle = self._library(library).kernels.get(_name(name))
        if handle is None:
            raise fail("NOT_FOUND", f"the library must have a kernel {_name(name)!r}")
        return CUkernel(handle)

    @entry
    def cuLibraryGetKernelCount(self, lib: Any) -> Any:
        return len(self._library(lib).kernels)

    @entry
    def cuLibraryEnumerateKernels(self, numKernels: Any, lib: Any) -> Any:
        return [CUkernel(each) for each in list(self._library(lib).kernels.values())[: int(numKernels)]]

    @entry
    def cuLibraryGetModule(self, library: Any) -> Any:
        return CUmodule(self._loaded(self._library(library), self._current()).handle)

    @entry
    def cuLibraryGetGlobal(self, library: Any, name: Any) -> Any:
        module = self._loaded(self._library(library), self._current())
        variable = module.variables.get(_name(name))
        if variable is None:
            raise fail("NOT_FOUND", f"the library must have a variable {_name(name)!r}")
        return CUdeviceptr(variable[0]), variable[1]

    def _kernel(self, handle: Any) -> tuple[Library, str]:
        kernel = self._kernels.get(int(handle or 0))
        if kernel is None:
            raise fail("INVALID_HANDLE")
        return kernel

    @entry
    def cuKernelGetFunction(self, kernel: Any) -> Any:
        library, name = self._kernel(kernel)
        return CUfunction(self._loaded(library, self._current()).functions[name].handle)

    @entry
    def cuKernelGetLibrary(self, kernel: Any) -> Any:
        return CUlibrary(self._kernel(kernel)[0].handle)

    @entry
    def cuKernelGetName(self, hfunc: Any) -> Any:
        return self._kernel(hfunc)[1].encode()

    @entry
    def cuKernelGetParamInfo(self, kernel: Any, paramIndex: Any) -> Any:
        library, name = self._kernel(kernel)
        parameters = next(each for each in library.segments.kernels if each.name == name).layout
        if not 0 <= int(paramIndex) < len(parameters):
            raise fail("INVALID_VALUE")
        return parameters[int(paramIndex)]

    @entry
    def cuKernelGetAttribute(self, attrib: Any, kernel: Any, dev: Any) -> Any:
        self._kernel(kernel)
        return self._get_attribute(attrib, self._resolve(kernel, self._current()))

    @entry
    def cuKernelSetAttribute(self, attrib: Any, val: Any, kernel: Any, dev: Any) -> None:
        self._kernel(kernel)
        self._set_attribute(attrib, int(val), self._resolve(kernel, self._current()))

    @entry
    def cuKernelSetCacheConfig(self, kernel: Any, config: Any, dev: Any) -> None:
        self._kernel(kernel)
        self._resolve(kernel, self._current()).cache_config = FuncCache(int(config))

    # The linker
    # ----------------------------------------------------------------------------------------------

    def _link(self, state: Any) -> LinkState:
        link = self._links.get(int(state or 0))
        if link is None:
            raise fail("INVALID_HANDLE")
        return link

    @entry
    def cuLinkCreate(self, numOptions: Any, options: Any, optionValues: Any) -> Any:
        self._current()
        link = LinkState(JitOptions(int(numOptions), options, optionValues))
        self._links[link.handle] = link
        return CUlinkState(link.handle)

    def _add_input(self, state: Any, kind: Any, data: bytes) -> None:
        link = self._link(state)
        wanted = InputType(int(kind))
        if wanted not in (
            InputType.CU_JIT_INPUT_PTX,
            InputType.CU_JIT_INPUT_CUBIN,
            InputType.CU_JIT_INPUT_FATBINARY,
        ):
            raise fail("NOT_SUPPORTED", f"the linker takes PTX, cubins and fat binaries, not {wanted.name}")
        if link.inputs:
            raise fail(
                "NOT_SUPPORTED", "the linker takes one input: there is no device-code linking across files"
            )
        link.inputs.append(select(data))

    @entry
    def cuLinkAddData(
        self,
        state: Any,
        typename: Any,
        data: Any,
        size: Any,
        name: Any,
        numOptions: Any,
        options: Any,
        optionValues: Any,
    ) -> None:
        raw = data.encode() if isinstance(data, str) else ctypes.string_at(address_of(data), int(size))
        self._add_input(state, typename, raw)

    @entry
    def cuLinkAddFile(
        self, state: Any, typename: Any, path: Any, numOptions: Any, options: Any, optionValues: Any
    ) -> None:
        self._add_input(state, typename, _file(path))

    @entry
    def cuLinkComplete(self, state: Any) -> Any:
        link = self._link(state)
        if not link.inputs:
            raise fail("INVALID_VALUE", "the linker must be given an input first")
        kind, data = link.inputs[0]
        try:
            log = ""
            if kind == "ptx":
                data, log = compile_text(data, link.options)
        except CudaError as error:
            link.options.write_logs("", error.detail)
            raise
        link.options.write_logs(log, "")
        link.output = ctypes.create_string_buffer(data, len(data))
        return ctypes.addressof(link.output), len(data)

    @entry
    def cuLinkDestroy(self, state: Any) -> None:
        del self._links[self._link(state).handle]


def _none() -> JitOptions:
    return JitOptions(0, None, None)


def _name(name: Any) -> str:
    return name.decode() if isinstance(name, (bytes, bytearray)) else str(name)


def _file(path: Any) -> bytes:
    try:
        with open(_name(path).rstrip("\0"), "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise fail("FILE_NOT_FOUND", f"{_name(path)} must be a file; there is none") from None
    except OSError as error:
        raise fail("FILE_NOT_FOUND", f"{_name(path)} must be readable: {error.strerror}") from None

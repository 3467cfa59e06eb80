"""Libraries: images that are loaded into each context that uses them, and their kernels."""

from __future__ import annotations

from typing import Any

from gpuvm.guest.cuda.context import Context
from gpuvm.guest.cuda.core import entry, fail, handles
from gpuvm.guest.cuda.image import read_image
from gpuvm.guest.cuda.loader import Segments
from gpuvm.guest.cuda.module import Function, Module, ModuleApi, file_bytes, name_text
from gpuvm.guest.cuda.options import JitOptions
from gpuvm.guest.cuda.types import NAMES

CUmodule: Any = NAMES["CUmodule"]
CUfunction: Any = NAMES["CUfunction"]
CUdeviceptr: Any = NAMES["CUdeviceptr"]
CUlibrary: Any = NAMES["CUlibrary"]
CUkernel: Any = NAMES["CUkernel"]
FuncCache: Any = NAMES["CUfunc_cache"]


class Library:
    """A context-independent library: an image that is loaded into each context that uses it."""

    def __init__(self, segments: Segments) -> None:
        self.handle = next(handles)
        self.segments = segments
        self.modules: dict[int, Module] = {}
        self.kernels: dict[str, int] = {kernel.name: next(handles) for kernel in segments.kernels}


class LibraryApi(ModuleApi):
    """cuLibrary* and cuKernel*."""

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
            file_bytes(fileName), JitOptions(int(numJitOptions), jitOptions, jitOptionsValues)
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
        handle = self._library(library).kernels.get(name_text(name))
        if handle is None:
            raise fail("NOT_FOUND", f"the library must have a kernel {name_text(name)!r}")
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
        variable = module.variables.get(name_text(name))
        if variable is None:
            raise fail("NOT_FOUND", f"the library must have a variable {name_text(name)!r}")
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

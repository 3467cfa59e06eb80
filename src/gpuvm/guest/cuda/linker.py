"""The linker: one input becomes a cubin."""

from __future__ import annotations

import ctypes
from typing import Any

from gpuvm.guest.cuda.base import ApiBase
from gpuvm.guest.cuda.core import CudaError, entry, fail, handles
from gpuvm.guest.cuda.image import select
from gpuvm.guest.cuda.loader import compile_text
from gpuvm.guest.cuda.module import file_bytes
from gpuvm.guest.cuda.options import JitOptions
from gpuvm.guest.cuda.types import NAMES, address_of

CUlinkState: Any = NAMES["CUlinkState"]
InputType: Any = NAMES["CUjitInputType"]


class LinkState:
    """Inputs of cuLink*."""

    def __init__(self, options: JitOptions) -> None:
        self.handle = next(handles)
        self.options = options
        self.inputs: list[tuple[str, bytes]] = []
        self.output: Any = None


class LinkerApi(ApiBase):
    """cuLink*."""

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
        self._add_input(state, typename, file_bytes(path))

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

"""What the parts of the API share: tables of handles, and the look-ups that one part offers the others."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpuvm.guest.cuda.context import Context, Stream
    from gpuvm.guest.cuda.libraries import Library
    from gpuvm.guest.cuda.linker import LinkState
    from gpuvm.guest.cuda.memory import Pinned
    from gpuvm.guest.cuda.module import Function, Module
    from gpuvm.guest.cuda.streams import Event
    from gpuvm.guest.driver.device import Driver
    from gpuvm.guest.machine import Machine


class ApiBase:
    """State of one machine's CUDA.

    Attributes
    ----------
    last_error : str
        What the last failed call had to say beyond its CUresult.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.last_error = ""
        self._driver: Driver | None = None
        self._initialized = False
        self._tls = threading.local()
        self._contexts: dict[int, Context] = {}
        self._primary: Context | None = None
        self._primary_flags = 0
        self._streams: dict[int, Stream] = {}
        self._events: dict[int, Event] = {}
        self._modules: dict[int, Module] = {}
        self._functions: dict[int, Function] = {}
        self._libraries: dict[int, Library] = {}
        self._kernels: dict[int, tuple[Library, str]] = {}
        self._links: dict[int, LinkState] = {}
        self._pinned: dict[int, Pinned] = {}

    @property
    def driver(self) -> Driver:
        """The kernel driver, loaded by cuInit."""
        raise NotImplementedError

    def _current(self) -> Context:
        """Return the calling thread's context, healthy."""
        raise NotImplementedError

    def _forget_objects(self, context: Context) -> None:
        """Make every handle into a context invalid."""
        raise NotImplementedError

    def _device(self, dev: Any) -> None:
        """Check a device ordinal."""
        raise NotImplementedError

    def _stream(self, hStream: Any, context: Context) -> Stream:
        """Return the stream that a handle names in a context."""
        raise NotImplementedError

    def _function(self, handle: Any) -> Function:
        """Return the kernel that a CUfunction names."""
        raise NotImplementedError

    def _resolve(self, handle: Any, context: Context) -> Function:
        """Return the kernel that a CUfunction, or a CUkernel in a context, names."""
        raise NotImplementedError

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
        raise NotImplementedError

    def _get_attribute(self, attrib: Any, function: Function) -> int:
        raise NotImplementedError

    def _set_attribute(self, attrib: Any, value: int, function: Function) -> None:
        raise NotImplementedError

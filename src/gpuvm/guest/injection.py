"""Programs written for cuda-python, run inside a machine: there `cuda.bindings.driver` is the guest's.

The modules of that name are replaced for as long as a program runs. Several machines of one process may run
programs at once, each on threads of its own: a call goes to the machine that its thread belongs to, and a
thread that a program starts belongs to the program's machine.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from gpuvm.guest.cuda.core import PARAMETERS
from gpuvm.guest.cuda.surface import Cuda
from gpuvm.guest.cuda.types import NAMES
from gpuvm.guest.nvrtc import fermi_nvrtc

DRIVER_NAMES = ("cuda.bindings.driver", "cuda.cuda")

_here: ContextVar[Cuda] = ContextVar("gpuvm_cuda")
_lock = threading.RLock()
_depth = 0
_saved: dict[str, Any] = {}


def current() -> Cuda:
    """Return the CUDA of the machine that the calling thread belongs to.

    Raises
    ------
    RuntimeError
        If the thread belongs to none.
    """
    try:
        return _here.get()
    except LookupError:
        raise RuntimeError(
            "cuda.bindings.driver is called on a thread that no virtual machine's program started: "
            "start it with threading.Thread from the program"
        ) from None


def _dispatch(name: str) -> Any:
    model = getattr(Cuda, name)

    @functools.wraps(model)
    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(current(), name)(*args, **kwargs)

    signature = inspect.signature(model)
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=list(signature.parameters.values())[1:]
    )
    return call


@functools.cache
def driver_module() -> ModuleType:
    """Return the module that stands for cuda.bindings.driver: types as they are, functions that find their
    machine."""
    module = ModuleType(
        "cuda.bindings.driver", "The CUDA driver API of the virtual machine that the program runs in."
    )
    module.__dict__.update(NAMES)
    for name in (*PARAMETERS, "sizeof"):
        module.__dict__[name] = _dispatch(name)
    return module


@contextmanager
def inside(cuda: Cuda) -> Iterator[ModuleType]:
    """Make the calling thread belong to a machine, and `import cuda.bindings.driver` mean the guest's."""
    _install()
    token = _here.set(cuda)
    try:
        yield driver_module()
    finally:
        _here.reset(token)
        _remove()


def run_program(cuda: Cuda, path: str | os.PathLike[str], argv: Sequence[str] = ()) -> int:
    """Run a Python program as `python path argv...` would, with `cuda` as its CUDA.

    Parameters
    ----------
    cuda : Cuda
        CUDA of the machine that it runs in; left open.
    argv : sequence of str
        Arguments behind the program's name.

    Returns
    -------
    int
        The program's exit status: 0 at its end, or what it gave to `sys.exit` (1 for a message, which is
        printed).

    Raises
    ------
    OSError
        If the program cannot be read.
    Exception
        Whatever the program does not catch.
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    namespace = {"__name__": "__main__", "__file__": path, "__builtins__": __builtins__, "__doc__": None}
    with inside(cuda), _arguments([path, *argv]):
        try:
            exec(code, namespace)
        except SystemExit as leaving:
            if leaving.code is None:
                return 0
            if isinstance(leaving.code, int):
                return leaving.code
            print(leaving.code, file=sys.stderr)
            return 1
    return 0


_argument_users = 0
_argument_saved: tuple[list[str], list[str]] = ([], [])


@contextmanager
def _arguments(argv: list[str]) -> Iterator[None]:
    """Set sys.argv and the first entry of sys.path; the last of several programs that run at once restores
    them."""
    global _argument_users, _argument_saved
    with _lock:
        if _argument_users == 0:
            _argument_saved = (sys.argv, list(sys.path))
        _argument_users += 1
        sys.argv = argv
        folder = os.path.dirname(os.path.abspath(argv[0]))
        if folder not in sys.path:
            sys.path.insert(0, folder)
    try:
        yield
    finally:
        with _lock:
            _argument_users -= 1
            if _argument_users == 0:
                sys.argv, sys.path[:] = _argument_saved


def _package(name: str) -> ModuleType:
    """Return the installed package, or an empty one."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = ModuleType(name)
        package.__path__ = []
        sys.modules[name] = package
        return package


def _install() -> None:
    global _depth
    with _lock:
        _depth += 1
        if _depth > 1:
            return
        # The real NVRTC refers to the real driver's types when it is first imported: it comes before the
        # exchange.
        nvrtc = fermi_nvrtc()
        names = ("cuda", "cuda.bindings", "cuda.bindings.nvrtc", "cuda.nvrtc", *DRIVER_NAMES)
        before = {name: sys.modules.get(name) for name in names}
        package = _package("cuda")
        bindings = _package("cuda.bindings")
        attributes: list[tuple[ModuleType, str, Any]] = []

        def put(owner: ModuleType, name: str, value: Any) -> None:
            attributes.append((owner, name, owner.__dict__.get(name)))
            setattr(owner, name, value)

        put(package, "bindings", bindings)
        for name in DRIVER_NAMES:
            sys.modules[name] = driver_module()
        put(bindings, "driver", driver_module())
        put(package, "cuda", driver_module())
        if nvrtc is not None:
            sys.modules["cuda.bindings.nvrtc"] = sys.modules["cuda.nvrtc"] = nvrtc
            put(bindings, "nvrtc", nvrtc)
            put(package, "nvrtc", nvrtc)
        _saved.update(modules=before, attributes=attributes, start=threading.Thread.start)
        threading.Thread.start = _inheriting(threading.Thread.start)  # type: ignore[method-assign]


def _remove() -> None:
    global _depth
    with _lock:
        _depth -= 1
        if _depth:
            return
        for owner, name, value in reversed(_saved["attributes"]):
            if value is None:
                delattr(owner, name)
            else:
                setattr(owner, name, value)
        for name, module in _saved["modules"].items():
            if module is None and name in (*DRIVER_NAMES, "cuda.bindings.nvrtc", "cuda.nvrtc"):
                sys.modules.pop(name, None)
            elif module is not None:
                sys.modules[name] = module
            elif not getattr(sys.modules.get(name), "__file__", None) and not list(
                getattr(sys.modules.get(name), "__path__", [])
            ):
                sys.modules.pop(name, None)
        threading.Thread.start = _saved["start"]  # type: ignore[method-assign]
        _saved.clear()


def _inheriting(start: Any) -> Any:
    """Make new threads belong to the machine of the thread that starts them."""

    @functools.wraps(start)
    def wrapper(self: threading.Thread) -> None:
        cuda = _here.get(None)
        if cuda is not None:
            run = self.run

            def inherited() -> None:
                _here.set(cuda)
                run()

            self.run = inherited  # type: ignore[method-assign]
        start(self)

    return wrapper

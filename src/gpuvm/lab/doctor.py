"""What this machine has and lacks for gpuvm, each finding in plain words. Read by `gpuvm doctor`."""

from __future__ import annotations

import ctypes.util
import enum
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gpuvm.lab import machine
from gpuvm.vmm import image as images
from gpuvm.vmm import kvm
from gpuvm.vmm.debian import Archive
from gpuvm.vmm.errors import PackageError, QemuError, VmError
from gpuvm.vmm.qemu import Qemu, choose, find
from gpuvm.vmm.qemu.locate import DEVICE, PROGRAM, lacks


class State(enum.Enum):
    """`OK`; `OPTIONAL`: lacking, but only some things need it; `MISSING`: gpuvm cannot work without it."""

    OK = "ok"
    OPTIONAL = "optional"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: what was looked at, how it stands, and what to do where it lacks."""

    name: str
    state: State
    value: str
    advice: str = ""


def examine(cache: Path) -> list[Finding]:
    """Look at everything; `cache` is the folder of the disk cache for translated code."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _cpu,
        _memory,
        _mappings,
        _memfd,
        lambda: _cache(cache),
        _nvrtc,
        _opencl,
        _packages,
        _qemu,
        _guest_image,
        _kvm,
    ]
    return [finding for check in checks for finding in check()]


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _python() -> Iterator[Finding]:
    state = State.OK if sys.version_info >= (3, 11) else State.MISSING
    yield Finding("Python", state, platform.python_version(), "" if state is State.OK else "3.11 or newer")


def _cpu() -> Iterator[Finding]:
    try:
        from llvmlite import binding

        bits, version = machine.vector_bits(), machine.llvm_version()
        target = binding.get_host_cpu_name()
    except Exception as error:  # a broken native library raises whatever it likes
        yield Finding("LLVM", State.MISSING, f"llvmlite does not load: {error}", "pip install llvmlite")
        return
    count = machine.cores()
    yield Finding("CPU", State.OK, f"{machine.cpu_model()}, {count} core{'s' if count != 1 else ''}")
    yield Finding(
        "vectors",
        State.OK if bits >= 256 else State.OPTIONAL,
        f"{bits} bits: half a warp of 32-bit lanes takes {512 // bits} register{'s' if bits < 512 else ''}",
        "" if bits >= 256 else "without AVX2 kernels run, several times slower",
    )
    yield Finding("LLVM", State.OK, f"{version} through llvmlite, target {target}")


def _memory() -> Iterator[Finding]:
    total, available = machine.memory_bytes()
    enough = available >= 2 << 30
    yield Finding(
        "memory",
        State.OK if enough else State.OPTIONAL,
        f"{_gib(total)}, {_gib(available)} available",
        "" if enough else "CPY and PINCPY at paper size with two virtual machines want 2 GiB",
    )


def _mappings() -> Iterator[Finding]:
    try:
        limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        yield Finding("vm.max_map_count", State.OPTIONAL, "unknown", "/proc/sys must be readable")
        return
    enough = limit >= 65530
    yield Finding(
        "vm.max_map_count",
        State.OK if enough else State.OPTIONAL,
        f"{limit} mappings: a GPU address space takes one for each run of pages that lie together",
        "" if enough else "scattered guest memory wants more: sysctl vm.max_map_count=262144",
    )


def _memfd() -> Iterator[Finding]:
    try:
        fd = os.memfd_create("gpuvm-doctor", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, 4096)
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(4096)) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(fd)
    except OSError as error:
        yield Finding("memfd", State.MISSING, str(error), "all memory is memfd; wants Linux 3.17")
        return
    yield Finding("memfd", State.OK, "sparse shared memory works, holes included")


def _cache(cache: Path) -> Iterator[Finding]:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        writable = os.access(cache, os.W_OK | os.X_OK)
        size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    except OSError as error:
        yield Finding("cache", State.OPTIONAL, str(error), "translated kernels are not kept between runs")
        return
    if writable:
        yield Finding("cache", State.OK, f"{cache}, {size / 2**20:.1f} MiB of translated kernels")
    else:
        yield Finding("cache", State.OPTIONAL, f"{cache} is not writable", "set GPUVM_CACHE_DIR")


def _nvrtc() -> Iterator[Finding]:
    advice = "only .ptx and .cubin can be compiled and run, no .cu; pip install 'gpuvm[cuda]'"
    try:
        from cuda.bindings import nvrtc

        error, major, minor = nvrtc.nvrtcVersion()
    except Exception as broken:  # the package loads its library late, in its own exception types
        missing = isinstance(broken, ImportError)
        yield Finding(
            "NVRTC", State.OPTIONAL, "not installed" if missing else f"does not load: {broken}", advice
        )
        return
    if int(error) != 0:
        yield Finding("NVRTC", State.OPTIONAL, f"does not answer ({error})", advice)
    else:
        yield Finding("NVRTC", State.OK, f"{major}.{minor}: CUDA C compiles to PTX")


def _opencl() -> Iterator[Finding]:
    advice = "only bench/ compares with it: apt-get install pocl-opencl-icd; pip install 'gpuvm[bench]'"
    vendors = Path("/etc/OpenCL/vendors")
    drivers = sorted(path.stem for path in vendors.glob("*.icd")) if vendors.is_dir() else []
    try:
        import pyopencl

        names = [f"{platform.name} {platform.version}" for platform in pyopencl.get_platforms()]
    except ImportError:
        value = f"driver {', '.join(drivers)}, but not pyopencl" if drivers else "not installed"
        yield Finding("OpenCL", State.OPTIONAL, value, advice)
        return
    except Exception as error:  # pyopencl raises LogicError where there is no platform
        yield Finding("OpenCL", State.OPTIONAL, f"no platform answers ({error})", advice)
        return
    if names:
        yield Finding("OpenCL", State.OK, "; ".join(names))
    else:
        yield Finding("OpenCL", State.OPTIONAL, "pyopencl without a platform", advice)


def _kvm() -> Iterator[Finding]:
    failure = kvm.probe()
    if failure:
        yield Finding("KVM", State.OPTIONAL, failure, "gpuvm vm emulates its guests (TCG), several times slower")
        return
    qemu, image = _found_qemu(), images.latest()
    if not isinstance(qemu, Qemu) or image is None:
        yield Finding("KVM", State.OK, "a guest ran its first instruction; gpuvm vm run tries a whole boot")
        return
    chosen = choose(qemu, image)
    if chosen.accelerator == "kvm":
        yield Finding("KVM", State.OK, "works: a guest's kernel boots under it")
    else:
        advice = "gpuvm vm emulates its guests (TCG), several times slower"
        yield Finding("KVM", State.OPTIONAL, chosen.why_not_kvm, advice)


def _found_qemu() -> Qemu | str:
    """A QEMU that can do it and is there, or why there is none."""
    try:
        found = find()
    except QemuError as error:
        return str(error)
    if found is not None:
        return found
    own = shutil.which(PROGRAM)
    return "not installed" if own is None else lacks((own,), own)


def _qemu() -> Iterator[Finding]:
    found = _found_qemu()
    if isinstance(found, Qemu):
        yield Finding("QEMU", State.OK, f"{found.version} with {DEVICE}, {found.where}")
        return
    advice = "gpuvm vm run takes one of a newer Debian suite into the cache (40 MB); or install QEMU 10.1"
    yield Finding("QEMU", State.OPTIONAL, found, advice)


def _guest_image() -> Iterator[Finding]:
    try:
        image = images.latest()
    except VmError as error:
        yield Finding("guest image", State.OPTIONAL, str(error), "gpuvm vm build --update")
        return
    if image is not None:
        yield Finding("guest image", State.OK, f"Linux {image.manifest['kernel']}, {image.folder}")
        return
    yield Finding("guest image", State.OPTIONAL, "not built", "gpuvm vm run builds it (120 MB), or gpuvm vm build")


def _packages() -> Iterator[Finding]:
    try:
        site = Archive().site
    except PackageError as error:
        advice = "only gpuvm vm wants it, for QEMU and the guest image; both may come from another machine's cache"
        yield Finding("Debian archive", State.OPTIONAL, str(error), advice)
        return
    yield Finding("Debian archive", State.OK, f"apt reads {site}")

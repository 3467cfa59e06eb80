"""The machine under an experiment: what a report must say about it, so that its wall times mean something."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path


def cpu_model() -> str:
    """Name of the CPU as /proc/cpuinfo gives it, or the architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def cores() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0))


def memory_bytes() -> tuple[int, int]:
    """Total and available memory in bytes, the control group's limit taken into account."""
    values = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        values[name] = int(rest.split()[0]) * 1024
    total, available = values["MemTotal"], values.get("MemAvailable", values["MemFree"])
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # "max", or no such control group
        return total, available
    return min(total, limit), min(available, max(limit - used, 0))


def vector_bits() -> int:
    """Width in bits of the widest vectors that translated kernels use here."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    if features.get("avx512f") and features.get("avx512vl"):
        return 512
    if features.get("avx2"):
        return 256
    return 128


def llvm_version() -> str:
    from llvmlite import binding

    return ".".join(map(str, binding.llvm_version_info))


def package_version(name: str) -> str:
    """Version of an installed Python package, "" if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def describe() -> dict[str, str | int]:
    """Facts for the head of a report: CPU, cores, memory in bytes, versions."""
    from llvmlite import binding

    total, _ = memory_bytes()
    return {
        "cpu": cpu_model(),
        "cpu_target": binding.get_host_cpu_name(),
        "cores": cores(),
        "memory_bytes": total,
        "vector_bits": vector_bits(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "llvm": llvm_version(),
        "numpy": package_version("numpy"),
        "gpuvm": package_version("gpuvm"),
    }

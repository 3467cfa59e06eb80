"""The aggregator as a daemon: virtual GPUs on sockets, and a control socket to change them at run time."""

from gpuvm.vmm.daemon.config import (
    Config,
    ConfigError,
    GpuConfig,
    VmConfig,
    build,
    build_vm,
    default_control,
    load,
)
from gpuvm.vmm.daemon.control import ControlClient
from gpuvm.vmm.daemon.daemon import Daemon
from gpuvm.vmm.daemon.errors import DaemonError
from gpuvm.vmm.daemon.status import Status, VmRates, VmStatus, rates

__all__ = [
    "Config",
    "ConfigError",
    "ControlClient",
    "Daemon",
    "DaemonError",
    "GpuConfig",
    "Status",
    "VmConfig",
    "VmRates",
    "VmStatus",
    "build",
    "build_vm",
    "default_control",
    "load",
    "rates",
]

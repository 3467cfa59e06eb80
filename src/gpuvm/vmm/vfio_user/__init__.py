"""vfio-user, the protocol by which a PCI device lives in one process and its virtual machine in another.

Standard library only. A server (`Server`, `Endpoint`) hands a device to clients such as QEMU's
`vfio-user-pci`; `Client` is the other side. `bridge` makes an endpoint of any `PciDevice` and `remote` a
`PciDevice` of any client; these two know the rest of gpuvm.
"""

from gpuvm.vmm.vfio_user.client import Client, RegionDetails
from gpuvm.vmm.vfio_user.dma import DmaTable
from gpuvm.vmm.vfio_user.errors import (
    Disconnected,
    DmaFault,
    InvalidRequest,
    ProtocolError,
    RemoteError,
    RequestError,
    VfioUserError,
)
from gpuvm.vmm.vfio_user.interrupts import Interrupts
from gpuvm.vmm.vfio_user.protocol import Command, DmaFlags, IrqIndex, Limits, RegionFlags, RegionIndex
from gpuvm.vmm.vfio_user.regions import Region, memory_region
from gpuvm.vmm.vfio_user.server import Server
from gpuvm.vmm.vfio_user.session import Endpoint, Session, State

__all__ = [
    "Client",
    "Command",
    "Disconnected",
    "DmaFault",
    "DmaFlags",
    "DmaTable",
    "Endpoint",
    "Interrupts",
    "InvalidRequest",
    "IrqIndex",
    "Limits",
    "ProtocolError",
    "Region",
    "RegionDetails",
    "RegionFlags",
    "RegionIndex",
    "RemoteError",
    "RequestError",
    "Server",
    "Session",
    "State",
    "VfioUserError",
    "memory_region",
]

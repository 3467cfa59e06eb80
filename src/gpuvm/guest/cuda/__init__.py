"""The CUDA driver API of a guest: `Cuda(machine)` has the names, signatures and conventions of
`cuda.bindings.driver`."""

from gpuvm.guest.cuda.surface import Cuda

__all__ = ["Cuda"]

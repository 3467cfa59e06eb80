"""The guest image: a Debian kernel and an initial RAM file system with nouveau and the test programs."""

from gpuvm.vmm.image.builder import Image, build, latest

__all__ = ["Image", "build", "latest"]

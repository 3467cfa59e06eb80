"""gpuvm: a GPU hypervisor after GPUvm, with a software NVIDIA GF100 to run it on."""

__version__ = "0.1.0"

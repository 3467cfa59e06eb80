"""What runs inside an in-process virtual machine: the GPU's kernel driver and, on it, the CUDA driver API."""

"""Para-virtualization: virtual GPUs whose guest's driver knows the hypervisor. See `docs/para.md`."""

"""What a para-virtual guest and its hypervisor agree on: the call device's registers and the operations.

Knows neither side: the guest's driver (`gpuvm.guest.driver.para`) and the hypervisor (`gpuvm.hypervisor.para`)
both import it. `docs/para.md` prints the same tables.
"""

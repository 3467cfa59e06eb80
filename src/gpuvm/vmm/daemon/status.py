"""What the daemon says of itself and of its VMs: plain records that cross the control socket."""

from __future__ import annotations

import msgspec


class VmStatus(msgspec.Struct):
    """One VM. Counts run from when the VM was added.

    Attributes
    ----------
    state : str
        "connected" (a client is served), "idle" (none is) or "releasing" (the client has gone, its virtual
        GPU is being reset).
    clients : int
        Clients served, the present one included.
    vram, vram_used : int
        Bytes given, and bytes of them that hold something.
    traps, direct : int
        Accesses that ended in the hypervisor, and those that reached the GPU without it.
    launches, commands : int
        Kernels that ran, and doorbells that were run to the end.
    busy_ns : int
        Wall time of the GPU's launches and copies.
    resets : int
        Times that this virtual GPU was reset by the daemon or `reset`.
    """

    name: str
    mode: str
    socket: str
    state: str
    weight: int
    cap: float
    vram: int
    channels: int
    vram_used: int = 0
    clients: int = 0
    traps: int = 0
    direct: int = 0
    launches: int = 0
    commands: int = 0
    busy_ns: int = 0
    interrupts: int = 0
    faults: int = 0
    denied: int = 0
    resets: int = 0


class Status(msgspec.Struct):
    """The daemon.

    Attributes
    ----------
    time_ns : int
        A monotonic clock, for rates between two of these.
    vram, vram_free : int
        Bytes of the card, and those that no VM has.
    """

    pid: int
    time_ns: int
    scheduler: str
    profile: str
    vram: int
    vram_free: int
    channels_free: int
    control: str
    vms: list[VmStatus]


class VmRates(msgspec.Struct):
    """What a VM did between two looks.

    Attributes
    ----------
    device : float
        Part of the time that the GPU worked for it, 0 to 1.
    traps, launches : float
        Per second; traps of pass-through are its direct accesses.
    """

    name: str
    mode: str
    state: str
    weight: int
    device: float
    traps: float
    launches: float
    vram: int
    vram_used: int


def rates(before: Status, after: Status) -> list[VmRates]:
    """Work out what each VM did between two looks; a VM that is new counts from 0."""
    elapsed = max(after.time_ns - before.time_ns, 1)
    known = {vm.name: vm for vm in before.vms}
    found = []
    for vm in after.vms:
        old = known.get(vm.name)
        if old is None or old.busy_ns > vm.busy_ns or old.launches > vm.launches:  # another of that name
            old = msgspec.structs.replace(vm, traps=0, direct=0, launches=0, busy_ns=0)
        accesses = vm.traps + vm.direct - old.traps - old.direct
        found.append(
            VmRates(
                vm.name,
                vm.mode,
                vm.state,
                vm.weight,
                min((vm.busy_ns - old.busy_ns) / elapsed, 1.0),
                max(accesses, 0) * 1e9 / elapsed,
                (vm.launches - old.launches) * 1e9 / elapsed,
                vm.vram,
                vm.vram_used,
            )
        )
    return found

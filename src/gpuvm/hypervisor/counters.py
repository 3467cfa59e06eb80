"""What a virtual GPU cost: plain integers that are always counted, read as a snapshot and as differences of
two snapshots."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(slots=True)
class Counters:
    """Events of one virtual GPU since it was created.

    A trap is one access of a guest's CPU to a BAR that ended in the hypervisor. The shadow counters say what
    the original hypervisor would have done through its window into video memory: `shadow_reads` and
    `shadow_writes` are 32-bit accesses, `entries_visited` the page-directory and page-table entries that a
    pass looked at, and `entries_changed` those whose shadow came out different.
    """

    traps_bar0_read: int = 0
    traps_bar0_write: int = 0
    traps_bar1_read: int = 0
    traps_bar1_write: int = 0
    traps_bar3_read: int = 0
    traps_bar3_write: int = 0
    bytes_bar0_read: int = 0
    bytes_bar0_write: int = 0
    bytes_bar1_read: int = 0
    bytes_bar1_write: int = 0
    bytes_bar3_read: int = 0
    bytes_bar3_write: int = 0
    config_accesses: int = 0
    direct_accesses: int = 0
    """Accesses that reached the GPU without the hypervisor (pass-through)."""
    direct_bytes: int = 0
    direct_bar1_read: int = 0
    """Accesses to pages that are mapped into the VM: no trap."""
    direct_bar1_write: int = 0
    direct_bar1_bytes_read: int = 0
    direct_bar1_bytes_written: int = 0
    direct_bar3_read: int = 0
    direct_bar3_write: int = 0
    direct_bar3_bytes_read: int = 0
    direct_bar3_bytes_written: int = 0
    map_calls: int = 0
    """Calls to the VM's monitor that mapped or unmapped pages of a BAR."""
    vram_accesses: int = 0
    """Accesses that the hypervisor made to video memory for a trapped access (PRAMIN, BAR1, BAR3)."""
    gpu_register_reads: int = 0
    """Register reads of the physical GPU on this guest's behalf."""
    gpu_register_writes: int = 0
    shadow_passes: int = 0
    entries_visited: int = 0
    entries_changed: int = 0
    shadow_reads: int = 0
    shadow_writes: int = 0
    hypercalls: int = 0
    """Guest frames whose machine frame had to be asked for."""
    traps_call: int = 0
    """Register accesses of a para-virtual GPU's call device, each a trap."""
    calls_set_pgd: int = 0
    calls_map_pgt: int = 0
    calls_map: int = 0
    calls_vm_flush: int = 0
    calls_mem_alloc: int = 0
    calls_mem_free: int = 0
    calls_bar3_pgt: int = 0
    calls_map_batch: int = 0
    calls_map_sg_batch: int = 0
    calls_unmap_batch: int = 0
    calls_map_pgt_batch: int = 0
    calls_batch: int = 0
    calls_info: int = 0
    calls_space_new: int = 0
    calls_space_free: int = 0
    calls_buffer_new: int = 0
    calls_buffer_free: int = 0
    calls_buffer_map: int = 0
    calls_host_map: int = 0
    calls_unmap: int = 0
    calls_channel_new: int = 0
    calls_channel_free: int = 0
    calls_kick: int = 0
    call_entries: int = 0
    """Page-table and directory entries passed in calls."""
    call_failures: int = 0
    """Calls that ended in anything but success, calls of no slot included."""
    tlb_flushes: int = 0
    barrier_writes: int = 0
    """Writes to pages that hold an instance block, reflected into its shadow."""
    table_writes: int = 0
    """Writes to pages that hold a page directory or table, carried over entry by entry."""
    channel_binds: int = 0
    playlist_updates: int = 0
    doorbells: int = 0
    interrupts: int = 0
    faults: int = 0
    denied: int = 0
    """Register accesses that the policy refused."""
    denied_addresses: int = 0
    """Addresses and table entries outside what the guest owns, made not-present."""
    commands_completed: int = 0
    gpu_ns: int = 0
    """Wall time that the scheduler charged to this guest, in nanoseconds."""

    def snapshot(self) -> Counters:
        """Return a copy of the present values."""
        return Counters(**self.as_dict())

    def since(self, before: Counters) -> Counters:
        """Return the events between the snapshot `before` and now."""
        return Counters(**{name: getattr(self, name) - getattr(before, name) for name in _NAMES})

    @property
    def traps(self) -> int:
        """All trapped accesses, reads and writes of the BARs."""
        return (
            self.traps_bar0_read
            + self.traps_bar0_write
            + self.traps_bar1_read
            + self.traps_bar1_write
            + self.traps_bar3_read
            + self.traps_bar3_write
            + self.traps_call
        )

    @property
    def calls(self) -> dict[str, int]:
        """Calls of a para-virtual driver by operation."""
        return {f.name[6:]: getattr(self, f.name) for f in fields(self) if f.name.startswith("calls_")}

    def as_dict(self) -> dict[str, int]:
        """The counters by name, for reports."""
        return {name: getattr(self, name) for name in _NAMES}


_NAMES = tuple(field.name for field in fields(Counters))

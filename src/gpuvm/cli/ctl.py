"""`gpuvm ctl`: look at a daemon and change it, over its control socket."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

from gpuvm.cli.errors import FAILED, CommandError
from gpuvm.cli.vmflags import parse_vm
from gpuvm.vmm.daemon import ControlClient, DaemonError, Status, VmRates, VmStatus, default_control, rates
from gpuvm.vmm.daemon.protocol import Add, List, Remove, Reset, Set, Stop
from gpuvm.vmm.sizes import format_size

_END_S = 120.0
_WIDE = 300


@contextlib.contextmanager
def _daemon(socket: str) -> Iterator[ControlClient]:
    try:
        with ControlClient(socket or default_control()) as client:
            yield client
    except DaemonError as error:
        raise CommandError(str(error), FAILED) from None


def show(socket: str, as_json: bool) -> None:
    """`list`."""
    with _daemon(socket) as client:
        status = client.ask(List(), Status)
    if as_json:
        _print_json(status)
        return
    table = _table("name", "mode", "state", "video memory", "channels", "weight", "cap", "clients", "socket")
    for vm in status.vms:
        table.add_row(
            vm.name,
            vm.mode,
            vm.state,
            f"{format_size(vm.vram_used)} of {format_size(vm.vram)}",
            str(vm.channels),
            str(vm.weight),
            f"{vm.cap:g} %" if vm.cap else "-",
            str(vm.clients),
            vm.socket,
        )
    console = _console()
    if status.vms:
        console.print(table)
    console.print(
        f"{status.profile}, {format_size(status.vram)}, {format_size(status.vram_free)} and "
        f"{status.channels_free} channels free; scheduler {status.scheduler}; process {status.pid}",
        markup=False,
    )


def add(socket: str, vm: str) -> None:
    """`add`: prints the socket of the new VM."""
    with _daemon(socket) as client:
        print(client.ask(Add(parse_vm("the VM", vm)), VmStatus).socket)


def remove(socket: str, name: str) -> None:
    with _daemon(socket) as client:
        client.ask(Remove(name), type(None))


def reset(socket: str, name: str) -> None:
    with _daemon(socket) as client:
        client.ask(Reset(name), type(None))


def change(socket: str, settings: Sequence[str]) -> None:
    """`set`: settings of the daemon, or of the VM that the first word names."""
    name = None if "=" in settings[0] else settings[0]
    found: dict[str, Any] = {}
    for text in settings[name is not None :]:
        key, sign, value = text.partition("=")
        if not sign or key not in ("scheduler", "weight", "cap"):
            raise CommandError(f"a setting must be scheduler=S, weight=N or cap=PERCENT, got {text!r}")
        found[key] = value if key == "scheduler" else _number(key, value)
    if not found:
        raise CommandError("something to set must be given: scheduler=S, weight=N or cap=PERCENT")
    if name is None and found.keys() & {"weight", "cap"}:
        raise CommandError("a weight or cap must be some VM's: gpuvm ctl set NAME weight=N")
    with _daemon(socket) as client:
        client.ask(Set(name=name, **found), Status)


def _number(key: str, text: str) -> int | float:
    try:
        return int(text) if key == "weight" else float(text)
    except ValueError:
        raise CommandError(f"{key} must be a number, got {text!r}") from None


def stop(socket: str) -> None:
    """`stop`: returns when the daemon has let go of its socket."""
    with _daemon(socket) as client:
        client.ask(Stop(), type(None))
        end = time.monotonic() + _END_S
        while not client.closed():
            if time.monotonic() > end:
                raise CommandError(f"the daemon must end within {_END_S:g} s, and did not", FAILED)


def top(socket: str, interval: float, count: int, as_json: bool) -> None:
    """`top`: a table that lives, or a JSON object for each interval."""
    with _daemon(socket) as client, contextlib.suppress(KeyboardInterrupt):
        before = client.ask(List(), Status)
        console = _console()
        live = Live(console=console, auto_refresh=False, screen=False)
        with live if not as_json and console.is_terminal else contextlib.nullcontext():
            shown = 0
            while not count or shown < count:
                time.sleep(interval)
                after = client.ask(List(), Status)
                found = rates(before, after)
                if as_json:
                    _print_json(
                        {"time_ns": after.time_ns, "scheduler": after.scheduler, "vms": found}, line=True
                    )
                elif console.is_terminal:
                    live.update(_top_table(after, found), refresh=True)
                else:
                    console.print(_top_table(after, found))
                before, shown = after, shown + 1


def _top_table(status: Status, found: Sequence[VmRates]) -> Table:
    table = _table("VM", "mode", "state", "weight", "device", "traps/s", "launches/s", "video memory")
    for vm in found:
        table.add_row(
            vm.name,
            vm.mode,
            vm.state,
            str(vm.weight),
            f"{vm.device:6.1%}",
            f"{vm.traps:,.0f}",
            f"{vm.launches:,.1f}",
            f"{format_size(vm.vram_used)} of {format_size(vm.vram)}",
        )
    busy = sum(vm.device for vm in found)
    table.caption = f"scheduler {status.scheduler}; the GPU works {busy:.0%} of the time"
    table.caption_justify = "left"
    return table


def _console() -> Console:
    """A console that folds nothing where the output is kept."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        right = column in ("channels", "weight", "cap", "clients", "device", "traps/s", "launches/s")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    return table


def _print_json(value: Any, line: bool = False) -> None:
    data = msgspec.json.encode(value)
    print((data if line else msgspec.json.format(data, indent=2)).decode(), flush=line)

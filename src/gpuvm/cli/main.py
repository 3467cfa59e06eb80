"""The `gpuvm` command: the typer application and its commands' options. What a command does is in its own
file, imported when the command runs, so that `gpuvm --help` does not load LLVM.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gpuvm.cli.errors import CommandError
from gpuvm.lab.modes import MODES


class Commands(TyperGroup):
    """The group of commands; turns a `CommandError` into its sentence and exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CommandError as error:
            print(f"gpuvm: {error}", file=sys.stderr)
            raise typer.Exit(error.status) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Virtual machines that share one software NVIDIA Fermi GPU, after GPUvm (USENIX ATC 2014).",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"gpuvm {version('gpuvm')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what this machine has and lacks for gpuvm, in plain words.

    Exit status 1 if something is missing without which gpuvm cannot work.
    """
    from gpuvm.cli import doctor as command

    command.doctor(as_json)


Picture = Annotated[
    Path | None, typer.Option("--svg", metavar="FILE", help="Also draw the table into a picture.")
]
Seconds = Annotated[
    float | None,
    typer.Option("--watchdog", min=0.1, help="Kill a kernel that runs longer than this many seconds."),
]


@app.command()
def demo(
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the measurements as JSON.")
    ] = None,
    picture: Picture = None,
) -> None:
    """Two virtual machines share one GPU, a native and a pass-through run beside them.

    All 17 workloads run as Fermi machine code and every result is checked. Takes less than two minutes.
    """
    from gpuvm.cli import bench as command

    command.demo(json_file, picture)


@app.command()
def bench(
    mode: Annotated[
        str, typer.Option(metavar="M[,M…]", help=f"{', '.join(MODES)}, or all.")
    ] = "all",
    workload: Annotated[
        str,
        typer.Option(
            metavar="W[,W…]",
            help="NOP, LOOP, MADD, MMUL, FMADD, FMMUL, CPY, PINCPY, BP, BFS, HW, HS, LUD, NN, NW, SRAD, "
            "SRAD2, or all.",
        ),
    ] = "all",
    size: Annotated[str, typer.Option(metavar="paper|small", help="The papers' sizes or quick.")] = "paper",
    vms: Annotated[
        int, typer.Option(min=1, max=64, help="Virtual machines at once in the modes that share the GPU.")
    ] = 1,
    scheduler: Annotated[str, typer.Option(metavar="S", help="direct, fifo, credit, band or fair.")] = "fifo",
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Read inputs from here, in Rodinia's formats; default: make them."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the measurements as JSON.")
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Run everything this many times.")] = 1,
    warm_up: Annotated[
        bool, typer.Option(help="Run each workload once, unmeasured, in the first mode before the others.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the made inputs.")] = 2014,
    times: Annotated[
        str, typer.Option(metavar="wall|device", help="Which time the table gives the phases in.")
    ] = "wall",
    picture: Picture = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="FILE", help="Write a trace of every launch and copy, to simulate."),
    ] = None,
) -> None:
    """Run workloads in modes, check every result, and say what it took.

    Exit status 1 if anything was not verified.
    """
    from gpuvm.cli import bench as command

    command.bench(
        mode, workload, size, vms, scheduler, data, json_file, repeat, warm_up, seed, times, picture, record
    )


@app.command()
def simulate(
    trace: Annotated[
        list[Path], typer.Option("--trace", metavar="FILE", help="A trace of gpuvm bench --record; repeatable.")
    ],
    vms: Annotated[int, typer.Option(min=1, max=1_000_000, help="Virtual machines.")] = 2,
    gpus: Annotated[int, typer.Option(min=1, max=100_000, help="GPUs.")] = 1,
    scheduler: Annotated[str, typer.Option(metavar="S", help="The policy of each GPU.")] = "fifo",
    workload: Annotated[
        str, typer.Option(metavar="W[,W…]", help="Which of the traces' workloads, or all.")
    ] = "all",
    weights: Annotated[
        str, typer.Option(metavar="N[,N…]", help="Weights that the machines take in turn.")
    ] = "1",
    depth: Annotated[
        str,
        typer.Option(
            metavar="N[,N…]",
            help="Commands that a machine keeps outstanding, taken in turn: 1 waits for each, 8 queues ahead.",
        ),
    ] = "1",
    caps: Annotated[
        str,
        typer.Option(
            metavar="F[,F…]", help="Largest part of a GPU that a machine may use, taken in turn; - is none."
        ),
    ] = "",
    until: Annotated[
        float, typer.Option(min=0.001, max=1e6, metavar="SECONDS", help="Virtual time to simulate.")
    ] = 10.0,
    seed: Annotated[int, typer.Option(min=0, help="Of where machines begin, and of the jitter.")] = 2014,
    engine: Annotated[
        str,
        typer.Option(
            metavar="local|dask|simpy",
            help="One core, Dask workers, or the SimPy reference (slow). All give the same result.",
        ),
    ] = "local",
    workers: Annotated[int, typer.Option(min=1, max=1024, help="Dask workers on this machine.")] = 2,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Use this Dask scheduler's workers instead.")
    ] = None,
    placement: Annotated[
        str, typer.Option(metavar="static|least-loaded", help="How machines are put on GPUs.")
    ] = "static",
    times: Annotated[
        str, typer.Option(metavar="device|wall", help="Which of the trace's times to replay.")
    ] = "device",
    resident: Annotated[
        bool,
        typer.Option(
            "--resident", help="Programs keep their context: leave out each run's start and end."
        ),
    ] = False,
    jitter: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Vary the machines' own times by up to this fraction.")
    ] = 0.0,
    switch_us: Annotated[
        float, typer.Option("--switch-us", min=0.0, max=1e6, help="Time in which the GPU changes channels.")
    ] = 20.0,
    window_ms: Annotated[
        float, typer.Option("--window-ms", min=0.001, max=1e9, help="Windows over which shares are taken.")
    ] = 500.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything as JSON.")
    ] = None,
) -> None:
    """Replay launch traces on a fleet of machines and GPUs in virtual time.

    Uses the same scheduling policies as the live hypervisor. The same seed gives the same result on every
    machine, whichever engine and however many workers.
    """
    from gpuvm.cli import simulate as command

    command.simulate_fleet(
        command.Request(
            vms=vms,
            gpus=gpus,
            scheduler=scheduler,
            trace=trace,
            workload=workload,
            weights=weights,
            depth=depth,
            caps=caps,
            until=until,
            seed=seed,
            engine=engine,
            workers=workers,
            cluster=cluster,
            placement=placement,
            times=times,
            resident=resident,
            jitter=jitter,
            switch_us=switch_us,
            window_ms=window_ms,
            json_file=json_file,
        )
    )


@app.command()
def reproduce(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where tables, figures, results and the page go.")
    ],
    experiments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[EXPERIMENT…|all]",
            help="times, phases, accesses, scaling, fairness, boot, written, properties; or their numbers, "
            "1 to 8. Default: all.",
        ),
    ] = None,
    size: Annotated[str, typer.Option(metavar="paper|small", help="The papers' sizes or quick.")] = "paper",
    modes: Annotated[str, typer.Option(metavar="M[,M…]", help="Which modes, or all.")] = "all",
    workloads: Annotated[str, typer.Option(metavar="W[,W…]", help="Which workloads, or all.")] = "all",
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Read inputs from here, in Rodinia's formats; default: make them."),
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Run each program this often; times are medians.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Measure again what is there.")] = False,
) -> None:
    """Run the GPUvm papers' evaluation again: our figures beside the published ones.

    Each experiment leaves a table (CSV), a figure (SVG) and its results (JSON) in the folder, and index.html
    has them all. What was measured before is kept: an interrupted run goes on where it stopped.
    """
    from gpuvm.cli import reproduce as command

    command.reproduce(experiments or [], out, size, modes, workloads, data, repeat, force)


@app.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run_program(
    program: Annotated[Path, typer.Argument(metavar="PROGRAM.py", help="A program written for cuda-python.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="ARGS", help="Its arguments.")] = None,
    mode: Annotated[str, typer.Option(metavar="M", help=f"One of {', '.join(MODES)}.")] = "fv-naive",
    vms: Annotated[
        int, typer.Option(min=1, max=64, help="Run it in this many virtual machines at once.")
    ] = 1,
    scheduler: Annotated[str, typer.Option(metavar="S", help="direct, fifo, credit, band or fair.")] = "fifo",
    memory: Annotated[str, typer.Option(metavar="SIZE", help="RAM of each machine, e.g. 512M.")] = "1G",
    vram: Annotated[str, typer.Option(metavar="SIZE", help="Video memory of each machine.")] = "512M",
    watchdog: Seconds = None,
) -> None:
    """Run your own cuda-python program inside the virtual machines.

    There, `cuda.bindings.driver` is the guest's; `cuda.bindings.nvrtc` is the real one, if it is installed.
    With several machines each line of output carries the machine's name. The options above are gpuvm's
    wherever they stand; everything behind -- is the program's. The exit status is the program's.
    """
    from gpuvm.cli import run as command

    command.run(program, arguments or [], mode, vms, scheduler, memory, vram, watchdog)


@app.command("compile")
def compile_program(
    source: Annotated[Path, typer.Argument(metavar="X.cu|X.ptx", help="CUDA C or PTX.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="X.cubin", help="Default: beside the source.")
    ] = None,
    keep_ptx: Annotated[bool, typer.Option("--ptx", help="Keep CUDA C's PTX beside the output.")] = False,
    define: Annotated[
        list[str] | None, typer.Option("-D", metavar="NAME[=VALUE]", help="Define a macro (CUDA C).")
    ] = None,
    include: Annotated[
        list[Path] | None, typer.Option("-I", metavar="DIR", help="Look for headers here too (CUDA C).")
    ] = None,
    max_registers: Annotated[
        int,
        typer.Option("--max-registers", metavar="N", help="Most registers of a thread: 16 to 63; 0: all."),
    ] = 0,
    optimize: Annotated[int, typer.Option("-O", min=0, max=4, help="Optimization level.")] = 3,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Print the compilers' logs.")] = False,
) -> None:
    """Compile CUDA C or PTX to Fermi machine code (an sm_20 cubin)."""
    from gpuvm.cli import compiling as command

    nvrtc_options = [*(f"-D{macro}" for macro in define or []), *(f"-I{folder}" for folder in include or [])]
    command.compile_file(source, output, keep_ptx, nvrtc_options, max_registers, optimize, verbose)


@app.command()
def disasm(
    binary: Annotated[Path, typer.Argument(metavar="X.cubin|X.bin", help="An sm_20 cubin, or bare code.")],
) -> None:
    """Print the Fermi machine code of a cubin, kernel by kernel, or of a bare binary."""
    from gpuvm.cli import code as command

    command.disassemble_file(binary)


@app.command()
def asm(
    source: Annotated[Path, typer.Argument(metavar="X.s", help="Fermi assembly, as disasm prints it.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="X.cubin|X.bin", help="Where it goes.")],
) -> None:
    """Assemble Fermi machine code: a cubin, or bare code if the text names no kernel."""
    from gpuvm.cli import code as command

    command.assemble_file(source, output)


@app.command()
def serve(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG.toml", help="What to serve; flags win over it.")
    ] = None,
    vms: Annotated[
        list[str] | None,
        typer.Option(
            "--vm",
            metavar="NAME[,KEY=VALUE…]",
            help="Serve a VM: socket, mode, vram, channels, weight, cap, write_multiple, sealed. Repeatable.",
        ),
    ] = None,
    control: Annotated[
        str | None, typer.Option(metavar="SOCKET", help="Path of the control socket for gpuvm ctl.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(metavar="S", help="Who is next on the GPU.")] = None,
    profile: Annotated[str | None, typer.Option(metavar="NAME", help="Which card the GPU is.")] = None,
    vram: Annotated[
        str | None, typer.Option("--gpu-memory", metavar="SIZE", help="Video memory of the GPU, e.g. 2G.")
    ] = None,
    watchdog: Annotated[
        float | None, typer.Option(min=0, help="Kill a kernel that runs longer (seconds); 0: never.")
    ] = None,
    drain: Annotated[
        float | None, typer.Option(min=0, help="Seconds that submitted work may take when the daemon ends.")
    ] = None,
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", count=True, help="Log clients and changes (-vv: all).")
    ] = 0,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log a JSON object a line.")] = False,
) -> None:
    """Share the GPU among virtual machines: each one's virtual GPU on a vfio-user socket.

    Prints one line when everything is served, runs until SIGTERM, Ctrl-C or gpuvm ctl stop.
    """
    from gpuvm.cli import serve as command

    flags = {"control": control, "scheduler": scheduler, "drain": drain}
    gpu = {"profile": profile, "vram": vram, "watchdog": watchdog}
    command.serve(config, flags, gpu, vms or [], verbose, log_json)


vm = typer.Typer(no_args_is_help=True, help="Real virtual machines: stock Linux guests under QEMU share the GPU.")
app.add_typer(vm, name="vm")


@vm.command("build")
def vm_build(
    update: Annotated[
        bool, typer.Option("--update", help="Pin the versions that Debian has today, for this machine.")
    ] = False,
    lock: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --update: write the pinned list here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the image is made of as JSON.")] = False,
) -> None:
    """Build the guest image from Debian's packages: a stock kernel with nouveau, Python, the test programs.

    The packages are pinned with their hashes and come from the archive that this machine's apt reads. The image
    is kept in the cache; nothing is done if it is there. No root is needed.
    """
    from gpuvm.cli import vm as command

    command.build(update, lock, as_json)


@vm.command("run")
def vm_run(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND", help="One word is a line for the guest's shell, more are a program."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=32, help="Boot this many guests on one GPU.")] = 1,
    mode: Annotated[
        str, typer.Option(metavar="M", help="passthrough or a way to share the GPU: gpuvm bench --help.")
    ] = "fv-naive",
    scheduler: Annotated[str, typer.Option(metavar="S", help="Who is next on the GPU.")] = "fifo",
    vram: Annotated[str, typer.Option(metavar="SIZE", help="Video memory of each guest.")] = "256M",
    memory: Annotated[str, typer.Option(metavar="SIZE", help="RAM of each guest.")] = "1G",
    gpu_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Video memory of the GPU; default: what the guests need."),
    ] = None,
    cpus: Annotated[int, typer.Option(min=1, max=16, help="CPUs of each guest.")] = 1,
    timeout: Annotated[
        float, typer.Option(min=0, metavar="S", help="Kill the command after so many seconds; 0: never.")
    ] = 0.0,
    boot_timeout: Annotated[
        float, typer.Option(min=1, metavar="S", help="Give up on a guest that is not up after so many seconds.")
    ] = 300.0,
    copies: Annotated[
        list[str] | None,
        typer.Option("--copy", metavar="FILE[:PLACE]", help="Give each guest a file; default place /root."),
    ] = None,
    logs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep each guest's kernel log and serial line here.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write boots, statuses and complaints as JSON.")
    ] = None,
    console: Annotated[bool, typer.Option("--console", help="A shell in the guest on this terminal.")] = False,
    kernel_options: Annotated[
        str, typer.Option("--append", metavar="WORDS", help="More for the guest kernel's command line.")
    ] = "",
    accelerator: Annotated[
        str, typer.Option("--accel", metavar="auto|kvm|tcg", help="KVM, or TCG, which emulates.")
    ] = "auto",
) -> None:
    """Boot stock Linux guests whose own nouveau drives a virtual GPU each, and run a command in all of them.

    The first run prepares what it needs: QEMU 10.1 or newer and the guest image. In the guest, gpuvm-info,
    gpuvm-stress and others are on PATH. With several guests each line of output carries the guest's name. The
    exit status is the first one that is not 0. Complaints of a guest's kernel about the GPU are reported.
    """
    from gpuvm.cli import vm as command

    wish = command.Wish(
        command=arguments or [],
        count=count,
        mode=mode,
        scheduler=scheduler,
        vram=vram,
        memory=memory,
        gpu_memory=gpu_memory,
        cpus=cpus,
        timeout=timeout,
        boot_timeout=boot_timeout,
        copies=copies or [],
        logs=logs,
        json_file=json_file,
        console=console,
        kernel_options=kernel_options,
        accelerator=accelerator,
    )
    command.run(wish)


ctl = typer.Typer(no_args_is_help=True, help="Look at a daemon that gpuvm serve runs, and change it.")
app.add_typer(ctl, name="ctl")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
VmName = Annotated[str, typer.Argument(metavar="NAME", help="A VM's name.")]


@ctl.callback()
def _ctl_options(
    context: typer.Context,
    socket: Annotated[
        str, typer.Option("--socket", "-s", metavar="SOCKET", help="The daemon's control socket.")
    ] = "",
) -> None:
    context.obj = socket


@ctl.command("list")
def ctl_list(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the VMs and what they have."""
    from gpuvm.cli import ctl as command

    command.show(context.obj, as_json)


@ctl.command("add")
def ctl_add(
    context: typer.Context,
    vm: Annotated[str, typer.Argument(metavar="NAME[,KEY=VALUE…]", help="As --vm of gpuvm serve.")],
) -> None:
    """Serve one more VM; prints its socket."""
    from gpuvm.cli import ctl as command

    command.add(context.obj, vm)


@ctl.command("remove")
def ctl_remove(context: typer.Context, name: VmName) -> None:
    """End a VM's session and give back all that it had."""
    from gpuvm.cli import ctl as command

    command.remove(context.obj, name)


@ctl.command("reset")
def ctl_reset(context: typer.Context, name: VmName) -> None:
    """Reset a VM's virtual GPU; the others do not notice."""
    from gpuvm.cli import ctl as command

    command.reset(context.obj, name)


@ctl.command("set")
def ctl_set(
    context: typer.Context,
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME] KEY=VALUE…", help="scheduler=S for all; weight=N, cap=PERCENT of a VM."
        ),
    ],
) -> None:
    """Change the scheduler, or a VM's weight or cap, while it works."""
    from gpuvm.cli import ctl as command

    command.change(context.obj, settings)


@ctl.command("top")
def ctl_top(
    context: typer.Context,
    interval: Annotated[float, typer.Option("-i", "--interval", min=0.1, help="Seconds.")] = 1.0,
    count: Annotated[int, typer.Option("-n", "--count", min=0, help="Stop after so many; 0: never.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show what each VM does, second by second: device share, traps, launches, memory."""
    from gpuvm.cli import ctl as command

    command.top(context.obj, interval, count, as_json)


@ctl.command("stop")
def ctl_stop(context: typer.Context) -> None:
    """End the daemon; returns when it is gone."""
    from gpuvm.cli import ctl as command

    command.stop(context.obj)

"""The `gpuvm` command: the typer application and its commands' options. What a command does is in its own
file, imported when the command runs, so that `gpuvm --help` does not load LLVM.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gpuvm.cli.errors import CommandError


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

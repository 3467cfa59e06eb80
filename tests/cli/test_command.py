"""The command as a person meets it: help, version, and one sentence for a wrong request."""

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from gpuvm.cli.errors import CommandError, choose, size_bytes
from gpuvm.cli.main import app
from gpuvm.lab import modes as lab_modes
from gpuvm.schedulers import SCHEDULERS
from gpuvm.workloads import WORKLOADS

MODES = ["native", "passthrough", "fv-naive"]


def test_version_is_the_package_s() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("gpuvm 0.")


def test_help_lists_the_commands() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert {"demo", "bench", "run", "compile", "disasm", "asm", "doctor"} <= set(result.stdout.split())


def test_bench_s_help_names_what_there_is() -> None:
    result = CliRunner().invoke(app, ["bench", "--help"], env={"COLUMNS": "400"})
    words = set(re.findall(r"[\w-]+", result.stdout))
    assert {*WORKLOADS, *lab_modes.MODES, *SCHEDULERS} <= words


def test_help_loads_neither_llvm_nor_numpy() -> None:
    code = (
        "import sys\nfrom gpuvm.cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('llvmlite', 'numpy', 'lark') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_names_are_chosen_by_comma_in_any_case_and_once() -> None:
    assert choose("mode", "native, FV-Naive,native", MODES) == ["native", "fv-naive"]
    assert choose("mode", "all", MODES) == MODES


def test_an_unknown_name_is_answered_with_the_valid_ones() -> None:
    with pytest.raises(CommandError, match="mode must be one of native, passthrough, fv-naive, got 'xen'"):
        choose("mode", "native,xen", MODES)


@pytest.mark.parametrize(
    ("text", "size"),
    [("256M", 256 << 20), ("1GiB", 1 << 30), ("4096", 4096), ("64 kb".replace(" ", ""), 64 << 10)],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert size_bytes("--memory", text) == size


@pytest.mark.parametrize("text", ["", "M", "-1G", "0", "1.5G", "lots"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="--memory must be a size such as 256M or 1G"):
        size_bytes("--memory", text)

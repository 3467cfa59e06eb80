"""Log lines of the rooms below stay out of a command's answer."""

from __future__ import annotations

import pytest
import structlog

from gpuvm.cli.logs import to_stderr


@pytest.fixture(autouse=True)
def as_before():
    yield
    structlog.reset_defaults()


def test_warnings_go_to_stderr_and_the_rest_is_quiet(capsys):
    to_stderr()
    log = structlog.get_logger("gpuvm.test")
    log.info("a channel was bound", channel=3)
    log.warning("a register was denied", offset=0x1234)
    out, err = capsys.readouterr()
    assert out == ""
    assert "a register was denied" in err
    assert "offset=4660" in err
    assert "bound" not in err

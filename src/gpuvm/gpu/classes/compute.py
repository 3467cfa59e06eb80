"""Class 0x90c0, compute: code, constant buffers, grids; a launch goes to the executor. rnndb
graph/gf100_compute.xml.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from gpuvm.gpu.classes.condition import Conditional
from gpuvm.gpu.classes.graph import COMMON
from gpuvm.gpu.classes.method import ClassObject, DataError, Method, MethodTable, Rejected
from gpuvm.gpu.classes.report import QUERY, release

if TYPE_CHECKING:
    from gpuvm.gpu.channel import Channel
    from gpuvm.gpu.device import Gf100
    from gpuvm.gpu.pgraph import Task

CONSTANT_BUFFER = (
    Method(0x2380, "CB_SIZE"),
    Method(0x2384, "CB_ADDRESS_HIGH"),
    Method(0x2388, "CB_ADDRESS_LOW"),
    Method(0x238C, "CB_POS"),
    Method(0x2390, "CB_DATA", trigger=True, count=16),
)
"""The same in the 3D class."""

COMPUTE = MethodTable(
    0x90C0,
    "GF100_COMPUTE",
    (
        *COMMON,
        *QUERY,
        *CONSTANT_BUFFER,
        Method(0x0204, "LOCAL_POS_ALLOC"),
        Method(0x0208, "LOCAL_NEG_ALLOC"),
        Method(0x020C, "WARP_CSTACK_SIZE"),
        Method(0x0210, "TEX_LIMITS"),
        Method(0x0214, "SHARED_BASE"),
        Method(0x0218, "UNK0218"),
        Method(0x021C, "MEM_BARRIER"),
        Method(0x0220, "UNK0220"),
        Method(0x0228, "BIND_TSC"),
        Method(0x022C, "BIND_TIC"),
        Method(0x0230, "BIND_TSC2"),
        Method(0x0234, "BIND_TIC2"),
        Method(0x0238, "GRIDDIM_YX"),
        Method(0x023C, "GRIDDIM_Z"),
        Method(0x0240, "UNK0240"),
        Method(0x0244, "UNK244_TIC_FLUSH"),
        Method(0x0248, "UNK0248"),
        Method(0x024C, "SHARED_SIZE"),
        Method(0x0250, "THREADS_ALLOC"),
        Method(0x0254, "BARRIER_ALLOC"),
        Method(0x028C, "UNK028C"),
        Method(0x029C, "COMPUTE_BEGIN"),
        Method(0x02A0, "UNK02A0"),
        Method(0x02C0, "CP_GPR_ALLOC"),
        Method(0x02C4, "UNK02C4"),
        Method(0x02C8, "GLOBAL_BASE"),
        Method(0x02CC, "UNK02CC", count=5),
        Method(0x02E0, "UNK02E0"),
        Method(0x0300, "UNK0300", count=2),
        Method(0x0308, "CACHE_SPLIT"),
        Method(0x030C, "UNK030C"),
        Method(0x0310, "UNK0310", count=20),
        Method(0x0360, "UNK0360"),
        Method(0x0364, "UNK0364"),
        Method(0x0368, "LAUNCH", trigger=True),
        Method(0x036C, "UNK036C"),
        Method(0x03AC, "BLOCKDIM_YX"),
        Method(0x03B0, "BLOCKDIM_Z"),
        Method(0x03B4, "CP_START_ID"),
        Method(0x0500, "FIRMWARE", count=0x20),
        Method(0x0758, "MP_LIMIT"),
        Method(0x077C, "LOCAL_BASE"),
        Method(0x0780, "GRIDID"),
        Method(0x0790, "TEMP_ADDRESS_HIGH"),
        Method(0x0794, "TEMP_ADDRESS_LOW"),
        Method(0x0798, "TEMP_SIZE_HIGH"),
        Method(0x079C, "TEMP_SIZE_LOW"),
        Method(0x07A0, "WARP_TEMP_ALLOC"),
        Method(0x0A04, "COMPUTE_END"),
        Method(0x0A08, "UNK0A08"),
        Method(0x0D64, "CALL_LIMIT_LOG"),
        Method(0x0D94, "UNK0D94"),
        Method(0x0DE4, "WATCHDOG_TIMER"),
        Method(0x10F4, "UNK10F4"),
        Method(0x1234, "LINKED_TSC"),
        Method(0x1288, "UNK1288_TIC_FLUSH"),
        Method(0x12AC, "UNK12AC"),
        Method(0x1330, "TSC_FLUSH"),
        Method(0x1334, "TIC_FLUSH"),
        Method(0x1338, "TEX_CACHE_CTL"),
        Method(0x1354, "UNK1354"),
        Method(0x1424, "UNK1424_TSC_FLUSH"),
        Method(0x1550, "COND_ADDRESS_HIGH"),
        Method(0x1554, "COND_ADDRESS_LOW"),
        Method(0x1558, "COND_MODE", trigger=True),
        Method(0x155C, "TSC_ADDRESS_HIGH"),
        Method(0x1560, "TSC_ADDRESS_LOW"),
        Method(0x1564, "TSC_LIMIT"),
        Method(0x1574, "TIC_ADDRESS_HIGH"),
        Method(0x1578, "TIC_ADDRESS_LOW"),
        Method(0x157C, "TIC_LIMIT"),
        Method(0x1608, "CODE_ADDRESS_HIGH"),
        Method(0x160C, "CODE_ADDRESS_LOW"),
        Method(0x1664, "TEX_MISC"),
        Method(0x1690, "UNK1690"),
        Method(0x1694, "CB_BIND", trigger=True),
        Method(0x1698, "FLUSH"),
        Method(0x1930, "UNK1930"),
        Method(0x1944, "UNK1944"),
        Method(0x1A24, "DELAY"),
        Method(0x1A2C, "UNK1A2C", count=5),
        *(
            Method(0x2700 + at, f"IMAGE_{name}", count=8, stride=0x20)
            for at, name in zip(
                range(0, 0x18, 4),
                ("ADDRESS_HIGH", "ADDRESS_LOW", "WIDTH", "HEIGHT", "FORMAT", "BLOCK_DIMENSIONS"),
                strict=True,
            )
        ),
        Method(0x335C, "MP_PM_SET", count=8),
        Method(0x337C, "MP_PM_SIGSEL", count=8),
        Method(0x339C, "MP_PM_SRCSEL", count=8),
        Method(0x33BC, "MP_PM_OP", count=8),
        Method(0x33DC, "MP_PM_UNK33DC"),
    ),
)

CONSTANT_BANKS = 18
CONSTANT_SIZE_MAX = 0x10000


def upload_constants(target: ClassObject, words: memoryview) -> None:
    """Carry out a run of CB_DATA: words go to the constant buffer at CB_POS, which moves on."""
    position = target.state[0x238C >> 2]
    target.channel.space.write(target.address(0x2384) + position, words)
    target.state[0x238C >> 2] = position + 4 * len(words) & 0xFFFFFFFF


class Compute(Conditional):
    """A compute object."""

    TABLE: ClassVar = COMPUTE
    COND_ADDRESS: ClassVar = 0x1550

    def __init__(self, gpu: Gf100, channel: Channel) -> None:
        super().__init__(gpu, channel)
        self.banks: list[tuple[int, int] | None] = [None] * CONSTANT_BANKS
        """(address, size) of c[0] to c[17]."""
        self.task: Task | None = None
        """The launch that the channel was switched out of."""

    def on_cb_bind(self, value: int) -> None:
        index = value >> 8 & 0x1F
        if index >= CONSTANT_BANKS:
            raise Rejected(DataError.INVALID_VALUE)
        if value & 1:
            size = min(self.state[0x2380 >> 2], CONSTANT_SIZE_MAX)
            self.banks[index] = (self.address(0x2384), size)
        else:
            self.banks[index] = None

    def on_cb_data(self, index: int, value: int) -> None:
        upload_constants(self, memoryview(value.to_bytes(4, "little")).cast("I"))

    def burst_cb_data(self, words: memoryview) -> None:
        upload_constants(self, words)

    def on_query_get(self, value: int) -> None:
        release(self, value)

    def on_launch(self, value: int) -> None:
        if not self.passed:
            return
        state = self.state
        grid_yx, block_yx = state[0x238 >> 2], state[0x3AC >> 2]
        grid = (grid_yx & 0xFFFF, grid_yx >> 16, state[0x23C >> 2] & 0xFFFF)
        block = (block_yx & 0xFFFF, block_yx >> 16, state[0x3B0 >> 2] & 0xFFFF)
        if 0 in grid or 0 in block or block[0] * block[1] * block[2] > 1024 or block[2] > 64:
            raise Rejected(DataError.INVALID_VALUE)
        if state[0x24C >> 2] > 0xC000 or not 1 <= state[0x2C0 >> 2] <= 63:
            raise Rejected(DataError.INVALID_VALUE)
        self.gpu.pgraph.launch(self, grid, block)

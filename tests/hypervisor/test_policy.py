"""The access policy covers what it says, and compiles to what a plain search of the table gives."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gpuvm.hypervisor.policy import POLICY, Action, as_markdown, frozen, rule_at

PAGES = frozen(16 << 20)


@given(
    st.one_of(
        st.integers(0, (16 << 20) - 1),
        st.sampled_from([r.first for r in POLICY]),
        st.sampled_from([r.last for r in POLICY]),
    )
)
def test_the_compiled_table_agrees_with_the_rows(offset: int) -> None:
    assert PAGES[offset >> 12][offset >> 2 & 0x3FF] is rule_at(offset & ~3)


def test_every_row_gives_a_reason_and_whole_words() -> None:
    for rule in POLICY:
        assert rule.why, rule
        assert rule.first % 4 == 0, rule
        assert rule.last % 4 == 3, rule
        assert rule.first <= rule.last, rule


def test_nothing_that_carries_an_address_or_a_channel_id_is_forwarded() -> None:
    translated = [0x1704, 0x1714, 0x2254, 0x2274, 0x2634, 0x3000, 0x33F8, 0x100CBC, 0x700000, 0x7FFFFC]
    for offset in translated:
        rule = rule_at(offset)
        assert rule is not None
        assert rule.action is Action.TRANSLATED, hex(offset)
    private = [
        0x1700,
        0x2270,
        0x100CB8,
        0x104050,
        0x105054,
        0x409500,
        0x409504,
        0x409B00,
        0x4188B4,
        0x100C10,
        0x17E8D4,
    ]
    for offset in private:
        rule = rule_at(offset)
        assert rule is not None
        assert rule.action is Action.EMULATED, hex(offset)


def test_what_no_row_lists_is_nobodys() -> None:
    for offset in (0x001718, 0x180000, 0x610010, 0x800000, 0xFFFFFC, 0x0A0000):
        rule = rule_at(offset)
        assert rule is None or rule.action is Action.DENIED, hex(offset)


def test_the_documented_table_is_the_policy() -> None:
    document = Path(__file__).parents[2] / "docs" / "hypervisor.md"
    assert document.read_text().endswith(as_markdown())

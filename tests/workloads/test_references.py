"""The references against the definitions, element by element, on inputs small enough for plain loops."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvm.workloads import WORKLOADS
from gpuvm.workloads.diffusion import STRIP, diffuse, speckle_of
from gpuvm.workloads.hotspot import AMBIENT, coefficients
from gpuvm.workloads.matrix import product_of_words
from gpuvm.workloads.nw import BLOSUM62, trace
from gpuvm.workloads.tracking import AREA, CENTRE, TEMPLATE, follow
from gpuvm.workloads.video import OUTER_RADIUS, beating_heart, contraction


@given(st.integers(0, 3000), st.integers(1, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_loop_in_closed_form_is_the_loop(n: int, seed: int) -> None:
    loop = WORKLOADS["LOOP"]
    inputs = loop.inputs("small", seed=seed, n=n)
    x = int(inputs["state"][0])
    for _ in range(n):
        x ^= x << 13 & 0xFFFFFFFF
        x ^= x >> 17
        x ^= x << 5 & 0xFFFFFFFF
    assert loop.reference(inputs)["state"].tolist() == [x]
    loop.forget()


def test_product_of_words_is_exact_modulo_2_to_the_32() -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.integers(0, 1 << 32, (40, 40), dtype=np.uint32) for _ in range(2))
    a[0], b[:, 0] = 0xFFFFFFFF, 0xFFFFFFFF
    want = a.astype(object) @ b.astype(object) % (1 << 32)
    assert product_of_words(a, b).tolist() == want.tolist()


def test_bfs_against_a_queue() -> None:
    bfs = WORKLOADS["BFS"]
    inputs = bfs.inputs("small", nodes=200, seed=3)
    nodes, edges = inputs["nodes"].tolist(), inputs["edges"].tolist()
    cost = {0: 0}
    waiting = deque([0])
    while waiting:
        node = waiting.popleft()
        first, count = nodes[node]
        for other in edges[first : first + count]:
            if other not in cost:
                cost[other] = cost[node] + 1
                waiting.append(other)
    assert bfs.reference(inputs)["cost"].tolist() == [cost.get(node, -1) for node in range(200)]


def test_bfs_leaves_what_it_cannot_reach() -> None:
    bfs = WORKLOADS["BFS"]
    inputs = bfs.inputs("small", nodes=1)
    assert bfs.reference(inputs)["cost"].tolist() == [0]


def test_hotspot_cell_by_cell() -> None:
    hotspot = WORKLOADS["HS"]
    inputs = hotspot.inputs("small", n=9, steps=3)
    rate, rx1, ry1, rz1 = coefficients(9)
    power = inputs["power"].astype(float)
    now = inputs["temperature"].astype(float)
    for _ in range(3):
        then = np.empty_like(now)
        for y in range(9):
            for x in range(9):
                t = now[y, x]
                south, north = now[min(y + 1, 8), x], now[max(y - 1, 0), x]
                east, west = now[y, min(x + 1, 8)], now[y, max(x - 1, 0)]
                flow = (south + north - 2 * t) * ry1 + (east + west - 2 * t) * rx1 + (AMBIENT - t) * rz1
                then[y, x] = t + rate * (power[y, x] + flow)
        now = then
    np.testing.assert_allclose(hotspot.reference(inputs)["temperature"], now, rtol=1e-13)


def test_needleman_wunsch_cell_by_cell_and_its_trace() -> None:
    nw = WORKLOADS["NW"]
    inputs = nw.inputs("small", n=32, penalty=3)
    similarity = inputs["similarity"]
    score = [[-3 * (i + j) if not i or not j else 0 for j in range(33)] for i in range(33)]
    for i in range(1, 33):
        for j in range(1, 33):
            score[i][j] = max(
                score[i - 1][j - 1] + int(similarity[i, j]), score[i][j - 1] - 3, score[i - 1][j] - 3
            )
    answer = nw.reference(inputs)
    assert answer["score"].tolist() == score
    # The path goes from the end to the start in single steps whose scores add up.
    cells = [divmod(at, 33) for at in answer["path"].tolist()]
    assert (cells[0], cells[-1]) == ((32, 32), (0, 0))
    total = 0
    for (i, j), (k, m) in pairwise(cells):
        assert (i - k, j - m) in ((1, 1), (1, 0), (0, 1))
        total += int(similarity[i, j]) if (i - k, j - m) == (1, 1) else -3
    assert total == score[32][32]


def test_a_trace_through_wrong_scores_ends() -> None:
    score = np.zeros((5, 5), np.int32)
    assert trace(score, np.ones((5, 5), np.int32), 2).tolist() == [24]


def test_substitution_scores_are_symmetric_with_the_best_on_the_diagonal() -> None:
    assert (BLOSUM62 == BLOSUM62.T).all()
    assert (BLOSUM62.max(axis=1)[:20] == BLOSUM62.diagonal()[:20]).all()


def test_back_propagation_unit_by_unit() -> None:
    bp = WORKLOADS["BP"]
    inputs = bp.inputs("small", inputs=32)
    units, w, old = (inputs[name].astype(float) for name in ("units", "weights", "previous"))
    outer = inputs["hidden_weights"].astype(float)

    def squash(x: float) -> float:
        return 1 / (1 + float(np.exp(-x)))

    hidden = [squash(sum(units[i] * w[i, j] for i in range(33))) for j in range(1, 17)]
    output = squash(outer[0] + sum(h * outer[j + 1] for j, h in enumerate(hidden)))
    error = output * (1 - output) * (float(inputs["target"][0]) - output)
    delta = [h * (1 - h) * error * outer[j + 1] for j, h in enumerate(hidden)]
    answer = bp.reference(inputs)
    np.testing.assert_allclose(answer["hidden"], hidden)
    np.testing.assert_allclose(answer["output"], [output])
    np.testing.assert_allclose(
        answer["partial"][1], [sum(units[i] * w[i, j] for i in range(17, 33)) for j in range(1, 17)]
    )
    for i in (0, 1, 32):
        for j in range(1, 17):
            change = 0.3 * delta[j - 1] * units[i] + 0.3 * old[i, j]
            assert answer["previous"][i, j] == pytest.approx(change)
            assert answer["weights"][i, j] == pytest.approx(w[i, j] + change)
    np.testing.assert_array_equal(answer["weights"][:, 0], w[:, 0])
    assert answer["hidden_weights"][0] == pytest.approx(outer[0] + 0.3 * error)
    assert answer["hidden_weights"][5] == pytest.approx(outer[5] + 0.3 * error * hidden[4])


def test_diffusion_pixel_by_pixel() -> None:
    rng = np.random.default_rng(2)
    image = np.exp(rng.random((7, 5)))
    q0, rate = speckle_of(image), 0.5
    assert q0 == pytest.approx(image.var() / image.mean() ** 2)

    def neighbour(y: int, x: int) -> float:
        return float(image[min(max(y, 0), 6), min(max(x, 0), 4)])

    c = np.empty_like(image)
    for y in range(7):
        for x in range(5):
            j = image[y, x]
            d = [
                neighbour(y - 1, x) - j,
                neighbour(y + 1, x) - j,
                neighbour(y, x - 1) - j,
                neighbour(y, x + 1) - j,
            ]
            g2, laplacian = sum(v * v for v in d) / j**2, sum(d) / j
            q = (g2 / 2 - laplacian**2 / 16) / (1 + laplacian / 4) ** 2
            c[y, x] = min(max(1 / (1 + (q - q0) / (q0 * (1 + q0))), 0), 1)
    want = np.empty_like(image)
    for y in range(7):
        for x in range(5):
            j = image[y, x]
            south, east = c[min(y + 1, 6), x], c[y, min(x + 1, 4)]
            flow = c[y, x] * (neighbour(y - 1, x) - j + neighbour(y, x - 1) - j)
            flow += south * (neighbour(y + 1, x) - j) + east * (neighbour(y, x + 1) - j)
            want[y, x] = j + 0.25 * rate * flow
    np.testing.assert_allclose(diffuse(image, q0, rate), want, rtol=1e-13)


def test_diffusion_by_strips_is_diffusion_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.exp(np.random.default_rng(4).random((50, 11)))
    assert image.size < STRIP
    whole = diffuse(image, 0.1, 0.5)
    monkeypatch.setattr("gpuvm.workloads.diffusion.STRIP", 33)
    np.testing.assert_array_equal(diffuse(image, 0.1, 0.5), whole)


def test_tracking_finds_the_best_correlation_of_all_it_may_move_to() -> None:
    rng = np.random.default_rng(6)
    frames, inner, outer = beating_heart((230, 220), 2, 1, 2, rng)
    points = np.concatenate((inner, outer))
    track = follow(frames, points)
    for point, (row, column) in enumerate(points.tolist()):
        template = frames[0][row - 26 : row + 25, column - 26 : column + 25].astype(float)
        assert template.shape == (TEMPLATE, TEMPLATE)
        best = {}
        for dy in range(-5, 5):
            for dx in range(-5, 5):
                y, x = row + dy, column + dx
                under = frames[1][y - 26 : y + 25, x - 26 : x + 25].astype(float)
                best[y, x] = abs(np.corrcoef(template.reshape(-1), under.reshape(-1))[0, 1])
        assert tuple(track.positions[point, 1]) == max(best, key=best.__getitem__)


def test_tracked_points_move_with_the_tissue() -> None:
    rng = np.random.default_rng(8)
    frames, _, points = beating_heart((230, 220), 12, 1, 8, rng)
    track = follow(frames, points)
    centre = np.array([230, 220]) / 2 + 1
    for number in range(12):
        radius = np.hypot(*(track.positions[:, number] - centre).T)
        truth = OUTER_RADIUS * 220 * (1 - contraction(number))
        assert abs(radius.mean() - truth) < 1.0, f"frame {number}"


def test_a_point_that_drifts_out_of_its_area_has_nowhere_to_go() -> None:
    rng = np.random.default_rng(9)
    frames, points, _ = beating_heart((230, 220), 3, 1, 1, rng)
    away = np.tile(points[:, None, :], (1, 3, 1)).astype(np.int64)
    away[0, 1] += 200
    track = follow(frames, points, away)
    assert track.loss[0, 0] == 0.0
    assert np.isinf(track.loss[0, 1])
    # With no offset to compare, the search ends at offset 0, as the kernel's does.
    assert (track.positions[0, 2] == points[0] - CENTRE).all()


def test_the_area_holds_every_offset_of_the_template() -> None:
    assert TEMPLATE + AREA - 1 == 2 * CENTRE + 1

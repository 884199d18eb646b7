"""Rows of different lengths on NumPy's own engines: what has ended is left out, and nothing else."""

from itertools import pairwise

import numpy as np
import pytest
from problems import refusal, same_bits

from lstm_xp import engines, lstm_forward
from lstm_xp.engines import numpy_numba
from lstm_xp.libraries import open_library
from lstm_xp.testing import assert_close

NAMES = [name for name in engines.ENGINES["numpy"] if hasattr(engines.load(name), "layer")]
names = pytest.mark.parametrize("name", NAMES)
compiled = pytest.mark.skipif(bool(numpy_numba.obstacle()), reason=numpy_numba.obstacle())


def problem(N, T, D, H, dtype="float32", seed=0):
    """Arguments of `lstm_forward` by name, and lengths: some rows have no step, some have all."""
    rng = np.random.default_rng(seed)
    shapes = {"x": (N, T, D), "h0": (N, H), "Wx": (D, 4 * H), "Wh": (H, 4 * H), "b": (4 * H,), "c0": (N, H)}
    arrays = {name: rng.standard_normal(shape).astype(dtype) / 2 for name, shape in shapes.items()}
    return arrays, rng.integers(0, T + 1, N) if seed % 3 else rng.permutation(np.arange(N) % (T + 1))


def outputs(arrays, lengths, **options):
    h, cache = lstm_forward(**arrays, lengths=lengths, **options)
    return h, cache.h_n, cache.c_n


@compiled
@pytest.mark.parametrize("dtype", numpy_numba.DTYPES)
@pytest.mark.parametrize(
    "sizes", [(1, 5, 3, 4), (2, 7, 3, 64), (3, 9, 5, 17), (7, 30, 4, 33), (13, 6, 70, 68), (40, 12, 3, 20)], ids=str
)
@pytest.mark.parametrize("reverse", [False, True])
def test_bits_do_not_depend_on_what_is_left_out(monkeypatch, sizes, dtype, reverse):
    """Nor on threads, nor on whether all is kept for a backward pass."""
    from lstm_xp.engines.compiled import threads

    monkeypatch.setattr(threads, "_blas", tuple)
    monkeypatch.setattr(numpy_numba, "WORTH_A_THREAD", 1.0)
    for seed in range(4):
        arrays, lengths = problem(*sizes, dtype, seed)
        expected = outputs(arrays, lengths, reverse=reverse, engine="array_api")
        found = []
        for count in (1, 2, 3, 5):
            monkeypatch.setattr(threads.config, "NUMBA_NUM_THREADS", count)
            for training in (True, False):
                options = {"reverse": reverse, "engine": "numpy_numba", "training": training}
                found.append(outputs(arrays, lengths, **options))
        for result, wanted in zip(found[0], expected, strict=True):
            assert_close(result, wanted, steps=sizes[1])
        assert all(same_bits(*pair) for each in found[1:] for pair in zip(each, found[0], strict=True))


@names
@pytest.mark.parametrize("training", [True, False])
def test_the_cell_state_is_that_of_the_last_step_even_where_h_is_not_a_number(name, training):
    """A NaN in h reaches every gate of the step behind, but a row that has ended has none."""
    reason = refusal(name, open_library("numpy"), "float32")
    if reason:
        pytest.skip(reason)
    arrays, _ = problem(3, 6, 2, 5)
    arrays["b"][10:15] = np.nan  # of the output gates
    with np.errstate(invalid="ignore"):
        h, h_n, c_n = outputs(arrays, [1, 6, 0], engine=name, training=training)
        _, _, expected = outputs(arrays, [1, 6, 0], engine="array_api")
    assert np.all(np.isnan(h_n[:2]))
    assert np.all(np.isnan(c_n[1]))
    assert np.all(np.isfinite(c_n[0]))
    assert_close(c_n[::2], expected[::2], steps=6)
    assert np.all(h[2] == 0)
    assert np.all(h[0, 1:] == 0)


@names
def test_lengths_of_all_steps_are_as_none(name):
    reason = refusal(name, open_library("numpy"), "float32")
    if reason:
        pytest.skip(reason)
    arrays, _ = problem(3, 6, 2, 5)
    for training in (True, False):
        pairs = (outputs(arrays, lengths, engine=name, training=training) for lengths in ([6, 6, 6], None))
        assert all(map(same_bits, *pairs))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64"])
@names
def test_lengths_of_any_integers(name, dtype):
    reason = refusal(name, open_library("numpy"), "float32")
    if reason:
        pytest.skip(reason)
    arrays, lengths = problem(7, 6, 2, 5)
    found = outputs(arrays, lengths.astype(dtype), engine=name, training=False)
    assert all(map(same_bits, found, outputs(arrays, lengths.tolist(), engine=name, training=False)))


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
@pytest.mark.parametrize("N", [1, 2, 5, 7, 16, 33])
def test_the_rows_of_each_thread_fall_in_length_and_all_have_alike(N, parts):
    parts = min(parts, N)
    lengths = np.random.default_rng(N).integers(0, 100, N)
    order = numpy_numba._longest_first(lengths, (False, parts))
    assert sorted(order) == list(range(N))
    bounds = [N * part // parts for part in range(parts + 1)]
    shares = [lengths[order][first:last] for first, last in pairwise(bounds)]
    assert all(np.all(np.diff(share) <= 0) for share in shares)
    assert max(share[0] for share in shares) == lengths.max()
    assert min(share[0] for share in shares) >= np.sort(lengths)[::-1][parts - 1]
    assert np.all(np.diff(lengths[numpy_numba._longest_first(lengths, (True, parts))]) <= 0)


@compiled
def test_what_has_ended_is_left_out(monkeypatch):
    """As many rows are gathered as rows have steps: seen by what the kernel is handed."""
    seen, code = [], numpy_numba._code(np.dtype("float32"))
    real = code.forward

    def forward(x, order, Wx, b, lengths, *arguments):
        seen.append((order, lengths))
        real(x, order, Wx, b, lengths, *arguments)

    monkeypatch.setattr(code, "forward", forward)
    arrays, _ = problem(4, 6, 2, 5)
    outputs(arrays, [2, 6, 0, 4], engine="numpy_numba", training=False)
    ((order, lengths),) = seen
    assert order.tolist() == [1, 3, 0, 2]
    assert lengths.tolist() == [6, 4, 2, 0]

"""Flax and Equinox: their cells' parameters, with the libraries themselves as oracles where they are installed."""

from itertools import pairwise

import numpy as np
import pytest

from lstm_xp import LSTM, State
from lstm_xp.libraries import to_numpy
from lstm_xp.testing import assert_close
from lstm_xp.weights.equinox import from_equinox, to_equinox
from lstm_xp.weights.flax import FORMS, from_flax, to_flax

NETWORKS = {
    "one": LSTM(3, 4),
    "two layers": LSTM(3, 4, num_layers=2),
    "reverse": LSTM(3, 4, reverse=True),
    "bidirectional": LSTM(3, 4, num_layers=2, bidirectional=True),
}
networks = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
WAYS = ("bidirectional", "reverse")


def different(network, lib):
    """Parameters with no two blocks alike: biases are random, too."""
    rng = np.random.default_rng(5)
    return tuple(
        type(p)(*(None if v is None else lib.asarray(rng.standard_normal(v.shape)) for v in p)) for p in network.init()
    )


def same(params, others):
    assert len(params) == len(others)
    for p, other in zip(params, others, strict=True):
        for name, mine, its in zip(p._fields, p, other, strict=True):
            assert (mine is None) == (its is None), name
            if mine is not None:
                assert type(mine) is type(its), name
                assert mine.dtype == its.dtype, name
                assert np.array_equal(to_numpy(mine), to_numpy(its)), name


def ways(network):
    return {name: getattr(network, name) for name in WAYS}


@pytest.mark.parametrize("form", FORMS)
@networks
@pytest.mark.without("dask", "jax")
def test_to_flax_and_back_is_exact(network, form, lib):
    params = different(network, lib)
    cells = to_flax(network, params, form=form)
    again, back = from_flax(*cells, **ways(network))
    assert again == network
    same(params, back)


@networks
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.without("dask", "jax")
def test_to_equinox_and_back_is_exact(network, bias, lib):
    network = LSTM(3, 4, num_layers=network.num_layers, bias=bias, **ways(network))
    params = different(network, lib)
    again, back = from_equinox(*to_equinox(network, params), **ways(network))
    assert again == network
    same(params, back)


def test_flax_has_zeros_for_no_bias(library):
    network = LSTM(3, 4, bias=False)
    params = different(network, library("numpy"))
    (cell,) = to_flax(network, params)
    assert not np.any(cell["hf"]["bias"])
    again, back = from_flax(cell)
    assert again.bias
    same(params, [back[0]._replace(b=None)])


# ---------------------------------------------------------------------------- the libraries themselves


def batch(network, N=2, T=4):
    rng = np.random.default_rng(6)
    R = network.num_directions * network.num_layers
    return rng.standard_normal((N, T, 3)), rng.standard_normal((R, N, 4)), rng.standard_normal((R, N, 4))


def check(network, params, y, c_n):
    """Our outputs and final cell states, from a given state, against theirs."""
    x, h0, c0 = batch(network)
    ours, state, _ = network.forward(params, x, State(h0, c0))
    assert np.max(np.abs(ours)) > 0.1
    assert_close(np.asarray(y), ours, steps=x.shape[1], name="y")
    assert_close(np.asarray(c_n), state.c, steps=x.shape[1], name="c_n")


@pytest.mark.parametrize(("cell", "reverse"), [("LSTMCell", False), ("OptimizedLSTMCell", True)])
def test_flax_linen(library, cell, reverse):
    """The cells of linen, run by its RNN from a given carry, with parameters that Flax itself laid out."""
    library("jax")
    jax, nn = pytest.importorskip("jax"), pytest.importorskip("flax.linen")
    network = LSTM(3, 4, reverse=reverse)
    x, h0, c0 = batch(network)
    module = nn.RNN(getattr(nn, cell)(4, param_dtype="float64"), return_carry=True, reverse=reverse, keep_order=True)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    rng = np.random.default_rng(7)
    variables = jax.tree.map(lambda v: rng.standard_normal(v.shape), shapes)
    (c_n, _), y = jax.jit(module.apply)(variables, x, initial_carry=(c0[0], h0[0]))
    found, params = from_flax(variables["params"]["cell"], reverse=reverse)
    assert found == network
    check(found, params, y, c_n[None])


@pytest.mark.parametrize("form", ["nnx", "nnx_optimized"])
def test_flax_nnx(library, form):
    """The cells of nnx, two layers: parameters from ours to Flax, and from Flax to ours."""
    library("jax")
    jax, nnx = pytest.importorskip("jax"), pytest.importorskip("flax.nnx")
    network = LSTM(3, 4, num_layers=2)
    kind = nnx.LSTMCell if form == "nnx" else nnx.OptimizedLSTMCell
    cells = []
    for size, arrays in zip((3, 4), to_flax(network, different(network, library("jax")), form=form), strict=True):
        cell = nnx.eval_shape(lambda size=size: kind(size, 4, rngs=nnx.Rngs(0)))
        state = nnx.state(cell, nnx.Param)
        nnx.replace_by_pure_dict(state, arrays)
        nnx.update(cell, state)
        cells.append(cell)

    @jax.jit
    def run(x, h0, c0):
        ends, y = [], x
        for k, cell in enumerate(cells):
            carry, outputs = (c0[k], h0[k]), []
            for t in range(x.shape[1]):
                carry, out = cell(carry, y[:, t])
                outputs.append(out)
            y = jax.numpy.stack(outputs, axis=1)
            ends.append(carry[0])
        return y, jax.numpy.stack(ends)

    found, params = from_flax(
        *(jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(cell, nnx.Param))) for cell in cells)
    )
    assert found == network
    check(found, params, *run(*batch(network)))


@pytest.mark.parametrize("bias", [True, False])
def test_equinox(library, bias):
    library("jax")
    jax, equinox = pytest.importorskip("jax"), pytest.importorskip("equinox")
    network = LSTM(3, 4, bias=bias)
    shape = jax.eval_shape(lambda: equinox.nn.LSTMCell(3, 4, use_bias=bias, key=jax.random.key(0)))
    (arrays,) = to_equinox(network, different(network, library("jax")))
    names = [name for name in arrays if arrays[name] is not None]
    cell = equinox.tree_at(lambda cell: [getattr(cell, n) for n in names], shape, [arrays[n] for n in names])
    found, params = from_equinox({n: np.asarray(v) if n in names else v for n, v in vars(cell).items()})
    assert found == network

    @jax.jit
    def row(x, state):
        outputs = []
        for step in x:
            state = cell(step, state)
            outputs.append(state[0])
        return jax.numpy.stack(outputs), state[1]

    x, h0, c0 = batch(network)
    rows = [row(x[n], (h0[0, n], c0[0, n])) for n in range(x.shape[0])]
    check(found, params, np.stack([y for y, _ in rows]), np.stack([c for _, c in rows])[None])


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("form", [*FORMS, "equinox"])
def test_the_equations_of_the_cells(form):
    """Gate by gate, as their sources write them: what is checked where neither library is installed."""
    network = LSTM(3, 4)
    rng = np.random.default_rng(8)
    ours = network.init(dtype="float64")
    params = tuple(type(p)(*(None if v is None else rng.standard_normal(v.shape) for v in p)) for p in ours)
    x, h, c = rng.standard_normal((2, 3)), rng.standard_normal((2, 4)), rng.standard_normal((2, 4))
    if form == "equinox":
        (cell,) = to_equinox(network, params)
        i, f, g, o = np.split(x @ cell["weight_ih"].T + h @ cell["weight_hh"].T + cell["bias"], 4, axis=-1)
    elif form == "nnx_optimized":
        (cell,) = to_flax(network, params, form=form)
        fused = x @ cell["dense_i"]["kernel"] + h @ cell["dense_h"]["kernel"] + cell["dense_h"]["bias"]
        i, f, g, o = np.split(fused, 4, axis=-1)
    else:
        (cell,) = to_flax(network, params, form=form)
        f_in = {"linen": "if", "nnx": "if_"}[form]
        i, f, g, o = (
            x @ cell[name]["kernel"] + h @ cell[f"h{gate}"]["kernel"] + cell[f"h{gate}"]["bias"]
            for gate, name in (("i", "ii"), ("f", f_in), ("g", "ig"), ("o", "io"))
        )
    c_next = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h_next = sigmoid(o) * np.tanh(c_next)
    y, state, _ = network.forward(params, x[:, None], State(h[None], c[None]))
    assert_close(y[:, 0], h_next)
    assert_close(state.c[0], c_next)


# ---------------------------------------------------------------------------- errors


def linen(D=3, H=4):
    cell = {name: {"kernel": np.ones((D, H))} for name in ("ii", "if", "ig", "io")}
    return cell | {name: {"kernel": np.ones((H, H)), "bias": np.ones(H)} for name in ("hi", "hf", "hg", "ho")}


def without(cell, layer, kind):
    return cell | {layer: {name: v for name, v in cell[layer].items() if name != kind}}


def changed(cell, layer, kind, value):
    return cell | {layer: cell[layer] | {kind: value}}


FLAX = {
    "no cell": ([], {}, TypeError, "at least one cell"),
    "no mapping": ([np.ones(3)], {}, TypeError, r"cells\[0\] must be a mapping"),
    "a whole model": ([{"cell": linen()}], {}, ValueError, "it has cell. Take the cell itself out"),
    "empty": ([{}], {}, ValueError, "it has nothing"),
    "a missing kernel": ([without(linen(), "ig", "kernel")], {}, ValueError, r"cells\[0\].ig.kernel is missing"),
    "a missing first kernel": ([without(linen(), "ii", "kernel")], {}, ValueError, r"cells\[0\].ii.kernel is missing"),
    "a missing bias": ([without(linen(), "hg", "bias")], {}, ValueError, r"cells\[0\].hg.bias is missing.*\(4,\)"),
    "one too many": (
        [changed(linen(), "ii", "bias", np.ones(4))], {}, ValueError, r"cells\[0\].ii.bias is no tensor of this LSTM",
    ),
    "misshapen": (
        [changed(linen(), "hf", "kernel", np.ones((4, 3)))],
        {}, ValueError, r"cells\[0\].hf.kernel must have shape \(H, H\) = \(4, 4\); got \(4, 3\): .*D = 3 and H = 4",
    ),
    "layers that do not follow": (
        [linen(), linen()], {}, ValueError, r"cells\[1\].ii.kernel must have shape \(D, H\) = \(4, 4\); got \(3, 4\)",
    ),
    "an odd number": ([linen()], {"bidirectional": True}, ValueError, "two cells, forward and reverse"),
    "both ways": ([linen(), linen()], {"bidirectional": True, "reverse": True}, ValueError, "reverse must be False"),
    "two forms": ([linen(), to_flax(LSTM(4, 4), LSTM(4, 4).init(dtype="float64"), form="nnx")[0]], {}, ValueError,
                  r"cells\[1\].if.kernel is missing"),
    "dtypes": ([changed(linen(), "hf", "bias", np.ones(4, "float32"))], {}, TypeError, r"cells\[0\].hf.bias"),
}  # fmt: skip


@pytest.mark.parametrize(("cells", "options", "kind", "message"), FLAX.values(), ids=FLAX)
def test_errors_of_flax(cells, options, kind, message):
    from_flax(linen())
    with pytest.raises(kind, match=message) as caught:
        from_flax(*cells, **options)
    assert "\n" not in str(caught.value)


def equinox_cell(D=3, H=4, **change):
    return {"weight_ih": np.ones((4 * H, D)), "weight_hh": np.ones((4 * H, H)), "bias": np.ones(4 * H)} | change


EQUINOX = {
    "no cell": ([], TypeError, "at least one cell"),
    "a missing matrix": ([{"weight_ih": np.ones((16, 3))}], ValueError, r"cells\[0\].weight_hh is missing"),
    "a GRU": ([equinox_cell(weight_hh=np.ones((15, 5)))], ValueError, "no multiple of 4. Three blocks would be a GRU"),
    "misshapen": (
        [equinox_cell(weight_ih=np.ones((3, 16)))], ValueError,
        r"cells\[0\].weight_ih must have shape \(4\*H, D\) = \(16, 16\); got \(3, 16\)",
    ),
    "one bias of two": (
        [equinox_cell(), equinox_cell(D=4, bias=None)], ValueError, r"cells\[1\].bias is missing.*\(16,\)",
    ),
    "one too many": ([equinox_cell(bias_n=np.ones(4))], ValueError, r"cells\[0\].bias_n is no tensor"),
}  # fmt: skip


@pytest.mark.parametrize(("cells", "kind", "message"), EQUINOX.values(), ids=EQUINOX)
def test_errors_of_equinox(cells, kind, message):
    from_equinox(equinox_cell())
    with pytest.raises(kind, match=message) as caught:
        from_equinox(*cells)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("convert", [to_flax, to_equinox])
@pytest.mark.parametrize(
    "network",
    [LSTM(3, 4, proj_size=2), LSTM(3, 4, peepholes=True), LSTM(3, 4, activations=("HardSigmoid", "Tanh", "Tanh"))],
    ids=["projection", "peepholes", "activations"],
)
def test_what_the_cells_lack(convert, network):
    with pytest.raises(ValueError, match="cannot hold a network with"):
        convert(network, network.init())


def test_forms_of_flax():
    with pytest.raises(ValueError, match="form must be one of linen, nnx, nnx_optimized; got 'haiku'"):
        to_flax(LSTM(3, 4), LSTM(3, 4).init(), form="haiku")
    names = [set(to_flax(LSTM(3, 4), LSTM(3, 4).init(), form=form)[0]) for form in FORMS]
    assert all(one != other for one, other in pairwise(names))

"""Converters of arrays by name, each against its system: its own code where it is here, else its equations anew.

Tensors are drawn in the foreign layout, every gate different, all sizes different; so a wrong order, transpose, sum or
name changes the outputs. The way back must give the same bits.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from problems import host, same_bits

from lstm_xp import LSTM, Direction, checks, parameters, weights
from lstm_xp.libraries import to_numpy
from lstm_xp.testing import assert_close
from lstm_xp.weights import gates

N, T, D, H, P = 2, 5, 3, 4, 2


def draw(shapes, seed=0):
    """Random float64 arrays of these shapes, by name."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) * 0.7 for name, shape in shapes.items()}


def parameters_of(network, seed=0, asarray=np.asarray):
    """Random parameters of a network: also those that init makes zeros or ones."""
    rng = np.random.default_rng(seed)
    params = []
    for index in range(network.num_layers * network.num_directions):
        shapes = parameters.shapes(network, index // network.num_directions)
        drawn = {name: asarray(rng.standard_normal(shape) * 0.7) for name, (_, shape) in shapes.items()}
        params.append(Direction(**drawn))
    return tuple(params)


def inputs(seed=1):
    return np.random.default_rng(seed).standard_normal((N, T, D))


def run(network, params, x, state=None):
    """Outputs of a network; plain cells by the reference engine, which others are compared with elsewhere."""
    return (replace(network, engine="array_api") if network.plain else network).forward(params, x, state)


def agree(converted, expected, x=None):
    """That the converted network computes what the system does."""
    y, state, _ = run(*converted, inputs() if x is None else x)
    y_expected, *states = expected
    assert_close(y, y_expected, steps=T * converted[0].num_layers, name="y")
    for name, part, other in zip("hc", state, states, strict=False):
        assert_close(part, other, steps=T * converted[0].num_layers, name=name)


def same(params, others):
    """That two tuples of parameters hold the same bits."""
    assert len(params) == len(others)
    for p, q in zip(params, others, strict=True):
        for name, v, w in zip(Direction._fields, p, q, strict=True):
            assert (v is None) == (w is None), name
            assert v is None or same_bits(to_numpy(v), to_numpy(w)), name


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def scan(step, x, R, H, reverse=False):
    """A cell over x (N, T, D) from zero states: outputs (N, T, R), and the last h and c."""
    h, c, outputs = np.zeros((len(x), R)), np.zeros((len(x), H)), {}
    for t in reversed(range(x.shape[1])) if reverse else range(x.shape[1]):
        h, c = step(x[:, t], h, c)
        outputs[t] = h
    return np.stack([outputs[t] for t in range(x.shape[1])], axis=1), h, c


def stack(steps, x, R, H, directions):
    """Layers of cells, each of one or two directions: outputs, all h, all c in the order of the steps."""
    h_n, c_n = [], []
    for first in range(0, len(steps), directions):
        runs = [scan(steps[first + k], x, R, H, reverse=k == 1) for k in range(directions)]
        x = np.concatenate([y for y, _, _ in runs], axis=-1)
        h_n += [h for _, h, _ in runs]
        c_n += [c for _, _, c in runs]
    return x, np.stack(h_n), np.stack(c_n)


# The table of orders


@pytest.mark.parametrize("order", [*sorted(set(gates.ORDERS.values())), "iof", "fio"])
@pytest.mark.parametrize("axis", [0, 1])
def test_orders_and_back(order, axis):
    """A block of each gate's own number comes to its own place, and back to where it was."""
    ours = [gate for gate in gates.OURS if gate in order]
    theirs = np.repeat([ours.index(gate) for gate in order], H)
    theirs = np.broadcast_to(theirs, (3, len(theirs)))
    theirs = theirs.T if axis == 0 else theirs
    found = gates.from_order(theirs, order, axis, np)
    expected = np.repeat(np.arange(len(order)), H)
    assert np.array_equal(found, np.broadcast_to(expected, (3, len(expected))).T if axis == 0 else found * 0 + expected)
    assert np.array_equal(gates.to_order(found, order, axis, np), theirs)


def test_every_order_has_each_gate_once():
    assert all(sorted(order) == sorted(gates.OURS) for order in gates.ORDERS.values())


# PyTorch

MODULES = [
    {},
    {"bias": False},
    {"num_layers": 2},
    {"num_layers": 3},
    {"bidirectional": True},
    {"proj_size": P},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "bidirectional": True, "proj_size": P},
    {"num_layers": 2, "bidirectional": True, "proj_size": P, "bias": False},
]


def state_dict_of(module):
    return {name: value.numpy() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("options", MODULES, ids=str)
@pytest.mark.parametrize("prefix", ["", "encoder.lstm."])
def test_pytorch(options, prefix):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.LSTM(D, H, batch_first=True, dtype=torch.float64, **options)
    state_dict = {prefix + name: value for name, value in state_dict_of(module).items()}
    state_dict["classifier.weight"] = np.ones((2, 2), dtype=np.float32)
    network, params = weights.from_pytorch(state_dict)
    assert network == LSTM(D, H, **options)

    rng, K = np.random.default_rng(2), network.num_layers * network.num_directions
    h0, c0 = rng.standard_normal((K, N, network.output_size)), rng.standard_normal((K, N, H))
    with torch.no_grad():
        y, (h_n, c_n) = module(torch.asarray(inputs()), (torch.asarray(h0), torch.asarray(c0)))
    found, state, _ = run(network, params, inputs(), (h0, c0))
    for name, mine, theirs in (("y", found, y), ("h", state.h, h_n), ("c", state.c, c_n)):
        assert_close(mine, theirs.numpy(), steps=T * network.num_layers, name=name)

    back = weights.to_pytorch(network, params, prefix=prefix)
    assert {name: v.shape for name, v in back.items()} == {
        name: v.shape for name, v in state_dict.items() if name != "classifier.weight"
    }
    module.load_state_dict({name.removeprefix(prefix): torch.asarray(v) for name, v in back.items()})
    with torch.no_grad():
        assert_close(module(torch.asarray(inputs()))[0].numpy(), run(network, params, inputs())[0], steps=3 * T)


@pytest.mark.parametrize("bias", [True, False])
def test_pytorch_cell(bias):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    cell = torch.nn.LSTMCell(D, H, bias=bias, dtype=torch.float64)
    network, params = weights.from_pytorch(state_dict_of(cell))
    x, h, c = torch.asarray(inputs()), torch.zeros(N, H, dtype=torch.float64), torch.zeros(N, H, dtype=torch.float64)
    with torch.no_grad():
        for t in range(T):
            h, c = cell(x[:, t], (h, c))
    _, state, _ = run(network, params, inputs())
    assert_close(state.h[0], h.numpy(), steps=T)
    assert_close(state.c[0], c.numpy(), steps=T)
    back = weights.to_pytorch(network, params, cell=True)
    assert back.keys() == state_dict_of(cell).keys()


def test_pytorch_tensors_stay_tensors():
    torch = pytest.importorskip("torch")
    module = torch.nn.LSTM(D, H, 2, dtype=torch.bfloat16)
    network, params = weights.from_pytorch(module.state_dict())
    assert isinstance(params[1].Wx, torch.Tensor)
    assert params[1].b.dtype == torch.bfloat16
    module.load_state_dict(weights.to_pytorch(network, params))


def test_pytorch_puts_the_bias_into_bias_ih():
    network = LSTM(D, H)
    back = weights.to_pytorch(network, parameters_of(network))
    assert np.all(back["bias_ih_l0"] != 0)
    assert not np.any(back["bias_hh_l0"])


# TensorFlow 1


def tensorflow_step(variables, scope, forget_bias):
    """LSTMCell.call: gates i, j, f, o of [x, h] @ kernel + bias; forget_bias on f; peepholes; projection."""
    v = {name.removeprefix(f"{scope}/"): array for name, array in variables.items() if name.startswith(f"{scope}/")}

    def step(x, h, c):
        i, j, f, o = np.split(np.concatenate([x, h], axis=1) @ v["kernel"] + v["bias"], 4, axis=1)
        if "w_i_diag" in v:
            f, i = f + v["w_f_diag"] * c, i + v["w_i_diag"] * c
        c = sigmoid(f + forget_bias) * c + sigmoid(i) * np.tanh(j)
        if "w_o_diag" in v:
            o = o + v["w_o_diag"] * c
        h = sigmoid(o) * np.tanh(c)
        return (h @ v["projection/kernel"] if "projection/kernel" in v else h), c

    return step


def tensorflow_shapes(scopes, width, peepholes=False, projection=0):
    R, found = projection or H, {}
    for k, scope in enumerate(scopes):
        found |= {f"{scope}/kernel": ((width if k else D) + R, 4 * H), f"{scope}/bias": (4 * H,)}
        if peepholes:
            found |= {f"{scope}/w_{gate}_diag": (H,) for gate in "ifo"}
        if projection:
            found[f"{scope}/projection/kernel"] = (H, projection)
    return found


CELLS = "model/rnn/multi_rnn_cell/cell_{}/basic_lstm_cell"


@pytest.mark.parametrize("forget_bias", [0.0, 1.0, 0.5])
@pytest.mark.parametrize(("peepholes", "projection"), [(False, 0), (True, 0), (False, P), (True, P)])
def test_tensorflow1(peepholes, projection, forget_bias):
    scopes = [CELLS.format(k) for k in range(3)]
    variables = draw(tensorflow_shapes(scopes, projection or H, peepholes, projection))
    expected = stack([tensorflow_step(variables, s, forget_bias) for s in scopes], inputs(), projection or H, H, 1)
    variables |= {f"{scopes[0]}/kernel/Adam": np.ones(3), "global_step": np.asarray(7), "out/kernel": np.ones((3, 3))}
    network, params = weights.from_tensorflow1(variables, forget_bias=forget_bias)
    assert network == LSTM(D, H, 3, peepholes=peepholes, proj_size=projection)
    agree((network, params), expected)
    again = weights.to_tensorflow1(network, params, prefix="model/rnn", forget_bias=forget_bias)
    agree(weights.from_tensorflow1(again, forget_bias=forget_bias), expected)


def test_tensorflow1_both_directions_of_each_layer():
    cell = "stack_bidirectional_rnn/cell_{}/bidirectional_rnn/{}/lstm_cell"
    scopes = [cell.format(layer, way) for layer in (0, 1) for way in ("fw", "bw")]
    shapes = tensorflow_shapes(scopes, 2 * H)
    shapes[f"{scopes[1]}/kernel"] = (D + H, 4 * H)
    variables = draw(shapes)
    expected = stack([tensorflow_step(variables, scope, 1) for scope in scopes], inputs(), H, H, 2)
    network, params = weights.from_tensorflow1({f"{name}:0": variables[name] for name in sorted(variables)})  # bw first
    assert network == LSTM(D, H, 2, bidirectional=True)
    agree((network, params), expected)
    assert weights.to_tensorflow1(network, params, prefix="stack_bidirectional_rnn").keys() == variables.keys()


def test_tensorflow1_two_stacks_are_two_networks():
    scopes = {way: [f"b_rnn/{way}/multi_rnn_cell/cell_{k}/lstm_cell" for k in (0, 1)] for way in ("fw", "bw")}
    variables = draw({k: v for each in scopes.values() for k, v in tensorflow_shapes(each, H).items()})
    with pytest.raises(ValueError, match="2 LSTMs found, choose one by name: 'b_rnn/fw/multi_rnn_cell', 'b_rnn"):
        weights.from_tensorflow1(variables)
    for way, reverse in (("fw", False), ("bw", True)):
        network, params = weights.from_tensorflow1(variables, prefix=f"b_rnn/{way}/multi_rnn_cell")
        assert network == LSTM(D, H, 2, reverse=reverse)
        x = inputs()[:, ::-1] if reverse else inputs()
        y, h, c = stack([tensorflow_step(variables, scope, 1) for scope in scopes[way]], x, H, H, 1)
        agree((network, params), (y[:, ::-1] if reverse else y, h, c))
        back = weights.to_tensorflow1(network, params)
        assert weights.from_tensorflow1(back)[0] == network


def test_tensorflow1_cells_for_cudnn_have_no_forget_bias():
    variables = draw(tensorflow_shapes(["rnn/cudnn_compatible_lstm_cell"], H))
    with pytest.raises(ValueError, match=r"pass forget_bias=0; got 1\.0"):
        weights.from_tensorflow1(variables)
    expected = stack([tensorflow_step(variables, "rnn/cudnn_compatible_lstm_cell", 0)], inputs(), H, H, 1)
    agree(weights.from_tensorflow1(variables, forget_bias=0), expected)


# cuDNN


def cudnn_steps(vector, layers, directions, bias):
    """The pieces by pseudo-layer and linLayerID of cudnnGetRNNWeightParams: 0-3 of x, 4-7 of h; i, f, g, o."""
    taken = 0

    def take(*shape):
        nonlocal taken
        taken += math.prod(shape)
        return vector[taken - math.prod(shape) : taken].reshape(shape)

    matrices = []
    for pseudo in range(layers * directions):
        width = D if pseudo < directions else directions * H
        matrices.append([take(H, width) for _ in range(4)] + [take(H, H) for _ in range(4)])
    slots = {"double": (True, True), "input": (True, False), "recurrent": (False, True), "none": (False, False)}[bias]
    steps = []
    for weight in matrices:
        biases = [take(H) if slots[linear > 3] else np.zeros(H) for linear in range(8)]

        def step(x, h, c, W=weight, b=biases):
            i, f, g, o = (x @ W[k].T + b[k] + h @ W[k + 4].T + b[k + 4] for k in range(4))
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            return sigmoid(o) * np.tanh(c), c

        steps.append(step)
    assert taken == len(vector)
    return steps


def cudnn_size(layers, directions, biases):
    widths = [D if layer == 0 else directions * H for layer in range(layers)]
    return sum(4 * H * (width + H + biases) * directions for width in widths)


@pytest.mark.parametrize("bias", ["double", "input", "recurrent", "none"])
@pytest.mark.parametrize(("layers", "directions"), [(1, 1), (1, 2), (3, 1), (2, 2)])
def test_cudnn(layers, directions, bias):
    biases = {"double": 2, "input": 1, "recurrent": 1, "none": 0}[bias]
    vector = draw({"": cudnn_size(layers, directions, biases)})[""]
    expected = stack(cudnn_steps(vector, layers, directions, bias), inputs(), H, H, directions)
    sizes = {"num_layers": layers, "bidirectional": directions == 2}
    network, params = weights.from_cudnn(vector, D, H, bias=bias, **sizes)
    assert network == LSTM(D, H, bias=biases > 0, **sizes)
    agree((network, params), expected)
    back = weights.to_cudnn(network, params, bias=bias)
    assert back.shape == vector.shape
    if biases < 2:
        assert same_bits(back, vector)
    same(weights.from_cudnn(back, D, H, bias=bias, **sizes)[1], params)


@pytest.mark.parametrize(("layers", "both"), [(1, False), (2, True)])
def test_cudnn_as_jax_unpacks_it(layers, both):
    jax = pytest.importorskip("jax")
    rnn = pytest.importorskip("jax.experimental.rnn")
    vector = draw({"": cudnn_size(layers, 1 + both, 2)})[""].astype(np.float32)
    K = layers * (1 + both)
    zeros = jax.numpy.zeros((K, N, H), dtype="float32")
    x, lengths = jax.numpy.asarray(inputs(), dtype="float32"), jax.numpy.full(N, T, dtype="int32")
    y, h, c = rnn.lstm_ref(
        x, zeros, zeros, *rnn.unpack_lstm_weights(jax.numpy.asarray(vector), D, H, layers, both), seq_lengths=lengths,
        input_size=D, hidden_size=H, num_layers=layers, dropout=0.0, bidirectional=both,
    )  # fmt: skip
    converted = weights.from_cudnn(vector, D, H, num_layers=layers, bidirectional=both)
    agree(converted, [np.asarray(v) for v in (y, h, c)], np.asarray(x))


# Chainer


def chainer_step(arrays, k):
    """NStepLSTM as its code has it: W_0, W_4 of i, W_1, W_5 of f, W_2, W_6 of the candidate, W_3, W_7 of o."""

    def step(x, h, c):
        z = [
            x @ arrays[f"rnn/{k}/w{j}"].T + arrays[f"rnn/{k}/b{j}"]
            + h @ arrays[f"rnn/{k}/w{j + 4}"].T + arrays[f"rnn/{k}/b{j + 4}"]
            for j in range(4)
        ]  # fmt: skip
        c = np.tanh(z[2]) * sigmoid(z[0]) + sigmoid(z[1]) * c
        return sigmoid(z[3]) * np.tanh(c), c

    return step


def chainer_shapes(count, directions, D=D):
    shapes = {}
    for k in range(count):
        width = D if k < directions else directions * H
        shapes |= {f"rnn/{k}/w{j}": (H, width if j < 4 else H) for j in range(8)}
        shapes |= {f"rnn/{k}/b{j}": (H,) for j in range(8)}
    return shapes


@pytest.mark.parametrize(("layers", "directions"), [(1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (2, 2)])
def test_chainer(layers, directions):
    arrays = draw(chainer_shapes(layers * directions, directions))
    expected = stack([chainer_step(arrays, k) for k in range(layers * directions)], inputs(), H, H, directions)
    network, params = weights.from_chainer({**arrays, "l1/W": np.ones((2, 2))})
    assert network == LSTM(D, H, layers, bidirectional=directions == 2)
    agree((network, params), expected)
    back = weights.to_chainer(network, params, prefix="rnn")
    assert {name: v.shape for name, v in back.items()} == {name: v.shape for name, v in arrays.items()}
    assert not np.any(back["rnn/0/b4"])


@pytest.mark.parametrize("directions", [1, 2])
def test_chainer_shapes_may_leave_the_directions_open(directions):
    arrays = draw(chainer_shapes(2, directions, D=H))
    with pytest.raises(ValueError, match="pass bidirectional=True or False"):
        weights.from_chainer(arrays)
    network, params = weights.from_chainer(arrays, bidirectional=directions == 2)
    x = np.random.default_rng(3).standard_normal((N, T, H))
    agree((network, params), stack([chainer_step(arrays, k) for k in (0, 1)], x, H, H, directions), x)


# haste


@pytest.mark.parametrize("zoneout", [0.0, 0.3])
@pytest.mark.parametrize("normalised", [False, True])
def test_haste(normalised, zoneout):
    torch = pytest.importorskip("torch")
    shapes = {"kernel": (D, 4 * H), "recurrent_kernel": (H, 4 * H), "bias": (4 * H,)}
    if normalised:
        shapes |= {"gamma": (2, 4 * H), "gamma_h": (H,), "beta_h": (H,)}
    arrays = draw(shapes)
    v = {name: torch.asarray(array) for name, array in arrays.items()}

    def norm(z, gain, bias=None):
        return torch.nn.functional.layer_norm(z, z.shape[-1:], gain, bias) if normalised else z

    def step(x, h, c):
        x, h, c = map(torch.asarray, (x, h, c))
        gain_x, gain_h = v["gamma"] if normalised else (None, None)
        z = norm(x @ v["kernel"], gain_x) + norm(h @ v["recurrent_kernel"], gain_h) + v["bias"]
        i, g, f, o = z.chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        new = o.sigmoid() * norm(c, v.get("gamma_h"), v.get("beta_h")).tanh()
        return (zoneout * h + (1 - zoneout) * new).numpy(), c.numpy()

    given = {f"a.{name}": array for name, array in arrays.items()}
    network, params = weights.from_haste(given, prefix="a.", zoneout=zoneout)
    for prefix in ("a", None):
        again = weights.from_haste(given, prefix=prefix, zoneout=zoneout)
        assert again[0] == network
        assert all(v is None or np.array_equal(v, w) for v, w in zip(again[1][0], params[0], strict=True))
    assert network == LSTM(D, H, layer_norm=normalised, zoneout_h=zoneout)
    agree((network, params), stack([step], inputs(), H, H, 1))
    back = weights.to_haste(network, params, prefix="a")
    assert back.keys() == given.keys()
    assert all(same_bits(back[name], array) for name, array in given.items())


# Core ML


@pytest.mark.parametrize("peephole", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("way", ["forward", "reverse", "bidirectional"])
def test_coreml(way, bias, peephole):
    ends = ("", "_back") if way == "bidirectional" else ("",)
    shapes = {}
    for end in ends:
        shapes |= {f"weight_ih{end}": (4 * H, D), f"weight_hh{end}": (4 * H, H)}
        shapes |= {f"bias{end}": (4 * H,)} if bias else {}
        shapes |= {f"peephole{end}": (3 * H,)} if peephole else {}
    v = draw(shapes)

    def cell(end):
        def step(x, h, c):
            z = x @ v[f"weight_ih{end}"].T + h @ v[f"weight_hh{end}"].T + v.get(f"bias{end}", 0.0)
            i, f, o, z = np.split(z, 4, axis=1)
            p_i, p_f, p_o = np.split(v[f"peephole{end}"], 3) if peephole else (0, 0, 0)
            c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * np.tanh(z)
            return sigmoid(o + p_o * c) * np.tanh(c), c

        return step

    x = inputs()[:, ::-1] if way == "reverse" else inputs()
    y, h, c = stack([cell(end) for end in ends], x, H, H, len(ends))
    network, params = weights.from_coreml({**v, "peephole_back": None, **v}, reverse=way == "reverse")
    agree((network, params), (y[:, ::-1] if way == "reverse" else y, h, c))
    back = weights.to_coreml(network, params)
    assert back.keys() == v.keys()
    assert all(same_bits(back[name], array) for name, array in v.items())


# All of them: ours -> theirs -> ours, in every array library


def cudnn_and_back(network, params):
    bias = "double" if network.bias else "none"
    options = {"num_layers": network.num_layers, "bidirectional": network.bidirectional, "bias": bias}
    return weights.from_cudnn(weights.to_cudnn(network, params, bias=bias), D, H, **options)


ROUND_TRIPS = {
    "pytorch": (
        lambda network, params: weights.from_pytorch(weights.to_pytorch(network, params, prefix="a"), prefix="a"),
        ({}, {"num_layers": 2, "bidirectional": True, "proj_size": P}, {"bias": False}),
    ),
    "pytorch cell": (
        lambda network, params: weights.from_pytorch(weights.to_pytorch(network, params, cell=True)),
        ({}, {"bias": False}),
    ),
    "tensorflow1": (
        lambda network, params: weights.from_tensorflow1(
            weights.to_tensorflow1(network, params, forget_bias=0), forget_bias=0
        ),
        ({"num_layers": 2, "bidirectional": True}, {"peepholes": True, "proj_size": P}, {"reverse": True}),
    ),
    "cudnn": (cudnn_and_back, ({"num_layers": 2, "bidirectional": True}, {"bias": False})),
    "chainer": (
        lambda network, params: weights.from_chainer(weights.to_chainer(network, params)),
        ({}, {"num_layers": 2, "bidirectional": True}),
    ),
    "haste": (
        lambda network, params: weights.from_haste(weights.to_haste(network, params)),
        ({}, {"layer_norm": True}),
    ),
    "coreml": (
        lambda network, params: weights.from_coreml(weights.to_coreml(network, params), reverse=network.reverse),
        ({"reverse": True}, {"bidirectional": True, "peepholes": True}, {"bias": False}),
    ),
}


@pytest.mark.parametrize("system", ROUND_TRIPS)
def test_there_and_back_is_exact(lib, system):
    there_and_back, configurations = ROUND_TRIPS[system]
    for options in configurations:
        network = LSTM(D, H, **options)
        params = parameters_of(network, asarray=lambda v: lib.asarray(v, "float32"))
        again, found = there_and_back(network, params)
        assert again == network
        for p, q in zip(params, found, strict=True):
            for name, v, w in zip(Direction._fields, p, q, strict=True):
                assert (v is None) == (w is None), name
                if v is not None:
                    assert checks.array_library(checks.namespace(w)) == checks.array_library(checks.namespace(v))
                    mine, theirs = host({"mine": v, "theirs": w}).values()
                    assert same_bits(mine, theirs), name


# What cannot be converted


def lstm_tensors(prefix="", **options):
    network = LSTM(D, H, **options)
    return weights.to_pytorch(network, parameters_of(network), prefix=prefix)


def changed(tensors, drop=(), **more):
    return {name: v for name, v in tensors.items() if name not in drop} | more


def zeros(*shape):
    return np.zeros(shape)


BOTH = LSTM(D, H, bidirectional=True)
WRONG = {
    "nothing there": (lambda: weights.from_pytorch({"linear.weight": zeros(2, 2)}), "from_pytorch: no LSTM found"),
    "empty": (lambda: weights.from_pytorch({}), "from_pytorch: no LSTM found"),
    "no mapping": (lambda: weights.from_pytorch([zeros(2, 2)]), "the tensors must be a mapping .* got list"),
    "two to choose from": (
        lambda: weights.from_pytorch({**lstm_tensors("encoder"), **lstm_tensors("decoder.lstm")}),
        "2 LSTMs found, choose one by name: 'encoder', 'decoder.lstm'",
    ),
    "unknown prefix": (
        lambda: weights.from_pytorch(lstm_tensors("encoder"), prefix="decoder"),
        "no LSTM is called 'decoder'; found: 'encoder'",
    ),
    "a missing layer": (
        lambda: weights.from_pytorch(changed(lstm_tensors(num_layers=3), drop=("weight_ih_l1",))),
        r"weight_ih_l1 is missing; it must have shape \(4\*H, 1\*R\) = \(16, 4\): the names tell of 3 layer\(s\)",
    ),
    "a layer missing altogether": (
        lambda: weights.from_pytorch({name: v for name, v in lstm_tensors(num_layers=3).items() if "_l1" not in name}),
        r"weight_ih_l1 is missing; .*: the names tell of 3 layer\(s\)",
    ),
    "a missing bias": (
        lambda: weights.from_pytorch(changed(lstm_tensors("a"), drop=("a.bias_hh_l0",))),
        r"a.bias_hh_l0 is missing; it must have shape \(4\*H,\) = \(16,\): .* a bias, no projection",
    ),
    "a missing direction": (
        lambda: weights.from_pytorch(changed(lstm_tensors(bidirectional=True), drop=("weight_hh_l0_reverse",))),
        "weight_hh_l0_reverse is missing; .* 2 direction",
    ),
    "the first missing": (
        lambda: weights.from_pytorch(changed(lstm_tensors("a"), drop=("a.weight_ih_l0",))),
        "a.weight_ih_l0 is missing, beside a.weight_hh_l0",
    ),
    "one too many": (
        lambda: weights.from_pytorch({**lstm_tensors("a"), "a.weight_hh_l0_g": zeros(3)}),
        "a.weight_hh_l0_g is no tensor of this LSTM: the names tell of 1 layer",
    ),
    "misshapen": (
        lambda: weights.from_pytorch(lstm_tensors(num_layers=2) | {"weight_ih_l1": zeros(16, 5)}),
        r"weight_ih_l1 must have shape \(4\*H, 1\*R\) = \(16, 4\); got \(16, 5\): .* weight_hh_l0 of H = 4",
    ),
    "transposed": (
        lambda: weights.from_pytorch(lstm_tensors(num_layers=2, proj_size=P) | {"weight_hr_l1": zeros(4, 2)}),
        r"weight_hr_l1 must have shape \(P, H\) = \(2, 4\); got \(4, 2\): .* It is the transpose",
    ),
    "a GRU": (
        lambda: weights.from_pytorch({"weight_ih_l0": zeros(12, 3), "weight_hh_l0": zeros(12, 4)}, prefix=""),
        r"weight_hh_l0 \(12, 4\) belongs to a GRU, not to an LSTM",
    ),
    "an RNN": (
        lambda: weights.from_pytorch({"weight_ih_l0": zeros(4, 3), "weight_hh_l0": zeros(4, 4)}, prefix=""),
        r"belongs to a plain RNN",
    ),
    "no four blocks": (
        lambda: weights.from_pytorch({"weight_ih_l0": zeros(15, 3), "weight_hh_l0": zeros(15, 4)}),
        "weight_hh_l0 must have 4\\*H rows, H for each of four gates; got 15, no multiple of 4. Three blocks",
    ),
    "other H": (
        lambda: weights.from_pytorch({"weight_ih_l0": zeros(16, 3), "weight_hh_l0": zeros(16, 5)}),
        r"weight_hh_l0 must have shape \(4\*H, R\) = \(16, 4\); got \(16, 5\)",
    ),
    "a vector": (
        lambda: weights.from_pytorch({"weight_ih_l0": zeros(16), "weight_hh_l0": zeros(16, 4)}),
        r"weight_ih_l0 must have shape \(4\*H, D\), no size 0; got \(16,\)",
    ),
    "no array": (
        lambda: weights.from_pytorch({"weight_ih_l0": zeros(16, 3), "weight_hh_l0": [1, 2]}),
        r"weight_hh_l0 must have shape \(4\*H, R\), no size 0; got \(\)",
    ),
    "empty input": (
        lambda: weights.from_pytorch({"weight_ih_l0": zeros(16, 0), "weight_hh_l0": zeros(16, 4)}),
        r"weight_ih_l0 must have shape \(4\*H, D\), no size 0; got \(16, 0\)",
    ),
    "integers": (
        lambda: weights.from_pytorch({name: v.astype(np.int8) for name, v in lstm_tensors().items()}),
        "floating dtype .* got int8",
    ),
    "two dtypes": (
        lambda: weights.from_pytorch(lstm_tensors() | {"bias_ih_l0": zeros(16).astype(np.float32)}),
        "must share one dtype",
    ),
    "PyTorch has no peepholes": (
        lambda: weights.to_pytorch(LSTM(D, H, peepholes=True), ()),
        "torch.nn.LSTM cannot hold a network with peepholes=True",
    ),
    "PyTorch has no reverse": (lambda: weights.to_pytorch(LSTM(D, H, reverse=True), ()), "with reverse=True"),
    "PyTorch has no zoneout": (lambda: weights.to_pytorch(LSTM(D, H, zoneout_c=0.1), ()), "with zoneout_c=0.1"),
    "PyTorch has no other activations": (
        lambda: weights.to_pytorch(LSTM(D, H, activations=("HardSigmoid", "Tanh", "Tanh")), ()),
        "with activations=",
    ),
    "a cell has one layer": (
        lambda: weights.to_pytorch(LSTM(D, H, num_layers=2), (), cell=True),
        "torch.nn.LSTMCell cannot hold a network with num_layers=2",
    ),
    "parameters of another network": (
        lambda: weights.to_pytorch(LSTM(D, H), parameters_of(LSTM(D + 1, H))),
        r"to_pytorch: Wx of params\[0\] .* must have shape \(D, 4\*H\) = \(3, 16\); got \(4, 16\)",
    ),
    "TensorFlow: no kernel": (lambda: weights.from_tensorflow1({"a": zeros(3)}), "from_tensorflow1: no LSTM found"),
    "TensorFlow: a gap": (
        lambda: weights.from_tensorflow1(draw(tensorflow_shapes([CELLS.format(0), CELLS.format(2)], H))),
        r"model/rnn/multi_rnn_cell has no cell for layer 1, fw; its scopes tell of 3 layer",
    ),
    "TensorFlow: a GRU's gates": (
        lambda: weights.from_tensorflow1({"r/gates/kernel": zeros(7, 9), "r/gates/bias": zeros(9)}),
        "r/gates/kernel must have 4\\*H columns, .* got 9, no multiple of 4. Three blocks would be a GRU",
    ),
    "TensorFlow: too few rows": (
        lambda: weights.from_tensorflow1({"r/c/kernel": zeros(4, 16), "r/c/bias": zeros(16)}),
        "r/c/kernel must have D \\+ R rows, more than R = 4; got 4",
    ),
    "TensorFlow: a missing peephole": (
        lambda: weights.from_tensorflow1(changed(draw(tensorflow_shapes(["r/c"], H, True)), drop=("r/c/w_o_diag",))),
        r"r/c/w_o_diag is missing; it must have shape \(H,\) = \(4,\): r/c/kernel \(7, 16\) tells of H = 4",
    ),
    "TensorFlow: misshapen": (
        lambda: weights.from_tensorflow1(
            draw(tensorflow_shapes([CELLS.format(0), CELLS.format(1)], H)) | {CELLS.format(1) + "/kernel": zeros(7, 16)}
        ),
        r"cell_1/basic_lstm_cell/kernel must have shape \(D \+ R, 4\*H\) = \(8, 16\); got \(7, 16\)",
    ),
    "TensorFlow has no coupling": (lambda: weights.to_tensorflow1(LSTM(D, H, coupled=True), ()), "with coupled=True"),
    "cuDNN: other size": (
        lambda: weights.from_cudnn(zeros(100), D, H),
        r"weights must have shape \(144,\) for D = 3, H = 4, 1 layer\(s\), .* bias='double'; got \(100,\)",
    ),
    "cuDNN: other bias": (lambda: weights.from_cudnn(zeros(112), D, H), "It would be that of bias='none'"),
    "cuDNN: unknown bias": (lambda: weights.from_cudnn(zeros(112), D, H, bias="all"), "bias must be one of double"),
    "cuDNN: lost bias": (
        lambda: weights.to_cudnn(LSTM(D, H), parameters_of(LSTM(D, H)), bias="none"),
        "bias='none' would lose the network's bias",
    ),
    "cuDNN: projection": (lambda: weights.to_cudnn(LSTM(D, H, proj_size=P), ()), "with proj_size=2"),
    "cuDNN: no array": (lambda: weights.from_cudnn([0.0] * 144, D, H), "weights must be an array; got list"),
    "Chainer: nothing": (lambda: weights.from_chainer({"W": zeros(2, 2)}), "no name ends in /0/w0"),
    "Chainer: missing": (
        lambda: weights.from_chainer(changed(draw(chainer_shapes(2, 1)), drop=("rnn/1/b7",))),
        r"rnn/1/b7 is missing; it must have shape \(H,\) = \(4,\): rnn/0/w0 \(4, 3\) and 2 sets of parameters",
    ),
    "Chainer: first missing": (
        lambda: weights.from_chainer(changed(draw(chainer_shapes(2, 1)), drop=("rnn/0/w0",))),
        "rnn/0/w0 is missing",
    ),
    "Chainer: odd": (
        lambda: weights.from_chainer(draw(chainer_shapes(3, 1)), bidirectional=True),
        "3 sets of parameters are no multiple of 2 directions",
    ),
    "Chainer has no projection": (lambda: weights.to_chainer(LSTM(D, H, proj_size=P), ()), "with proj_size=2"),
    "haste: missing": (lambda: weights.from_haste({"recurrent_kernel": zeros(4, 16)}), "kernel is missing; there"),
    "haste: none": (lambda: weights.from_haste({"kernel": zeros(3, 16)}), "no name ends with recurrent_kernel"),
    "haste: two": (
        lambda: weights.from_haste({f"{name}.recurrent_kernel": zeros(4, 16) for name in "ab"}),
        "2 LSTMs found, choose one by name: 'a', 'b'",
    ),
    "haste: half normalised": (
        lambda: weights.from_haste(
            draw({"kernel": (D, 4 * H), "recurrent_kernel": (H, 4 * H), "bias": (4 * H,), "gamma_h": (H,)})
        ),
        r"gamma is missing; it must have shape \(2, 4\*H\) = \(2, 16\): recurrent_kernel tells of H = 4",
    ),
    "haste has one layer": (lambda: weights.to_haste(LSTM(D, H, 2), ()), "with num_layers=2"),
    "Core ML: missing": (lambda: weights.from_coreml({"weight_ih": zeros(16, 3)}), "weight_hh is missing; there are w"),
    "Core ML: extra": (
        lambda: weights.from_coreml({"weight_ih": zeros(16, 3), "weight_hh": zeros(16, 4), "bias_ih": zeros(16)}),
        "bias_ih is no tensor of this LSTM: weight_hh tells of H = 4",
    ),
    "Core ML: one bias of two": (
        lambda: weights.from_coreml(
            changed(weights.to_coreml(BOTH, parameters_of(BOTH)), drop=("bias_back",))
        ),
        "bias_back is missing",
    ),
    "Core ML has one layer": (lambda: weights.to_coreml(LSTM(D, H, 2), ()), "with num_layers=2"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_errors_name_the_tensor_and_what_the_others_imply(case):
    call, message = WRONG[case]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_prefix_with_and_without_its_dot():
    for prefix in ("a.b", "a.b."):
        assert weights.from_pytorch(lstm_tensors("a.b"), prefix=prefix)[0] == LSTM(D, H)
        assert "a.b.weight_ih_l0" in weights.to_pytorch(LSTM(D, H), LSTM(D, H).init(), prefix=prefix)


def test_nothing_is_written_into_the_tensors():
    for tensors, convert in (
        (lstm_tensors(), weights.from_pytorch),
        (draw(tensorflow_shapes(["r/c"], H)), weights.from_tensorflow1),
    ):
        before = {name: v.copy() for name, v in tensors.items()}
        for v in tensors.values():
            v.setflags(write=False)
        network, params = convert(tensors)
        run(network, params, inputs())
        assert all(same_bits(tensors[name], v) for name, v in before.items())


def test_public_names_are_where_the_table_says():
    for name in weights.__all__:
        assert getattr(weights, name) is not None
    assert dir(weights) == weights.__all__
    with pytest.raises(AttributeError, match="no attribute 'from_nowhere'"):
        weights.from_nowhere  # noqa: B018


@pytest.mark.parametrize("format", ["pytorch", "equinox", "chainer", "coreml", "cudnn"])
def test_weights_come_row_after_row(format):
    """The transposes of what others hold, as steps and products read them."""
    network = LSTM(3, 5)
    params = network.init()
    theirs = getattr(weights, f"to_{format}")(network, params)
    options = {"input_size": 3, "hidden_size": 5} if format == "cudnn" else {}
    given = theirs if isinstance(theirs, tuple) else (theirs,)
    _, (p,) = getattr(weights, f"from_{format}")(*given, **options)
    for name in ("Wx", "Wh"):
        assert getattr(p, name).flags.c_contiguous, name
        assert np.array_equal(getattr(p, name), getattr(params[0], name)), name

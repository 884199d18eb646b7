"""`onnx_lstm` against the node tests of the onnx package, against onnxruntime, and against its equations in a loop."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import skip_without

import lstm_xp
from lstm_xp import onnx_lstm
from lstm_xp.libraries import to_numpy
from lstm_xp.testing import assert_close, limit

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
OUTPUTS = ("Y", "Y_h", "Y_c")
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}

# Name -> (function of z and its constants, constants that are no one's default).
ACTIVATIONS = {
    "Sigmoid": (lambda z: 1 / (1 + np.exp(-z)), ()),
    "Tanh": (np.tanh, ()),
    "Relu": (lambda z: np.maximum(z, 0), ()),
    "Affine": (lambda z, alpha, beta: alpha * z + beta, (0.7, 0.2)),
    "LeakyRelu": (lambda z, alpha: np.where(z >= 0, z, alpha * z), (0.3,)),
    "ThresholdedRelu": (lambda z, alpha: np.where(z >= alpha, z, 0), (0.2,)),
    "ScaledTanh": (lambda z, alpha, beta: alpha * np.tanh(beta * z), (0.8, 0.9)),
    "HardSigmoid": (lambda z, alpha, beta: np.clip(alpha * z + beta, 0, 1), (0.3, 0.4)),
    "Elu": (lambda z, alpha: np.where(z >= 0, z, alpha * (np.exp(z) - 1)), (0.6,)),
    "Softsign": (lambda z: z / (1 + np.abs(z)), ()),
    "Softplus": (lambda z: np.log1p(np.exp(z)), ()),
}
# What the operators of these names take where no constant is given.
DEFAULTS = {
    "LeakyRelu": (0.01,),
    "ThresholdedRelu": (1.0,),
    "HardSigmoid": (0.2, 0.5),
    "Elu": (1.0,),
    "Affine": (1.0, 0.0),
    "ScaledTanh": (1.0, 1.0),
}

searched = settings(max_examples=200, deadline=None, derandomize=True, database=None)


def random_inputs(T=5, N=4, D=3, H=2, dirs=1, seed=0):
    """All eight inputs by name: float64 arrays that float32 holds, none of them zero, no two sizes alike."""
    rng = np.random.default_rng(seed)
    scales = {
        "X": ((T, N, D), 1), "W": ((dirs, 4 * H, D), D**-0.5), "R": ((dirs, 4 * H, H), 0.5 * H**-0.5),
        "B": ((dirs, 8 * H), 0.5), "initial_h": ((dirs, N, H), 0.5), "initial_c": ((dirs, N, H), 0.5),
        "P": ((dirs, 3 * H), 0.5),
    }  # fmt: skip
    inputs = {name: (scale * rng.standard_normal(shape)).astype("float32") for name, (shape, scale) in scales.items()}
    lengths = rng.integers(0, T + 1, N)
    return {name: value.astype("float64") for name, value in inputs.items()} | {"sequence_lens": lengths}


def loop(X, W, R, B=None, sequence_lens=None, initial_h=None, initial_c=None, P=None, *, direction="forward",
         activations=None, constants=None, clip=None, input_forget=0):  # fmt: skip
    """The equations of the specification, layout 0: a row, a step at a time."""
    (T, N, _), (dirs, _, H) = X.shape, R.shape
    Y = np.zeros((T, dirs, N, H))
    Y_h = np.zeros((dirs, N, H)) if initial_h is None else initial_h.copy()
    Y_c = np.zeros((dirs, N, H)) if initial_c is None else initial_c.copy()
    names = activations or ("Sigmoid", "Tanh", "Tanh") * dirs
    constants = constants or [DEFAULTS.get(name, ()) for name in names]
    functions = [lambda z, k=k: ACTIVATIONS[names[k]][0](z, *constants[k]) for k in range(3 * dirs)]
    limit = np.inf if clip is None else clip
    for k in range(dirs):
        F, G, H_ = functions[3 * k : 3 * k + 3]
        f = lambda z, F=F: F(np.clip(z, -limit, limit))  # noqa: E731
        g = lambda z, G=G: G(np.clip(z, -limit, limit))  # noqa: E731
        Wi, Wo, Wf, Wc = np.split(W[k], 4)
        Ri, Ro, Rf, Rc = np.split(R[k], 4)
        Wbi, Wbo, Wbf, Wbc, Rbi, Rbo, Rbf, Rbc = np.split(np.zeros(8 * H) if B is None else B[k], 8)
        Pi, Po, Pf = np.split(np.zeros(3 * H) if P is None else P[k], 3)
        for n in range(N):
            steps = range(T if sequence_lens is None else int(sequence_lens[n]))
            for t in steps[::-1] if direction == "reverse" or k == 1 else steps:
                x, h, c = X[t, n], Y_h[k, n], Y_c[k, n]
                i = f(Wi @ x + Ri @ h + Pi * c + Wbi + Rbi)
                forget = 1 - i if input_forget else f(Wf @ x + Rf @ h + Pf * c + Wbf + Rbf)
                new = forget * c + i * g(Wc @ x + Rc @ h + Wbc + Rbc)
                o = f(Wo @ x + Ro @ h + Po * new + Wbo + Rbo)
                Y[t, k, n] = Y_h[k, n] = o * H_(new)
                Y_c[k, n] = new
    return Y, Y_h, Y_c


def compare(results, expected, like, steps):
    assert len(results) == len(expected) == 3
    for name, result, right in zip(OUTPUTS, results, expected, strict=True):
        assert_close(result, right, like=like, steps=steps, name=name)


def close(results, expected, dtype, steps):
    """Equal but for rounding, where sizes of 1 may cancel: each array against what it was computed from, 1 or more."""
    for name, result, right in zip(OUTPUTS, results, expected, strict=True):
        assert result.dtype == dtype, name
        assert result.shape == right.shape, name
        error, scale = np.max(np.abs(result - right)), max(1.0, np.max(np.abs(right)))
        assert error <= limit(dtype, "forward", steps) * scale, name


def constants_of(names):
    """The attributes activation_alpha and activation_beta for the constants of `ACTIVATIONS`."""
    values = [ACTIVATIONS[name][1] for name in names]
    alphas = [value[0] for value in values if value]
    betas = [value[1] for value in values if len(value) == 2]
    return {"activation_alpha": alphas or None, "activation_beta": betas or None}, values


# ---------------------------------------------------------------------------- the node tests of the onnx package


def node_tests():
    """The package's node tests whose model is one LSTM node: (name, attributes, inputs, outputs), by argument name."""
    pytest.importorskip("onnx.backend.test.case.node.lstm")
    from onnx import helper, numpy_helper
    from onnx.backend.test.case import node as cases

    found = []
    for case in cases._NodeTestCases:
        nodes = case.model.graph.node
        if not any(node.op_type == "LSTM" for node in nodes):
            continue
        (node,) = nodes
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
        arrays = [numpy_helper.to_array(v) if not isinstance(v, np.ndarray) else v for v in case.data_sets[0][0]]
        graph_inputs = [value.name for value in case.model.graph.input]
        by_name = dict(zip(graph_inputs, arrays, strict=True))
        inputs = {INPUTS[place]: by_name[name] for place, name in enumerate(node.input) if name}
        outputs = dict(zip([v.name for v in case.model.graph.output], case.data_sets[0][1], strict=True))
        wanted = {OUTPUTS[place]: outputs[name] for place, name in enumerate(node.output) if name}
        found.append((case.name, attributes, inputs, wanted))
    return found


@pytest.mark.without("jax", "dask")
def test_node_tests_of_the_onnx_package(lib):
    tests = node_tests()
    assert len(tests) >= 4  # onnx 1.14 to 1.22 have four, later ones six
    for name, attributes, inputs, wanted in tests:
        arrays = {key: lib.asarray(value) for key, value in inputs.items()}
        results = dict(zip(OUTPUTS, onnx_lstm(**arrays, **attributes), strict=True))
        assert wanted
        for key, value in wanted.items():
            assert_close(results[key], value, like=arrays["X"], steps=inputs["X"].shape[0], name=f"{name}: {key}")


def test_no_node_test_is_missed():
    """The file of the LSTM's tests is the only one of the onnx package that makes an LSTM node."""
    from pathlib import Path

    cases = pytest.importorskip("onnx.backend.test.case.node")
    files = Path(cases.__file__).parent.rglob("*.py")
    makers = {file.name for file in files if '"LSTM"' in file.read_text(encoding="utf-8")}
    assert makers == {"lstm.py"}


# ---------------------------------------------------------------------------- the equations in a loop


@pytest.mark.parametrize("coupled", [0, 1])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.without("jax", "dask")
def test_is_the_equations_in_a_loop(direction, coupled, lib):
    """All inputs at once, unequal functions, clipping."""
    dirs = DIRECTIONS[direction]
    inputs = random_inputs(dirs=dirs, seed=1)
    inputs["sequence_lens"] = np.array([3, 0, 5, 1])
    names = ("HardSigmoid", "ScaledTanh", "Affine", "Sigmoid", "LeakyRelu", "Elu")[: 3 * dirs]
    given, constants = constants_of(names)
    attributes = {"activations": names, "clip": 0.6, "direction": direction, "input_forget": coupled}
    arrays = {k: v if k == "sequence_lens" else lib.asarray(v) for k, v in inputs.items()}
    results = onnx_lstm(**arrays, **attributes, **given, hidden_size=2)
    compare(results, loop(**inputs, **attributes, constants=constants), arrays["X"], 5)


@pytest.mark.parametrize("name", ["jax", "dask"])
def test_libraries_that_take_their_time(name, library):
    """JAX compiles each operation, dask plans it: one case for all."""
    lib, inputs = library(name), random_inputs(T=2, dirs=2, seed=1) | {"sequence_lens": np.array([2, 0, 1, 2])}
    arrays = {k: v if k == "sequence_lens" else lib.asarray(v) for k, v in inputs.items()}
    attributes = {"clip": 0.6, "direction": "bidirectional"}
    compare(onnx_lstm(**arrays, **attributes), loop(**inputs, **attributes), arrays["X"], 2)


@pytest.mark.parametrize("left_out", [(), ("B",), ("P",), ("initial_h",), ("initial_c",), INPUTS[3:]], ids=str)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_optional_inputs_are_zeros(direction, left_out):
    inputs = random_inputs(dirs=DIRECTIONS[direction], seed=2)
    inputs = {name: value for name, value in inputs.items() if name not in left_out}
    results = onnx_lstm(**inputs, direction=direction)
    compare(results, loop(**inputs, direction=direction), inputs["X"], 5)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("place", [0, 1, 2], ids=["f", "g", "h"])
def test_activations(name, place):
    """Each function in each place, with constants and with the defaults; names in any case."""
    inputs = random_inputs(seed=3)
    names = ["Sigmoid", "Tanh", "Tanh"]
    names[place] = name
    attributes, constants = constants_of(names)
    shouted = [name.upper() for name in names]
    compare(
        onnx_lstm(**inputs, activations=shouted, **attributes),
        loop(**inputs, activations=names, constants=constants),
        inputs["X"],
        5,
    )
    compare(onnx_lstm(**inputs, activations=names), loop(**inputs, activations=names), inputs["X"], 5)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.without("jax", "dask")
def test_layout_1_is_layout_0_with_axes_exchanged(direction, lib):
    inputs = random_inputs(dirs=DIRECTIONS[direction], seed=4)
    arrays = {k: v if k == "sequence_lens" else lib.asarray(v) for k, v in inputs.items()}
    batch_major = {
        k: lib.asarray(np.ascontiguousarray(np.swapaxes(v, 0, 1)))
        if k in ("X", "initial_h", "initial_c")
        else arrays[k]
        for k, v in inputs.items()
    }
    Y, Y_h, Y_c = onnx_lstm(**arrays, direction=direction)
    expected = (np.transpose(to_numpy(Y), (2, 0, 1, 3)), *(np.swapaxes(to_numpy(v), 0, 1) for v in (Y_h, Y_c)))
    results = onnx_lstm(**batch_major, direction=direction, layout=1)
    compare(results, expected, arrays["X"], 5)
    with pytest.raises(ValueError, match=r"initial_h must have shape \(N, dirs, H\)"):
        onnx_lstm(**(batch_major | {"initial_h": arrays["initial_h"]}), direction=direction, layout=1)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "peepholes"])
@pytest.mark.without("jax", "dask")
def test_dtypes(dtype, plain, lib):
    """The dtype stays; half types are within their tolerance of the float64 result of the same numbers."""
    skip_without(lib, dtype)
    inputs = random_inputs(dirs=2, seed=5)
    lengths = inputs.pop("sequence_lens")
    if plain:
        del inputs["P"]
    arrays = {name: lib.asarray(value, dtype) for name, value in inputs.items()}
    exact = {name: to_numpy(array).astype("float64") for name, array in arrays.items()}
    results = onnx_lstm(**arrays, sequence_lens=lengths, direction="bidirectional")
    compare(results, loop(**exact, sequence_lens=lengths, direction="bidirectional"), arrays["X"], 5)


@pytest.mark.without("jax", "dask")
def test_lengths_as_integers_of_any_kind(lib):
    inputs = random_inputs(seed=6)
    arrays = {k: v if k == "sequence_lens" else lib.asarray(v) for k, v in inputs.items()}
    lengths = [2, 5, 0, 3]
    expected = loop(**(inputs | {"sequence_lens": lengths}))
    for kind in (lengths, np.array(lengths, np.int32), lib.asarray(np.array(lengths, np.int32))):
        compare(onnx_lstm(**(arrays | {"sequence_lens": kind})), expected, arrays["X"], 5)


@pytest.mark.parametrize(("T", "N"), [(0, 4), (3, 0), (0, 0)])
@pytest.mark.parametrize("peepholes", [True, False])
def test_nothing_to_do(T, N, peepholes):
    """No steps: the final states are the initial ones."""
    inputs = random_inputs(T=T, N=N, dirs=2)
    if not peepholes:
        del inputs["P"]
    Y, Y_h, Y_c = onnx_lstm(**inputs, direction="bidirectional")
    assert Y.shape == (T, 2, N, 2)
    assert np.array_equal(Y_h, inputs["initial_h"])
    assert np.array_equal(Y_c, inputs["initial_c"])


# ---------------------------------------------------------------------------- onnxruntime, the second witness


def runtime(inputs, **attributes):
    """Y, Y_h, Y_c of onnxruntime: float32, and int32 for the lengths."""
    onnxruntime = pytest.importorskip("onnxruntime")
    helper = pytest.importorskip("onnx.helper")
    given = {name: np.asarray(value, "int32" if name == "sequence_lens" else "float32")
             for name, value in inputs.items() if value is not None}  # fmt: skip
    names = [name if name in given else "" for name in INPUTS]
    attributes = {name: value for name, value in attributes.items() if value is not None}
    node = helper.make_node("LSTM", names, OUTPUTS, **attributes)
    of_type = helper.np_dtype_to_tensor_dtype
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(name, of_type(value.dtype), value.shape) for name, value in given.items()],
        [helper.make_tensor_value_info(name, of_type(np.dtype("float32")), None) for name in OUTPUTS],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it refuses is raised as well
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, given)


@st.composite
def cases(draw, lengths_from=1):
    """Inputs and attributes that onnxruntime takes and that mean the same there: no empty rows, constants given."""
    direction = draw(st.sampled_from(sorted(DIRECTIONS)))
    dirs = DIRECTIONS[direction]
    T, N, D, H = (draw(st.integers(1, most)) for most in (6, 4, 4, 9))
    inputs = random_inputs(T, N, D, H, dirs, seed=draw(st.integers(0, 2**32 - 1)))
    inputs["sequence_lens"] = draw(st.none() | st.lists(st.integers(lengths_from, T), min_size=N, max_size=N))
    for name in draw(st.sets(st.sampled_from(("B", "initial_h", "initial_c", "P")))):
        inputs[name] = None
    # Gates that are not bounded make the states grow from step to step, and the rounding errors with them.
    gates = st.sampled_from(("Sigmoid", "HardSigmoid", "Tanh", "Softsign"))
    cells = st.sampled_from(sorted(ACTIVATIONS))
    names = draw(st.none() | st.tuples(*(gates, cells, cells) * dirs))
    constants, values = constants_of(names) if names else ({}, None)
    attributes = {
        "direction": direction,
        "activations": names,
        "clip": draw(st.none() | st.sampled_from((0.3, 1.0, 4.0))),
        "input_forget": draw(st.sampled_from((0, 1))),
    }
    return inputs, attributes, constants, values, H


@searched
@given(case=cases())
def test_onnxruntime_agrees(case):
    """onnxruntime's float32 results against ours in float64 and in float32, and those against the loop."""
    inputs, attributes, constants, values, H = case
    T = inputs["X"].shape[0]
    theirs = runtime(inputs, **attributes, **constants, hidden_size=H)
    exact = onnx_lstm(**inputs, **attributes, **constants)
    close(theirs, exact, "float32", T)
    narrow = {k: np.float32(v) if isinstance(v, np.ndarray) else v for k, v in inputs.items()}
    close(onnx_lstm(**narrow, **attributes, **constants), exact, "float32", T)
    close(exact, loop(**inputs, **attributes, constants=values), "float64", T)


@pytest.mark.parametrize("name", ["Relu", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "Elu", "Softplus"])
def test_onnxruntime_agrees_on_unbounded_gates(name):
    """One step: nothing grows yet."""
    inputs = random_inputs(T=1, H=6) | {"sequence_lens": None}
    names = (name, "Tanh", "Tanh")
    constants, _ = constants_of(names)
    theirs = runtime(inputs, activations=names, **constants, hidden_size=6)
    compare(theirs, onnx_lstm(**inputs, activations=names, **constants), np.float32(theirs[0]), 1)


# What the specification leaves open, settled as in onnxruntime; and where onnxruntime is followed in nothing.


def test_coupled_gates_mean_f_is_one_minus_i():
    inputs = random_inputs(seed=7) | {"sequence_lens": None}
    theirs = runtime(inputs, input_forget=1, hidden_size=2)
    ours = onnx_lstm(**inputs, input_forget=1)
    compare(theirs, ours, np.float32(theirs[0]), 5)
    for name in ("W", "R", "B", "P"):  # the weights of the forget gate are not used
        changed = inputs[name].copy()
        blocks = {"P": [2], "B": [2, 6]}.get(name, [2])
        for block in blocks:
            changed[:, block * 2 : block * 2 + 2] = 9
        assert not np.array_equal(changed, inputs[name])
        for mine, other in zip(ours, onnx_lstm(**(inputs | {name: changed}), input_forget=1), strict=True):
            assert np.array_equal(mine, other)


def test_clip_bounds_what_enters_f_and_g_and_not_what_enters_h():
    inputs = random_inputs(T=1, seed=8) | {"sequence_lens": None}
    inputs["initial_c"] = 5 * inputs["initial_c"]
    names = ("Sigmoid", "Tanh", "Affine")  # the last shows its argument
    attributes = {"activations": names, "activation_alpha": [1.0], "activation_beta": [0.0], "clip": 0.2}
    theirs = runtime(inputs, **attributes, hidden_size=2)
    ours = onnx_lstm(**inputs, **attributes)
    compare(theirs, ours, np.float32(theirs[0]), 1)
    assert np.max(np.abs(ours[0])) > 0.2 * 0.55  # o is at most sigmoid(0.2) = 0.55: h saw more than 0.2


def test_a_reversed_row_is_reversed_within_its_length():
    inputs = random_inputs(seed=9)
    inputs["sequence_lens"] = np.array([3, 1, 5, 2])
    theirs = runtime(inputs, direction="reverse", hidden_size=2)
    ours = onnx_lstm(**inputs, direction="reverse")
    compare(theirs, ours, np.float32(theirs[0]), 5)
    alone = onnx_lstm(
        inputs["X"][:3, :1], *(inputs[k] for k in ("W", "R", "B")), None,
        inputs["initial_h"][:, :1], inputs["initial_c"][:, :1], inputs["P"], direction="reverse",
    )  # fmt: skip
    assert_close(ours[0][:3, :, :1], alone[0], steps=3)


def test_an_empty_row_returns_its_initial_state_where_onnxruntime_returns_zeros():
    inputs = random_inputs(seed=10)
    inputs["sequence_lens"] = np.array([2, 0, 5, 1])
    Y, Y_h, Y_c = onnx_lstm(**inputs)
    assert np.array_equal(Y_h[:, 1], inputs["initial_h"][:, 1])
    assert np.array_equal(Y_c[:, 1], inputs["initial_c"][:, 1])
    assert not np.any(Y[:, :, 1])
    theirs = runtime(inputs, hidden_size=2)
    assert not np.any(theirs[1][:, 1])
    assert not np.any(theirs[2][:, 1])
    others = [0, 2, 3]
    for name, mine, other in zip(OUTPUTS, (Y, Y_h, Y_c), theirs, strict=True):
        assert_close(other[..., others, :], mine[..., others, :], like=other, steps=5, name=name)


def test_what_onnxruntime_refuses_works():
    inputs = random_inputs(seed=11) | {"sequence_lens": None}
    with pytest.raises(Exception, match="hidden_size"):
        runtime(inputs)
    onnx_lstm(**inputs)
    batch_major = {k: np.swapaxes(v, 0, 1) if k in ("X", "initial_h", "initial_c") else v for k, v in inputs.items()}
    with pytest.raises(Exception, match=r"[Ll]ayout"):
        runtime(batch_major, layout=1, hidden_size=2)
    onnx_lstm(**batch_major, layout=1)


@pytest.mark.parametrize(
    ("name", "theirs"), [("ThresholdedRelu", (0.0,)), ("Affine", (0.0, 0.0)), ("ScaledTanh", (0.0, 0.0))]
)
def test_defaults_of_constants_that_onnxruntime_has_otherwise(name, theirs):
    inputs = random_inputs(seed=12) | {"sequence_lens": None}
    inputs["X"] = 3 * inputs["X"]
    names = ("Sigmoid", name, "Tanh")
    results = runtime(inputs, activations=names, hidden_size=2)
    compare(results, loop(**inputs, activations=names, constants=[(), theirs, ()]), np.float32(results[0]), 5)
    ours = onnx_lstm(**inputs, activations=names)
    compare(ours, loop(**inputs, activations=names), inputs["X"], 5)
    assert np.max(np.abs(ours[0] - results[0])) > 0.01


@pytest.mark.parametrize("name", ["LeakyRelu", "HardSigmoid", "Elu"])
def test_defaults_of_constants_that_onnxruntime_shares(name):
    inputs = random_inputs(seed=13) | {"sequence_lens": None}
    names = ("Sigmoid", name, "Tanh")
    theirs = runtime(inputs, activations=names, hidden_size=2)
    compare(theirs, onnx_lstm(**inputs, activations=names), np.float32(theirs[0]), 5)


def test_constants_go_to_the_functions_that_take_one_in_their_order():
    """One list for both directions; where it ends, defaults follow, as in onnxruntime."""
    inputs = random_inputs(dirs=2, seed=14) | {"sequence_lens": None}
    names = ("HardSigmoid", "Tanh", "LeakyRelu", "Sigmoid", "Elu", "Tanh")
    attributes = {"activations": names, "activation_alpha": [0.3, 0.4, 0.5], "activation_beta": [0.45]}
    theirs = runtime(inputs, direction="bidirectional", **attributes, hidden_size=2)
    ours = onnx_lstm(**inputs, direction="bidirectional", **attributes)
    compare(theirs, ours, np.float32(theirs[0]), 5)
    constants = [(0.3, 0.45), (), (0.4,), (), (0.5,), ()]
    compare(ours, loop(**inputs, direction="bidirectional", activations=names, constants=constants), inputs["X"], 5)
    short = onnx_lstm(**inputs, direction="bidirectional", activations=names, activation_alpha=[0.3])
    constants = [(0.3, 0.5), (), (0.01,), (), (1.0,), ()]
    compare(short, loop(**inputs, direction="bidirectional", activations=names, constants=constants), inputs["X"], 5)
    with pytest.raises(ValueError, match="activation_beta has 1 more"):
        onnx_lstm(**inputs, direction="bidirectional", **(attributes | {"activation_beta": [0.45, 1.0]}))


# ---------------------------------------------------------------------------- what it refuses


WRONG = {
    "X is None": ({"X": None}, TypeError, "X must be an array; got None"),
    "X is a list": ({"X": [[[1.0]]]}, TypeError, "X must be an array; got list"),
    "X flat": ({"X": np.ones((5, 3))}, ValueError, r"X must have shape \(T, N, D\); got \(5, 3\)"),
    "X of integers": ({"X": np.ones((5, 4, 3), int)}, TypeError, "X"),
    "R flat": ({"R": np.ones((8, 2))}, ValueError, r"R must have shape \(dirs, 4\*H, H\); got \(8, 2\)"),
    "W transposed": (
        {"W": np.ones((1, 3, 8))},
        ValueError,
        r"W must have shape \(dirs, 4\*H, D\) = \(1, 8, 3\) for X \(5, 4, 3\) and R \(1, 8, 2\), 1 direction\(s\); "
        r"got \(1, 3, 8\)",
    ),
    "R of another size": ({"R": np.ones((1, 12, 2))}, ValueError, r"R must have .* = \(1, 8, 2\).*got \(1, 12, 2\)"),
    "B of one bias": ({"B": np.ones((1, 8))}, ValueError, r"B must have shape \(dirs, 8\*H\) = \(1, 16\).*\(1, 8\)"),
    "P of four gates": ({"P": np.ones((1, 8))}, ValueError, r"P must have shape \(dirs, 3\*H\) = \(1, 6\).*\(1, 8\)"),
    "one direction of two": ({"direction": "bidirectional"}, ValueError, r"W must .* = \(2, 8, 3\).*got \(1, 8, 3\)"),
    "states": ({"initial_c": np.ones((1, 2, 4))}, ValueError, r"initial_c must .* = \(1, 4, 2\).*got \(1, 2, 4\)"),
    "dtypes": ({"W": np.ones((1, 8, 3), "float32")}, TypeError, "W"),
    "direction": ({"direction": "backward"}, ValueError, "'forward', 'reverse', 'bidirectional'; got 'backward'"),
    "layout": ({"layout": 2}, ValueError, "layout must be one of 0, 1; got 2"),
    "input_forget": ({"input_forget": 3}, ValueError, "input_forget must be one of 0, 1; got 3"),
    "clip": ({"clip": -1.0}, ValueError, "clip must be a positive number, or None; got -1.0"),
    "clip of zero": ({"clip": 0.0}, ValueError, "clip must be a positive number, or None; got 0.0"),
    "clip in words": ({"clip": "1"}, TypeError, "clip must be a positive number, or None; got '1'"),
    "hidden_size": ({"hidden_size": 3}, ValueError, r"hidden_size must be H = 2 for R \(1, 8, 2\); got 3"),
    "activations": ({"activations": ["Tanh"]}, ValueError, "activations must be 3 names, f, g, h per direction; got 1"),
    "activation": ({"activations": ["Sigmoid", "Gelu", "Tanh"]}, ValueError, "activation must be one of .*got 'Gelu'"),
    "activations as text": ({"activations": "Tanh"}, TypeError, "activations must be a list of names; got 'Tanh'"),
    "alpha for none": ({"activation_alpha": [0.1]}, ValueError, "activation_alpha has 1 more than the functions"),
    "alpha in words": (
        {"activations": ["Elu", "Tanh", "Tanh"], "activation_alpha": ["a"]},
        TypeError,
        "activation_alpha must be a list of numbers; got 'a'",
    ),
    "lengths too long": ({"sequence_lens": [1, 2, 3, 6]}, ValueError, "between 0 and T = 5"),
    "lengths too few": ({"sequence_lens": [1, 2]}, ValueError, r"shape \(N,\) = \(4,\)"),
    "lengths of floats": ({"sequence_lens": [1.0, 2.0, 3.0, 4.0]}, TypeError, "must be integers"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "kind", "message"), WRONG.values(), ids=WRONG)
def test_errors(change, kind, message):
    inputs = random_inputs()
    onnx_lstm(**inputs)
    with pytest.raises(kind, match=message) as caught:
        onnx_lstm(**(inputs | change))
    assert str(caught.value).startswith("onnx_lstm: ")
    assert "\n" not in str(caught.value)


def test_docstring_names_every_argument():
    assert "onnx_lstm" in lstm_xp.__all__
    text = inspect.getdoc(onnx_lstm)
    for name in inspect.signature(onnx_lstm).parameters:
        assert name in text, name
    for section in ("Parameters", "Returns", "Raises", "See Also", "Notes", "References", "Examples"):
        assert f"{section}\n{'-' * len(section)}" in text

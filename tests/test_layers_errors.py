"""Every error of `LSTM`, by its type and the start of its text; nothing is changed before it is raised."""

import numpy as np
import pytest
from layer_problems import D, H, N, T, forward, network_of, params_of, random_values
from problems import same_bits

from lstm_xp import LSTM, Direction, EngineError, Masks, State

XP = "LSTM.init: xp must be an array library, a module such as numpy, torch or jax.numpy;"
P_LETTERS = "LSTM.forward: params must be a tuple of layers * directions = 2 Direction tuples; got "

SETTINGS = [
    ({"input_size": 0}, ValueError, "LSTM: input_size must be an integer of at least 1; got 0."),
    ({"hidden_size": -1}, ValueError, "LSTM: hidden_size must be an integer of at least 1; got -1."),
    ({"hidden_size": 4.0}, ValueError, "LSTM: hidden_size must be an integer of at least 1; got 4.0."),
    ({"input_size": "3"}, ValueError, "LSTM: input_size must be an integer of at least 1; got '3'."),
    ({"num_layers": True}, ValueError, "LSTM: num_layers must be an integer of at least 1; got True."),
    ({"num_layers": 0}, ValueError, "LSTM: num_layers must be an integer of at least 1; got 0."),
    ({"proj_size": -1}, ValueError, "LSTM: proj_size must be an integer of at least 0; got -1."),
    ({"bidirectional": 1}, TypeError, "LSTM: bidirectional must be True or False; got 1."),
    ({"bias": None}, TypeError, "LSTM: bias must be True or False; got None."),
    ({"peepholes": "yes"}, TypeError, "LSTM: peepholes must be True or False; got 'yes'."),
    ({"num_layers": 2, "dropout": 1.0}, ValueError, "LSTM: dropout must lie in [0, 1); got 1.0."),
    ({"input_dropout": -0.1}, ValueError, "LSTM: input_dropout must lie in [0, 1); got -0.1."),
    ({"recurrent_dropout": float("nan")}, ValueError, "LSTM: recurrent_dropout must lie in [0, 1); got nan."),
    ({"zoneout_h": "0.1"}, ValueError, "LSTM: zoneout_h must lie in [0, 1); got '0.1'."),
    ({"zoneout_c": 2}, ValueError, "LSTM: zoneout_c must lie in [0, 1); got 2."),
    ({"dropout": 0.5}, ValueError, "LSTM: dropout acts between layers and needs num_layers of at least 2; got 1."),
    ({"clip": 0}, ValueError, "LSTM: clip must be a positive number or None; got 0."),
    ({"clip": float("inf")}, ValueError, "LSTM: clip must be a positive number or None; got inf."),
    ({"forget_bias": None}, ValueError, "LSTM: forget_bias must be a finite number; got None."),
    ({"activations": ("Tanh",)}, ValueError, "LSTM: activations must be a tuple of three"),
    ({"activations": ("Sigmoid", "Tanh", "Sine")}, ValueError, "LSTM: "),
    ({"bidirectional": True, "reverse": True}, ValueError, "LSTM: a bidirectional network has both directions"),
    ({"precision": "fast"}, ValueError, "LSTM: precision must be one of ieee, tf32, tf32x3, or None; got 'fast'."),
    ({"peepholes": True, "precision": "tf32"}, ValueError, "LSTM: precision is for plain cells"),
]


@pytest.mark.parametrize(("options", "kind", "message"), SETTINGS, ids=[str(options) for options, *_ in SETTINGS])
def test_settings(options, kind, message):
    with pytest.raises(kind) as caught:
        LSTM(**{"input_size": D, "hidden_size": H} | options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_sizes_of_numpy_are_integers():
    assert LSTM(np.int64(3), np.int32(4)).init()[0].Wx.shape == (3, 16)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"dtype": "int32"}, TypeError, "LSTM.init: dtype must be one of "),
        ({"dtype": "float128"}, TypeError, "LSTM.init: dtype must be one of "),
        ({"dtype": "i4"}, TypeError, "LSTM.init: dtype must be one of "),
        ({"dtype": ","}, TypeError, "LSTM.init: dtype must be one of "),
        ({"dtype": "half a number"}, TypeError, "LSTM.init: dtype must be one of "),
        ({"xp": 42}, TypeError, f"{XP} got 42. For a seed write seed=42."),
        ({"xp": np.int64(7)}, TypeError, f"{XP} got 7. For a seed write seed=7."),
        ({"xp": "float32"}, TypeError, f"{XP} got 'float32'. For a dtype write dtype='float32'."),
        ({"xp": None}, TypeError, f"{XP} got NoneType."),
        ({"xp": np.zeros(1)}, TypeError, f"{XP} got ndarray."),
        ({"seed": -1}, ValueError, ""),
    ],
)
def test_first_parameters(options, kind, message):
    with pytest.raises(kind) as caught:
        LSTM(D, H).init(**options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("dtype", ["f4", "single", np.float32, np.dtype("float32")])
def test_dtypes_of_first_parameters(dtype):
    assert LSTM(D, H).init(dtype=dtype)[0].Wx.dtype == "float32"


@pytest.mark.parametrize("layers", [1, 2, 9])
def test_a_single_direction_is_no_tuple_of_them(layers):
    """It is a tuple of nine, as are the parameters of nine layers."""
    network = LSTM(D, H, layers)
    params = network.init()
    hint = ": write (params,)" if layers == 1 else ""
    x, zeros = np.zeros((2, 3, D), "float32"), np.zeros((layers, 2, H), "float32")
    for function, call in (
        ("LSTM.forward", lambda: network.forward(params[0], x)),
        ("LSTM.step", lambda: network.step(params[0], x[:, 0], State(zeros, zeros))),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        rule = f"params must be a tuple of layers * directions = {layers} Direction tuples"
        assert str(caught.value) == f"{function}: {rule}; got a single Direction{hint}."


def zeros(*shape, dtype="float64"):
    return np.zeros(shape, dtype)


def call(network=None, params=None, x=None, state=None, **options):
    """A valid call of `forward` with two layers, with some arguments changed."""
    network = network or LSTM(D, H, 2)
    params = network.init(dtype="float64") if params is None else params
    return network.forward(params, zeros(N, T, D) if x is None else x, state, **options)


def changed(index=0, **arrays):
    """Valid parameters with some arrays changed."""
    params = list(LSTM(D, H, 2).init(dtype="float64"))
    params[index] = params[index]._replace(**arrays)
    return tuple(params)


HIDDEN, CELL = zeros(2, N, H), zeros(2, N, H)
DROPPED = LSTM(D, H, 2, input_dropout=0.5)
GIVEN = Masks(inputs=(zeros(N, D), zeros(N, H)))
ANY = np.random.default_rng(0)

FORWARD = [
    ({"params": ()}, ValueError, P_LETTERS + "0 of them."),
    ({"params": LSTM(D, H).init(dtype="float64")}, ValueError, P_LETTERS + "1 of them."),
    ({"params": {"Wx": 1}}, ValueError, P_LETTERS + "dict."),
    ({"params": (1, 2)}, TypeError, "LSTM.forward: params[0] must be a Direction; got int."),
    (
        {"params": changed(1, Wx=zeros(D, 4 * H))},
        ValueError,
        "LSTM.forward: Wx of params[1] (layer 1, forward) must have shape (D, 4*H) = (6, 24); got (3, 24).",
    ),
    (
        {"params": changed(0, Wh=zeros(4 * H, H))},
        ValueError,
        "LSTM.forward: Wh of params[0] (layer 0, forward) must have shape (R, 4*H) = (6, 24); got (24, 6). "
        "It is the transpose",
    ),
    ({"params": changed(0, b=None)}, ValueError, "LSTM.forward: b of params[0] (layer 0, forward) must have shape"),
    (
        {"params": changed(1, Wp=zeros(H, 2))},
        ValueError,
        "LSTM.forward: Wp of params[1] (layer 1, forward) must be None",
    ),
    ({"params": changed(0, Wx="weights")}, ValueError, "LSTM.forward: Wx of params[0] (layer 0, forward) must have"),
    (
        {"params": changed(1, b=zeros(4 * H, dtype="float32"))},
        TypeError,
        "LSTM.forward: all arrays must share one dtype",
    ),
    ({"x": zeros(T, D)}, ValueError, "LSTM.forward: x must have shape (N, T, D)"),
    ({"x": zeros(N, T, D + 1)}, ValueError, "LSTM.forward: x must have shape (N, T, D)"),
    ({"x": [[[0.0]]]}, TypeError, "LSTM.forward: x must be an array; got list."),
    (
        {"x": zeros(N, T, D, dtype="float32")},
        TypeError,
        "LSTM.forward: all arrays must share one dtype; got x: float32",
    ),
    ({"x": zeros(N, T, D, dtype="int64")}, TypeError, "LSTM.forward: all arrays must share one dtype; got x: int64"),
    ({"state": HIDDEN}, TypeError, "LSTM.forward: state must be a pair (h, c); got ndarray."),
    ({"state": (HIDDEN, None)}, TypeError, "LSTM.forward: state must have both h and c; got None for one."),
    (
        {"state": (HIDDEN[:1], CELL)},
        ValueError,
        "LSTM.forward: h of state must have shape (layers * directions, N, R) = (2, 4, 6); got (1, 4, 6).",
    ),
    (
        {"state": (HIDDEN, CELL[:, 1:])},
        ValueError,
        "LSTM.forward: c of state must have shape (layers * directions, N, H)",
    ),
    ({"state": (HIDDEN, CELL.astype("float32"))}, TypeError, "LSTM.forward: all arrays must share one dtype"),
    ({"lengths": [1, 2]}, ValueError, "LSTM.forward: lengths must have shape (N,) = (4,)"),
    ({"lengths": [1, 2, 3, 6]}, ValueError, "LSTM.forward: lengths must lie between 0 and T = 5; got lengths[3] = 6."),
    (
        {"lengths": [1, -2, 3, 5]},
        ValueError,
        "LSTM.forward: lengths must lie between 0 and T = 5; got lengths[1] = -2.",
    ),
    ({"lengths": [1.0, 2.0, 3.0, 4.0]}, TypeError, "LSTM.forward: lengths must be integers; got float64."),
    ({"masks": GIVEN}, ValueError, "LSTM.forward: masks.inputs must be None: the network has no such dropout."),
    ({"network": DROPPED, "masks": GIVEN, "rng": ANY}, ValueError, "LSTM.forward: give masks or rng, not both"),
    ({"network": DROPPED, "rng": 7}, TypeError, "LSTM.forward: rng must be a numpy.random.Generator"),
    ({"network": DROPPED, "masks": (1,)}, TypeError, "LSTM.forward: masks must be a Masks; got tuple."),
    ({"network": DROPPED, "masks": Masks()}, ValueError, "LSTM.forward: masks.inputs must be 2 arrays"),
    (
        {"network": DROPPED, "masks": Masks(inputs=GIVEN.inputs[:1])},
        ValueError,
        "LSTM.forward: masks.inputs must be 2 arrays, for the network has a rate of 0.5; got 1 of them.",
    ),
    (
        {"network": DROPPED, "masks": Masks(inputs=GIVEN.inputs[::-1])},
        ValueError,
        "LSTM.forward: masks.inputs[0] must have shape (N, D) = (4, 3); got (4, 6).",
    ),
    (
        {"network": DROPPED, "masks": Masks(inputs=tuple(m.astype("float32") for m in GIVEN.inputs))},
        TypeError,
        "LSTM.forward: all arrays must share one dtype",
    ),
    ({"network": LSTM(D, H, 2, engine="cudnn")}, EngineError, ""),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), FORWARD, ids=range(len(FORWARD)))
def test_forward(arguments, kind, message):
    with pytest.raises(kind) as caught:
        call(**arguments)
    assert str(caught.value).startswith(message), caught.value
    assert "\n" not in str(caught.value)


def test_libraries_are_not_mixed(library):
    torch = library("torch").xp
    with pytest.raises(TypeError, match=r"LSTM\.forward: all arrays must come from one library; got x: torch, "):
        call(x=torch.zeros((N, T, D), dtype=torch.float64))


def test_a_generator_is_not_drawn_from_before_the_checks():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    with pytest.raises(ValueError, match="lengths"):
        call(network=DROPPED, rng=rng, lengths=[9, 9, 9, 9])
    assert rng.bit_generator.state == before


def back(dy=None, training=True, network=None, **options):
    network = network or LSTM(D, H, 2)
    cache = call(network=LSTM(D, H, 2), training=training)[2]
    return network.backward(dy, cache, **options)


DY = zeros(N, T, H)
BACKWARD = [
    ({}, ValueError, "LSTM.backward: at least one of dy, dh of dstate, dc of dstate must be given; got None for all."),
    ({"dstate": State(None, None)}, ValueError, "LSTM.backward: at least one of dy, dh of dstate, dc of dstate"),
    ({"dy": zeros(N, T, 2 * H)}, ValueError, "LSTM.backward: dy must have shape (N, T, directions * R) = (4, 5, 6)"),
    ({"dy": zeros(T, N, H)}, ValueError, "LSTM.backward: dy must have shape (N, T, directions * R) = (4, 5, 6)"),
    ({"dy": DY.astype("float32")}, TypeError, "LSTM.backward: all arrays must share one dtype; got dy: float32"),
    ({"dy": [0.0]}, TypeError, "LSTM.backward: dy must be an array; got list."),
    ({"dy": DY, "dstate": HIDDEN}, TypeError, "LSTM.backward: dstate must be a pair (h, c); got ndarray."),
    ({"dy": DY, "dstate": (HIDDEN[:1], None)}, ValueError, "LSTM.backward: h of dstate must have shape"),
    ({"dy": DY, "training": False}, ValueError, "LSTM.backward: the cache was made with training=False"),
    (
        {"dy": DY, "network": LSTM(D, H, 2, bias=False)},
        ValueError,
        "LSTM.backward: cache must come from this network's",
    ),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), BACKWARD, ids=range(len(BACKWARD)))
def test_backward(arguments, kind, message):
    with pytest.raises(kind) as caught:
        back(**arguments)
    assert str(caught.value).startswith(message), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cache", [None, (), "cache"])
def test_what_is_no_cache(cache):
    with pytest.raises(ValueError, match=r"LSTM\.backward: cache must come from this network's forward; got "):
        LSTM(D, H).backward(DY, cache)


def step(params=None, x_t=None, state=State(HIDDEN, CELL)):  # noqa: B008  a tuple: it cannot change
    """A valid step, with some arguments changed: one that a glance accepts, but for them."""
    network = LSTM(D, H, 2)
    params = network.init(dtype="float64") if params is None else params
    return network.step(params, zeros(N, D) if x_t is None else x_t, state)


STEP = [
    ({"params": ()}, ValueError, "LSTM.step: params must be a tuple of layers * directions = 2 Direction tuples"),
    (
        {"params": changed(1, Wh=zeros(H, H))},
        ValueError,
        "LSTM.step: Wh of params[1] (layer 1, forward) must have shape",
    ),
    ({"x_t": zeros(N, T, D)}, ValueError, "LSTM.step: x_t must have shape (N, D) with D = 3; got (4, 5, 3)."),
    ({"x_t": zeros(D)}, ValueError, "LSTM.step: x_t must have shape (N, D) with D = 3; got (3,)."),
    ({"x_t": zeros(N, D + 1)}, ValueError, "LSTM.step: x_t must have shape (N, D) with D = 3; got (4, 4)."),
    ({"x_t": [1.0]}, TypeError, "LSTM.step: x_t must be an array; got list."),
    ({"x_t": np.ma.array(zeros(N, D))}, TypeError, "LSTM.step: x_t must be an array; got MaskedArray."),
    (
        {"params": changed(0, Wx=np.ma.array(zeros(D, 4 * H)))},
        TypeError,
        "LSTM.step: Wx of params[0] must be an array; got",
    ),
    ({"params": changed(1, b=np.ma.array(zeros(4 * H)))}, TypeError, "LSTM.step: b of params[1] must be an array; got"),
    ({"state": State(np.ma.array(HIDDEN), CELL)}, TypeError, "LSTM.step: h of state must be an array; got"),
    ({"x_t": zeros(N, D, dtype="float32")}, TypeError, "LSTM.step: all arrays must share one dtype; got x_t: float32"),
    ({"state": HIDDEN}, TypeError, "LSTM.step: state must be a pair (h, c); got ndarray."),
    ({"state": State(HIDDEN[:, :1], CELL)}, ValueError, "LSTM.step: h of state must have shape"),
    ({"state": State(HIDDEN, CELL[:1])}, ValueError, "LSTM.step: c of state must have shape"),
    ({"state": State(HIDDEN.astype("float32"), CELL)}, TypeError, "LSTM.step: all arrays must share one dtype"),
    ({"state": State(HIDDEN, CELL.astype("float32"))}, TypeError, "LSTM.step: all arrays must share one dtype"),
    ({"params": changed(1, Wh=zeros(H, 4 * H, dtype="float32"))}, TypeError, "LSTM.step: all arrays must share one"),
    (
        {"params": LSTM(D, 2 * H, 2).init(dtype="float64"), "state": State(zeros(2, N, 2 * H), zeros(2, N, 2 * H))},
        ValueError,
        "LSTM.step: Wx of params[0] (layer 0, forward) must have shape",
    ),
    ({"params": changed(0, Wx=zeros(D + 1, 4 * H))}, ValueError, "LSTM.step: Wx of params[0]"),
    ({"params": changed(1, b=zeros(4 * H + 1))}, ValueError, "LSTM.step: b of params[1]"),
    ({"params": changed(0, b=None)}, ValueError, "LSTM.step: b of params[0] (layer 0, forward) must have shape"),
    ({"params": changed(0, Wp=zeros(H, 2))}, ValueError, "LSTM.step: Wp of params[0] (layer 0, forward) must be None"),
    (
        {"params": tuple(tuple(p) for p in changed(0))},
        TypeError,
        "LSTM.step: params[0] must be a Direction; got tuple.",
    ),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), STEP, ids=range(len(STEP)))
def test_step(arguments, kind, message):
    with pytest.raises(kind) as caught:
        step(**arguments)
    assert str(caught.value).startswith(message), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"peepholes": True}], ids=["plain", "variant"])
def test_integers_are_no_input(options):
    """All of one dtype, but of none that there is: whatever is compared at a glance."""
    network = LSTM(D, H, 2, **options)
    params = tuple(Direction(*(None if v is None else v.astype(np.int64) for v in p)) for p in network.init())
    x, state = zeros(N, T, D, dtype="int64"), State(HIDDEN.astype(np.int64), CELL.astype(np.int64))
    message = r"arrays must have a floating dtype \(.*\); got int64\."
    with pytest.raises(TypeError, match=r"LSTM\.step: " + message):
        network.step(params, x[:, 0], state)
    with pytest.raises(TypeError, match=r"LSTM\.forward: " + message):
        network.forward(params, x, state)


def test_a_step_says_what_is_wrong_with_arrays_before_the_engine():
    network = LSTM(D, H, engine="cupy_fused")
    params, state = network.init(dtype="float64"), State(HIDDEN[:1], CELL[:1])
    with pytest.raises(ValueError, match=r"LSTM\.step: x_t must have shape"):
        network.step(params, zeros(N, D + 1), state)
    with pytest.raises(EngineError, match="engine 'cupy_fused' cannot run this problem"):
        network.step(params, zeros(N, D), state)


def test_a_step_without_input():
    network = LSTM(D, H)
    with pytest.raises(TypeError, match=r"LSTM\.step: x_t must be an array; got None\."):
        network.step(network.init(), None, None)


def test_nothing_is_changed_by_a_call_that_fails():
    network = network_of("two layers")
    values = random_values(network)
    before = {name: value.copy() for name, value in values.items()}
    _, _, cache = forward(network, values)
    with pytest.raises(ValueError, match="lengths"):
        forward(network, values, lengths=[9] * N)
    with pytest.raises(ValueError, match="dy"):
        network.backward(values["dy"][1:], cache)
    with pytest.raises(ValueError, match="state"):
        network.step(params_of(network, values), values["x"][:, 0], State(values["h"][:1], values["c"]))
    assert all(same_bits(value, before[name]) for name, value in values.items())


def test_parameters_may_be_a_list():
    network = LSTM(D, H, 2)
    params = list(network.init(dtype="float64"))
    x = np.random.default_rng(0).standard_normal((N, T, D))
    assert same_bits(network.forward(params, x)[0], network.forward(tuple(params), x)[0])
    assert isinstance(network.step(params, x[:, 0], None)[1], State)
    assert isinstance(params[0], Direction)

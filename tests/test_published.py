"""Values that others published, with the tolerance they published them with.

Each entry names its source. Gate orders and layouts are converted here, by hand, to columns i, f, o, g.
"""

import numpy as np
import pytest

from lstm_xp import lstm_forward, lstm_step_forward

# How far each source lets a result lie from its values: |a - e| <= absolute + relative * |e|.
TOLERANCES = {
    "cs231n step": (0, 2e-8),  # the notebook: |a - e| / (|a| + |e|) "on the order of e-8 or less"
    "cs231n sequence": (0, 2e-7),  # "e-7 or less"
    "pytorch": (1e-3, 0),  # test/cpp/api/rnn.cpp
    "keras": (1e-5, 1e-5),  # keras/src/layers/rnn/lstm_test.py
    "onnx": (1e-7, 1e-3),  # onnx/backend/test/runner: atol, rtol of the node tests
    "onnxruntime": (1e-4, 0),  # SetOutputTolerance in the tests' own file
}


def assert_published(source, actual, expected):
    absolute, relative = TOLERANCES[source]
    expected = np.asarray(expected).reshape(actual.shape)
    excess = np.max(np.abs(actual - expected) - (absolute + relative * np.abs(expected)))
    assert excess <= 0, f"{source}: {excess:.1e} beyond the published tolerance"


# JAX compiles for every size, Dask builds graphs: they have the CS231n values, and those of asymmetric weights.
few = pytest.mark.without("jax", "dask")


def linspace(start, stop, *shape):
    return np.linspace(start, stop, num=np.prod(shape)).reshape(shape)


def forward(lib, x, h0, Wx, Wh, b, c0=None, dtype="float64", **options):
    """`lstm_forward` on NumPy arrays: h, h_n, c_n."""
    x, h0, Wx, Wh, b, c0 = (None if v is None else lib.asarray(v, dtype) for v in (x, h0, Wx, Wh, b, c0))
    h, cache = lstm_forward(x, h0, Wx, Wh, b, c0=c0, **options)
    return tuple(map(lib.to_numpy, (h, cache.h_n, cache.c_n)))


def test_cs231n_step(lib):
    """Stanford CS231n, assignment 3, LSTM_Captioning.ipynb: `lstm_step_forward`."""
    N, D, H = 3, 4, 5
    x, h, c = linspace(-0.4, 1.2, N, D), linspace(-0.3, 0.7, N, H), linspace(-0.4, 0.9, N, H)
    Wx, Wh, b = linspace(-2.1, 1.3, D, 4 * H), linspace(-0.7, 2.2, H, 4 * H), linspace(0.3, 0.7, 4 * H)
    next_h, next_c, _ = lstm_step_forward(*map(lib.asarray, (x, h, c, Wx, Wh, b)))
    expected_h = [
        [0.24635157, 0.28610883, 0.32240467, 0.35525807, 0.38474904],
        [0.49223563, 0.55611431, 0.61507696, 0.66844003, 0.7159181],
        [0.56735664, 0.66310127, 0.74419266, 0.80889665, 0.858299],
    ]
    expected_c = [
        [0.32986176, 0.39145139, 0.451556, 0.51014116, 0.56717407],
        [0.66382255, 0.76674007, 0.87195994, 0.97902709, 1.08751345],
        [0.74192008, 0.90592151, 1.07717006, 1.25120233, 1.42395676],
    ]
    assert_published("cs231n step", lib.to_numpy(next_h), expected_h)
    assert_published("cs231n step", lib.to_numpy(next_c), expected_c)


def test_cs231n_sequence(lib, engine):
    """The same notebook: `lstm_forward`."""
    N, D, H, T = 2, 5, 4, 3
    x, h0 = linspace(-0.4, 0.6, N, T, D), linspace(-0.4, 0.8, N, H)
    Wx, Wh, b = linspace(-0.2, 0.9, D, 4 * H), linspace(-0.3, 0.6, H, 4 * H), linspace(0.2, 0.7, 4 * H)
    h, _, _ = forward(lib, x, h0, Wx, Wh, b, engine=engine)
    expected = [
        [
            [0.01764008, 0.01823233, 0.01882671, 0.0194232],
            [0.11287491, 0.12146228, 0.13018446, 0.13902939],
            [0.31358768, 0.33338627, 0.35304453, 0.37250975],
        ],
        [
            [0.45767879, 0.4761092, 0.4936887, 0.51041945],
            [0.6704845, 0.69350089, 0.71486014, 0.7346449],
            [0.81733511, 0.83677871, 0.85403753, 0.86935314],
        ],
    ]
    assert_published("cs231n sequence", h, expected)


@few
def test_pytorch_cpp(lib):
    """PyTorch, test/cpp/api/rnn.cpp, CheckOutputValuesMatchPyTorch: every parameter is i / size. Rows i, f, g, o."""
    order = [0, 1, 2, 3, 6, 7, 4, 5]
    weight_ih = weight_hh = (np.arange(16) / 16).reshape(8, 2)[order]
    b = 2 * (np.arange(8) / 8)[order]
    x = ((24 - np.arange(24)) / 24).reshape(3, 4, 2).swapaxes(0, 1)
    h, h_n, c_n = forward(lib, x, None, weight_ih.T, weight_hh.T, b, dtype="float32")
    expected = [
        [0.4391, 0.5402, 0.4330, 0.5324, 0.4261, 0.5239, 0.4183, 0.5147],
        [0.6822, 0.8064, 0.6726, 0.7968, 0.6620, 0.7860, 0.6501, 0.7741],
        [0.7889, 0.9003, 0.7769, 0.8905, 0.7635, 0.8794, 0.7484, 0.8666],
    ]
    assert_published("pytorch", h.swapaxes(0, 1).reshape(3, 8), expected)
    assert_published("pytorch", h_n, expected[-1])
    assert_published("pytorch", c_n, [1.1647, 1.6106, 1.1425, 1.5726, 1.1187, 1.5329, 1.0931, 1.4911])


def keras(lib, x, units, h0=None, c0=None, bias=0.03, forget=1.0, **options):
    """A Keras layer of constant weights: kernel 0.01, recurrent kernel 0.02, bias 0.03 but 1 at the forget gate."""
    b = None if bias is None else np.repeat([bias, forget, bias, bias], units)
    Wx, Wh = np.full((x.shape[2], 4 * units), 0.01), np.full((units, 4 * units), 0.02)
    return forward(lib, x, h0, Wx, Wh, b, c0=c0, dtype="float32", **options)


KERAS = {  # what differs from the layer above -> one value per row (the units are alike)
    "as it is": ({}, [0.6288687, 0.86899155, 0.9460773]),
    "go_backwards": ({"reverse": True}, [0.35622165, 0.74789524, 0.8872726]),
    "unit_forget_bias=False": ({"forget": 0.03}, [0.57019705, 0.8661914, 0.9459622]),
    "use_bias=False": ({"bias": None}, [0.54986924, 0.86226785, 0.9443936]),
}


@few
@pytest.mark.parametrize("case", KERAS)
def test_keras_correctness(lib, case):
    """Keras, lstm_test.py, test_correctness."""
    options, expected = KERAS[case]
    _, h_n, _ = keras(lib, np.arange(72.0).reshape(3, 6, 4), 3, **options)
    assert_published("keras", h_n, np.repeat(expected, 3))


@few
def test_keras_stateful(lib):
    """test_statefulness: the second call goes on from the state of the first."""
    x = np.arange(24.0).reshape(2, 3, 4)
    _, h_n, c_n = keras(lib, x, 4)
    _, h_n, _ = keras(lib, x, 4, h_n, c_n)
    assert_published("keras", h_n, np.repeat([0.3124785, 0.6863672], 4))


@few
@pytest.mark.parametrize(
    ("reverse", "expected"),
    [
        (False, [[0.20574439, 0.3558822], [0.64930826, 0.66276]]),
        (True, [[0.13281618, 0.2790356], [0.5839337, 0.5992567]]),
    ],
    ids=["forward", "go_backwards"],
)
def test_keras_initial_state(lib, reverse, expected):
    """test_pass_initial_state."""
    x, state = np.arange(24.0).reshape(2, 4, 3), np.arange(4.0).reshape(2, 2)
    _, h_n, _ = keras(lib, x, 2, state, state, reverse=reverse)
    assert_published("keras", h_n, expected)


@few
def test_keras_masking(lib):
    """test_masking: masks on the right, outputs behind them zero (zero_output_for_mask)."""
    x = np.arange(24.0).reshape(2, 4, 3)
    h, h_n, _ = keras(lib, x, 2, lengths=[3, 2])
    expected = [[0.01588910, 0.05552048, 0.11755939, 0.0], [0.14185596, 0.28556206, 0.0, 0.0]]
    assert_published("keras", h, np.repeat(expected, 2))
    assert_published("keras", h_n, np.repeat([0.11755939, 0.28556206], 2))


@few
def test_keras_masking_backwards(lib):
    """test_masking: a mask on the left and go_backwards, which is lengths and reverse of what is not masked."""
    x = np.arange(24.0).reshape(2, 4, 3)
    valid = np.stack([np.roll(x[0], -1, axis=0), np.roll(x[1], -2, axis=0)])
    _, h_n, _ = keras(lib, valid, 2, lengths=[3, 2], reverse=True)
    assert_published("keras", h_n, np.repeat([0.15341201, 0.3844719], 2))


ONNX = {  # x (one step, ONNX node tests), units, bias -> one value per row
    "defaults": ([[1.0, 2], [3, 4], [5, 6]], 3, 0.0, [0.0952412, 0.25606447, 0.40323776]),
    "initial_bias": ([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]], 4, 0.1, [0.25606447, 0.5367278, 0.6672132]),
}


@few
@pytest.mark.parametrize("case", ONNX)
def test_onnx_node_tests(lib, case):
    """ONNX, backend/test/case/node/lstm.py: weights of 0.1, zero states, one step."""
    x, units, bias, expected = ONNX[case]
    x = np.array(x)[:, None, :]
    Wx, Wh, b = np.full((x.shape[2], 4 * units), 0.1), np.full((units, 4 * units), 0.1), np.full(4 * units, bias)
    _, h_n, _ = forward(lib, x, None, Wx, Wh, b, dtype="float32")
    assert_published("onnx", h_n, np.repeat(expected, units))


# ONNX Runtime, onnxruntime/test/providers/cpu/rnn/deep_cpu_lstm_op_test.cc. Rows i, o, f, c; arrays (T, N, .).
def from_onnx(weights, units):
    i, o, f, c = np.asarray(weights).reshape(4, units, -1)
    return np.concatenate([i, f, o, c]).T


SIMPLE_WX = from_onnx([0.1, 0.2, 0.3, 0.4, 1, 2, 3, 4, 10, 11, 12, 13], 3)
FIRST = [[0.28828835, 0.36581863, 0.45679406], [0.34526032, 0.47220859, 0.55850911]]
SECOND = [[0.84196719, 0.89402526, 0.91073048], [0.85882828, 0.90703777, 0.92382453]]
FIRST_C = [[0.52497941, 0.54983425, 0.5744428], [0.54983425, 0.59868795, 0.64565659]]
SECOND_C = [[1.27731147, 1.44181041, 1.53179041], [1.3249796, 1.51063104, 1.61451544]]
LAST_R = [[0.55391603, 0.69201493, 0.82696019], [0.64046413, 0.82303363, 0.91610711]]
FIRST_R = [[0.61249432, 0.70678632, 0.74094619], [0.62759886, 0.71640738, 0.74624585]]
LAST_R_C = [[1.27850552, 1.46799496, 1.57641257], [1.34960834, 1.54772296, 1.65633056]]
SHORT_R = [[0.28828844, 0.36581877, 0.45679423], [0.34526044, 0.47220877, 0.55850935]]
NOTHING = [0.0, 0.0, 0.0]

ORT_SIMPLE = {  # options -> Y (T, N, H), Y_h, Y_c
    "ForwardSimpleWeightsNoBiasTwoRows": ({}, [FIRST, SECOND], SECOND, SECOND_C),
    "ReverseSimpleWeightsNoBiasTwoRows": ({"reverse": True}, [LAST_R, FIRST_R], LAST_R, LAST_R_C),
    "MixedSequenceLengths 1 2": (
        {"lengths": [1, 2]},
        [FIRST, [NOTHING, SECOND[1]]],
        [FIRST[0], SECOND[1]],
        [FIRST_C[0], SECOND_C[1]],
    ),
    "MixedSequenceLengths 2 1": (
        {"lengths": [2, 1]},
        [FIRST, [SECOND[0], NOTHING]],
        [SECOND[0], FIRST[1]],
        [SECOND_C[0], FIRST_C[1]],
    ),
    "MixedSequenceLengthsReverse 1 2": (
        {"lengths": [1, 2], "reverse": True},
        [[SHORT_R[0], LAST_R[1]], [NOTHING, FIRST_R[1]]],
        [SHORT_R[0], LAST_R[1]],
        [FIRST_C[0], LAST_R_C[1]],
    ),
    "MixedSequenceLengthsReverse 2 1": (
        {"lengths": [2, 1], "reverse": True},
        [[LAST_R[0], SHORT_R[1]], [FIRST_R[0], NOTHING]],
        [LAST_R[0], SHORT_R[1]],
        [LAST_R_C[0], FIRST_C[1]],
    ),
}


@few
@pytest.mark.parametrize("case", ORT_SIMPLE)
def test_onnxruntime_simple_weights(lib, case):
    options, expected, expected_h, expected_c = ORT_SIMPLE[case]
    x = np.array([1.0, 2, 10, 11]).reshape(2, 2, 1).swapaxes(0, 1)
    h, h_n, c_n = forward(lib, x, None, SIMPLE_WX, np.full((3, 12), 0.1), None, dtype="float32", **options)
    assert_published("onnxruntime", h.swapaxes(0, 1), expected)
    assert_published("onnxruntime", h_n, expected_h)
    assert_published("onnxruntime", c_n, expected_c)


@few
def test_onnxruntime_one_row_two_steps(lib):
    """BatchParallelFalseSeqLengthGreaterThanOne."""
    Wx = from_onnx([0.1, 0.2, 0.3, 0.4, 1, 2, 3, 4], 2)
    h, _, c_n = forward(lib, np.array([[[1.0], [2.0]]]), None, Wx, np.full((2, 8), 0.1), None, dtype="float32")
    assert_published("onnxruntime", h, [[0.27546653, 0.29941525], [0.50903179, 0.57476457]])
    assert_published("onnxruntime", c_n, [1.02721067, 1.15254318])


ORT_WX = from_onnx(
    [-0.494659, 0.0453352, -0.487793, 0.417264, -0.0175329, 0.489074, -0.446013, 0.414029]
    + [-0.0091708, -0.255364, -0.106952, -0.266717, -0.0888852, -0.428709, -0.283349, 0.208792],
    2,
)
ORT_WH = from_onnx(
    [0.146626, -0.0620289, -0.0815302, 0.100482, -0.219535, -0.306635, -0.28515, -0.314112]
    + [-0.228172, 0.405972, 0.31576, 0.281487, -0.394864, 0.42111, -0.386624, -0.390225],
    2,
)
ORT_B = from_onnx([0.381619, 0.0323954, -0.14449, 0.420804, -0.258721, 0.45056, -0.250755, 0.0967895], 2)[0]
ORT_X = [[[-0.455351, -0.276391], [-0.185934, -0.269585]]]
THREE = [
    [[-0.455351, -0.776391], [-0.185934, -0.169585]],
    [[0.0, 0.0], [0.0, 0.0]],
    [[0.348763, 0.678345], [0.078053, 0.163457]],
]
FOUR = [*THREE, [[0.877836, 0.543859], [0.846098, 0.987531]]]

ORT = {  # x (N, T, D), options -> Y (T, N, H), Y_h, Y_c
    "LSTMForwardHiddenState": (
        ORT_X,
        {"h0": [[0.34, 0.72]]},
        [[[0.01797521, -0.07104912]], [[-0.03174796, -0.0152949]]],
        [[-0.03174796, -0.0152949]],
        [[-0.07285583, -0.02545788]],
    ),
    "LSTMForwardCellState": (
        ORT_X,
        {"h0": [[0.34, 0.72]], "c0": [[0.63, 0.21]]},
        [[[0.12797015, 0.0097284]], [[0.02716939, 0.01842997]]],
        [[0.02716939, 0.01842997]],
        [[0.06408449, 0.03139432]],
    ),
    "LSTMBackward_gpu": (
        ORT_X,
        {"reverse": True},
        [[[-0.033075746, 0.074455738]], [[-0.031248707, 0.027853041]]],
        [[-0.033075746, 0.074455738]],
        [[-0.076699793, 0.11975205]],
    ),
    "LSTMShorterSeqInMiddle": (
        THREE,
        {"lengths": [2, 1, 2]},
        [
            [[0.02907280, 0.01765226], [-0.06724346, 0.02957184], [-0.15355367, 0.04701351]],
            [[-0.02912546, 0.04120104], [0.0, 0.0], [-0.12768818, 0.07457943]],
        ],
        [[-0.0291254, 0.04120104], [-0.06724346, 0.02957184], [-0.12768818, 0.07457943]],
        [[-0.06609819, 0.06838701], [-0.14596788, 0.04902556], [-0.26768601, 0.12119407]],
    ),
    "LSTMShorterSeqInMiddle, reverse": (
        THREE,
        {"lengths": [2, 1, 2], "reverse": True},
        [
            [[0.01841230, 0.04093486], [-0.06724346, 0.02957184], [-0.17994503, 0.07397783]],
            [[-0.04350187, 0.03531464], [0.0, 0.0], [-0.08877515, 0.03413615]],
        ],
        [[0.01841230, 0.04093486], [-0.06724346, 0.02957184], [-0.17994503, 0.07397783]],
        [[0.04934450, 0.07126625], [-0.14596788, 0.04902556], [-0.34139895, 0.11673255]],
    ),
    "LSTMZeroSeqInMiddle": (
        FOUR,
        {"lengths": [2, 0, 1, 2]},
        [
            [[0.02907280, 0.01765226], [0.0, 0.0], [-0.15355367, 0.04701351], [-0.12951779, -0.00989562]],
            [[-0.02912546, 0.04120104], [0.0, 0.0], [0.0, 0.0], [-0.22162350, 0.03132058]],
        ],
        [[-0.02912546, 0.04120104], [0.0, 0.0], [-0.15355367, 0.04701351], [-0.22162350, 0.03132058]],
        [[-0.06609819, 0.06838701], [0.0, 0.0], [-0.2894889, 0.07438067], [-0.39655977, 0.05050645]],
    ),
    "LSTMZeroSeqInMiddle, reverse": (
        FOUR,
        {"lengths": [2, 0, 1, 2], "reverse": True},
        [
            [[0.01841230, 0.04093486], [0.0, 0.0], [-0.15355367, 0.04701351], [-0.17956293, 0.01607513]],
            [[-0.04350187, 0.03531464], [0.0, 0.0], [0.0, 0.0], [-0.17885581, 0.01959856]],
        ],
        [[0.01841230, 0.04093486], [0.0, 0.0], [-0.15355367, 0.04701351], [-0.17956293, 0.01607513]],
        [[0.04934450, 0.07126625], [0.0, 0.0], [-0.28948891, 0.07438067], [-0.34931409, 0.02799958]],
    ),
}


@pytest.mark.parametrize("case", ORT)
def test_onnxruntime_asymmetric_weights(lib, case):
    """Weights that differ from gate to gate: the order of the gates is tested."""
    if lib.name in ("jax", "dask") and case != "LSTMZeroSeqInMiddle, reverse":
        pytest.skip(f"{lib.name}: one case")
    x, options, expected, expected_h, expected_c = ORT[case]
    options = dict(options)
    h0 = options.pop("h0", None)
    h, h_n, c_n = forward(lib, np.array(x), h0, ORT_WX, ORT_WH, ORT_B, dtype="float32", **options)
    assert_published("onnxruntime", h.swapaxes(0, 1), expected)
    assert_published("onnxruntime", h_n, expected_h)
    assert_published("onnxruntime", c_n, expected_c)

"""Every error of the functions on arrays, by its type and full text."""

import numpy as np
import pytest
from problems import random_problem, same_bits

from lstm_xp import EngineError, checks, explain, lstm_backward, lstm_forward, lstm_step_backward, lstm_step_forward
from lstm_xp.engines import array_api

FLOATING = "(float16, bfloat16, float32, float64, complex128)"
STEP = ("x", "prev_h", "prev_c", "Wx", "Wh", "b")


def zeros(*shape, dtype="float64"):
    return np.zeros(shape, dtype)


def step(**changed):
    """A valid call of the step function (N, D, H = 2, 3, 4), with some arguments changed."""
    arguments = {"x": zeros(2, 3), "prev_h": zeros(2, 4), "prev_c": zeros(2, 4)}
    arguments |= {"Wx": zeros(3, 16), "Wh": zeros(4, 16), "b": zeros(16)}
    return lstm_step_forward(**{**arguments, **changed})


def sequence(function=lstm_forward, **changed):
    """A valid call of a sequence function (N, T, D, H = 2, 5, 3, 4), with some arguments changed."""
    arguments = {"x": zeros(2, 5, 3), "h0": zeros(2, 4), "Wx": zeros(3, 16), "Wh": zeros(4, 16), "b": zeros(16)}
    return function(**{**arguments, **changed})


def step_back(*cotangents):
    return lstm_step_backward(*cotangents, step()[2])


def back(dh=None, training=True, **cotangents):
    return lstm_backward(dh, sequence(training=training)[1], **cotangents)


TRANSPOSE = (
    "It is the transpose: PyTorch keeps it so, with gate order i, f, g, o; "
    "pass {0}.T with its columns in the order i, f, o, g."
)
STEP_CONTEXT = "for x (2, 3) and prev_h (2, 4)"
CONTEXT = "for x (2, 5, 3) and h0 (2, 4)"
LIST = "Convert it first, for example with numpy.asarray"
DTYPES = "Convert with astype: nothing is cast by itself."

ERRORS = [
    # What is not an array.
    (step, {"x": [[0.0]]}, TypeError, f"lstm_step_forward: x must be an array; got list. {LIST}(x)."),
    (step, {"Wx": 1.0}, TypeError, f"lstm_step_forward: Wx must be an array; got float. {LIST}(Wx)."),
    (step, {"prev_c": None}, TypeError, "lstm_step_forward: prev_c must be an array; got None."),
    (sequence, {"x": None}, TypeError, "lstm_forward: x must be an array; got None."),
    (sequence, {"Wx": None}, TypeError, "lstm_forward: Wx must be an array; got None."),
    (sequence, {"Wh": "Wh"}, TypeError, f"lstm_forward: Wh must be an array; got str. {LIST}(Wh)."),
    (
        sequence,
        {"h0": np.ma.zeros((2, 4))},
        TypeError,
        f"lstm_forward: h0 must be an array; got MaskedArray. {LIST}(h0).",
    ),
    # Dtypes.
    (
        step,
        {"prev_c": zeros(2, 4, dtype="float32")},
        TypeError,
        "lstm_step_forward: all arrays must share one dtype; got x: float64, prev_h: float64, prev_c: float32, "
        f"Wx: float64, Wh: float64, b: float64. {DTYPES}",
    ),
    (
        sequence,
        {"x": zeros(2, 5, 3, dtype="float32"), "b": None},
        TypeError,
        "lstm_forward: all arrays must share one dtype; got x: float32, h0: float64, Wx: float64, Wh: float64. "
        f"{DTYPES}",
    ),
    (
        lambda: sequence(**{name: zeros(*shape, dtype="int32") for name, shape in SHAPES.items()}),
        {},
        TypeError,
        f"lstm_forward: arrays must have a floating dtype {FLOATING}; got int32.".replace("(", "(").replace(
            "dtype (", "dtype ("
        ),
    ),
    (
        lambda: sequence(**{name: zeros(*shape, dtype="complex64") for name, shape in SHAPES.items()}),
        {},
        TypeError,
        f"lstm_forward: arrays must have a floating dtype {FLOATING}; got complex64.",
    ),
    # Shapes.
    (
        step,
        {"x": zeros(2, 5, 3)},
        ValueError,
        "lstm_step_forward: x must have shape (N, D); got (2, 5, 3). For a whole sequence (N, T, D) use lstm_forward.",
    ),
    (step, {"prev_h": zeros(4)}, ValueError, "lstm_step_forward: prev_h must have shape (N, H); got (4,)."),
    (
        step,
        {"prev_h": zeros(3, 4)},
        ValueError,
        "lstm_step_forward: prev_h must have shape (N, H) = (2, 4) for x (2, 3) and prev_h (3, 4); got (3, 4).",
    ),
    (
        step,
        {"prev_c": zeros(2, 5)},
        ValueError,
        f"lstm_step_forward: prev_c must have shape (N, H) = (2, 4) {STEP_CONTEXT}; got (2, 5).",
    ),
    (
        step,
        {"Wx": zeros(3, 12)},
        ValueError,
        f"lstm_step_forward: Wx must have shape (D, 4*H) = (3, 16) {STEP_CONTEXT}; got (3, 12).",
    ),
    (
        step,
        {"Wh": zeros(16, 4)},
        ValueError,
        f"lstm_step_forward: Wh must have shape (H, 4*H) = (4, 16) {STEP_CONTEXT}; got (16, 4). "
        + TRANSPOSE.format("Wh"),
    ),
    (
        step,
        {"b": zeros(1, 16)},
        ValueError,
        f"lstm_step_forward: b must have shape (4*H,) = (16,) {STEP_CONTEXT}; got (1, 16).",
    ),
    (
        sequence,
        {"x": zeros(2, 3)},
        ValueError,
        "lstm_forward: x must have shape (N, T, D); got (2, 3). For one step (N, D) use lstm_step_forward.",
    ),
    (sequence, {"h0": zeros(1, 2, 4)}, ValueError, "lstm_forward: h0 must have shape (N, H); got (1, 2, 4)."),
    (sequence, {"h0": None, "Wh": zeros(64)}, ValueError, "lstm_forward: Wh must have shape (H, 4*H); got (64,)."),
    (
        sequence,
        {"h0": zeros(3, 4)},
        ValueError,
        "lstm_forward: h0 must have shape (N, H) = (2, 4) for x (2, 5, 3) and h0 (3, 4); got (3, 4).",
    ),
    (
        sequence,
        {"c0": zeros(2, 3)},
        ValueError,
        f"lstm_forward: c0 must have shape (N, H) = (2, 4) {CONTEXT}; got (2, 3).",
    ),
    (
        sequence,
        {"Wx": zeros(16, 3)},
        ValueError,
        f"lstm_forward: Wx must have shape (D, 4*H) = (3, 16) {CONTEXT}; got (16, 3). " + TRANSPOSE.format("Wx"),
    ),
    (
        sequence,
        {"Wh": zeros(4, 15)},
        ValueError,
        f"lstm_forward: Wh must have shape (H, 4*H) = (4, 16) {CONTEXT}; got (4, 15).",
    ),
    (
        sequence,
        {"h0": None, "Wh": zeros(4, 15)},
        ValueError,
        "lstm_forward: Wh must have shape (H, 4*H) = (4, 16) for x (2, 5, 3) and Wh (4, 15); got (4, 15).",
    ),
    (sequence, {"b": zeros(4)}, ValueError, f"lstm_forward: b must have shape (4*H,) = (16,) {CONTEXT}; got (4,)."),
    # Sizes of zero.
    (step, {"x": zeros(2, 0)}, ValueError, "lstm_step_forward: D must be at least 1; got D = 0."),
    (step, {"prev_h": zeros(2, 0)}, ValueError, "lstm_step_forward: H must be at least 1; got H = 0."),
    (sequence, {"x": zeros(2, 5, 0)}, ValueError, "lstm_forward: D must be at least 1; got D = 0."),
    (sequence, {"h0": zeros(2, 0)}, ValueError, "lstm_forward: H must be at least 1; got H = 0."),
    # Lengths.
    (
        sequence,
        {"lengths": [1, 2, 3]},
        ValueError,
        "lstm_forward: lengths must have shape (N,) = (2,) for x (2, 5, 3); got (3,).",
    ),
    (
        sequence,
        {"lengths": 3},
        ValueError,
        "lstm_forward: lengths must have shape (N,) = (2,) for x (2, 5, 3); got ().",
    ),
    (sequence, {"lengths": [1.0, 2.0]}, TypeError, "lstm_forward: lengths must be integers; got float64."),
    (sequence, {"lengths": [True, False]}, TypeError, "lstm_forward: lengths must be integers; got bool."),
    (
        sequence,
        {"lengths": [5, 6]},
        ValueError,
        "lstm_forward: lengths must lie between 0 and T = 5; got lengths[1] = 6.",
    ),
    (
        sequence,
        {"lengths": np.array([-1, 9])},
        ValueError,
        "lstm_forward: lengths must lie between 0 and T = 5; got lengths[0] = -1.",
    ),
    # Options.
    (
        sequence,
        {"precision": "fast"},
        ValueError,
        "lstm_forward: precision must be one of ieee, tf32, tf32x3, or None; got 'fast'.",
    ),
    (
        sequence,
        {"engine": object()},
        EngineError,
        "engine must be a name or an engine; got object without name.",
    ),
    # The same checks, by the name of the function that was called.
    (
        lambda **changed: sequence(explain, **changed),
        {"lengths": [5, 6]},
        ValueError,
        "explain: lengths must lie between 0 and T = 5; got lengths[1] = 6.",
    ),
    (
        lambda **changed: sequence(explain, **changed),
        {"Wh": zeros(4, 15)},
        ValueError,
        f"explain: Wh must have shape (H, 4*H) = (4, 16) {CONTEXT}; got (4, 15).",
    ),
    # Backward.
    (
        lambda: lstm_step_backward(zeros(2, 4), zeros(2, 4), ()),
        {},
        TypeError,
        "lstm_step_backward: cache must come from lstm_step_forward; got tuple.",
    ),
    (
        lambda: step_back(None, None),
        {},
        ValueError,
        "lstm_step_backward: at least one of dnext_h, dnext_c must be given; got None for all.",
    ),
    (
        lambda: step_back(zeros(2, 5), None),
        {},
        ValueError,
        "lstm_step_backward: dnext_h must have shape (N, H) = (2, 4) for prev_h (2, 4); got (2, 5).",
    ),
    (
        lambda: step_back(None, zeros(2, 4, dtype="float32")),
        {},
        TypeError,
        f"lstm_step_backward: all arrays must share one dtype; got dnext_c: float32, the cache: float64. {DTYPES}",
    ),
    (
        lambda: lstm_backward(zeros(2, 5, 4), step()[2]),
        {},
        TypeError,
        "lstm_backward: cache must come from lstm_forward; got StepCache.",
    ),
    (
        back,
        {"dh": zeros(2, 5, 4), "training": False},
        ValueError,
        "lstm_backward: the cache was made with training=False, which keeps nothing for backward; "
        "call lstm_forward with training=True.",
    ),
    (back, {}, ValueError, "lstm_backward: at least one of dh, dh_n, dc_n must be given; got None for all."),
    (
        back,
        {"dh": zeros(2, 4)},
        ValueError,
        "lstm_backward: dh must have shape (N, T, H) = (2, 5, 4) for x (2, 5, 3) and Wh (4, 16); got (2, 4).",
    ),
    (
        back,
        {"dh_n": zeros(4, 2)},
        ValueError,
        "lstm_backward: dh_n must have shape (N, H) = (2, 4) for x (2, 5, 3) and Wh (4, 16); got (4, 2).",
    ),
    (
        back,
        {"dc_n": zeros(2, 5, 4)},
        ValueError,
        "lstm_backward: dc_n must have shape (N, H) = (2, 4) for x (2, 5, 3) and Wh (4, 16); got (2, 5, 4).",
    ),
    (
        back,
        {"dc_n": zeros(2, 4, dtype="float16")},
        TypeError,
        f"lstm_backward: all arrays must share one dtype; got dc_n: float16, the cache: float64. {DTYPES}",
    ),
    (back, {"dh": [0.0]}, TypeError, f"lstm_backward: dh must be an array; got list. {LIST}(dh)."),
]
SHAPES = {"x": (2, 5, 3), "h0": (2, 4), "Wx": (3, 16), "Wh": (4, 16), "b": (16,)}


@pytest.mark.parametrize(("call", "changed", "kind", "text"), ERRORS, ids=[text[:60] for *_, text in ERRORS])
def test_error(call, changed, kind, text):
    with pytest.raises(kind) as raised:
        call(**changed)
    assert str(raised.value) == text
    assert type(raised.value) is kind


def test_unchanged_calls_raise_nothing():
    step()
    sequence()
    sequence(explain)
    step_back(zeros(2, 4), None)
    back(zeros(2, 5, 4))


@pytest.mark.parametrize("call", [step, sequence])
def test_two_libraries(library, call):
    lib = library("array-api-strict")
    first = "prev_h" if call is step else "h0"
    function = "lstm_step_forward" if call is step else "lstm_forward"
    with pytest.raises(TypeError) as raised:
        call(**{first: lib.asarray(zeros(2, 4))})
    names = ("prev_c", "Wx", "Wh", "b") if call is step else ("Wx", "Wh", "b")
    rest = ", ".join(f"{name}: numpy" for name in names)
    assert str(raised.value) == (
        f"{function}: all arrays must come from one library; got x: numpy, {first}: array_api_strict, {rest}. "
        f"Convert {first} to numpy: nothing is moved between libraries by itself."
    )


def test_cotangents_of_another_library(library):
    lib = library("torch")
    with pytest.raises(TypeError) as raised:
        back(lib.asarray(zeros(2, 5, 4)))
    assert str(raised.value) == (
        "lstm_backward: all arrays must come from one library; got dh: torch, the cache: numpy. "
        "Convert the cache to torch: nothing is moved between libraries by itself."
    )


def test_two_devices(library):
    lib = library("array-api-strict")
    arrays = {name: lib.asarray(zeros(*shape)) for name, shape in SHAPES.items()}
    arrays["Wh"] = arrays["Wh"].to_device(lib.xp.Device("CPU_DEVICE"))
    with pytest.raises(ValueError, match="device") as raised:
        sequence(**arrays)
    cpu, other = "array_api_strict.Device('CPU_DEVICE')", "array_api_strict.Device('device1')"
    assert str(raised.value) == (
        f"lstm_forward: all arrays must lie on one device; got x: {other}, h0: {other}, Wx: {other}, Wh: {cpu}, "
        f"b: {other}. Move them first: nothing is moved between devices by itself."
    )


def test_lengths_of_another_library(library):
    lib = library("torch")
    with pytest.raises(TypeError) as raised:
        sequence(lengths=lib.asarray(np.array([1, 2])))
    assert str(raised.value) == (
        "lstm_forward: lengths must be host integers or come from the library of x (numpy); got torch."
    )


def test_lengths_of_the_library_must_be_integers(library):
    lib = library("torch")
    arrays = {name: lib.asarray(zeros(*shape)) for name, shape in SHAPES.items()}
    with pytest.raises(TypeError) as raised:
        sequence(**arrays, lengths=lib.asarray(np.array([1.0, 2.0])))
    assert str(raised.value) == "lstm_forward: lengths must be integers; got float64."


def test_unknown_shape_of_a_lazy_array(library):
    lib = library("dask")
    arrays = {name: lib.asarray(zeros(*shape)) for name, shape in SHAPES.items()}
    arrays["x"] = arrays["x"][lib.asarray(np.array([True, False]))]
    with pytest.raises(ValueError, match="known shape") as raised:
        sequence(**arrays)
    assert str(raised.value) == (
        "lstm_forward: x must have a known shape; got (nan, 5, 3). Dask: call x.compute_chunk_sizes() first."
    )


def test_an_unknown_engine():
    with pytest.raises(EngineError) as raised:
        sequence(engine="cuda")
    text = str(raised.value)
    assert text.startswith("engine must be 'auto' or one of numpy_numba, numpy_fused, ")
    assert text.endswith("; got 'cuda'.")
    assert "array_api" in text


def test_a_named_engine_that_refuses(library):
    lib = library("torch")
    arrays = {name: lib.asarray(zeros(*shape)) for name, shape in SHAPES.items()}
    with pytest.raises(EngineError) as raised:
        sequence(**arrays, engine="numpy_fused")
    assert str(raised.value) == (
        "engine 'numpy_fused' cannot run this problem: it needs NumPy arrays, these are torch's."
    )
    complex_arrays = {name: zeros(*shape, dtype="complex128") for name, shape in SHAPES.items()}
    with pytest.raises(EngineError) as raised:
        sequence(**complex_arrays, engine="numpy_fused")
    assert str(raised.value) == "engine 'numpy_fused' cannot run this problem: it needs real arrays."


@pytest.mark.parametrize("part", ["name", "refuses", "forward", "backward"])
def test_an_object_that_is_not_quite_an_engine(part):
    class Partial:
        pass

    for name in ("name", "refuses", "declines", "forward", "backward"):
        if name != part:
            setattr(Partial, name, getattr(array_api, name))
    with pytest.raises(EngineError) as raised:
        sequence(engine=Partial())
    assert str(raised.value) == f"engine must be a name or an engine; got Partial without {part}."


def test_engine_error_is_a_value_error():
    assert issubclass(EngineError, ValueError)


def test_gates_that_were_not_kept():
    _, cache = sequence(training=False)
    for gate in "ifog":
        with pytest.raises(ValueError, match="gates") as raised:
            getattr(cache, gate)
        assert str(raised.value) == "the gates were not kept: call lstm_forward with training=True."


def test_an_error_leaves_the_arguments_alone():
    values = random_problem()
    values["b"] = values["b"][:-1]
    before = {name: value.copy() for name, value in values.items()}
    with pytest.raises(ValueError, match="b must have shape"):
        lstm_forward(*(values[name] for name in ("x", "h0", "Wx", "Wh", "b")))
    assert all(same_bits(values[name], before[name]) for name in values)


class Place:
    """A device that cannot be hashed, as CuPy's."""

    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        return self.number == other.number

    __hash__ = None

    def __repr__(self):
        return f"<place {self.number}>"


def test_devices_are_compared_and_not_hashed(monkeypatch):
    elsewhere = type("Elsewhere", (np.ndarray,), {})  # NumPy's own arrays are not looked at
    arrays = {name: zeros(*SHAPES[name]).view(elsewhere) for name in ("x", "h0")}
    monkeypatch.setattr(checks, "device", lambda array: Place(0))
    assert checks.one_library("f", arrays) == (np, Place(0))
    monkeypatch.setattr(checks, "device", lambda array: Place(array.ndim))
    with pytest.raises(ValueError, match=r"must lie on one device; got x: <place 3>, h0: <place 2>"):
        checks.one_library("f", arrays)

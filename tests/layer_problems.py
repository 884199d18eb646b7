"""Networks to test, random problems for them, and a composition by hand that they are compared with."""

import numpy as np
from problems import settled

from lstm_xp import LSTM, Direction, Masks, State, lstm_forward, variants
from lstm_xp import parameters as layout
from lstm_xp.testing import assert_close
from lstm_xp.variant_cells import CellMasks
from lstm_xp.variants import is_plain

N, T, D, H, P = 4, 5, 3, 6, 2
LENGTHS = [3, 0, 5, 1]

DROPOUT = {"dropout": 0.4, "input_dropout": 0.3, "recurrent_dropout": 0.2}
ODD = ("HardSigmoid", "Softsign", ("ScaledTanh", 1.3, 0.7))
NETWORKS = {
    "one layer": {},
    "reverse": {"reverse": True},
    "no bias": {"bias": False, "num_layers": 2},
    "two layers": {"num_layers": 2},
    "three layers, reverse, time first": {"num_layers": 3, "reverse": True, "time_major": True},
    "bidirectional": {"bidirectional": True},
    "bidirectional, three layers, time first": {"bidirectional": True, "num_layers": 3, "time_major": True},
    "dropout": {"num_layers": 3, **DROPOUT},
    "dropout, bidirectional": {"num_layers": 2, "bidirectional": True, **DROPOUT},
    "dropout between layers, time first": {"num_layers": 2, "dropout": 0.4, "time_major": True},
    "dropout of inputs": {"num_layers": 2, "input_dropout": 0.4},
    "dropout of the recurrent state": {"num_layers": 2, "bidirectional": True, "recurrent_dropout": 0.4},
    "zoneout": {"num_layers": 2, "bidirectional": True, "zoneout_h": 0.3, "zoneout_c": 0.2},
    "projection": {"num_layers": 2, "bidirectional": True, "proj_size": P},
    "peepholes": {"num_layers": 2, "peepholes": True},
    "coupled": {"num_layers": 2, "bidirectional": True, "coupled": True},
    "clip": {"num_layers": 2, "clip": 0.8},
    "layer norm": {"num_layers": 2, "layer_norm": True},
    "activations": {"num_layers": 2, "activations": ODD},
    "all": {
        "num_layers": 2, "bidirectional": True, "time_major": True, **DROPOUT, "zoneout_h": 0.3, "zoneout_c": 0.2,
        "proj_size": P, "peepholes": True, "clip": 1.5, "layer_norm": True, "activations": ODD,
    },
}  # fmt: skip


def network_of(name, **options):
    """A network by its name, for the sizes above; plain cells by the reference engine, unless said otherwise."""
    network = LSTM(D, H, **NETWORKS[name])
    by_engine = network.plain and not network.recurrent_dropout
    return LSTM(D, H, **NETWORKS[name], **({"engine": "array_api"} if by_engine else {}) | options)


def random_values(network, seed=0, rows=N, steps=T):
    """Parameters, x, states, cotangents, by name: float64, all random. Parameters are called 0.Wx, 0.Wh, ..., 1.Wx."""
    rng = np.random.default_rng(seed)
    shapes = {}
    for index in range(network.num_layers * network.num_directions):
        for name, (_, shape) in layout.shapes(network, index // network.num_directions).items():
            shapes[f"{index}.{name}"] = shape
    states = layout.state_shapes(network, rows)
    width = network.num_directions * network.output_size
    order = (lambda n, t: (t, n)) if network.time_major else (lambda n, t: (n, t))
    shapes |= {"x": (*order(rows, steps), D), "h": states["h"][1], "c": states["c"][1]}
    shapes |= {"dy": (*order(rows, steps), width), "dh": states["h"][1], "dc": states["c"][1]}
    values = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    for name in values:
        if name.partition(".")[2] in ("Wx", "Wh", "Wp"):
            values[name] /= len(values[name]) ** 0.5
    return values


def params_of(network, arrays):
    """The parameters among arrays by name."""
    count = network.num_layers * network.num_directions
    return tuple(
        Direction(**{name: arrays[f"{k}.{name}"] for name in Direction._fields if f"{k}.{name}" in arrays})
        for k in range(count)
    )


def forward(network, arrays, **options):
    """`LSTM.forward` on arrays by name."""
    state = State(arrays["h"], arrays["c"]) if "h" in arrays else None
    return network.forward(params_of(network, arrays), arrays["x"], state, **options)


def backward(network, arrays, cache, **options):
    """`LSTM.backward`: the gradients by the names of the arguments."""
    dstate = State(arrays["dh"], arrays["dc"]) if "dh" in arrays else None
    dx, dstate, dparams = network.backward(arrays["dy"], cache, dstate=dstate, **options)
    found = {"x": dx, "h": dstate.h, "c": dstate.c}
    for k, direction in enumerate(dparams):
        found |= {f"{k}.{name}": v for name, v in direction._asdict().items() if v is not None}
    return found


def run(network, arrays, **options):
    """Outputs, and gradients as dx, dh, ..., by name."""
    y, state, cache = forward(network, arrays, **options)
    results = {"y": y, "h_n": state.h, "c_n": state.c}
    return settled(results | {f"d{name}": v for name, v in backward(network, arrays, cache).items()})


def compose(network, values, lengths=None, masks=None):
    """y, h_n and c_n, one layer and direction after the other: what the class should do, without it."""
    masks = masks or Masks()
    x = np.moveaxis(values["x"], 0, 1) if network.time_major else values["x"]
    ends = np.asarray([x.shape[1]] * len(x) if lengths is None else lengths)
    behind = np.arange(x.shape[1])[None, :] >= ends[:, None]
    lengths = None if lengths is None else np.asarray(lengths, np.int64)
    h_n, c_n, k = [], [], 0
    for layer in range(network.num_layers):
        x = np.where(behind[:, :, None], 0, x)
        if masks.between is not None and layer > 0:
            x = x * masks.between[layer - 1]
        if masks.inputs is not None:
            x = x * masks.inputs[layer][:, None, :]
        outputs = []
        for direction in range(network.num_directions):
            p = params_of(network, values)[k]
            h0, c0 = (values["h"][k], values["c"][k]) if "h" in values else (None, None)
            drawn = CellMasks(*(None if kind is None else kind[k] for kind in masks[2:]))
            order = {"lengths": lengths, "reverse": network.reverse or direction == 1}
            if is_plain(p, network.cell, drawn):
                y, cache = lstm_forward(x, h0, p.Wx, p.Wh, p.b, c0=c0, engine="array_api", **order)
            else:
                y, cache = variants.forward(x, h0, c0, p, network.cell, drawn, **order)
            outputs.append(y)
            h_n.append(cache.h_n)
            c_n.append(cache.c_n)
            k += 1
        x = np.concatenate(outputs, axis=-1)
    y = np.moveaxis(x, 0, 1) if network.time_major else x
    return {"y": y, "h_n": np.stack(h_n), "c_n": np.stack(c_n)}


def compare(results, expected, like, steps=T):
    """Compare by name with float64 results."""
    for name, result in results.items():
        kind = "forward" if name in ("y", "h_n", "c_n") else "gradient"
        assert_close(result, np.asarray(expected[name]), like=like, kind=kind, steps=steps, name=name)


def on(lib, values, dtype=None):
    """The values by name as arrays of a library."""
    return {name: lib.asarray(value, dtype) for name, value in values.items()}


def masks_on(lib, masks, dtype=None):
    """The same for masks."""
    return Masks(*(kind if kind is None else tuple(lib.asarray(mask, dtype) for mask in kind) for kind in masks))

"""Train a byte-level language model on a text: an LSTM learns to foretell each byte from those before it.

With no FILE it learns from a text that is already there: the Python sources of this interpreter's standard library.
Any files will do, of any language or encoding. Part of the text is set aside; at the end you see how many bits per byte
the model needs for that part, beside what xz and bzip2 need, and a sample of its writing.

The run's directory holds model.safetensors (the weights, for lstm-xp sample), history.jsonl (one record per line),
curve.png, and checkpoint.safetensors, from which --resume goes on. Ctrl-C stops and saves.

examples:
  lstm-xp train
  lstm-xp train book.txt --minutes 10 --hidden 512 --out book
  lstm-xp train --resume --out book
"""

import argparse
import contextlib
import math
import signal
import time
from dataclasses import fields, replace
from pathlib import Path

from lstm_xp.training.errors import UserError
from lstm_xp.training.settings import DEFAULT_STEPS, DEVICES, DTYPES, OPTIMIZER_NAMES, Settings

from . import values
from .extras import require
from .invocation import command_line
from .sample import write_text

DEFAULT_OUT = "runs/lstm"
SAMPLE_BYTES, SAMPLE_TEMPERATURE = 500, 0.7
VALIDATION_BYTES, VALIDATION_STREAMS = 1 << 15, 32


def add_arguments(parser):
    """Declare the command's arguments. A setting not given is absent from the result: a run may have its own."""
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="text to learn from (default: the Python standard library's sources)"
    )

    def flag(group, name, about, **options):
        default = getattr(Settings, name, None)
        shown = f" (default: {default})" if default is not None else ""
        group.add_argument(f"--{name}", default=argparse.SUPPRESS, help=about + shown, **options)

    model = parser.add_argument_group("the model")
    flag(model, "hidden", "units of each LSTM layer", type=values.count, metavar="H")
    flag(model, "layers", "LSTM layers, one above the other", type=values.count, metavar="L")
    flag(model, "embedding", "numbers that stand for a byte at the input", type=values.count, metavar="E")
    flag(model, "dtype", "of all numbers", choices=DTYPES)

    training = parser.add_argument_group("the training")
    length = training.add_mutually_exclusive_group()
    flag(
        length,
        "steps",
        f"steps in all (default: {DEFAULT_STEPS}); the same steps give the same weights",
        type=values.count,
    )
    flag(length, "minutes", "train for this long instead", type=values.positive)
    flag(training, "batch", "places of the text that are read at the same time", type=values.count, metavar="N")
    flag(training, "length", "bytes that a gradient reaches back through", type=values.count, metavar="T")
    flag(training, "optimizer", "how a gradient becomes a step; sgd has momentum 0.9", choices=OPTIMIZER_NAMES)
    flag(
        training, "lr", "learning rate at its highest, after a rise over the first 2%% and before a cosine fall "
        "(default: 0.012 for adam, 0.2 for sgd)", type=values.positive,
    )  # fmt: skip
    flag(training, "clip", "longest gradient, by its norm over all parameters", type=values.positive, metavar="NORM")
    flag(training, "seed", "of the initial weights", type=values.seed)
    flag(training, "device", "cuda needs CuPy; auto takes cuda where a GPU answers", choices=DEVICES)
    flag(
        training, "threads", "threads of NumPy's matrix products; more pay for large models, on a machine with nothing "
        "else to do", type=values.count,
    )  # fmt: skip

    run = parser.add_argument_group("the run")
    run.add_argument(
        "--out", default=DEFAULT_OUT, metavar="DIR", help="directory of the run, made if need be (default: %(default)s)"
    )
    run.add_argument(
        "--resume", action="store_true",
        help="go on with the run in DIR, with its settings and texts. A run that was killed ends just as if it had not "
        "been. --steps or --minutes may change its length: the learning rate then follows the schedule of the new "
        "length from there on, so it may rise once more; --device may change its place",
    )  # fmt: skip


def run(args):
    """Run the command; the exit status."""
    require("rich", "matplotlib", "safetensors", "threadpoolctl")
    from lstm_xp.training.devices import blas_threads, namespace_of
    from lstm_xp.training.progress import say
    from lstm_xp.training.runs import Run, check_free, reopen
    from lstm_xp.training.texts import read_texts

    explicit = {field.name: getattr(args, field.name) for field in fields(Settings) if hasattr(args, field.name)}
    if args.resume:
        saved, settings, files, digests = reopen(args.out)
        settings = _changed(settings, explicit, saved, args.out)
    else:
        saved, settings = None, _new(explicit)
        check_free(args.out)
    # Absolute, so that a resume finds them from elsewhere too.
    files = [str(Path(file).absolute()) for file in args.files] or (files if args.resume else [])
    say("reading " + (", ".join(files[:3]) + " ..." * (len(files) > 3) if files else "the Python standard library"))
    texts = read_texts(files)
    if args.resume and texts.digests() != digests:
        raise UserError(
            f"--resume: the texts are not those that the run in {args.out} was trained on ({texts.source}): "
            "bring those back (for the standard library: use the same Python), or start anew in another --out"
        )
    xp, device = namespace_of(settings.device)
    settings = replace(settings, device=device)
    with blas_threads(settings.threads):
        return _train(Run(args.out, settings, files, texts), settings, texts, saved, xp)


def _new(explicit):
    """The settings of a new run."""
    from lstm_xp.training.optimizers import OPTIMIZERS

    settings = Settings(**explicit)
    if settings.steps is None and settings.minutes is None:
        settings = replace(settings, steps=DEFAULT_STEPS)
    return settings if settings.lr else replace(settings, lr=OPTIMIZERS[settings.optimizer].default_lr)


def _changed(settings, explicit, saved, out):
    """The settings of a run that is resumed: its own, but for its length and its device."""
    for name, value in explicit.items():
        if name not in ("steps", "minutes", "device") and value != getattr(settings, name):
            raise UserError(
                f"--{name} {value} is at odds with the run in {out}, which has {getattr(settings, name)}: "
                "leave it out, or start a new run in another --out"
            )
    if explicit.get("steps", math.inf) < saved.step:
        raise UserError(f"--steps {explicit['steps']}: the run in {out} has made {saved.step} steps already; give more")
    if 60 * explicit.get("minutes", math.inf) < saved.seconds:
        raise UserError(
            f"--minutes {explicit['minutes']:g}: the run in {out} has lasted {saved.seconds / 60:.2f} already; "
            "give more"
        )
    if "steps" in explicit or "minutes" in explicit:
        settings = replace(settings, steps=explicit.get("steps"), minutes=explicit.get("minutes"))
    return replace(settings, device=explicit.get("device", settings.device))


def _counted(number, unit):
    """As in 1 step, 2 steps, 0.5 minutes."""
    shown = f"{number:g}" if isinstance(number, float) else number
    return f"{shown} {unit}{'s' * (number != 1)}"


def _train(run, settings, texts, saved, xp):
    """Train, report, and write what comes of it."""
    import numpy as np

    from lstm_xp.training import evaluation, model
    from lstm_xp.training.batches import Windows
    from lstm_xp.training.loop import initial_state, on_device, train
    from lstm_xp.training.progress import clock, say

    windows = Windows(texts.train, settings.batch, settings.length, xp)
    if saved is None:
        parameters = model.init_parameters(
            np.random.default_rng(settings.seed), **settings.model_shape(), dtype=settings.dtype
        )
        state = initial_state(parameters, settings, xp)
    else:
        state = on_device(saved, xp)
    size = sum(math.prod(value.shape) for value in state.parameters.values())
    length = _counted(settings.steps, "step") if settings.steps else _counted(settings.minutes, "minute")
    say(f"text     {texts.source}: {len(texts.train) / 1e6:.2f} MB, and {len(texts.test) / 1e3:.0f} kB for the test")
    say(
        f"model    {settings.layers} x {settings.hidden} units, {size:,} parameters of {settings.dtype} "
        f"on {settings.device}"
    )
    say(f"training {length} of {settings.batch} x {settings.length} bytes, in {run.directory}; Ctrl-C stops and saves")

    def validate(parameters):
        text = texts.validation[:VALIDATION_BYTES]
        return evaluation.bits_per_byte(parameters, text, streams=min(VALIDATION_STREAMS, len(text)))

    # Overflow need not be told of as it happens: a loss that is no number ends the run.
    with _stopped_like_ctrl_c(), np.errstate(over="ignore", invalid="ignore"):
        try:
            run.make_directory()
            run.save(state)
            with _progress(settings, state) as show:
                for after_step in train(state, settings, windows, validate):
                    state = after_step
                    run.save_if_due(state)
                    show(state)
            run.save(state)
            say(f"trained {_counted(state.step, 'step')} in {clock(state.seconds)}; now the test")
            results = {"this model": evaluation.bits_per_byte(state.parameters, texts.test)}
            results |= evaluation.compressor_bits_per_byte(texts.test)
            run.save_results(state, results)
        except KeyboardInterrupt as stop:
            run.save(state)
            run.save_results(state, {})
            go_on = command_line("train", "--resume", "--out", run.directory)
            say(f"\nstopped at step {state.step}, all is saved; to go on: {go_on}")
            return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    _report(run, state.parameters, results, texts, settings)
    return 0


@contextlib.contextmanager
def _progress(settings, state):
    """A function that shows a state, when it is time to."""
    from lstm_xp.training.loop import train_bits
    from lstm_xp.training.progress import Status, progress

    began, first_step, first_done = time.monotonic(), state.step, settings.done(state.step, state.seconds)

    with progress() as display:

        def show(state):
            done = settings.done(state.step, state.seconds)
            if not (display.wants() or done >= 1):
                return
            elapsed = time.monotonic() - began
            display.show(Status(
                step=state.step,
                done=min(1.0, done),
                train_bits=train_bits(state),
                valid_bits=next((r["valid_bits"] for r in reversed(state.history) if "valid_bits" in r), None),
                bytes_per_second=(state.step - first_step) * settings.batch * settings.length / elapsed,
                seconds_left=elapsed * max(0.0, 1 - done) / (done - first_done),
            ))  # fmt: skip

        yield show


@contextlib.contextmanager
def _stopped_like_ctrl_c():
    """Let the other polite signals stop a run as Ctrl-C does."""

    def stop(number, frame):
        raise KeyboardInterrupt(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # What somebody ignores on purpose, as nohup does, stays ignored. Only the main thread may set handlers.
    free = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    with contextlib.suppress(ValueError):
        for number in free:
            signal.signal(number, stop)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            for number in free:
                signal.signal(number, signal.SIG_DFL)


def _report(run, parameters, results, texts, settings):
    """The test figures and a sample, on standard output."""
    import sys

    import numpy as np

    from lstm_xp.training.progress import say
    from lstm_xp.training.sampling import sample_bytes

    print(f"\nbits per byte of the test text ({len(texts.test):,} bytes):")
    for name, bits in results.items():
        print(f"  {name:<11} {bits:.3f}")
    print(f"\na sample, at temperature {SAMPLE_TEMPERATURE}:\n", flush=True)
    rng = np.random.default_rng(settings.seed)
    write_text(b"", sample_bytes(parameters, b"", SAMPLE_BYTES, temperature=SAMPLE_TEMPERATURE, rng=rng), sys.stdout)
    say(f"\nwritten: {', '.join(sorted(path.name for path in run.directory.iterdir()))} in {run.directory}")
    say(f"for more text: {command_line('sample', run.directory)}")

"""What it costs to serve one trained PyTorch LSTM: with lstm_xp, with NumPy and a loop, onnxruntime, PyTorch itself.

    python -m benchmarks.service [--torch torch==2.13.0] [--out FILE]

Each contender gets a virtual environment of its own, with nothing but what it needs, and processes of its own, in
rounds with those of the others: each loads the model, computes one output, and then one for each of many requests
(N = 1). What is reported is the median over the rounds. All outputs must agree. The model, two bidirectional layers
with random weights, is made with PyTorch, exported once as safetensors, and converted to ONNX with `lstm_xp.weights`
(its extra: `weights`). Needs pip's index, and about 1.5 GB of disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from . import machine
from .fresh import medians

ROOT = Path(__file__).resolve().parent.parent
WORKER = Path(__file__).with_name("service_worker.py")
# Processes of each contender that count.
ROUNDS = 7

# Contender -> the packages of its environment; {torch} is what --torch says, {here} this checkout.
CONTENDERS = {
    "lstm_xp": ["{here}", "safetensors"],
    "lstm_xp + numba": ["{here}[numba]", "safetensors"],
    "numpy + a loop": ["numpy"],
    "onnxruntime": ["onnxruntime", "numpy"],
    "torch": ["{torch}", "numpy", "safetensors"],
}
COLUMNS = {
    "installed_MB": "installed, MB",
    "import_ms": "import, ms",
    "first_output_ms": "to first output, ms",
    "resident_MB": "resident, MB",
    "request_us": "one request, us",
}


def outside():
    """The environment variables of a worker, without this checkout, which some contenders shall not see."""
    return {name: value for name, value in machine.environment().items() if name != "PYTHONPATH"}


def virtual(folder, packages):
    """A fresh virtual environment; its Python, and the megabytes that were installed into it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = next(path for path in (folder / "bin/python", folder / "Scripts/python.exe") if path.exists())
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", *packages]
    subprocess.run(install, check=True, env=outside())
    files = (path for path in folder.rglob("site-packages/**/*") if path.is_file() and path.suffix != ".pyc")
    return python, sum(path.stat().st_size for path in files) / 1e6


def serve(python, contender, folder):
    """What a fresh process of a contender says."""
    command = [python, WORKER, contender.partition(" ")[0], folder]
    done = subprocess.run(command, env=outside(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{contender}: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def table(records):
    """The records as Markdown."""
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|" + " --- |" * (len(COLUMNS) + 1)]
    for record in records:
        lines.append(f"| {record['contender']} | " + " | ".join(f"{record[key]:.4g}" for key in COLUMNS) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        "python -m benchmarks.service", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", default="torch", help="what pip installs as PyTorch, for example its CPU build")
    parser.add_argument("--out", type=Path, help="write the records as JSON lines")
    arguments = parser.parse_args()
    records, about = [], machine.describe()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        pythons = {}
        for contender, packages in CONTENDERS.items():
            print(f"installing {contender}", file=sys.stderr)
            packages = [package.format(torch=arguments.torch, here=ROOT) for package in packages]
            pythons[contender] = virtual(folder / contender.replace(" ", ""), packages)
        subprocess.run([pythons["torch"][0], WORKER, "make", folder], check=True)
        from lstm_xp import weights

        weights.write(folder / "model.onnx", *weights.read(folder / "model.safetensors"))
        said = {contender: [] for contender in pythons}
        for count in range(1 + ROUNDS):
            print(f"serving, round {count} of {ROUNDS}", file=sys.stderr)
            for contender, (python, _) in pythons.items():
                said[contender].append(serve(python, contender, folder))
        for contender, (_, size) in pythons.items():
            found = medians(said[contender], said[contender][0])
            records.append({"contender": contender, "installed_MB": size, **found, "rounds": ROUNDS, **about})
    print(table(records))
    if arguments.out:
        arguments.out.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


if __name__ == "__main__":
    main()

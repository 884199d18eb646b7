"""ci/gpu.sh, the script around the programme for a GPU: which parts it runs, and how it judges them. Without a GPU."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.places import Cuda, NoDevice

ROOT = Path(__file__).resolve().parent.parent


def has_device():
    try:
        Cuda().check()
    except NoDevice:
        return False
    return True


def test_the_script_is_a_script():
    assert subprocess.run(["bash", "-n", "ci/gpu.sh"], cwd=ROOT).returncode == 0
    text = (ROOT / "ci" / "gpu.sh").read_text()
    seconds = int(re.search(r"^seconds=\$\{GPU_SECONDS:-(\d+)\}$", text, re.MULTILINE)[1])
    text = text.replace("$((seconds + 15))", "15")  # beside what the programme may take
    budgets = {line.split()[1]: int(line.split()[2]) for line in text.splitlines() if line.startswith("part ")}
    assert set(budgets) == {"programme", "check", "suite"}
    assert seconds + budgets["programme"] + max(budgets["check"], budgets["suite"]) <= 8 * 60 - 10


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [((0, 0, 0), 0), ((1, 0, 0), 1), ((0, 1, 0), 1), ((0, 0, 1), 1), ((0, 0, 3), 3), ((5, 0, 0), 3), ((5, 0, 1), 1)],
)
def test_the_script_runs_every_part_and_judges(tmp_path, statuses, expected):
    """With a Python in whose place a script ends as it is told to."""
    python = tmp_path / "python"
    suite, check, measure = statuses
    python.write_text(f"""#!/usr/bin/env bash
echo "$*" >> {tmp_path}/log
case "$*" in
    -c*) exit 0 ;;
    *-m\\ pytest*) exit {suite} ;;
    *lstm_xp\\ check*) exit {check} ;;
    *report*) exit 0 ;;
    *benchmarks.gpu*) touch {tmp_path}/out/gpu.json; exit {measure} ;;
esac
""")
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", "ci/gpu.sh", str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(python)},
    )  # fmt: skip
    assert done.returncode == expected, done.stdout + done.stderr
    log = (tmp_path / "log").read_text().splitlines()
    assert len(log) == 7
    assert log[2].startswith("-m benchmarks.gpu --seconds")  # the most valuable first
    check, suite = sorted(log[5:])  # at the same time
    assert check == "-m lstm_xp check --device cuda"
    assert "-n 8 --require=cupy" in suite
    assert {"gpu-suite.log", "gpu-check.log", "gpu-programme.log"} <= {f.name for f in (tmp_path / "out").iterdir()}


def test_the_script_says_what_cannot_be_imported(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/usr/bin/env bash\necho \"ModuleNotFoundError: No module named 'numpy'\" >&2\nexit 1\n")
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", "ci/gpu.sh", str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(python)},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "ci/gpu.sh: lstm_xp cannot be imported: ModuleNotFoundError: No module named 'numpy'\n"


def test_the_script_says_that_there_is_no_device(tmp_path):
    if has_device():
        pytest.skip("there is a device")
    done = subprocess.run(
        ["bash", "ci/gpu.sh", str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("ci/gpu.sh: no CUDA device: CuPy ")
    assert done.stderr.count("\n") == 1

#!/usr/bin/env bash
# Prove and measure one NVIDIA GPU, in seven minutes. Usage: bash ci/gpu.sh [FOLDER]
#
# Runs in this checkout, with the Python that is there ($PYTHON, or python3), which has NumPy, array-api-compat, CuPy,
# ml_dtypes, pytest, hypothesis and, for the rivals, torch; installs nothing, and needs no network. Every part runs,
# whatever became of those before it, the most valuable first. FOLDER (benchmarks/results unless given) gets gpu.json,
# gpu.md, gpu.svg, and what each part printed. GPU_SECONDS (315 unless given) is what the programme may take.
#
# Exit status: 2 if there is no CUDA device, or lstm_xp cannot be imported; 1 if a number is wrong (a failed test or
# check counts as that); 3 if nothing is known to be wrong, but a part did not come to its end or proved nothing; else 0.
# Slowness is no failure.
set -uo pipefail
cd "$(dirname "$0")/.."

folder=${1:-benchmarks/results}
seconds=${GPU_SECONDS:-315}
python=${PYTHON:-python3}
mkdir -p "$folder" || exit 3
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# JAX, where it is installed, would take three quarters of the device's memory for itself.
export XLA_PYTHON_CLIENT_PREALLOCATE=false

wrong=0 unfinished=0

# part NAME SECONDS COMMAND...: run it for so long at most, keep what it prints, and return how it ended.
part() {
    local name=$1 seconds=$2 status
    shift 2
    printf '\n=== %s (%s s at most): %s\n' "$name" "$seconds" "$*"
    timeout --signal=INT --kill-after=10 "$seconds" "$@" 2>&1 | tee "$folder/gpu-$name.log"
    status=${PIPESTATUS[0]}
    printf '=== %s: exit status %s\n' "$name" "$status"
    return "$status"
}

# judge STATUS: note how a part ended.
judge() {
    case $1 in
        0) ;;
        1) wrong=1 ;;
        *) unfinished=1 ;;
    esac
}

if ! "$python" -c 'from lstm_xp import lstm_forward' 2> "$folder/gpu-device.log"; then
    echo "ci/gpu.sh: lstm_xp cannot be imported: $(tail -n 1 "$folder/gpu-device.log")" >&2
    exit 2
fi
if ! "$python" -c 'from benchmarks.gpu.places import Cuda; Cuda().check()' 2> "$folder/gpu-device.log"; then
    echo "ci/gpu.sh: no CUDA device: $(tail -n 1 "$folder/gpu-device.log" | sed 's/.*NoDevice: //')" >&2
    exit 2
fi
rm -f "$folder/gpu-device.log"

rm -f "$folder/gpu.json"
part programme $((seconds + 15)) "$python" -m benchmarks.gpu --seconds "$seconds" --out "$folder/gpu.json"
judge $?
if [ -f "$folder/gpu.json" ]; then
    "$python" -m benchmarks.gpu report "$folder/gpu.json" --folder "$folder" || unfinished=1
else
    unfinished=1
fi

# Nothing is timed any more: both at the same time, the tests in several processes where pytest-xdist is there.
several=()
"$python" -c 'import xdist' 2> /dev/null && several=(-n 8)
part check 60 "$python" -m lstm_xp check --device cuda &
check=$!
# Of the suite, what computes on the GPU: tests that run over array libraries have theirs in their name. Those of
# test_cupy_*.py run on an emulated device, here as anywhere. A warning of a library of this machine is no wrong number.
part suite 120 "$python" -m pytest -q -W default -p no:cacheprovider "${several[@]}" \
    --require=cupy --require=cupy_rows --require=cupy_grid --require=cupy_step --require=cupy_fused \
    -k '(cupy or torch-cuda) and not test_cupy_'
judge $?
wait "$check"
judge $?

printf '\n=== wrong numbers: %s; unfinished: %s; results in %s\n' "$wrong" "$unfinished" "$folder"
[ "$wrong" = 0 ] || exit 1
[ "$unfinished" = 0 ] || exit 3

#!/usr/bin/env bash
# Everything that must hold before a change lands; also for a contributor's own machine. Usage: bash ci/check.sh
# Works in a copy of the checkout, with virtual environments of its own, and leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git ls-files -z | xargs -0 cp --parents -t "$work"
cd "$work"

# The n-th command of the README's first screen, exactly as it is printed there.
readme_command() { awk -v n="$1" '/^```bash$/ { inside = 1; next } /^```$/ { inside = 0 } inside { if (++k == n) print }' README.md; }
step() { printf '\n=== %s\n' "$*"; }

main_job=$(readme_command 1)
tests=$(readme_command 2)

step "the README's main job in a fresh environment, shortened: $main_job --steps 40 --out runs/short"
bash -euc "$main_job --steps 40 --out runs/short"
.venv/bin/lstm-xp sample runs/short --prompt "def " --length 80 --seed 1
.venv/bin/lstm-xp info

step "the README's tests in a fresh environment: $tests"
rm -r .venv
bash -euc "$tests"

step "the same tests with every array library required"
python3 -m venv --without-pip .venv-libraries
python3 -m pip --python .venv-libraries install -q -e '.[test]' -r ci/libraries.txt
.venv-libraries/bin/lstm-xp check
.venv-libraries/bin/python -m pytest -q $(sed -n 's/^# require: //p' ci/libraries.txt)

step "lint and format"
.venv-libraries/bin/ruff check .
.venv-libraries/bin/ruff format --check .

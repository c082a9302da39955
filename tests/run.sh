#!/usr/bin/env bash
# Install what the tests need and run them, two at a time: the quick ones, then those that train.
# usage: bash tests/run.sh [pytest arguments …], e.g. -m "not e2e"; with arguments there is one run, one at a time
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$root/.venv}
bash "$root/examples/install.sh" "$venv" cpu,dev
cd "$root"
if ((EUID == 0)) && command -v apt-get >/dev/null && ! command -v slurmctld munged >/dev/null; then
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q slurm-wlm munge iproute2; } >/dev/null || echo "run.sh: no Slurm could be installed, its test is skipped" >&2
fi
if ((EUID == 0)) && command -v apt-get >/dev/null && ! command -v chromedriver >/dev/null; then
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q chromium chromium-driver; } >/dev/null || echo "run.sh: no Chromium could be installed, the tests of pages are skipped" >&2
fi
if (($#)); then
  exec "$venv/bin/python" -m pytest "$@"
fi
# The environment of the reference packages, which the tests of parity would wait for; a failure shows in them.
parity=${PARITY_VENV:-$root/.venv-parity}
flock "$parity.lock" bash "$root/examples/install.sh" "$parity" reference >/dev/null 2>&1 &
OMP_NUM_THREADS=1 "$venv/bin/python" -m pytest --numprocesses 2 --dist loadfile -m "not e2e"
others=$(mktemp)
"$venv/bin/python" -m pytest -m "e2e and not vllm" >"$others" 2>&1 &
status=0
"$venv/bin/python" -m pytest -m "e2e and vllm" || status=$?
wait $! || status=$?
cat "$others"
rm "$others"
exit "$status"

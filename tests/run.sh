#!/usr/bin/env bash
# Install what the tests need and run them: the quick ones two at a time, then those that train.
# usage: bash tests/run.sh [pytest arguments …], e.g. -m "not e2e"; with arguments there is one run, one at a time
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$root/.venv}
bash "$root/examples/install.sh" "$venv" cpu,dev
cd "$root"
if ((EUID == 0)) && command -v apt-get >/dev/null && ! command -v slurmctld munged >/dev/null; then
  apt-get install -y -q slurm-wlm munge >/dev/null || echo "run.sh: no Slurm could be installed, its test is skipped" >&2
fi
if (($#)); then
  exec "$venv/bin/python" -m pytest "$@"
fi
OMP_NUM_THREADS=1 "$venv/bin/python" -m pytest --numprocesses 2 --dist loadfile -m "not e2e"
exec "$venv/bin/python" -m pytest -m e2e

#!/usr/bin/env bash
# Install what the tests need and run them. usage: bash tests/run.sh [pytest arguments …], e.g. -m "not e2e"
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$root/.venv}
bash "$root/examples/install.sh" "$venv" cpu,dev
cd "$root"
exec "$venv/bin/python" -m pytest "$@"

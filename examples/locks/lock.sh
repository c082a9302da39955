#!/usr/bin/env bash
# Pin what `examples/install.sh VENV gpu` installs on Python 3.12: one file for each architecture, wheels only.
# usage: bash examples/locks/lock.sh [--check]      --check: change nothing; fail if a file no longer fits setup.cfg
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
uv=$(command -v "${VENV:-$root/.venv}/bin/uv" || command -v uv) || {
  echo "lock: need uv: pip install uv" >&2
  exit 2
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 - "$root/setup.cfg" >"$work/gpu.in" <<'PY'
import configparser, sys
config = configparser.ConfigParser()
config.read(sys.argv[1])
print(config["options"]["install_requires"], config["options.extras_require"]["gpu"], sep="\n")
PY
# The oldest glibc that has all wheels: llguidance needs 2.31 on x86_64, tilelang 2.34 on aarch64.
declare -A platforms=([x86_64]=x86_64-manylinux_2_31 [aarch64]=aarch64-manylinux_2_34)
for architecture in x86_64 aarch64; do
  lock=$here/gpu-$architecture.txt new=$work/$architecture.txt
  if [[ ${1:-} == --check ]]; then
    cp "$lock" "$new" # uv keeps its pins where they fit
  fi
  "$uv" pip compile "$work/gpu.in" --quiet --only-binary :all: --python-version 3.12 --no-header --no-annotate \
    --python-platform "${platforms[$architecture]}" --output-file "$new"
  if [[ ${1:-} != --check ]]; then
    cp "$new" "$lock"
  elif ! diff "$lock" "$new"; then
    echo "lock: $lock no longer fits setup.cfg: run bash examples/locks/lock.sh and commit the files" >&2
    exit 1
  fi
done

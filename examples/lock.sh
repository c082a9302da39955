#!/usr/bin/env bash
# Make the lock files of the gpu extra, one for each architecture, from wheels only; needs the package index and uv.
# usage: bash examples/lock.sh [--check]      --check: only see whether wheels for all that they name are still there
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
uv=${UV:-uv}
command -v "$uv" >/dev/null || {
  echo "lock.sh: no uv: pip install uv, or set UV to one" >&2
  exit 2
}
# The oldest glibc for which all wheels exist; older hosts need a container.
declare -A platforms=([x86_64]=x86_64-manylinux_2_31 [aarch64]=aarch64-manylinux_2_34)
requirements() {
  python3 - "$here/../setup.cfg" <<'PY'
import configparser, sys
config = configparser.ConfigParser()
config.read(sys.argv[1])
lines = (config["options"]["install_requires"] + "\n" + config["options.extras_require"]["gpu"]).splitlines()
print("\n".join(sorted({line for line in lines if line and not line.startswith("#")})))
PY
}
for machine in "${!platforms[@]}"; do
  lock=$here/locks/gpu-py312-$machine.txt
  compile=("$uv" pip compile --quiet --only-binary :all: --python-version 3.12 --python-platform "${platforms[$machine]}" --no-header)
  if [[ ${1:-} == --check ]]; then
    "${compile[@]}" --no-deps "$lock" --output-file /dev/null
  else
    requirements | "${compile[@]}" --no-annotate - --output-file "$lock"
  fi
  echo "lock.sh: $lock: $(grep -c == "$lock") packages"
done

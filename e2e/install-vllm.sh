#!/bin/bash
# Installs a real vLLM for CPU into a cache outside the tree and prints the virtual environment's path on its last line.
#   e2e/install-vllm.sh            (PACELINE_CACHE: where, default ~/.cache/paceline; PYTHON: a Python 3.11, default python3.11 or python3)
# A second run finds the stamp, a hash of vllm-requirements.txt and the Python version, and does nothing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
requirements=$here/vllm-requirements.txt
venv=${PACELINE_CACHE:-$HOME/.cache/paceline}/vllm-0.32.0
stamp=$venv/.installed
uv=uv==0.13.9

say() { echo "install-vllm: $*" >&2; }
fail() { say "error: $*"; exit 1; }

python=${PYTHON:-$(command -v python3.11 || command -v python3)} || fail "no python3 found; set PYTHON"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "$python does not run"
[ "$version" = 3.11 ] || fail "$python is Python $version, the pinned packages are for 3.11; set PYTHON"
want=$(echo "python $version" | cat - "$requirements" | sha256sum | cut -d' ' -f1)

mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock -n 9 || { say "another installation is running, waiting for it"; flock 9; }
if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
  say "$venv is up to date"
  echo "$venv"
  exit
fi

say "creating $venv (about 6 GB; the packages come from the configured index)"
rm -rf "$venv"
"$python" -m venv "$venv" || fail "cannot create a virtual environment with $python"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$uv" || fail "cannot install uv"
say "installing $(grep -c == "$requirements") pinned packages"
# --no-deps: the list is complete (see its first lines)
"$venv/bin/python" -m uv pip install --quiet --python "$venv/bin/python" --no-deps -r "$requirements" || fail "cannot install the requirements"
say "checking that it imports"
"$venv/bin/python" -c 'import torch, vllm; assert vllm.__version__ == "0.32.0", vllm.__version__' >/dev/null || fail "vllm does not import"
echo "$want" >"$stamp"
say "done"
echo "$venv"

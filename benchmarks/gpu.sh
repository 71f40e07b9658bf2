#!/usr/bin/env bash
# Ten minutes of a GPU, in five parts: see README.md beside this file, or --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
if [ -z "${PYTHON:-}" ] && [ ! -x "$python" ]; then
    python=python3
fi
# -P: the folder of the script is no place to import from.
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -P "$root/benchmarks/gpu.py" "$@"

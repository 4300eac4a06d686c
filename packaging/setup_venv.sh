#!/bin/bash
# Makes the virtual environment DIR with everything tests and demo need.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$1
: "${PYTHON:=python3}"
"$PYTHON" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' ||
  { echo "facedetd needs Python 3.10 to 3.13, and $PYTHON is $("$PYTHON" -V)" >&2; exit 1; }
[ -x "$dir/bin/python" ] || "$PYTHON" -m venv "$dir"
version=$("$dir/bin/python" -c 'import sys; print("py%d%d" % sys.version_info[:2])')
lock=requirements/dev-$version.txt
pip=("$dir/bin/python" -m pip --disable-pip-version-check -q)
if [ -f "$lock" ]; then
  echo "installing locked Python packages ($lock)" >&2
  "${pip[@]}" install --require-hashes --no-deps -r "$lock"
  "${pip[@]}" install --no-deps --no-build-isolation -e . 2>/dev/null || "${pip[@]}" install --no-deps -e .
else
  echo "installing Python packages (there is no lock for $version)" >&2
  "${pip[@]}" install -e '.[dev]'
fi

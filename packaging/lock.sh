#!/bin/bash
# Renews requirements/dev-pyXY.txt for the Python of the virtual environment DIR (.venv): versions and hashes, no index
# names.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv}/bin/python
version=$("$python" -c 'import sys; print("py%d%d" % sys.version_info[:2])')
"$python" -m piptools compile -q --upgrade --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url \
  --no-emit-trusted-host --no-emit-find-links --extra dev -o "requirements/dev-$version.txt" pyproject.toml

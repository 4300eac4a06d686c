#!/bin/sh
# Regenerates facedetd/v1 from proto/. `make lint` fails when the committed files differ.
set -eu
cd "$(dirname "$0")/.."
PY=${PY:-.venv/bin/python}
OUT=${1:-.}
mkdir -p "$OUT/facedetd/v1"
PATH=$(dirname "$PY"):$PATH "$PY" -m grpc_tools.protoc -Iproto --python_out="$OUT" --pyi_out="$OUT" --grpc_python_out="$OUT" --mypy_grpc_out=quiet:"$OUT" proto/facedetd/v1/*.proto
echo '"""Generated from proto/facedetd/v1 by packaging/gen_proto.sh; do not edit."""' >"$OUT/facedetd/v1/__init__.py"

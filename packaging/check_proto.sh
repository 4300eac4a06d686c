#!/bin/bash
# Fails when facedetd/v1 is not what proto/ gives.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
packaging/gen_proto.sh "$out"
diff -ru --exclude=__pycache__ facedetd/v1 "$out/facedetd/v1" ||
  { echo "facedetd/v1 is not what proto/ gives: run make proto" >&2; exit 1; }

#!/bin/bash
# Builds the package twice, in different folders and under another umask, time zone and locale, and compares the bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
a=$(mktemp -d) b=$(mktemp -d)
trap 'rm -rf "$a" "$b"' EXIT
packaging/build_deb.sh "$a" >/dev/null
(umask 077; TZ=Asia/Tokyo LC_ALL=C PYTHONHASHSEED=7 packaging/build_deb.sh "$b" >/dev/null)
(cd "$a" && sha256sum ./*.deb) >&2
cmp "$a"/*.deb "$b"/*.deb && echo "two builds, the same bytes"

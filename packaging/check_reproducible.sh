#!/bin/bash
# Builds the package twice, in different folders and under another umask, time zone and locale, and compares the bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
a=$(mktemp -d) b=$(mktemp -d)
trap 'rm -rf "$a" "$b"' EXIT
COMMIT=$(git rev-parse HEAD)
export COMMIT
packaging/build_deb.sh "$a" >/dev/null
(umask 077; TZ=Asia/Tokyo LC_ALL=C PYTHONHASHSEED=7 packaging/build_deb.sh "$b" >/dev/null)
(cd "$a" && sha256sum ./*.deb)
if ! cmp "$a"/*.deb "$b"/*.deb; then
  for each in "$a" "$b"; do dpkg-deb -R "$each"/*.deb "$each/tree"; done
  diff -rq "$a/tree" "$b/tree" || true
  diff <(dpkg-deb -c "$a"/*.deb) <(dpkg-deb -c "$b"/*.deb) || true
  exit 1
fi
echo "two builds, the same bytes"

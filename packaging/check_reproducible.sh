#!/bin/bash
# Builds the packages twice, in different folders and under another umask, time zone and locale, and compares the bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
a=$(mktemp -d) b=$(mktemp -d)
trap 'rm -rf "$a" "$b"' EXIT
COMMIT=$(git rev-parse HEAD)
export COMMIT
packaging/build_deb.sh "$a" >/dev/null
(umask 077; TZ=Asia/Tokyo LC_ALL=C PYTHONHASHSEED=7 packaging/build_deb.sh "$b" >/dev/null)
(cd "$a" && sha256sum ./*.deb)
differ=
for deb in "$a"/*.deb; do
  other=$b/$(basename "$deb")
  cmp "$deb" "$other" && continue
  differ=1
  dpkg-deb -R "$deb" "$deb.tree" && dpkg-deb -R "$other" "$other.tree"
  diff -rq "$deb.tree" "$other.tree" || true
  diff <(dpkg-deb -c "$deb") <(dpkg-deb -c "$other") || true
done
[ -z "$differ" ] || exit 1
echo "two builds, the same bytes"

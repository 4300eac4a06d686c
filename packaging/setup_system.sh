#!/bin/bash
# Installs the Debian packages that tests and demo need: a virtual environment, the camera server, promtool.
# Does nothing, and needs no rights, where they are there.
set -euo pipefail
cd "$(dirname "$0")/.."
PACKAGES=(python3-venv python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good
  gstreamer1.0-plugins-bad glib-networking openssl)
missing=()
for p in "${PACKAGES[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
updated=
update() { [ -n "$updated" ] || "${as_root[@]}" apt-get update -qq >&2; updated=1; }

if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null ||
    { echo "not a Debian system: install yourself what corresponds to: ${missing[*]}" >&2; exit 1; }
  echo "installing Debian packages: ${missing[*]}" >&2
  update
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# Only promtool is wanted of the package prometheus, not the service it starts
if ! command -v promtool >/dev/null && [ ! -x .cache/bin/promtool ]; then
  echo "unpacking promtool" >&2
  mkdir -p .cache/bin
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  chmod 755 "$folder"
  (cd "$folder" && { apt-get download -qq prometheus 2>/dev/null || { update && apt-get download -qq prometheus; }; }) >&2
  dpkg-deb --fsys-tarfile "$folder"/prometheus_*.deb | tar -x -O ./usr/bin/promtool >.cache/bin/promtool
  chmod +x .cache/bin/promtool
fi

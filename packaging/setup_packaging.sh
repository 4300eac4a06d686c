#!/bin/bash
# Installs the Debian packages that building and testing the package need, beyond those of setup_system.sh:
# setup_packaging.sh deb | system | vm. Does nothing, and needs no rights, where they are there.
set -euo pipefail
DEB=(debhelper dpkg-dev fakeroot lintian python3)
SYSTEM=(mmdebstrap systemd-container iproute2 piuparts)
VM=(mmdebstrap qemu-system-x86 e2fsprogs)
case ${1:-} in
  deb) wanted=("${DEB[@]}");;
  system) wanted=("${DEB[@]}" "${SYSTEM[@]}");;
  vm) wanted=("${DEB[@]}" "${VM[@]}");;
  *) echo "usage: setup_packaging.sh deb | system | vm" >&2; exit 2;;
esac
missing=()
for p in "${wanted[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0
command -v apt-get >/dev/null || { echo "not a Debian system; needed are: ${missing[*]}" >&2; exit 1; }
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
echo "installing Debian packages: ${missing[*]}" >&2
"${as_root[@]}" apt-get update -qq >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null

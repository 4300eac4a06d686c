#!/bin/bash
# Makes a signed apt repository of the packages in dist: apt_repo.sh KEY [FROM [INTO]], with the fingerprint or address of
# a key of yours that gpg can sign with. Plain files for any web server; run it again after each build, and the older
# packages stay in it, so that machines can go back.
set -euo pipefail
cd "$(dirname "$0")/.."
key=${1:-} from=${2:-dist} into=${3:-dist/apt}
[ -n "$key" ] || { echo "usage: apt_repo.sh KEY [FROM [INTO]]: which key shall sign? See: gpg --list-secret-keys" >&2; exit 2; }
gpg --batch --quiet --list-secret-keys "$key" >/dev/null 2>&1 ||
  { echo "gpg has no secret key $key; it has: $(gpg --list-secret-keys --with-colons | sed -n 's/^fpr:*\([^:]*\):.*/\1/p' | tr '\n' ' ')" >&2; exit 2; }
compgen -G "$from/facedetd_*.deb" >/dev/null || { echo "no package in $from: run make deb" >&2; exit 2; }
from=$(cd "$from" && pwd)
packages=dists/stable/main/binary-amd64
mkdir -p "$into/pool" "$into/$packages"
cd "$into"
cp -u "$from"/facedetd*.deb pool/
# New files are made beside the old ones and renamed, Release last: a client in between sees the one or the other
dpkg-scanpackages --multiversion pool 2>/dev/null >"$packages/.Packages"
xz -k -c "$packages/.Packages" >"$packages/.Packages.xz"
mv "$packages/.Packages" "$packages/Packages"
mv "$packages/.Packages.xz" "$packages/Packages.xz"
cd dists/stable
{
  cat <<END
Origin: facedetd
Label: facedetd
Suite: stable
Codename: stable
Architectures: amd64
Components: main
Date: $(LC_ALL=C date -u '+%a, %d %b %Y %H:%M:%S UTC')
SHA256:
END
  for file in main/binary-amd64/Packages main/binary-amd64/Packages.xz; do
    echo " $(sha256sum "$file" | cut -d' ' -f1) $(stat -c %s "$file") $file"
  done
} >.Release
gpg --batch --yes --local-user "$key" --clearsign --output .InRelease .Release
gpg --batch --yes --local-user "$key" --armor --detach-sign --output .Release.gpg .Release
mv .Release Release
mv .Release.gpg Release.gpg
mv .InRelease InRelease
gpg --batch --yes --export --output ../../facedetd-archive-keyring.gpg "$key"
echo "$into: $(grep -c ^Package: main/binary-amd64/Packages) packages, signed by $key"

#!/bin/bash
# lintian at its default level over the newest packages in DIR (dist). Fails where it finds an error or a warning that no
# override names, or an override that nothing needs.
set -euo pipefail
changes=$(ls -t "${1:-dist}"/facedetd_*.changes | head -1)
# The .changes names no real distribution before a release, which isn't the package's matter
found=$(lintian --fail-on error,warning --allow-root --display-info --suppress-tags \
  unreleased-changes,bad-distribution-in-changes-file "$changes") || { echo "$found"; exit 1; }
if grep -E '^[A-Z]: [^ ]+: (unused|mismatched)-override' <<<"$found"; then
  exit 1
fi
grep '^[EW]:' <<<"$found" || echo "lintian: nothing that isn't justified"

#!/bin/bash
# lintian at its default level over the newest packages in DIR (dist). Fails where it finds an error or a warning that no
# override names, or an override that nothing needs.
set -euo pipefail
changes=$(ls -t "${1:-dist}"/facedetd_*.changes | head -1)
# The .changes names no real distribution before a release, which isn't the package's matter
found=$(lintian --fail-on error,warning --allow-root --display-info --suppress-tags \
  unreleased-changes,bad-distribution-in-changes-file "$changes") && failed= || failed=$?
if grep -E '^([EW]: |.: [^ ]+: unused-override )' <<<"$found" || [ -n "$failed" ]; then
  echo "lintian: see above${failed:+; it ended with $failed}" >&2
  exit 1
fi
echo "lintian: no error, no warning that isn't justified, no override that isn't needed"

#!/bin/bash
# lintian at its default level over the newest package in DIR (dist); any error or warning that isn't overridden fails.
set -euo pipefail
changes=$(ls -t "${1:-dist}"/facedetd_*.changes | head -1)
# The .changes names no real distribution before a release, which isn't the package's matter
lintian --fail-on error,warning --allow-root --suppress-tags unreleased-changes,bad-distribution-in-changes-file "$changes"

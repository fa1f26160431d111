#!/usr/bin/env bash
# Builds the binary package from the source tree into the folder named by $1.
#
#   build.sh FOLDER VERSION
set -euo pipefail

out=$(realpath -m "$1")
# A dash separates version and release: 1.2.3-4-gabcdef is 1.2.3^4.gabcdef, which sorts after 1.2.3.
version=$(sed 's/-/^/; s/-/./g' <<<"$2")
top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT
mkdir -p "$out"
rpmbuild -bb --quiet --build-in-place \
	--define "_topdir $top" --define "_builddir $top" --define "_rpmdir $out" --define "flotta_version $version" \
	flotta-agent.spec
find "$out" -name '*.rpm'

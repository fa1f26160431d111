#!/usr/bin/env bash
# Regenerates every file of this repository that is generated; the go:generate lines say how.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

command -v protoc >/dev/null || { echo "generate: protoc is missing: run make setup" >&2; exit 1; }

go generate ./...

# The code depends on the pinned plugins only. The version of protoc, which comes from the distribution, would make
# the same files differ from machine to machine.
find . -name '*.pb.go' -exec sed -i -E '/^\/\/ [-[:space:]]*protoc +v[0-9.]+$/d' {} +

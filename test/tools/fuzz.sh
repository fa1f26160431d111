#!/usr/bin/env bash
# Runs every fuzz test of the module for a while each: fuzz.sh [TIME].
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
limit=${1:-10s}

found=0
while read -r dir; do
	while read -r name; do
		found=$((found + 1))
		echo "fuzz: $dir $name for $limit"
		go test -run '^$' -fuzz "^$name\$" -fuzztime "$limit" "./$dir"
	done < <(grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | sed 's/^func //' | sort -u)
done < <(grep -lrE --include='*_test.go' '^func Fuzz' cmd internal pkg test 2>/dev/null | xargs -r -n 1 dirname | sort -u)

[ "$found" -gt 0 ] || { echo "fuzz: no fuzz test found" >&2; exit 1; }
echo "fuzz: $found fuzz tests passed"

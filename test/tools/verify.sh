#!/usr/bin/env bash
# Fails when a generated file is out of date, or when go mod tidy would change a go.mod or go.sum.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

status=0

# Whatever the tree looked like before: generating must not change it.
state() {
	git -c safe.directory='*' ls-files -z --cached --others --exclude-standard |
		xargs -0 sha256sum 2>/dev/null | sort -k 2 || true
}
before=$(state)
test/tools/generate.sh
after=$(state)
if [ "$before" != "$after" ]; then
	echo "verify: these generated files were out of date; they are right now, commit them:" >&2
	diff <(echo "$before") <(echo "$after") | sed -n 's/^> [0-9a-f]* */  /p' >&2 || true
	status=1
fi

for mod in go.mod test/tools/*/go.mod; do
	dir=$(dirname "$mod")
	if ! (cd "$dir" && go mod tidy -diff); then
		echo "verify: $mod is not tidy: run go mod tidy in $dir" >&2
		status=1
	fi
done
exit $status

#!/usr/bin/env bash
# Makes the source archive: what git has of the tree, changes that are not committed included, with the modules that it
# is built from, and with the version, the build time and a changelog in the spec file. Nothing else is needed to build
# the packages from it, and no network: rpmbuild -ta flotta-agent-VERSION.tar.gz.
#
#   source.sh FOLDER VERSION    prints the path of the archive; VERSION is the program's
#
# The same commit makes the same bytes, wherever and by whomever it is made.
set -euo pipefail
umask 022
export LC_ALL=C TZ=UTC

out=$(realpath -m "${1:?source.sh needs a folder}")
program=${2:?source.sh needs a version}
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$here"
git=(git -c "safe.directory=*")
version=$(rpm/version.sh "$program")
epoch=${SOURCE_DATE_EPOCH:-$("${git[@]}" log -1 --format=%ct)}
name=flotta-agent-$version
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
tree=$stage/$name
mkdir -p "$out" "$tree"

# A file that was removed and is not committed is still listed.
"${git[@]}" ls-files -z | while IFS= read -r -d '' file; do
	if [ -e "$file" ] || [ -L "$file" ]; then printf '%s\0' "$file"; fi
done | tar -c --null --no-recursion --files-from=- | tar -x -C "$tree"

# The archive has the modules that the main module's packages need, tests included.
GOFLAGS=-mod=mod GOWORK=off go -C "$tree" mod vendor
{
	echo "%global flotta_version $version"
	echo "%global flotta_program_version $program"
	cat "$tree/flotta-agent.spec"
	printf '\n%%changelog\n* %s Project Flotta <project-flotta@googlegroups.com> - %s-1\n' "$(date -d "@$epoch" '+%a %b %d %Y')" "$version"
	echo "- What changed is in CHANGELOG.md"
} >"$stage/spec"
mv "$stage/spec" "$tree/flotta-agent.spec"

tar -C "$stage" --format=gnu --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
	-c "$name" | gzip -n -6 >"$stage/archive"
touch -d "@$epoch" "$stage/archive"
mv "$stage/archive" "$out/$name.tar.gz"
echo "$out/$name.tar.gz"

#!/usr/bin/env bash
# Builds packages into a folder, from a source archive that it makes there, and without the network.
#
#   build.sh FOLDER VERSION [source | ARCH] [RPMBUILD-ARGUMENT...]
#
# VERSION is the program's. "source" builds the source package alone; ARCH, such as x86_64 or aarch64, the source package
# and the binary packages for that; without one, for this machine.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
umask 022

out=$(realpath -m "${1:?build.sh needs a folder}")
program=${2:?build.sh needs a version}
arch=${3:-$(uname -m)}
shift $(($# < 3 ? $# : 3))
archive=$(rpm/source.sh "$out" "$program")
top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -c safe.directory='*' log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

args=(--define "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm"
	# Two builds of one commit are the same bytes, so nothing of this machine and of this hour goes into them.
	--define "_buildhost localhost" --define "use_source_date_epoch_as_buildtime 1"
	--define "clamp_mtime_to_source_date_epoch 1" --define "build_mtime_policy clamp_to_source_date_epoch" "$@")
# rpm knows nothing of a Go that is not the distribution's, and where it is not the package manager, of nothing at all.
rpm -q --quiet --whatprovides golang 2>/dev/null || args+=(--nodeps)

# quiet runs rpmbuild, shows what it says when it fails, and moves what it wrote into the folder.
quiet() {
	if ! rpmbuild "$@" >"$top/log" 2>&1; then
		cat "$top/log" >&2
		echo "build.sh: rpmbuild failed for $arch" >&2
		exit 1
	fi
	sed -n 's/^Wrote: //p' "$top/log" | while read -r package; do
		mv "$package" "$out/"
		echo "$out/${package##*/}"
	done
}

# The source package holds the spec file with all macros expanded, and with them the paths of the build: relative ones
# are the same everywhere.
cd "$top"
cp --preserve=timestamps "$archive" .
tar -xf "$archive" --strip-components=1 "$(basename "$archive" .tar.gz)/flotta-agent.spec"
quiet -bs --define "_topdir ." --define "_sourcedir ." --define "_srcrpmdir ." "${args[@]}" flotta-agent.spec
case $arch in
source) exit 0 ;;
"$(uname -m)") ;;
*)
	# The race detector links with C, and there may be no C compiler for that machine.
	args+=(--target "$arch-linux" --without race)
	;;
esac
quiet -bb --define "_topdir $top" --define "_sourcedir $top" --define "_rpmdir $top" "${args[@]}" flotta-agent.spec

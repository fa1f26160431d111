#!/usr/bin/env bash
# Builds the pinned programs that development and the tests use, once per version.
#
#   build.sh [GROUP...]    build the named groups (default: all that are not cached, but the late ones)
#   build.sh path          print the folders of all groups, joined with ':', for PATH and FLOTTA_TOOLS
#   build.sh which TOOL    print the path of one tool; fails when it was not built yet
#
# A group is a folder beside this file with a go.mod that pins its tools. The result lies in
# ${FLOTTA_CACHE:-~/.cache/flotta-agent}/tools/GROUP-HASH/bin, where HASH covers everything that decides what is
# built: go.mod, go.sum, the recipe below and the Go version. A folder that exists is complete, because it is
# put in place by one rename; so a cached tool needs neither the network nor the Go build cache.
set -euo pipefail
umask 022

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
cache=${FLOTTA_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/flotta-agent}/tools
groups=(generate gotest yggd s3 lint controlplane image)
# Large programs that only a few targets need: built when they are named.
late=(minio s3peers s5cmd)

# One line a binary: name, package, linker flags. yggd gets its folders when it is linked: yggd is the daemon of a
# device, yggd-local keeps etc, var and libexec below its working directory, for tests that run it unprivileged.
recipe() {
	local ygg=github.com/redhatinsights/yggdrasil
	local names="-X $ygg.ShortName=ygg -X $ygg.LongName=yggdrasil -X $ygg.PathPrefix=api/flotta-management/v1 -X $ygg.Version=0.2.98"
	case $1 in
	generate)
		echo "protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go"
		echo "protoc-gen-go-grpc google.golang.org/grpc/cmd/protoc-gen-go-grpc"
		echo "controller-gen sigs.k8s.io/controller-tools/cmd/controller-gen"
		;;
	yggd)
		echo "yggd $ygg/cmd/yggd $names -X $ygg.SysconfDir=/etc -X $ygg.LibexecDir=/usr/libexec -X $ygg.LocalstateDir=/var"
		echo "yggd-local $ygg/cmd/yggd $names -X $ygg.SysconfDir=etc -X $ygg.LibexecDir=libexec -X $ygg.LocalstateDir=var"
		;;
	s3)
		echo "versitygw github.com/versity/versitygw/cmd/versitygw"
		;;
	minio)
		local minio=github.com/minio/minio/cmd
		echo "minio github.com/minio/minio -X $minio.ReleaseTag=RELEASE.2026-02-12T20-18-48Z -X $minio.Version=2026-02-12T20:18:48Z"
		;;
	s3peers)
		echo "mc github.com/minio/mc"
		echo "rclone github.com/rclone/rclone"
		;;
	s5cmd) # alone, because later versions of what it shares with others break it
		echo "s5cmd github.com/peak/s5cmd/v2"
		;;
	gotest)
		echo "gotestsum gotest.tools/gotestsum"
		echo "benchstat golang.org/x/perf/cmd/benchstat"
		;;
	controlplane)
		local version="-X k8s.io/component-base/version.gitVersion=v1.36.3 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"
		echo "kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver $version"
		echo "kube-controller-manager k8s.io/kubernetes/cmd/kube-controller-manager $version"
		echo "kubectl k8s.io/kubernetes/cmd/kubectl $version"
		echo "etcd go.etcd.io/etcd/server/v3"
		;;
	image)
		echo "crane github.com/google/go-containerregistry/cmd/crane"
		;;
	lint)
		echo "golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint"
		echo "govulncheck golang.org/x/vuln/cmd/govulncheck"
		;;
	*)
		echo "build.sh: no tool group $1 (there are: ${groups[*]} ${late[*]})" >&2
		return 1
		;;
	esac
}

# Static binaries, because they are also run inside other roots. What the caller has in GOFLAGS is not ours to inherit.
export CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off
unset GOBIN GOOS GOARCH

build_flags="-trimpath -buildvcs=false"
go_version=

folder() {
	local text
	text=$(recipe "$1")
	[ -n "$go_version" ] || go_version=$(cd "$here/generate" && go env GOVERSION GOHOSTARCH | tr '\n' ' ')
	text=$(printf '%s\n' "$text" "$build_flags" "$go_version" | cat - "$here/$1/go.mod" "$here/$1/go.sum" | sha256sum)
	echo "$cache/$1-${text:0:16}/bin"
}

build() {
	local group=$1 bin final stage began name package flags
	bin=$(folder "$group")
	[ -d "$bin" ] && return 0
	mkdir -p "$cache"
	(
		flock 9
		[ -d "$bin" ] && exit 0 # somebody else built it while we waited
		began=$SECONDS
		final=${bin%/bin}
		stage=$(mktemp -d "$cache/.stage-$group-XXXXXX")
		trap 'rm -rf "$stage"' EXIT
		trap 'exit 130' INT TERM HUP
		mkdir "$stage/bin"
		while read -r name package flags; do
			echo "tools: build $group/$name" >&2
			# shellcheck disable=SC2086 # two flags, no spaces inside
			(cd "$here/$group" && go build $build_flags -ldflags "-s -w $flags" -o "$stage/bin/$name" "$package")
		done < <(recipe "$group")
		chmod 755 "$stage"
		mv -T "$stage" "$final"
		echo "tools: $group built in $((SECONDS - began)) s: $final" >&2
	) 9>"$cache/.$group.lock"
}

case ${1:-} in
path)
	list=
	for group in "${groups[@]}" "${late[@]}"; do list=$list:$(folder "$group"); done
	echo "${list#:}"
	;;
which)
	tool=${2:?build.sh which needs the name of a tool}
	for group in "${groups[@]}" "${late[@]}"; do
		while read -r name _; do
			[ "$name" = "$tool" ] || continue
			bin=$(folder "$group")
			if [ ! -x "$bin/$tool" ]; then
				echo "build.sh: $tool is not built yet: run make tools" >&2
				exit 1
			fi
			echo "$bin/$tool"
			exit 0
		done < <(recipe "$group")
	done
	echo "build.sh: no tool $tool" >&2
	exit 1
	;;
-h | --help)
	sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
	;;
*)
	[ $# -gt 0 ] || set -- "${groups[@]}"
	for group in "$@"; do build "$group"; done
	;;
esac

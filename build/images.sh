#!/usr/bin/env bash
# Builds the container images of the control plane, without a daemon and reproducibly.
#
#   images.sh OUT VERSION     write OUT/flotta-{operator,edge-api}-VERSION.oci.tar
#
# PLATFORMS   architectures (default "amd64 arm64")
# PUSH        registry and path, such as quay.io/project-flotta: the images are also pushed there, tagged VERSION
#             (needs crane: make tools-image; credentials are those of docker login or podman login)
# SOURCE_DATE_EPOCH   the date of everything in the images (default: that of the last commit)
set -euo pipefail
umask 022
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

out=${1:?images.sh OUT VERSION}
version=${2:?images.sh OUT VERSION}
platforms=${PLATFORMS:-amd64 arm64}
repository=quay.io/project-flotta
created=${SOURCE_DATE_EPOCH:-$(git -c safe.directory='*' log -1 --format=%ct 2>/dev/null || echo 0)}
# A tag cannot hold what a version may: 1.0+3 becomes 1.0-3.
tag=${version//+/-}

mkdir -p "$out"
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

export CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off
go build -o "$stage/image" ./build/image

# image COMMAND PATH TITLE: builds a command for all platforms and puts it into an image at PATH.
image() {
	local command=$1 path=$2 title=$3 arch programs=() archive=$out/$1-$tag.oci.tar
	for arch in $platforms; do
		GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false -tags grpcnotrace \
			-ldflags "-s -w -X main.version=$version" -o "$stage/$arch/$command" "./cmd/$command"
		programs+=(-program "$arch=$stage/$arch/$command")
	done
	"$stage/image" -name "$repository/$command" -tag "$tag" -path "$path" -title "$title" \
		-source https://github.com/project-flotta/flotta-agent -created "$created" -out "$archive" "${programs[@]}"
	[ -n "${PUSH:-}" ] || return 0
	mkdir "$stage/$command.layout"
	tar -xf "$archive" -C "$stage/$command.layout"
	crane push "$stage/$command.layout" "${PUSH%/}/$command:$tag"
}

image flotta-operator /manager "Operator of flotta"
image flotta-edge-api /flotta-edge-api "Edge API of flotta"

#!/usr/bin/env bash
# Runs the control plane in a cluster of kind, from its images and manifests, and checks it from outside.
#
#   e2e.sh         make a cluster, check, and remove it again (KEEP=1 keeps it)
#
# Needs Docker (or Podman with KIND_EXPERIMENTAL_PROVIDER=podman), kind, kubectl, curl, openssl and Go; port 8043 of
# this machine has to be free.
#
# What is checked here is what only a cluster with nodes can show: that the images start under the rules of their
# namespace with the roles that they have, that a device reaches the Edge API through the Service and lives its life
# (device.sh, which make test-integration runs too), and that everything can be removed. Devices with an agent and
# Podman are driven by make test-device, against the same programs and roles on an API server without nodes.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

cluster=flotta-e2e
export IMG_TAG=e2e

for tool in kind kubectl curl openssl go; do
	command -v "$tool" >/dev/null || { echo "e2e: $tool is missing" >&2; exit 1; }
done

work=$(mktemp -d)
export KUBECONFIG=$work/kubeconfig
finish() {
	status=$?
	if [ $status -ne 0 ]; then
		echo "e2e: failed; what the cluster says:" >&2
		kubectl -n flotta get pods,events >&2 || true
		kubectl -n flotta logs --all-containers --tail=100 -l app.kubernetes.io/part-of=flotta >&2 || true
	fi
	[ "${KEEP:-}" = 1 ] || kind delete cluster --name "$cluster" >&2 || true
	rm -rf "$work"
	exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

step() { echo "e2e: $*" >&2; }

step "build the images"
PLATFORMS=$(go env GOARCH) build/images.sh "$work" e2e

step "make the cluster"
kind create cluster --name "$cluster" --config test/kind/cluster.yaml --wait 3m
for program in flotta-operator flotta-edge-api; do
	kind load image-archive --name "$cluster" "$work/$program-e2e.oci.tar"
done

step "install the control plane"
config/deploy.sh apply kind

test/kind/device.sh 127.0.0.1 8043

step "everything is removed"
config/deploy.sh purge kind
if kubectl get namespace flotta >/dev/null 2>&1; then
	echo "e2e: the namespace flotta is still there" >&2
	exit 1
fi
step "all of it worked"

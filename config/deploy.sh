#!/usr/bin/env bash
# Installs the control plane into the cluster that kubectl speaks to, or removes it.
#
#   deploy.sh apply  [OVERLAY]   install or upgrade; OVERLAY is a folder of config/overlays (default kubernetes)
#   deploy.sh print  [OVERLAY]   print what apply would apply
#   deploy.sh delete [OVERLAY]   remove the programs; devices, workloads, their definitions and the keys stay
#   deploy.sh purge  [OVERLAY]   remove everything, the objects of all devices and workloads included
#
# IMG_TAG     tag of the images (default latest)
# IMG_REPO    registry and path of the images (default quay.io/project-flotta)
# DOMAIN      what devices connect to (default: what the overlay says, project-flotta.io)
# NAMESPACES  where devices may be, separated by commas (default: what the settings say, default). Each of them
#             must exist; the Edge API gets its rights there.
# TIMEOUT     how long each step may take (default 5m)
# FORCE=1     purge does not wait for the operator: what it would have removed, such as buckets, stays
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

verb=${1:-}
overlay=${2:-kubernetes}
timeout=${TIMEOUT:-5m}
if [ ! -f "$here/overlays/$overlay/kustomization.yaml" ]; then
	echo "deploy.sh: no overlay $overlay (there are: $(cd "$here/overlays" && echo *))" >&2
	exit 2
fi

# Kustomize takes folders relative to its own only, so it works on a copy, with the settings of this call beside it.
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
trap 'exit 130' INT TERM HUP
cp -r "$here"/crd "$here"/rbac "$here"/operator "$here"/edge-api "$here"/overlays "$stage/"
site=$stage/site
mkdir "$site"

# setting NAME VALUE CONFIGMAP: a patch of one setting.
setting() {
	printf -- '- target: {kind: ConfigMap, name: %s}\n  patch: |\n    - {op: add, path: /data/%s, value: "%s"}\n' "$3" "$1" "$2"
}

# Values go into YAML: nothing but what names are made of.
check() {
	case $2 in
	*[!A-Za-z0-9.,:/_-]*)
		echo "deploy.sh: $1=$2: holds a character that no name has" >&2
		exit 2
		;;
	esac
}

write() {
	local repo=${IMG_REPO:-quay.io/project-flotta} tag=${IMG_TAG:-latest} name namespace
	check IMG_REPO "$repo"
	check IMG_TAG "$tag"
	check DOMAIN "${DOMAIN:-}"
	check NAMESPACES "${NAMESPACES:-}"
	{
		printf 'apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n- ../overlays/%s\n' "$overlay"
		[ -z "${NAMESPACES:-}" ] || echo "- namespaces.yaml"
		echo "images:"
		for name in flotta-operator flotta-edge-api; do
			printf -- '- {name: quay.io/project-flotta/%s, newName: "%s/%s", newTag: "%s"}\n' "$name" "${repo%/}" "$name" "$tag"
		done
		if [ -n "${DOMAIN:-}${NAMESPACES:-}" ]; then echo "patches:"; fi
		if [ -n "${DOMAIN:-}" ]; then
			setting DOMAIN "$DOMAIN" flotta-edge-api-config
			printf -- '- target: {kind: Ingress, name: flotta-edge-api}\n  patch: |\n    - {op: replace, path: /spec/rules/0/host, value: "%s"}\n' "$DOMAIN"
			printf -- '- target: {kind: Gateway, name: flotta-edge-api}\n  patch: |\n    - {op: replace, path: /spec/listeners/0/hostname, value: "%s"}\n' "$DOMAIN"
			printf -- '- target: {kind: TLSRoute, name: flotta-edge-api}\n  patch: |\n    - {op: replace, path: /spec/hostnames/0, value: "%s"}\n' "$DOMAIN"
			printf -- '- target: {kind: Route, name: flotta-edge-api}\n  patch: |\n    - {op: replace, path: /spec/host, value: "%s"}\n' "$DOMAIN"
		fi
		if [ -n "${NAMESPACES:-}" ]; then
			setting ALLOWED_NAMESPACES "$NAMESPACES" flotta-edge-api-config
			setting ALLOWED_NAMESPACES "$NAMESPACES" flotta-manager-config
		fi
	} >"$site/kustomization.yaml"
	[ -n "${NAMESPACES:-}" ] || return 0
	for namespace in ${NAMESPACES//,/ }; do
		[ "$namespace" != default ] || continue # the overlay has that one
		printf -- '---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: flotta-edge-api-device-objects, namespace: %s}\n' "$namespace"
		printf 'roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: flotta-edge-api-device-objects}\n'
		printf 'subjects: [{kind: ServiceAccount, name: flotta-edge-api, namespace: flotta}]\n'
	done >"$site/namespaces.yaml"
	# A file without a document is none to kustomize.
	[ -s "$site/namespaces.yaml" ] || sed -i '/^- namespaces.yaml$/d' "$site/kustomization.yaml"
}

# manifests prints everything, or everything but the definitions and the namespace of the keys.
manifests() { kubectl kustomize "$site"; }
settings() { manifests | awk 'BEGIN { RS = ORS = "---\n" } /\nkind: ConfigMap\n/'; }
programs() { manifests | awk 'BEGIN { RS = ORS = "---\n" } !/\nkind: (CustomResourceDefinition|Namespace)\n/'; }

remove() { programs | kubectl delete --ignore-not-found --timeout="$timeout" -f -; }

kinds=(edgeworkloads edgeconfigs playbookexecutions edgedevices edgedevicesignedrequest edgedevicesets)

# empty removes every object of ours while the operator is there to do what their finalizers ask for.
empty() {
	local kind
	for kind in "${kinds[@]}"; do
		kubectl get crd "$kind.management.project-flotta.io" >/dev/null 2>&1 || continue
		if [ "${FORCE:-}" = 1 ]; then
			kubectl get "$kind" -A -o jsonpath='{range .items[*]}{.metadata.namespace} {.metadata.name}{"\n"}{end}' |
				while read -r namespace name; do
					kubectl -n "$namespace" patch "$kind" "$name" --type=merge -p '{"metadata":{"finalizers":null}}'
				done
		fi
		kubectl delete "$kind" -A --all --timeout="$timeout" || {
			echo "deploy.sh: $kind are not removed: does the operator run? FORCE=1 takes their finalizers off; buckets then stay" >&2
			return 1
		}
	done
}

# Programs read their settings when they start, so a change of settings is one of the pods as well.
restart() {
	local sum
	sum=$(settings | sha256sum)
	grep -q '^patches:' "$site/kustomization.yaml" || echo "patches:" >>"$site/kustomization.yaml"
	printf -- '- target: {kind: Deployment}\n  patch: |\n    - {op: add, path: /spec/template/metadata/annotations, value: {project-flotta.io/settings: "%s"}}\n' \
		"${sum:0:16}" >>"$site/kustomization.yaml"
}

write
restart
case $verb in
print)
	manifests
	;;
apply)
	kubectl apply -k "$site"
	kubectl wait --for=condition=Established --timeout="$timeout" -f "$here/crd/bases"
	kubectl -n flotta rollout status --timeout="$timeout" deployment/flotta-controller-manager
	kubectl -n flotta rollout status --timeout="$timeout" deployment/flotta-edge-api
	;;
delete)
	remove
	;;
purge)
	empty
	remove
	kubectl delete --ignore-not-found --timeout="$timeout" -k "$here/crd"
	kubectl delete --ignore-not-found --timeout="$timeout" namespace flotta
	;;
*)
	usage >&2
	exit 2
	;;
esac

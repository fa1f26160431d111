#!/usr/bin/env bash
# Drives one device through its life with curl, against a control plane that runs: KUBECONFIG says where its cluster is.
#
#   device.sh ADDRESS PORT     where the Edge API is reached
#
# A stranger with a register certificate asks to be managed, is approved by policy, registers, gets its configuration
# and reports, is asked to run a playbook twice; then it is deleted and refused.
set -euo pipefail

address=${1:?device.sh ADDRESS PORT}
port=${2:?device.sh ADDRESS PORT}
domain=${DOMAIN:-project-flotta.io}
id=0f1e2d3c4b5a69788796a5b4c3d2e1f0
base=https://$domain:$port/api/flotta-management/v1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

step() { echo "device: $*" >&2; }

# until_true COMMAND...: tries for two minutes.
until_true() {
	local end=$((SECONDS + 120))
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || { echo "device: this did not come true: $*" >&2; return 1; }
		sleep 1
	done
}

# field SECRET KEY: a value of a Secret.
field() { kubectl -n flotta get "$1" -o "go-template={{index .data \"$2\"}}" | base64 -d; }
register=$(kubectl -n flotta get secret -l reg-client-ca=true -o name | head -n 1)
field secret/flotta-ca ca.crt >"$work/ca.pem"
field "$register" client.crt >"$work/register.pem"
field "$register" client.key >"$work/register.key"

# ask CERTIFICATE METHOD PATH [BODY]: one request of the device; prints the status, the body goes to answer.json.
ask() {
	local certificate=$1 method=$2 path=$3 body=${4:-}
	curl --silent --show-error --max-time 20 --output "$work/answer.json" --write-out '%{http_code}' \
		--resolve "$domain:$port:$address" --cacert "$work/ca.pem" --cert "$work/$certificate.pem" --key "$work/$certificate.key" \
		--request "$method" --header 'Content-Type: application/json' ${body:+--data "$body"} "$base$path"
}

# answers STATUS CERTIFICATE METHOD PATH [BODY]: one request, and what it has to be answered with.
answers() {
	local want=$1 got
	shift
	got=$(ask "$@")
	[ "$got" = "$want" ] || { echo "device: $2 $3 is answered with $got, want $want: $(cat "$work/answer.json")" >&2; return 1; }
}

# message DIRECTIVE CONTENT: the envelope of what a device sends.
message() {
	printf '{"type":"data","message_id":"%s","version":1,"sent":"%s","directive":"%s","content":%s}' \
		"$(cat /proc/sys/kernel/random/uuid)" "$(date -u +%FT%TZ)" "$1" "$2"
}

hardware='{"hostname":"kind-device","cpu":{"architecture":"x86_64","flags":[]},"disks":[],"gpus":[],"interfaces":[]}'
enrolment=$(printf '{"features":{"hardware":%s},"target_namespace":"default"}' "$hardware")

step "a stranger asks to be managed"
answers 200 register POST "/data/$id/out" "$(message enrolment "$enrolment")"
until_true kubectl get edsr "$id"

step "the operator approves by policy"
until_true kubectl get edgedevice "$id"
until_true answers 208 register POST "/data/$id/out" "$(message enrolment "$enrolment")"

step "the device registers with a key of its own"
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$id" -keyout "$work/device.key" -out "$work/device.csr" 2>/dev/null
request=$(awk '{ printf "%s\\n", $0 }' "$work/device.csr")
answers 200 register POST "/data/$id/out" "$(message registration "$(printf '{"certificate_request":"%s","hardware":%s}' "$request" "$hardware")")"
sed -n 's/.*"certificate":"\([^"]*\)".*/\1/p' "$work/answer.json" | sed 's/\\n/\n/g' >"$work/device.pem"
openssl verify -CAfile "$work/ca.pem" "$work/device.pem"

step "a workload reaches it"
kubectl apply -f - <<EOF
apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: hello, namespace: default}
spec: {device: "$id", type: pod, pod: {spec: {containers: [{name: hello, image: example.com/hello:1}]}}}
EOF
configured() { [ "$(ask device GET "/data/$id/in")" = 200 ] && grep -q example.com/hello "$work/answer.json"; }
until_true configured

step "it reports, and is seen to be online"
answers 200 device POST "/data/$id/out" "$(message heartbeat '{"status":"up","version":"1","workloads":[{"name":"hello","status":"Running"}]}')"
until_true kubectl wait --for=condition=Online --timeout=1s "edgedevice/$id"
[ "$(kubectl get edgedevice "$id" -o 'jsonpath={.status.workloads[0].phase}')" = Running ]

step "a playbook reaches it, with its options"
playbook=$(printf -- '- hosts: all\n' | base64 -w0)
kubectl apply -f - <<EOF
apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeConfig
metadata: {name: tune, namespace: default}
spec: {edgePlaybook: {user: ops, playbooks: [{content: "$playbook", timeoutSeconds: 120, executionStrategy: StopOnFailure}]}}
EOF
kubectl label edgedevice "$id" config/device-by-config=tune
# run_id prints the id of the run that the device is asked for, and fails when there is none.
run_id() {
	[ "$(ask device POST "/data/$id/out" "$(message ansible null)")" = 200 ] || return 1
	sed -n 's/.*\\"id\\":\\"\([^\\]*\)\\".*/\1/p' "$work/answer.json" | grep .
}
until_true run_id
for option in '"name\":\"'"$id-tune" '"user\":\"ops' '"timeout_seconds\":120' '"execution_strategy\":\"StopOnFailure' '- hosts: all'; do
	grep -qF -- "$option" "$work/answer.json" || { echo "device: no $option in $(cat "$work/answer.json")" >&2; exit 1; }
done
first=$(run_id)

# ran ID STATE: the device reports a run.
ran() {
	answers 200 device POST "/data/$id/out" "$(message heartbeat \
		"$(printf '{"status":"up","version":"1","workloads":[],"playbook-executions":[{"name":"%s","id":"%s","status":"%s","reason":"TimedOut"}]}' "$id-tune" "$1" "$2")")"
}

step "its failure is in the EdgeConfig, and it is not run again"
ran "$first" Running
ran "$first" CompletedWithError
until_true kubectl wait --for=jsonpath='{.status.edgePlaybookStatus.failed}'=1 --timeout=1s edgeconfig/tune
until_true sh -c "kubectl get events --field-selector involvedObject.name=tune | grep -q 'PlaybookFailed.*$id-tune (TimedOut)'"
if run_id; then echo "device: it is asked to run it again" >&2 && exit 1; fi

step "asked for again, it is another run"
kubectl patch playbookexecution "$id-tune" --type=merge -p '{"spec":{"executionAttempt":1}}'
until_true run_id
second=$(run_id)
[ "$first" != "$second" ]
ran "$first" SuccessfullyCompleted
[ "$(run_id)" = "$second" ]
ran "$second" SuccessfullyCompleted
until_true kubectl wait --for=jsonpath='{.status.edgePlaybookStatus.succeeded}'=1 --timeout=1s edgeconfig/tune

step "a device that is deleted is refused"
# Its run goes with it.
kubectl delete edgedevice "$id" --timeout=1m
refused() { case $(ask device GET "/data/$id/in") in 4??) return 0 ;; *) return 1 ;; esac; }
until_true refused
until_true sh -c "! kubectl get playbookexecution $id-tune"

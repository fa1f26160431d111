# On a fresh Debian 12 or Fedora machine with Go and root, `make demo` and `make test` need nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# A login shell finds Go here, sudo and cron often do not.
export PATH := $(PATH):/usr/local/go/bin
ifndef HOME
export HOME := $(shell getent passwd "$$(id -u)" | cut -d: -f6)
endif
# What the caller has in GOFLAGS or in a workspace must not decide what is built here.
# The source archive brings the modules along.
export GOFLAGS := $(if $(wildcard vendor/modules.txt),-mod=vendor,-mod=readonly) -buildvcs=false
export GOWORK := off

VERSION ?= $(shell git -c safe.directory='*' describe --tags --always --dirty --match 'v*' 2>/dev/null | sed 's/^v//' | grep . || echo 0.0.0)
BIN ?= bin
PROGRAMS ?= ./cmd/...
FUZZTIME ?= 10s

# The agent runs on small devices: grpcnotrace leaves out gRPC's trace pages, and with them text/template.
release := -trimpath -tags grpcnotrace -ldflags '-s -w -X main.version=$(VERSION)'
tags := integration,device,bench

tools := test/tools/build.sh
export FLOTTA_TOOLS := $(shell $(tools) path 2>/dev/null)
export PATH := $(FLOTTA_TOOLS):$(PATH)

# Certificates that the environment brings along would make tests trust, or distrust, the wrong servers. Only the
# program under test is spared them: the go command may need them to reach its module proxy.
clean_env := env -u SSL_CERT_FILE -u SSL_CERT_DIR -u AWS_CA_BUNDLE -u CURL_CA_BUNDLE
# A process with the race detector waits for a second before it ends; tests start thousands of them.
export GORACE := atexit_sleep_ms=0
# Only what has integration tests runs again in that tier; the device harness has its own turn.
integration_packages = $(shell grep -rlE --include='*_test.go' '^//go:build .*\<integration\>' . | \
	grep -v '^\./test/device/' | xargs -r -n 1 dirname | sort -u)
gotest := gotestsum --format pkgname --format-hide-empty-pkg --
gotest_long := gotestsum --format testname --format-hide-empty-pkg --
# Devices wait more than they compute: three at a time for two processors.
devices := $(shell echo $$(( ($$(nproc) * 3 + 1) / 2 )))

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Build

.PHONY: build
build: ## build the static binaries into bin/ (BIN=folder)
	CGO_ENABLED=0 go build $(release) -o $(BIN)/ $(PROGRAMS)

.PHONY: build-race
build-race: ## build the agent with the race detector into bin/, for testers (needs a C compiler)
	CGO_ENABLED=1 go build -race $(release) -o $(BIN)/flotta-agent-race ./cmd/flotta-agent

.PHONY: install
install: ## install the agent and its files below DESTDIR (after make build)
	install -D -m 0755 $(BIN)/flotta-agent $(DESTDIR)/usr/bin/flotta-agent
	install -D -m 0644 config/agent.toml $(DESTDIR)/etc/flotta/agent.toml
	install -D -m 0644 config/yggdrasil/device.toml $(DESTDIR)/etc/yggdrasil/workers/device.toml
	install -D -m 0755 rpm/subids.sh $(DESTDIR)/usr/libexec/flotta-agent/subids
	cd systemd && find system system-preset user user-preset -type f -exec install -D -m 0644 {} $(DESTDIR)/usr/lib/systemd/{} \;
	cd systemd && find sysusers.d tmpfiles.d -type f -exec install -D -m 0644 {} $(DESTDIR)/usr/lib/{} \;
	install -d $(DESTDIR)/usr/lib/systemd/system/multi-user.target.wants
	ln -sf ../flotta-subids.service $(DESTDIR)/usr/lib/systemd/system/multi-user.target.wants/

.PHONY: source
source: ## pack the source with all that it is built from into dist/
	rpm/source.sh dist $(VERSION)

.PHONY: srpm
srpm: setup ## build the source package into dist/
	rpm/build.sh dist $(VERSION) source

.PHONY: rpm
rpm: setup ## build the source and the binary packages into dist/, without the network
	rpm/build.sh dist $(VERSION)

.PHONY: rpm-arm64
rpm-arm64: setup ## build the binary packages for arm64 into dist/
	rpm/build.sh dist $(VERSION) aarch64

.PHONY: generate
generate: tools-generate ## regenerate what is generated
	test/tools/generate.sh

.PHONY: version
version: ## print the version that a build gets
	@echo $(VERSION)

.PHONY: clean
clean: ## remove bin/ and dist/ (the tools stay in ~/.cache/flotta-agent)
	rm -rf bin dist

##@ Run in Kubernetes

OVERLAY ?= kubernetes
# What config/deploy.sh and build/images.sh take from the command line; docs/kubernetes.md explains them.
export IMG_TAG IMG_REPO DOMAIN NAMESPACES TIMEOUT FORCE PLATFORMS PUSH

.PHONY: images
images: $(if $(PUSH),tools-image) ## build the container images into dist/, without a daemon (PUSH=registry/path)
	build/images.sh dist $(VERSION)

.PHONY: deploy
deploy: ## install the control plane into the cluster of kubectl (OVERLAY=kubernetes DOMAIN=name)
	config/deploy.sh apply $(OVERLAY)

.PHONY: undeploy
undeploy: ## remove it; devices and their objects stay (PURGE=1 removes them, too)
	config/deploy.sh $(if $(PURGE),purge,delete) $(OVERLAY)

.PHONY: kind-e2e
kind-e2e: ## the control plane in a kind cluster, with a device's way through it (Docker, kind)
	test/kind/e2e.sh

##@ Set-up

.PHONY: setup
setup: ## install the operating system's packages that are missing (Debian, Fedora; root)
	@test/setup/install.sh

.PHONY: tools
tools: ## build the pinned tools that are not in the cache yet
	@$(tools)

tool_groups := tools-controlplane tools-generate tools-gotest tools-image tools-lint tools-minio tools-s3 tools-s3peers tools-s5cmd tools-yggd
.PHONY: $(tool_groups)
$(tool_groups): tools-%:
	@$(tools) $*

.PHONY: root
root:
	@[ "$$(id -u)" -eq 0 ] || { echo "$(firstword $(MAKECMDGOALS)): this needs root, because it boots devices" >&2; exit 1; }

##@ See it

.PHONY: demo
demo: root setup tools-yggd tools-s3 build ## a workload from a manifest to a running container, on real parts (KEEP=1 keeps it)
	go build -o $(BIN)/demo ./test/demo
	exec $(clean_env) $(BIN)/demo

##@ Check

.PHONY: test
test: root setup lint verify test-unit test-integration test-device ## every tier; installs what it needs (root)

.PHONY: test-unit
test-unit: tools-gotest ## pure logic, with the race detector; no root, no network
	$(gotest) -race -timeout 3m -exec "$(clean_env)" ./...

.PHONY: test-integration
test-integration: root setup tools-gotest tools-yggd tools-s3 tools-controlplane tools-image ## each adapter against its one real component (root)
	$(gotest) -race -count=1 -timeout 15m -tags integration -exec "$(clean_env)" $(integration_packages)

.PHONY: test-minio
test-minio: root setup tools-gotest tools-minio ## data sync against MinIO, the second reference (root; builds MinIO, 3 min once)
	FLOTTA_S3_SERVER=minio $(gotest) -race -count=1 -timeout 15m -tags integration -exec "$(clean_env)" ./internal/datasync/...

.PHONY: test-device
test-device: root setup tools-gotest tools-yggd tools-s3 tools-controlplane build ## booted devices with yggd, Podman and the agent (root)
	$(gotest_long) -count=1 -p 1 -timeout 15m -tags integration -exec "$(clean_env)" ./test/device/...
	$(gotest_long) -count=1 -p 1 -parallel $(devices) -timeout 45m -tags device -exec "$(clean_env)" ./test/e2e/... ./test/rpm/

.PHONY: fuzz
fuzz: ## run every fuzz test for FUZZTIME (10s) each
	test/tools/fuzz.sh $(FUZZTIME)

.PHONY: bench
bench: root setup tools-gotest tools-yggd tools-s3 tools-controlplane build ## the figures: latency against bare podman, size, memory, metrics and logs beside their peers (root)
	go test -run '^$$' -bench . -benchmem ./internal/... ./pkg/...
	cd internal/diskq/testdata/peers && go run . /var/tmp
	go test -count=1 -v -p 1 -timeout 60m -tags bench -exec "$(clean_env)" ./test/bench/ ./test/bench/observe/ ./test/bench/fleet/

.PHONY: bench-edge-api
bench-edge-api: root setup tools-controlplane build ## simulated devices against the Edge API on a real API server (root)
	go test -count=1 -v -timeout 45m -tags bench -exec "$(clean_env)" ./test/bench/fleet/...

.PHONY: bench-sync
bench-sync: root setup tools-s3 tools-s3peers tools-s5cmd ## data sync beside rclone, s5cmd, mc and flotta v0.2 (root; an hour)
	go test -count=1 -v -timeout 120m -tags bench -exec "$(clean_env)" ./test/bench/sync

.PHONY: lint
lint: tools-lint ## golangci-lint, go vet, govulncheck
	golangci-lint run ./...
	go vet -tags $(tags) ./...
	test/tools/vulncheck.sh -tags $(tags) ./...

.PHONY: fix
fix: tools-lint ## format, and mend what the linters can mend themselves
	golangci-lint run --fix ./...

.PHONY: verify
verify: tools-generate ## fail when generated files or go.mod are not up to date
	test/tools/verify.sh

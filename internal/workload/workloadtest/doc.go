// Package workloadtest holds a small device in memory, World, that plays
// manifests as Podman and systemd do, and the contract that it and they keep.
// Only tests import it.
package workloadtest

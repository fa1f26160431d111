// Package site puts a control plane and edge devices together on one machine:
// the Edge API with one of its backends, an S3 server, and devices that run yggd
// and the agent. End-to-end tests, the benchmarks and the demo share it.
//
// A site alone stands on a folder of manifests (Start) or on a service of the
// user's (StartRemote). A Cluster is a Kubernetes API server for many sites.
//
// It owns what it starts and removes it on Close. It knows what a user knows:
// the binaries, their settings and their files, nothing of the agent's inside.
package site

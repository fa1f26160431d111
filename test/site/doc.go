// Package site puts a control plane and edge devices together on one machine:
// the Edge API with its file backend, an S3 server, and devices that run yggd
// and the agent. End-to-end tests, the benchmarks and the demo share it.
//
// It owns what it starts and removes it on Close. It knows what a user knows:
// the binaries, their settings and their files, nothing of the agent's inside.
package site

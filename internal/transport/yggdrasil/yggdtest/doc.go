// Package yggdtest runs the real yggd, unprivileged and in a folder of its own,
// against a small HTTPS server that plays the device's side of the Edge API.
//
// It is for tests only. It owns processes, ports and folders for as long as the
// test runs, and leaves none behind.
package yggdtest

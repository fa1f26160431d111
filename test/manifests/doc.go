// Package manifests checks what config/ ships against a real API server: that
// all of it is accepted, that the roles allow what is needed and nothing else,
// which objects the schemas refuse, and that images are built reproducibly.
//
// It owns no code that others use.
package manifests

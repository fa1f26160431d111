// Package manifest renders a workload into what Podman plays: a Pod and its
// ConfigMaps as YAML documents, the Podman secrets that the Pod refers to, and
// the images that it needs.
//
// Rendering is pure and stable to the byte: the same workload gives the same
// bytes in every release, because another byte would restart what runs. So the
// YAML is written here rather than by a library whose taste may change.
//
// The pod's specification is worked on as generic JSON: a field that this
// package does not know goes to Podman as it came.
package manifest

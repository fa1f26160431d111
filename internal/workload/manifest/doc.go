// Package manifest renders a workload into what Podman plays: a Pod and its
// ConfigMaps as YAML documents, the Podman secrets that the Pod refers to, the
// files that its volumes hold, and the images that it needs. It says as well what
// the pod takes of the host, and what of its specification which Podman leaves
// out.
//
// Rendering is pure and stable to the byte: the same workload gives the same
// bytes in every release, because another byte would restart what runs. So the
// YAML is written here rather than by a library whose taste may change.
//
// The pod's specification is worked on as generic JSON: a field that this
// package does not know goes to Podman as it came, and is named among the
// features that no known Podman heeds. What Podman would refuse is refused here,
// where nothing has been stopped for it yet.
//
// No two workloads share anything by accident: pods, units and folders are named
// by the workload, Podman's volumes by the workload and the volume with an
// underscore between, which neither may have in it, and secrets by what they
// hold. Only names of containers can meet, as Plan.PodmanNames shows.
package manifest

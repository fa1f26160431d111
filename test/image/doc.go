// Package image makes the container images that tests run, without a registry:
// the static program of the folder app, built once and wrapped into an archive
// that `podman load` reads.
//
// It owns the cache of those archives (FLOTTA_CACHE, or flotta-agent in the
// user's cache folder). The same inputs give the same bytes, and so the same
// image id. It knows nothing of devices.
package image

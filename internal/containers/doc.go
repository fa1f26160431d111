// Package containers keeps a current list of the containers of all workloads:
// which there are, whether they run, and where they can be reached.
//
// It owns the watch of Podman's events for those who read from containers, and
// inspects each container once in each of its lives. It must not know what is
// read from them, and starts, stops and changes nothing.
//
// Invariants:
//   - The stream of events is open before the state is read, so what happens in
//     between is seen. A stream that ends is opened again, and the state read
//     again.
//   - A Podman that is away removes no container from the list: it only makes
//     the list one that is not known to be true.
//   - Reading the state costs one call, and one for each container that started
//     or ended since.
package containers

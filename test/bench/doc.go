// Package bench measures the agent on a booted device: how long a change takes
// against bare Podman doing the same, what the agent weighs, and what it does
// when there is nothing to do.
//
// The measurements have the build tag bench, need root and the programs of
// `make build`; `make bench` runs them. Only aims that do not depend on the speed
// of the machine fail.
package bench

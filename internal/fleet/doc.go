// Package fleet holds what is true of API objects wherever they are stored: how
// a device's report becomes its status, which conditions there are, what a
// request's state is, and which keys may speak for a device.
//
// It owns these rules, as pure functions on objects of pkg/api/v1alpha1: the
// operator and the backends of the Edge API share them, so that a device looks
// the same in a cluster and in a folder. It reads and writes nothing, and knows
// neither HTTP nor a Kubernetes client.
//
// What comes from a device is bounded here: texts are cut, numbers are clamped,
// and names that labels cannot hold are made to fit.
package fleet

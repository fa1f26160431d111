// Package kube is the backend of the Edge API whose devices, workloads and
// settings are objects of a Kubernetes cluster.
//
// It owns the Edge API's side of these objects: it makes
// EdgeDeviceSignedRequests, renders configurations, writes what devices report
// into the status of their EdgeDevice and into Events, and keeps the keys of the
// Edge API in Secrets. It knows nothing of the operator, which makes the
// EdgeDevices, besides which fields are whose.
//
// # Reading
//
// All kinds of ours are watched, in all namespaces. Of Secrets and ConfigMaps
// only the metadata is watched, in the namespaces that devices are in, and of
// that nothing is kept but the version of objects that a configuration was made
// of; contents are read when they are needed, and kept while they are. So what
// else is in the cluster costs neither memory nor rights: there is no right to
// list the Secrets of the cluster. A Route and a Secret of OpenShift, which an
// ObjectBucketClaim leads to, are read by name, every few minutes.
//
// A configuration is rendered when it is asked for, and kept until something
// changes that it is made of. Every object that it is made of has a counter of
// its changes, so that a look at these counters tells whether it is current, and
// a change of a Secret concerns no device but those that need it.
//
// What is decided against a device is never decided on what a watch says, which
// may be late: that it is not managed, not found, or not the one that it claims
// to be is confirmed by the API server. Such questions are bounded, and beyond
// the bound the answer is that the server failed.
//
// # Writing
//
// Every write carries the version of the object that it was computed from. When
// another one was faster, the object is read anew and the change is computed
// anew, so neither side loses what the other one wrote. A report that changes
// nothing is not written, and when a device was last heard of is written every
// Config.SeenInterval. A report is acknowledged when the API server has it.
//
// # While the API server is away
//
// What is known is answered from memory: configurations, whether a device is
// managed, reports that change nothing. Other reports fail, and devices send
// them again. The backend stays ready, because a replica that is taken out of
// service could do nothing that it cannot do now, and all would go at once; the
// metric flotta_api_watches_interrupted tells. Before everything was read once it
// is not ready, and answers nothing.
//
// # Several replicas
//
// Nothing is kept here that is needed elsewhere, so there may be any number of
// replicas. One that has just started does not have the last good rendering of a
// workload whose references are broken by then; until they are mended, replicas
// may tell a device different things about that workload.
package kube

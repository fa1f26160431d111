// Package render turns API objects into the configuration message of one device.
//
// It owns that translation and nothing else: it reads objects through Reader,
// it keeps no state, and it knows neither HTTP nor a Kubernetes client.
//
// Invariants:
//
//   - The same objects give the same bytes, in whatever order they are read.
//   - The version names the content: it changes when the content does, and only
//     then.
//   - A broken object never fails the message. What cannot be rendered is named
//     in a Problem; everything else is as if the broken object did not exist.
//   - A workload that is meant for the device is always in the message. Leaving
//     it out would tell the device to remove what runs, and a typing error in a
//     Secret's name is no reason for that.
//
// A workload with a broken reference is taken, whole and with the secrets that
// it needs, from the result that the caller got before, if it was good there. If
// not, the workload is rendered without what is missing: Podman refuses such a
// manifest with a clear word, and the device stays with the one that it runs.
//
// A device setting with a broken reference is left out: storage, the receiver of
// metrics, one log target. A source of metrics whose allow list is broken is
// disabled, because an allow list is there to bound what is sent.
//
// Calls are independent of each other and may run at the same time, as far as
// the Reader allows it.
package render

// Package agent is the composition root of the device's daemon: it reads the
// settings, builds the components, and starts and stops them in order.
//
// It also leads what has an order over several components: the way out of being
// managed, step by step, is in departure.go, and that of a workload's volume
// when the workload is removed is in retirement.go.
//
// It knows every component and none of their workings. Nothing imports it but
// the command.
package agent

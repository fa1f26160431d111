// Package agent is the composition root of the device's daemon: it reads the
// settings, builds the components, and starts and stops them in order.
//
// It also leads the way out: what a device that is no longer managed does, step
// by step, is in departure.go, because it is the one thing that has an order
// over several components.
//
// It knows every component and none of their workings. Nothing imports it but
// the command.
package agent

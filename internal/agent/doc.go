// Package agent is the composition root of the device's daemon: it reads the
// settings, builds the components, and starts and stops them in order.
//
// It knows every component and none of their workings. Nothing imports it but
// the command.
package agent

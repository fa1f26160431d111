// Package pulse lets somebody outside find out whether a loop is alive: whether it
// comes back, within a time, to where it waits for what to do next.
//
// It knows no loop.
package pulse

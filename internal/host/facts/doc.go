// Package facts describes the machine that the agent runs on, from what the
// kernel shows in /proc, /sys and /etc: no commands, no privileges.
//
// What cannot be read is left empty: a fact is never an error. Reads are
// bounded, lists are sorted, and values that change by themselves (the clock of
// a processor, the links of containers) are left out where something steadier
// is to be had, so that two descriptions of one machine are equal.
//
// It knows nothing of who asks.
package facts

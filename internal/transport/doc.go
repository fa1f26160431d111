// Package transport is the one small interface between the agent and whatever
// carries its messages. Implementations live in the packages below it.
//
// It knows message frames, never what is in them.
package transport

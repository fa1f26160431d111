// Package architecture holds the laws of this repository as tests: who may
// import whom, what the agent's binary may link, and how packages and files
// look. Every law has its reason beside it; a change that needs a law to be
// different changes the law, and the reason, in the same commit.
//
// It contains tests only. They read the source tree and ask the go command for
// the import graph; they need neither root nor the network. What needs a built
// binary is under the build tag integration.
package architecture

// Package e2e proves on booted devices what a user of the system sees: every
// part is the real one, and every assertion is about files, containers, objects
// and answers, not about calls.
//
// The tests have the build tag device, need root and the programs of `make
// build`; `make test-device` runs them.
package e2e

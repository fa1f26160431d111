// Package testenv finds the real programs that tests and the demo work against,
// and starts those that need nothing but a folder: an S3 server, and our own
// Edge API with the file backend.
//
// It owns where the programs are, how they are configured, how one knows that
// they answer, and that they end together with whoever started them. A Start
// function takes a context, for programs; beside it there may be a function that
// takes a testing.TB and stops the server when the test ends. The foreign
// programs come from the tool modules of this repository (`make tools`); nothing
// is looked up on PATH, and nothing is ever downloaded from here.
//
// A program that is absent fails the test: `make test` builds them all, so a
// skipped test would only hide a broken set-up.
//
// It knows nothing of devices and of the agent on them.
package testenv

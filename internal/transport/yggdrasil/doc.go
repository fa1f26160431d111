// Package yggdrasil carries messages as a gRPC worker of yggd.
//
// It owns the worker's side of yggd's protocol: it registers under a handler
// name, listens on the abstract socket that yggd assigns, hands what arrives to
// a transport.Handler, and posts through yggd's dispatcher. It is the only code
// that knows yggd; it knows nothing of what is in a message.
//
// # Invariants
//
//   - Messages reach the handler strictly one at a time, in the order of
//     arrival. yggd's call returns when the handler did, so at most one message
//     waits in this process for each of yggd's calls.
//   - Only root and this process's own user may talk to the worker, and only
//     they may be the dispatcher: abstract sockets have no permissions, so both
//     sides look at the peer's credentials.
//   - At most one message is on its way up at a time. yggd posts one after the
//     other anyway; a second one in its queue could neither be recalled nor
//     known to be undelivered.
//
// # The two dialects
//
// The protocol is that of yggd's main line of 2022, which answers Send with the
// HTTP response and tells its configuration. The released 0.2.x has neither:
// Settings then reads yggd's configuration file, and Send returns ErrNoAnswer.
//
// # When yggd ends
//
// A worker that yggd did not start keeps trying to register at the same address
// for ever. A worker that yggd started is reparented; when nothing has answered
// at the address for Config.OrphanGrace, Run returns ErrOrphaned, because a new
// yggd listens elsewhere and starts a worker of its own.
//
// The worker's standard output and error are pipes to yggd. The program must
// ignore SIGPIPE (signal.Ignore(syscall.SIGPIPE)), or the first line it logs
// after yggd's death ends it.
//
// yggd refuses to start while a pid file of a process that is gone lies in its
// folder of worker pids. Run removes the one named by Config.PIDFile when it
// ends, if it is this process's own.
package yggdrasil

//go:generate protoc -I pb --go_out=pb --go_opt=paths=source_relative --go-grpc_out=pb --go-grpc_opt=paths=source_relative pb/yggdrasil.proto

// Package observe measures how metrics and logs travel, beside Prometheus in
// agent mode and rsyslog: the same pages and lines, the same receiver, one after
// the other in the same run.
//
// The measurements have the build tag bench and are part of `make bench`. Every
// contender is a process of its own, so that its processor time, its memory and
// what it writes to disks can be told. Nothing here fails because a machine is
// slow; everything fails when something did not arrive.
package observe

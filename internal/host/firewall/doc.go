// Package firewall keeps the ports of the host that workloads take open in
// nftables: the table "inet flotta", with a base chain on the input hook and one
// chain a workload, which accepts what comes for its ports.
//
// Invariants: the table is replaced as a whole, in one transaction of the
// kernel, so that it never holds half of what it should; and only when it holds
// something else than it should, so that looking again costs nothing. What was
// changed in it by hand is put right within the resync interval. No other table
// is ever written to. Where nothing is to be opened there is no table. Names
// reach nft only after they were found to be DNS names, and nft reads them from
// its standard input; no shell is involved.
//
// What it cannot do: nftables asks the base chains of all tables, and a packet
// passes only if none of them drops it. An accept here ends the way through this
// table alone. Where firewalld, ufw or an administrator's own table drops what
// it does not know, the port has to be opened there, too; Status.Note says so
// when there is a table that looks like it. Ports that a rootful Podman forwards
// to a container never come to the input hook: Podman opens their way itself.
//
// A host without nftables works as before: workloads run, and Status.Problem
// says what is missing for as long as there are ports to open.
//
// It does not know what a workload is but for its name.
package firewall

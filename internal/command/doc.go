// Package command runs programs of the host for what they print.
//
// Invariants: which program runs, and in which language it answers, does not depend
// on the environment of whoever started this one. What a program prints is kept up
// to a bound, and the rest is thrown away as it comes. When Run returns, the program
// and everything it started in its process group is gone.
//
// It knows no program.
package command

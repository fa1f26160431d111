// Command image writes a container image for several processors as an archive
// of an OCI image layout, from programs that are built already. It needs no
// daemon, no base image and no root.
//
// The same programs with the same arguments give the same bytes: files have the
// time that -created says, owners are numbers, and everything is in order. What
// is in an image is the program and the account it runs as; there is no shell
// and nothing to update. Certificates of public authorities are in the programs.
package main

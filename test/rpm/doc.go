// Package rpm tests the packages that flotta-agent.spec makes, through rpm and
// rpmbuild themselves: that they can be built without a network and twice to the
// byte, what is in them, that an image can be composed with them, and what they
// do to a device that runs.
//
// What it cannot have is rpm-ostree, a kernel with SELinux and the macros of
// Fedora's systemd: a composition is a chroot without a service manager, labels
// are looked up in Debian's policy, and scriptlets are those of the spec file's
// own fall-back.
package rpm

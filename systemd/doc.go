// Package systemd holds the files that the package installs below
// /usr/lib/systemd, /usr/lib/sysusers.d and /usr/lib/tmpfiles.d, so that tests
// put the very same bytes on a device as the package does.
//
// It owns those files and knows nothing else: not the agent, and not the service
// manager that reads them.
package systemd

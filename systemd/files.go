package systemd

import "embed"

// Files holds the shipped files, at the paths they have in this folder. It is
// read-only.
//
//go:embed system system-preset user user-preset sysusers.d tmpfiles.d
var Files embed.FS

// InstallPath returns where on a device the file of that path in Files belongs,
// or "" when it is none of ours.
func InstallPath(path string) string {
	for prefix, folder := range map[string]string{
		"system/":        "/usr/lib/systemd/system/",
		"system-preset/": "/usr/lib/systemd/system-preset/",
		"user/":          "/usr/lib/systemd/user/",
		"user-preset/":   "/usr/lib/systemd/user-preset/",
		"sysusers.d/":    "/usr/lib/sysusers.d/",
		"tmpfiles.d/":    "/usr/lib/tmpfiles.d/",
	} {
		if len(path) > len(prefix) && path[:len(prefix)] == prefix {
			return folder + path[len(prefix):]
		}
	}
	return ""
}

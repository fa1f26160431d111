package agent

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/console"
	"github.com/project-flotta/flotta-agent/internal/diskq"
)

// certificateIn returns the first certificate of the file; nil: there is none.
func certificateIn(path string) *console.Certificate {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil
		}
		return &console.Certificate{Subject: c.Subject.CommonName, Issuer: c.Issuer.CommonName, Expires: c.NotAfter.UTC()}
	}
}

// consoleQueue says what waits in a queue.
func consoleQueue(name string, stats diskq.Stats) console.Queue {
	return console.Queue{
		Name: name, Waiting: stats.Entries, Bytes: stats.Bytes, Limit: stats.MaxBytes, Oldest: stats.Oldest,
		Dropped: console.Dropped{Size: stats.Dropped.Size, Age: stats.Dropped.Age, Damage: stats.Dropped.Damage},
	}
}

// storagePlaces are where the device keeps what it cannot do without.
func storagePlaces(cfg Config, owner account) []console.Storage {
	return []console.Storage{
		{Name: "state", Path: cfg.StateDir},
		{Name: "volumes", Path: filepath.Join(cfg.StateDir, "volumes")},
		{Name: "containers", Path: owner.containerStore()},
	}
}

// containerStore is where the account's Podman keeps images and containers,
// unless its storage.conf says otherwise.
func (a account) containerStore() string {
	if a.uid == 0 {
		return "/var/lib/containers/storage"
	}
	home := "/var/home/flotta" // as the package has it
	if u, err := user.LookupId(strconv.Itoa(a.uid)); err == nil && u.HomeDir != "" {
		home = u.HomeDir
	}
	return filepath.Join(home, ".local/share/containers/storage")
}

// measured fills in how much room there is.
func measured(places []console.Storage) []console.Storage {
	out := make([]console.Storage, 0, len(places))
	for _, p := range places {
		var fs unix.Statfs_t
		if err := unix.Statfs(p.Path, &fs); err != nil {
			p.Error = err.Error()
		} else {
			unit := uint64(fs.Bsize) //nolint:gosec // a block's size is above zero
			p.Total, p.Free = count(fs.Blocks*unit), count(fs.Bavail*unit)
			p.Inodes, p.FreeInodes = count(fs.Files), count(fs.Ffree)
		}
		out = append(out, p)
	}
	return out
}

// count is n, or as much of it as fits.
func count(n uint64) int64 {
	return int64(min(n, 1<<62))
}

// storageProblems names places on which nothing can be written soon.
func storageProblems(places []console.Storage) []string {
	var out []string
	for _, p := range places {
		switch {
		case p.Error != "" || p.Total == 0:
		case p.Free*100 < p.Total:
			out = append(out, "less than 1% of the disk of "+p.Path+" is free")
		case p.Inodes > 0 && p.FreeInodes*100 < p.Inodes:
			out = append(out, "less than 1% of the inodes of the disk of "+p.Path+" are free")
		}
	}
	return out
}

// operatingSystem says what the device whose files are below root runs.
func operatingSystem(root string) console.OS {
	out := console.OS{Architecture: runtime.GOARCH}
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		if text, err := os.ReadFile(filepath.Join(root, name)); err == nil {
			out.Name = releaseName(text)
			break
		}
	}
	if text, err := os.ReadFile(filepath.Join(root, "proc/sys/kernel/osrelease")); err == nil {
		out.Kernel = strings.TrimSpace(string(text))
	}
	if text, err := os.ReadFile(filepath.Join(root, "proc/stat")); err == nil {
		out.Booted = bootTime(text)
	}
	return out
}

// releaseName returns the name for a person of an os-release file.
func releaseName(text []byte) string {
	fields := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), "="); ok {
			fields[key] = strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	if name := fields["PRETTY_NAME"]; name != "" {
		return name
	}
	return strings.TrimSpace(fields["NAME"] + " " + fields["VERSION"])
}

// bootTime returns the time that /proc/stat names; zero: it names none.
func bootTime(stat []byte) time.Time {
	for lines := bufio.NewScanner(bytes.NewReader(stat)); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "btime "); ok {
			if n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64); err == nil && n > 0 {
				return time.Unix(n, 0).UTC()
			}
		}
	}
	return time.Time{}
}

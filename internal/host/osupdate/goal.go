package osupdate

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/desired"
)

const (
	maxURL   = 2048
	maxImage = 512
)

// Goal is what the configuration wants the device to run, and where it comes
// from. It is compared to find out whether the configuration asks for something
// else than it did.
type Goal struct {
	Commit string `json:"commit,omitempty"` // of ostree
	Image  string `json:"image,omitempty"`  // for bootc
	URL    string `json:"url,omitempty"`    // of the ostree repository; empty: the one that the host has
}

// id returns what the goal is called on a host.
func (g Goal) id(images bool) string {
	if images {
		return g.Image
	}
	return g.Commit
}

// want is what the configuration says about the operating system.
type want struct {
	Goal
	auto    bool // reboot into it
	managed bool // false: somebody else decides, or nobody; nothing is touched
}

func wanted(snapshot *desired.Snapshot) want {
	state := snapshot.State()
	w := want{managed: state.Managed() && snapshot.Digest() != ""} // empty: nobody has said anything yet
	if os := state.OS; os != nil && w.managed {
		w.Goal = Goal{Commit: os.CommitID, Image: os.Image, URL: os.HostedObjectsURL}
		w.auto = os.AutomaticallyUpgrade
	}
	return w
}

var (
	commitForm = regexp.MustCompile(`^[0-9a-f]{64}$`)
	imageForm  = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?(/[a-z0-9][a-z0-9._-]*)+(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?$`)
)

// check says what is wrong with what the configuration asks for. Everything in a
// goal that passes can be an argument of a command and a value in a key file.
func (g Goal) check(images bool) error {
	if g.URL != "" && !images {
		if err := checkURL(g.URL); err != nil {
			return err
		}
	}
	switch {
	case images && g.Image != "":
		if len(g.Image) > maxImage || !imageForm.MatchString(g.Image) {
			return fmt.Errorf("image %.80q is no reference of an image with its registry: write it as registry/name@sha256:digest or registry/name:tag", g.Image)
		}
	case images && g.Commit != "":
		return errors.New("a commit is configured, but this host is updated by bootc, which takes images: set os.image")
	case images:
	case g.Commit == "" && g.Image != "":
		return errors.New("an image is configured, but this host is updated by rpm-ostree, which takes commits: set os.commit_id")
	case g.Commit != "" && !commitForm.MatchString(g.Commit):
		return fmt.Errorf("commit %.80q is no commit of ostree: write all of its 64 hexadecimal digits, in lower case", g.Commit)
	}
	return nil
}

// checkURL never shows the URL: there may be a password in it.
func checkURL(text string) error {
	for _, c := range text {
		if c <= ' ' || c >= 0x7f || strings.ContainsRune("\"'\\<>^`{|}", c) {
			return fmt.Errorf("the URL of the ostree repository has the character %q in it: write it as %%%02X", c, c&0xff)
		}
	}
	u, err := url.Parse(text)
	switch {
	case len(text) > maxURL:
		return fmt.Errorf("the URL of the ostree repository has %d characters, at most %d can be taken", len(text), maxURL)
	case err != nil:
		return errors.New("the URL of the ostree repository cannot be understood")
	case u.User != nil:
		return errors.New("the URL of the ostree repository has a user in it, which everybody would see who sees the configuration: " +
			"use tls-client-cert-path and tls-client-key-path in the remote's file")
	case u.Scheme == "http" || u.Scheme == "https":
		if u.Hostname() == "" {
			return errors.New("the URL of the ostree repository names no host")
		}
		return nil
	case u.Scheme == "file" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		return nil
	}
	return errors.New("the URL of the ostree repository has to begin with http://, https:// or file:///")
}

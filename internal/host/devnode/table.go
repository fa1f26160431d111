package devnode

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Config is what a Table needs. The zero value is that of root.
type Config struct {
	UID, GID uint32 // of the user who opens the devices; root may open them all
	Root     string // of the file system; "/" when empty
	Poll     time.Duration
}

// poll is how long a device that appears waits for being noticed. Looking costs
// a stat for each.
const poll = 2 * time.Second

// forgetAfter is for how long something is watched that nobody asked for again.
const forgetAfter = time.Hour

// Use is what somebody wants to do with a device.
type Use struct {
	Path  string // absolute; a symbolic link is followed
	Kind  Kind   // Any when empty
	Group bool   // it is opened with the groups of the user's service manager
}

// Kind is a kind of device.
type Kind string

// The kinds.
const (
	Any       Kind = ""
	Character Kind = "character"
	Block     Kind = "block"
)

// Problem says why a device cannot be used.
type Problem struct {
	Missing bool   // it is not there; else it is, and may not be opened
	Text    string // for a person: what is wrong, and what to do
}

// Error returns the text.
func (p *Problem) Error() string { return p.Text }

// Table answers questions about the devices of the host.
type Table struct {
	cfg Config

	mu    sync.Mutex
	asked map[Use]*memory
}

// memory is what is known of something that was asked for.
type memory struct {
	at   time.Time // of the last question
	mark string    // what the last answer depended on
}

// New returns a Table; it reads nothing.
func New(cfg Config) *Table {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.Poll == 0 {
		cfg.Poll = poll
	}
	return &Table{cfg: cfg, asked: map[Use]*memory{}}
}

// Check returns nil when the device can be used, and a *Problem otherwise.
func (t *Table) Check(use Use) error {
	mark, n, problem := t.look(use)
	t.mu.Lock()
	t.asked[use] = &memory{at: time.Now(), mark: mark}
	t.mu.Unlock()
	if problem == nil && t.cfg.UID != 0 {
		problem = t.denied(use, n)
	}
	if problem == nil {
		return nil
	}
	return problem
}

// look returns the node, and what everything that is said of it depends on.
func (t *Table) look(use Use) (mark string, n node, problem *Problem) {
	path := filepath.Join(t.cfg.Root, use.Path)
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		text := "device " + use.Path + " is not there"
		if !errors.Is(err, fs.ErrNotExist) {
			text = fmt.Sprintf("device %s cannot be looked at: %v", use.Path, err)
		}
		return text, node{}, &Problem{Missing: true, Text: text}
	}
	if kind := kindOf(stat); kind == Any || use.Kind != Any && kind != use.Kind {
		text := fmt.Sprintf("%s is no %s device", use.Path, use.Kind)
		return text, node{}, &Problem{Missing: true, Text: strings.ReplaceAll(text, "  ", " ")}
	}
	var groups []uint32
	if t.cfg.UID != 0 {
		groups, _ = t.manager()
	}
	n = node{uid: stat.Uid, gid: stat.Gid, mode: stat.Mode & 0o777}
	acl := make([]byte, maxACL)
	if size, err := unix.Getxattr(path, aclName, acl); err == nil {
		n.acl = parseACL(acl[:size])
	}
	return fmt.Sprintln(n, groups), n, nil
}

// maxACL holds 500 entries.
const maxACL = 4 << 10

func kindOf(stat unix.Stat_t) Kind {
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		return Character
	case unix.S_IFBLK:
		return Block
	default:
		return Any
	}
}

// denied says why the user may not open the node, and what helps.
func (t *Table) denied(use Use, n node) *Problem {
	w := who{uid: t.cfg.UID, gid: t.cfg.GID}
	listed := t.listed()
	groups, running := t.manager()
	if !running {
		groups = listed
	}
	with, later := w, w
	with.groups, later.groups = groups, listed
	if use.Group {
		w = with
	}
	if n.opens(w) {
		return nil
	}
	user, group := t.nameOf("passwd", t.cfg.UID), t.nameOf("group", n.gid)
	anew := fmt.Sprintf("systemctl restart user@%d.service", t.cfg.UID)
	text := fmt.Sprintf("user %s may not open device %s, which belongs to %s:%s with mode %04o",
		user, use.Path, t.nameOf("passwd", n.uid), group, n.mode)
	joined := later
	joined.groups = append(slices.Clip(later.groups), n.gid)
	switch {
	case n.opens(with):
		text += "; it may with its supplementary groups, which the pod does not keep because it has supplementalGroups, or an annotation " +
			"run.oci.keep_original_groups of its own"
	case n.opens(later):
		text += fmt.Sprintf("; %s is in a group that may since its service manager was started: %s", user, anew)
	case n.gid != 0 && n.opens(joined):
		text += fmt.Sprintf("; put it into that group: %susermod -aG %s %s && %s", t.bringGroup(n.gid, group), group, user, anew)
	default:
		text += fmt.Sprintf("; give it to %[1]s by a rule in /etc/udev/rules.d, such as KERNEL==%[2]q, OWNER=%[1]q", user, filepath.Base(use.Path))
	}
	return &Problem{Text: text}
}

// bringGroup returns what has to be done before usermod can be: on a system made
// by ostree, the groups that came with it are in a file that usermod does not
// know.
func (t *Table) bringGroup(gid uint32, name string) string {
	vendor := false
	for _, g := range t.accounts("group") {
		if g.id == gid && !g.vendor {
			return ""
		}
		vendor = vendor || g.id == gid
	}
	if !vendor {
		return ""
	}
	return fmt.Sprintf("grep ^%s: /usr/lib/group >>/etc/group && ", name)
}

// Watch calls changed whenever a device that Check was asked about appeared,
// vanished, or can be opened by others than before. It returns when ctx ended.
func (t *Table) Watch(ctx context.Context, changed func()) {
	ticker := time.NewTicker(t.cfg.Poll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if t.moved(time.Now()) {
			changed()
		}
	}
}

// moved reports whether an answer may be another one than the last.
func (t *Table) moved(now time.Time) bool {
	t.mu.Lock()
	uses := make(map[Use]memory, len(t.asked))
	for use, m := range t.asked {
		if now.Sub(m.at) > forgetAfter {
			delete(t.asked, use)
			continue
		}
		uses[use] = *m
	}
	t.mu.Unlock()
	moved := false
	for use, was := range uses {
		mark, _, _ := t.look(use)
		if mark == was.mark {
			continue
		}
		moved = true
		t.mu.Lock()
		if m := t.asked[use]; m != nil && m.mark == was.mark {
			m.mark = mark // told once
		}
		t.mu.Unlock()
	}
	return moved
}

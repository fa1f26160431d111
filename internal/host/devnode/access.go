package devnode

import (
	"encoding/binary"
	"slices"
)

// who is a process as the kernel sees it.
type who struct {
	uid    uint32
	gid    uint32
	groups []uint32 // beside gid
}

func (w who) in(gid uint32) bool { return w.gid == gid || slices.Contains(w.groups, gid) }

// Permissions, as in a mode and in an access control list.
const (
	mayRead  = 4
	mayWrite = 2
)

// node is what decides who may open a device.
type node struct {
	uid, gid uint32
	mode     uint32 // permission bits
	acl      []aclEntry
}

// opens reports whether w may open the node at all, for reading or for writing.
func (n node) opens(w who) bool { return n.allows(w, mayRead) || n.allows(w, mayWrite) }

// allows decides as the kernel does. A node without a list has the three entries
// of its mode; so has one whose mask allows nothing, against what acl(5) says.
func (n node) allows(w who, want uint32) bool {
	entries := n.acl
	if len(entries) == 0 || n.mode&0o070 == 0 {
		entries = []aclEntry{
			{tag: aclOwner, perm: n.mode >> 6 & 7},
			{tag: aclOwningGroup, perm: n.mode >> 3 & 7},
			{tag: aclOther, perm: n.mode & 7},
		}
	}
	mask := uint32(7)
	for _, e := range entries {
		if e.tag == aclMask {
			mask = e.perm
		}
	}
	member := false
	for _, e := range entries { // the kernel keeps them in this order: owner, users, groups, mask, other
		switch {
		case e.tag == aclOwner && w.uid == n.uid:
			return e.perm&want != 0
		case e.tag == aclUser && w.uid == e.id:
			return e.perm&mask&want != 0
		case e.tag == aclOwningGroup && w.in(n.gid), e.tag == aclGroup && w.in(e.id):
			member = true
			if e.perm&mask&want != 0 {
				return true
			}
		case e.tag == aclOther:
			return !member && e.perm&want != 0
		}
	}
	return false
}

// Tags of entries, as <linux/posix_acl.h> has them.
const (
	aclOwner       = 0x01
	aclUser        = 0x02
	aclOwningGroup = 0x04
	aclGroup       = 0x08
	aclMask        = 0x10
	aclOther       = 0x20
)

// aclName is the extended attribute that holds a node's access control list.
const aclName = "system.posix_acl_access"

type aclEntry struct {
	tag, perm, id uint32
}

// parseACL reads such an attribute: a version, then entries of 8 bytes, all of
// them little-endian. What is none yields no entries: the mode counts then.
func parseACL(raw []byte) []aclEntry {
	if len(raw) < 4 || (len(raw)-4)%8 != 0 || binary.LittleEndian.Uint32(raw) != 2 {
		return nil
	}
	var out []aclEntry
	for raw = raw[4:]; len(raw) > 0; raw = raw[8:] {
		out = append(out, aclEntry{
			tag: uint32(binary.LittleEndian.Uint16(raw)), perm: uint32(binary.LittleEndian.Uint16(raw[2:])) & 7,
			id: binary.LittleEndian.Uint32(raw[4:]),
		})
	}
	return out
}

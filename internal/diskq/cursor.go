package diskq

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
)

const (
	cursorName = "cursor"
	// slotDistance keeps the two slots in different pages and sectors, so that
	// a torn write of one leaves the other.
	slotDistance = 4096
	slotSize     = 48
	slotMagic    = 0x31637166 // "fqc1"
)

// position is what the cursor file holds: everything up to acked was
// acknowledged or dropped.
type position struct {
	generation uint64
	acked      uint64
	dropped    Dropped
}

// cursor is the file of two slots. One of them is on the disk for sure and stays
// as it is, until the other one is.
type cursor struct {
	f     *os.File
	slot  int64 // the one to write
	dirty bool  // it was written, and not synced since
}

// openCursor returns the newest intact position, the zero one when there is
// none: then all is delivered again.
func openCursor(dir string) (*cursor, position, error) {
	f, err := os.OpenFile(filepath.Join(dir, cursorName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, position{}, err
	}
	var best position
	c := &cursor{f: f}
	for slot := range int64(2) {
		buf := make([]byte, slotSize)
		_, err := f.ReadAt(buf, slot*slotDistance)
		if p, ok := decodeSlot(buf); ok && err == nil {
			if p.generation >= best.generation {
				best, c.slot = p, 1-slot
			}
			continue
		}
		// An unreadable sector is as good as an empty slot. Its space is taken now,
		// before it is needed: on a full disk, acknowledging is what makes room.
		// When the disk is full already, the first one may fail.
		_, _ = f.WriteAt(make([]byte, slotSize), slot*slotDistance)
	}
	// The best one may be from a process that was killed before it was synced.
	// When this fails, it is no worse than it was.
	_ = f.Sync()
	return c, best, nil
}

func decodeSlot(b []byte) (position, bool) {
	le := binary.LittleEndian
	if le.Uint32(b) != slotMagic || le.Uint32(b[4:]) != crc32.Checksum(b[8:slotSize], castagnoli) {
		return position{}, false
	}
	return position{
		generation: le.Uint64(b[8:]),
		acked:      le.Uint64(b[16:]),
		dropped:    Dropped{Size: le.Uint64(b[24:]), Age: le.Uint64(b[32:]), Damage: le.Uint64(b[40:])},
	}, true
}

func encodeSlot(p position) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, slotMagic)
	b = le.AppendUint32(b, 0)
	for _, n := range []uint64{p.generation, p.acked, p.dropped.Size, p.dropped.Age, p.dropped.Damage} {
		b = le.AppendUint64(b, n)
	}
	le.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	return b
}

// write puts p into the slot that is not on the disk for sure.
func (c *cursor) write(p *position) error {
	p.generation++
	c.dirty = true
	_, err := c.f.WriteAt(encodeSlot(*p), c.slot*slotDistance)
	return err
}

func (c *cursor) sync() error {
	if !c.dirty {
		return nil
	}
	if err := c.f.Sync(); err != nil {
		return err
	}
	c.slot, c.dirty = 1-c.slot, false
	return nil
}

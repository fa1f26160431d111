// Command peers takes the same entries through the queue of this project and
// through libraries that could be one, and says how fast that was, how much was
// written, and what is left after one bit on the disk was turned over.
//
//	go run . [FOLDER]
package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	batch   = 100 // entries appended, read and acknowledged at once
	batches = 2000
	perSync = 50 // batches
	waiting = 1000
	flips   = 200
)

// queue is what all of them can be used as.
type queue interface {
	append(entries [][]byte) error
	// take reads at most n entries; done forgets them.
	take(n int) (entries [][]byte, done func() error, err error)
	sync() error
	close() error
}

func main() {
	log.SetFlags(0)
	if len(os.Args) == 4 && os.Args[1] == "drain" {
		drain(os.Args[3], kinds()[os.Args[2][0]-'0'])
		return
	}
	dir := os.TempDir()
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	kinds := kinds()
	for _, size := range []int{200, 5000} {
		for range 2 { // each has its turn early and late
			for _, k := range kinds {
				rate, written, err := speed(dir, size, k.open)
				if err != nil {
					log.Fatalf("%s: %v", k.name, err)
				}
				fmt.Printf("%-12s %5d B: %9.0f entries/s, %.2f bytes written for each delivered\n", k.name, size, rate, written)
			}
		}
	}
	for i, k := range kinds {
		d, err := damage(dir, i)
		if err != nil {
			log.Fatalf("%s: %v", k.name, err)
		}
		fmt.Printf("%-12s one bit of %d entries, %d times: %d entries lost, %d times all of them; %d wrong entries; the program ended %d times\n",
			k.name, waiting, flips, d.lost, d.nothing, d.wrong, d.ended)
	}
}

// kind is a way to make a queue.
type kind struct {
	name string
	open func(dir string) (queue, error)
}

func kinds() []kind {
	return []kind{{"diskq", openDiskq}, {"tidwall/wal", openWal}, {"bbolt", openBolt}}
}

func temp(parent string) (string, func(), error) {
	dir, err := os.MkdirTemp(parent, "peers-")
	return dir, func() { _ = os.RemoveAll(dir) }, err
}

func speed(parent string, size int, open func(string) (queue, error)) (rate, ratio float64, err error) {
	dir, clean, err := temp(parent)
	if err != nil {
		return 0, 0, err
	}
	defer clean()
	q, err := open(dir)
	if err != nil {
		return 0, 0, err
	}
	entries := make([][]byte, batch)
	for i := range entries {
		entries[i] = bytes.Repeat([]byte{byte(i)}, size)
	}
	before, began := written(), time.Now()
	for n := range batches {
		if err := q.append(entries); err != nil {
			return 0, 0, err
		}
		got, done, err := q.take(batch)
		if err != nil || len(got) != batch {
			return 0, 0, fmt.Errorf("%d entries: %w", len(got), err)
		}
		if err := done(); err != nil {
			return 0, 0, err
		}
		if n%perSync == perSync-1 {
			if err := q.sync(); err != nil {
				return 0, 0, err
			}
		}
	}
	took := time.Since(began)
	if err := q.close(); err != nil {
		return 0, 0, err
	}
	return batch * batches / took.Seconds(), float64(written()-before) / float64(batch*batches*size), nil
}

// written is how much this process had written to disks, in bytes.
func written() int64 {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		log.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\nwrite_bytes: ")
	number, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		log.Fatal(err)
	}
	return n
}

// outcome counts what became of queues in which one bit was turned over.
type outcome struct{ nothing, lost, wrong, ended int }

// damage fills a queue, and reads it after one bit was turned over, again and
// again, in a process of its own: some end it.
func damage(parent string, kind int) (o outcome, err error) {
	whole, clean, err := temp(parent)
	if err != nil {
		return o, err
	}
	defer clean()
	q, err := kinds()[kind].open(whole)
	if err != nil {
		return o, err
	}
	for n := range waiting {
		if err := q.append([][]byte{entry(n)}); err != nil {
			return o, err
		}
	}
	if err := errors.Join(q.sync(), q.close()); err != nil {
		return o, err
	}
	for range flips {
		dir, clean, err := temp(parent)
		if err == nil {
			err = os.CopyFS(filepath.Join(dir, "q"), os.DirFS(whole))
		}
		if err == nil {
			err = flip(filepath.Join(dir, "q"))
		}
		if err != nil {
			return o, err
		}
		var right, wrong int
		out, err := exec.Command("/proc/self/exe", "drain", strconv.Itoa(kind), filepath.Join(dir, "q")).Output()
		clean()
		if _, scanErr := fmt.Sscan(string(out), &right, &wrong); err != nil || scanErr != nil {
			o.ended++
			continue
		}
		o.wrong += wrong
		o.lost += waiting - right
		if right == 0 {
			o.nothing++
		}
	}
	return o, nil
}

func entry(n int) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(n)), bytes.Repeat([]byte{'x'}, 196)...)
}

// flip turns one bit over in the largest file below dir, which has the entries.
func flip(dir string) error {
	largest, size := "", int64(0)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > size {
			largest, size = path, info.Size()
		}
		return err
	})
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(largest)
	if err != nil {
		return err
	}
	raw[rand.IntN(len(raw))] ^= 1 << rand.IntN(8)
	return os.WriteFile(largest, raw, 0o600)
}

// drain prints how many entries come out of a queue as they went in, each counted
// once, and how many do not.
func drain(dir string, k kind) {
	right, wrong := map[uint32]bool{}, 0
	defer func() { fmt.Println(len(right), wrong) }()
	q, err := k.open(dir)
	if err != nil {
		return
	}
	for range 2 * waiting {
		got, done, err := q.take(1)
		if err != nil || len(got) == 0 {
			return
		}
		for _, e := range got {
			if n := binary.BigEndian.Uint32(append(slices.Clone(e[:min(4, len(e))]), 0, 0, 0, 0)); n < waiting && !right[n] && bytes.Equal(e, entry(int(n))) {
				right[n] = true
			} else {
				wrong++
			}
		}
		if done() != nil {
			return
		}
	}
}

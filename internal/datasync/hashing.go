package datasync

// hashing adds to digests in a goroutine of its own, while the same bytes are
// written to the disk.
type hashing struct {
	pieces chan []byte
	done   chan struct{}
}

func startHashing(add func([]byte)) hashing {
	h := hashing{pieces: make(chan []byte), done: make(chan struct{})}
	go func() {
		for p := range h.pieces {
			add(p)
			h.done <- struct{}{}
		}
	}()
	return h
}

// begin adds p, which has to stay as it is until the returned channel delivers.
func (h hashing) begin(p []byte) <-chan struct{} {
	h.pieces <- p
	return h.done
}

func (h hashing) end() { close(h.pieces) }

package logs

import "sync"

// cell holds a value that others wait on.
type cell[T any] struct {
	mu    sync.Mutex
	value T
	next  chan struct{}
}

func newCell[T any](value T) *cell[T] {
	return &cell[T]{value: value, next: make(chan struct{})}
}

// get returns the value and a channel that is closed when there is another one.
func (c *cell[T]) get() (T, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.value, c.next
}

func (c *cell[T]) set(value T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.value = value
	close(c.next)
	c.next = make(chan struct{})
}

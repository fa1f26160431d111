package remote

import (
	"container/list"
	"sync"
)

// lru keeps values up to a total weight and forgets those not used for longest.
// A value heavier than the total is not kept.
type lru[K comparable, V any] struct {
	limit int

	mu    sync.Mutex
	used  int
	order *list.List // of *entry[K, V], the last used in front
	items map[K]*list.Element
}

type entry[K comparable, V any] struct {
	key    K
	value  V
	weight int
}

func newLRU[K comparable, V any](limit int) *lru[K, V] {
	return &lru[K, V]{limit: limit, order: list.New(), items: map[K]*list.Element{}}
}

func (l *lru[K, V]) get(key K) (value V, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.items[key]
	if !ok {
		return value, false
	}
	l.order.MoveToFront(e)
	return e.Value.(*entry[K, V]).value, true
}

// update replaces a value by what f makes of it, as one step; f gets the zero
// value when there is none.
func (l *lru[K, V]) update(key K, f func(old V) (value V, weight int)) V {
	l.mu.Lock()
	defer l.mu.Unlock()
	var old V
	if e, ok := l.items[key]; ok {
		old = e.Value.(*entry[K, V]).value
		l.drop(e)
	}
	value, weight := f(old)
	l.items[key] = l.order.PushFront(&entry[K, V]{key, value, weight})
	l.used += weight
	for l.used > l.limit {
		l.drop(l.order.Back())
	}
	return value
}

func (l *lru[K, V]) remove(key K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.items[key]; ok {
		l.drop(e)
	}
}

func (l *lru[K, V]) drop(e *list.Element) {
	old := l.order.Remove(e).(*entry[K, V])
	delete(l.items, old.key)
	l.used -= old.weight
}

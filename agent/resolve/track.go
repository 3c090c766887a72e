package resolve

import (
	"slices"

	"antiphon/hwmodel"
)

// track follows one device table: what the device holds (installed), which keys
// must be looked at again (dirty), and what it would not take (refused).
type track[K comparable, V any] struct {
	installed map[K]V
	dirty     map[K]struct{}
	refused   map[K]hwmodel.Reason
}

func (t *track[K, V]) init() {
	t.installed = map[K]V{}
	t.dirty = map[K]struct{}{}
	t.refused = map[K]hwmodel.Reason{}
}

func (t *track[K, V]) touch(k K)     { t.dirty[k] = struct{}{} }
func (t *track[K, V]) pending() bool { return len(t.dirty) > 0 }

// refuse records that the device did not take k: it does not hold it. The same
// value is not offered again until something about the key changes.
func (t *track[K, V]) refuse(k K, why hwmodel.Reason) {
	delete(t.installed, k)
	t.refused[k] = why
}

// diff computes every dirty key's wanted value and emits what differs from what
// the device holds. want may touch keys of tables that are compared later, never
// of its own: a key is set or deleted at most once in a batch.
func (t *track[K, V]) diff(want func(K) (V, bool), equal func(a, b V) bool, set func(V), del func(K)) {
	batch := t.dirty
	t.dirty = make(map[K]struct{})
	for k := range batch {
		v, ok := want(k)
		old, have := t.installed[k]
		delete(t.refused, k)
		switch {
		case !ok && have:
			delete(t.installed, k)
			del(k)
		case ok && (!have || !equal(old, v)):
			t.installed[k] = v
			set(v)
		}
	}
}

// adopt replaces what the device is known to hold and marks everything that is
// held, was held or was refused.
func (t *track[K, V]) adopt(entries []V, key func(V) K) {
	for k := range t.installed {
		t.touch(k)
	}
	for k := range t.refused {
		t.touch(k)
	}
	clear(t.installed)
	clear(t.refused)
	for _, v := range entries {
		k := key(v)
		t.installed[k] = v
		t.touch(k)
	}
}

func equalComparable[V comparable](a, b V) bool { return a == b }

func equalGroup(a, b hwmodel.Group) bool {
	return a.ID == b.ID && a.Counter == b.Counter && slices.Equal(a.Legs, b.Legs)
}

func equalRules(a, b hwmodel.Rules) bool {
	return a.Family == b.Family && slices.Equal(a.List, b.List)
}

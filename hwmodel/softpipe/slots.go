package softpipe

// slots gives keys small dense numbers. A slot lives while anything refers to it:
// the entry of that key, and every entry that names it. So entries may name what
// is not there yet, and the slot they hold fills when it comes. Slot 0 is nobody.
type slots[K comparable] struct {
	index keyIndex[K]
	key   []K
	refs  []uint32
	free  []uint32
}

func newSlots[K comparable](h hash[K]) slots[K] {
	return slots[K]{index: newKeyIndex(h), key: make([]K, 1), refs: make([]uint32, 1)}
}

// find returns the key's slot, 0 if it has none.
func (s *slots[K]) find(k K) uint32 { return s.index.slot[s.index.find(s.key, k)] }

// take returns the key's slot with one more reference. The zero key is slot 0.
func (s *slots[K]) take(k K) uint32 {
	var zero K
	if k == zero {
		return 0
	}
	at := s.index.find(s.key, k)
	slot := s.index.slot[at]
	if slot == 0 {
		if n := len(s.free); n > 0 {
			slot, s.free = s.free[n-1], s.free[:n-1]
			s.key[slot] = k
		} else {
			slot = uint32(len(s.key))
			s.key, s.refs = append(s.key, k), append(s.refs, 0)
		}
		s.index.put(at, s.key, slot)
	}
	s.refs[slot]++
	return slot
}

// release gives one reference back.
func (s *slots[K]) release(slot uint32) {
	if s.unref(slot) {
		s.recycle(slot)
	}
}

// unref gives one reference back and reports whether it was the last; then the
// slot is owed to recycle.
func (s *slots[K]) unref(slot uint32) bool {
	if slot == 0 {
		return false
	}
	if s.refs[slot] == 0 {
		panic("softpipe: slot released twice")
	}
	s.refs[slot]--
	return s.refs[slot] == 0
}

// recycle frees a slot without references. Its row must be empty.
func (s *slots[K]) recycle(slot uint32) {
	var zero K
	s.index.remove(s.key, s.key[slot])
	s.key[slot] = zero
	s.free = append(s.free, slot)
}

// row returns the slot's row, growing the array as needed.
func row[R any](rows *[]R, slot uint32) *R {
	if n := int(slot) + 1 - len(*rows); n > 0 {
		*rows = append(*rows, make([]R, n)...)
	}
	return &(*rows)[slot]
}

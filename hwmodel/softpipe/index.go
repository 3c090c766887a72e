package softpipe

import (
	"iter"
	"math/bits"
)

// The indexes that a route is looked up in when programmed are hash tables of their
// own: Go's maps took most of the time of Apply and of the memory. Open addressing,
// linear probing, at most half full. Eight keys that follow each other share a cache
// line, since routes and counters are mostly programmed in order; others are spread.
const (
	line    = 8
	minSize = 8 * line
	spread  = 0x9e3779b97f4a7c15 // 2^64 / golden ratio
)

// home returns where the search for a key starts: group is the key without its low
// bits, low those. It is the hash's highest bits: so a table of twice the size has
// the same order, and growing writes it from one end to the other.
func home(size int, group uint64, low uint32) uint32 {
	h := group * spread
	return uint32((h^h>>32)*spread>>bits.LeadingZeros64(uint64(size/line-1)))*line + low&(line-1)
}

// prefixIndex is the route slots of IPv4 prefixes: entries are the key (see key4)
// and below it the slot, 0 if empty.
type prefixIndex struct {
	entry []uint64
	n     int
}

const indexShift = 32 - slotShift // a slot's bits

func newPrefixIndex() prefixIndex { return prefixIndex{entry: make([]uint64, minSize)} }

func (x *prefixIndex) home(key uint64) uint32 {
	addr, length := unkey4(key)
	number := addr >> (32 - length)
	return home(len(x.entry), uint64(number/line)<<6|uint64(length), number)
}

// find returns where a key is, or where it would be put.
func (x *prefixIndex) find(key uint64) (at uint32, there bool) {
	at = x.home(key)
	for {
		e := x.entry[at]
		if e == 0 {
			return at, false
		}
		if e>>indexShift == key {
			return at, true
		}
		at = (at + 1) & uint32(len(x.entry)-1)
	}
}

// get returns the key's slot, 0 if it has none.
func (x *prefixIndex) get(key uint64) uint32 {
	at, _ := x.find(key)
	return uint32(x.entry[at] & maxRoutes)
}

// put gives a key that find did not find a slot, which is not 0.
func (x *prefixIndex) put(at uint32, key uint64, slot uint32) {
	x.entry[at] = key<<indexShift | uint64(slot)
	if x.n++; x.n <= len(x.entry)/2 {
		return
	}
	old := x.entry
	x.entry = big[uint64](2*len(old), 2*len(old))
	for _, e := range old {
		if e != 0 {
			at, _ := x.find(e >> indexShift)
			x.entry[at] = e
		}
	}
}

// remove takes a key out, and moves up what was pushed behind it.
func (x *prefixIndex) remove(key uint64) {
	at, there := x.find(key)
	if !there {
		return
	}
	x.n--
	mask := uint32(len(x.entry) - 1)
	for next := (at + 1) & mask; x.entry[next] != 0; next = (next + 1) & mask {
		if (next-x.home(x.entry[next]>>indexShift))&mask >= (next-at)&mask {
			x.entry[at] = x.entry[next]
			at = next
		}
	}
	x.entry[at] = 0
}

// all returns the keys and slots.
func (x *prefixIndex) all() iter.Seq2[uint64, uint32] {
	return func(yield func(uint64, uint32) bool) {
		for _, e := range x.entry {
			if e != 0 && !yield(e>>indexShift, uint32(e&maxRoutes)) {
				return
			}
		}
	}
}

// hash is a key's hash as home takes it.
type hash[K comparable] func(K) (group uint64, low uint32)

func hashNumber[K ~uint32 | ~uint64](k K) (group uint64, low uint32) {
	return uint64(k) / line, uint32(k)
}

// keyIndex is the slots of keys, 0 where empty; the keys are in slots.key.
type keyIndex[K comparable] struct {
	hash hash[K]
	slot []uint32
	n    int
}

func newKeyIndex[K comparable](h hash[K]) keyIndex[K] {
	return keyIndex[K]{hash: h, slot: make([]uint32, minSize)}
}

func (x *keyIndex[K]) len() int { return x.n }

func (x *keyIndex[K]) home(k K) uint32 {
	group, low := x.hash(k)
	return home(len(x.slot), group, low)
}

// find returns where a key is, or where it would be put.
func (x *keyIndex[K]) find(keys []K, k K) (at uint32) {
	at = x.home(k)
	for x.slot[at] != 0 && keys[x.slot[at]] != k {
		at = (at + 1) & uint32(len(x.slot)-1)
	}
	return at
}

// put adds a slot where find did not find its key.
func (x *keyIndex[K]) put(at uint32, keys []K, slot uint32) {
	x.slot[at] = slot
	if x.n++; x.n <= len(x.slot)/2 {
		return
	}
	old := x.slot
	x.slot = big[uint32](2*len(old), 2*len(old))
	for _, slot := range old {
		if slot != 0 {
			x.slot[x.find(keys, keys[slot])] = slot
		}
	}
}

// remove takes a key that is there out.
func (x *keyIndex[K]) remove(keys []K, k K) {
	at := x.find(keys, k)
	x.n--
	mask := uint32(len(x.slot) - 1)
	for next := (at + 1) & mask; x.slot[next] != 0; next = (next + 1) & mask {
		if (next-x.home(keys[x.slot[next]]))&mask >= (next-at)&mask {
			x.slot[at] = x.slot[next]
			at = next
		}
	}
	x.slot[at] = 0
}

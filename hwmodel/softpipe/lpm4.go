package softpipe

import "antiphon/hwmodel"

// An entry of an lpm4: 0 is nothing, with the lowest bit set the number of a block,
// else a route: its slot on top, so that a shift is all it takes, and its prefix
// length.
const (
	blockBit  = 1
	slotShift = 7
	maxRoutes = 1<<(32-slotShift) - 1
	blockSize = 256
)

func leaf(bits uint8, slot uint32) uint32 { return slot<<slotShift | uint32(bits)<<1 }

func leafBits(e uint32) uint8 { return uint8(e >> 1 & 63) }

func blockOf(e uint32) uint32 { return e >> 1 }

// Numbers of prefixes from which a table's root grows. A root of 8 bits costs
// 1 KiB, of 16 bits 256 KiB, of 24 bits (DIR-24-8) 64 MiB; a hundred VRFs fit.
const (
	grow16 = 512
	grow24 = 1 << 16
)

// lpm4 is a longest-prefix-match table of IPv4 prefixes: a root indexed by the
// first 8, 16 or 24 bits, blocks of 256 entries for each 8 bits more. Prefixes
// longer than an array's bits live in its blocks; shorter ones are painted over
// all they cover unless something longer is there.
//
// Prefixes shorter than /8 would paint millions of entries: they live in short,
// by first byte, where a lookup that finds nothing looks last.
type lpm4 struct {
	shift  uint8 // 32 - bits of the root
	root   []uint32
	blocks []uint32
	free   []uint32 // blocks nobody points to
	short  [256]uint32

	slot    prefixIndex // route slots
	lengths [33]int     // prefixes by length
}

// key4 identifies a prefix.
func key4(addr uint32, bits uint8) uint64 { return uint64(addr)<<6 | uint64(bits) }

func unkey4(k uint64) (addr uint32, bits uint8) { return uint32(k >> 6), uint8(k & 63) }

func newLPM4() *lpm4 {
	return &lpm4{shift: 24, root: make([]uint32, 1<<8), slot: newPrefixIndex()}
}

// lookup returns the entry of the longest prefix that holds a, 0 if none does.
func (t *lpm4) lookup(a uint32) uint32 {
	s := t.shift & 31
	return t.follow(t.root[a>>s], s, a)
}

// follow goes on from an entry of an array whose index ends at bit s.
func (t *lpm4) follow(e uint32, s uint8, a uint32) uint32 {
	for e&blockBit != 0 {
		s -= 8
		e = t.blocks[blockOf(e)<<8|a>>(s&31)&0xff]
	}
	if e == 0 {
		e = t.short[a>>24]
	}
	return e
}

// deeper are the places of a vector whose lookup goes on in a block: at is the
// place, entry the index in blocks.
type deeper struct {
	at    [hwmodel.VectorSize]uint8
	entry [hwmodel.VectorSize]uint32
}

// lookupAll looks dst[i] up for every place i, all below n.
func (t *lpm4) lookupAll(places []uint8, n int, dst, entry *[hwmodel.VectorSize]uint32, d *deeper) {
	root, s := t.root, t.shift&31
	ask(root, dst, n, s)
	deep := 0
	for _, i := range places {
		a := dst[i]
		e := root[a>>s]
		// Written always and kept if it is a block: which prefixes are long is
		// nothing that a branch could guess.
		d.at[deep&0xff] = i
		d.entry[deep&0xff] = blockOf(e)<<8 | a>>((s-8)&31)&0xff
		deep += int(e & blockBit)
		if e == 0 {
			e = t.short[a>>24]
		}
		entry[i] = e
	}
	ask(t.blocks, &d.entry, deep, 0)
	for k, i := range d.at[:deep] {
		entry[i] = t.follow(t.blocks[d.entry[uint8(k)]], s-8, dst[i])
	}
}

// len returns the number of prefixes.
func (t *lpm4) len() int { return t.slot.n }

// find returns what get does, and where insert is to put the prefix if that is 0.
func (t *lpm4) find(addr uint32, bits uint8) (slot, at uint32) {
	at, _ = t.slot.find(key4(addr, bits))
	return uint32(t.slot.entry[at] & maxRoutes), at
}

// insert adds a prefix that is not there. Bits of addr beyond the length are 0.
func (t *lpm4) insert(at, addr uint32, bits uint8, slot uint32) {
	t.slot.put(at, key4(addr, bits), slot)
	t.lengths[bits]++
	switch n := t.slot.n; {
	case n > grow24 && t.shift > 8:
		t.rebuild(8)
	case n > grow16 && t.shift > 16:
		t.rebuild(16)
	default:
		t.set(addr, bits, 0, leaf(bits, slot))
	}
}

// remove takes a prefix that is there out, and gives its memory back.
func (t *lpm4) remove(addr uint32, bits uint8) {
	t.slot.remove(key4(addr, bits))
	t.lengths[bits]--
	// The root shrinks at a quarter of what it grew at, so that it does not
	// flap, and when the table is empty.
	switch n := t.slot.n; {
	case n < grow24/4 && t.shift < 16:
		t.rebuild(16)
	case n < grow16/4 && t.shift < 24:
		t.rebuild(24)
	default:
		t.set(addr, bits, bits, t.cover(addr, bits))
	}
}

// cover returns the entry that shows where a prefix of this length is removed.
func (t *lpm4) cover(addr uint32, bits uint8) uint32 {
	low := 8
	switch {
	case bits == 8: // what is shorter shows by itself: see short
		return 0
	case bits < 8:
		low = 0
	}
	for b := int(bits) - 1; b >= low; b-- {
		if t.lengths[b] == 0 {
			continue
		}
		if slot := t.slot.get(key4(addr&mask4(uint8(b)), uint8(b))); slot != 0 {
			return leaf(uint8(b), slot)
		}
	}
	return 0
}

func mask4(bits uint8) uint32 { return uint32(^uint64(0) << (32 - bits)) }

// set paints e over every entry of the prefix whose own length is from..bits.
func (t *lpm4) set(addr uint32, bits, from uint8, e uint32) {
	if bits < 8 {
		t.paint(t.short[addr>>24:][:1<<(8-bits)], from, bits, e)
		return
	}
	// path holds the entries that point to the blocks on the way: -1-i is
	// root[i], i is blocks[i].
	var path [3]int
	depth := 0
	at, width := -1-int(addr>>t.shift), 32-t.shift
	for ; bits > width; depth++ {
		path[depth] = at
		if *t.at(at)&blockBit == 0 {
			b := t.newBlock(*t.at(at)) // may move blocks: take addresses after it
			*t.at(at) = b<<1 | blockBit
		}
		width += 8
		at = int(blockOf(*t.at(at)))<<8 | int(addr>>(32-width)&0xff)
	}
	n := 1 << (width - bits)
	if at < 0 {
		t.paint(t.root[-1-at:][:n], from, bits, e)
	} else {
		t.paint(t.blocks[at:][:n], from, bits, e)
	}
	for depth--; depth >= 0 && t.fold(path[depth]); depth-- {
	}
}

func (t *lpm4) at(i int) *uint32 {
	if i < 0 {
		return &t.root[-1-i]
	}
	return &t.blocks[i]
}

func (t *lpm4) paint(entries []uint32, from, to uint8, e uint32) {
	for i, old := range entries {
		if old&blockBit != 0 {
			t.paint(t.blocks[blockOf(old)<<8:][:blockSize], from, to, e)
		} else if b := leafBits(old); from <= b && b <= to {
			entries[i] = e
		}
	}
}

// newBlock returns a block that says e everywhere.
func (t *lpm4) newBlock(e uint32) uint32 {
	var b uint32
	if n := len(t.free); n > 0 {
		b, t.free = t.free[n-1], t.free[:n-1]
	} else {
		b = uint32(len(t.blocks) >> 8)
		t.blocks = more(t.blocks, blockSize)
	}
	block := t.blocks[b<<8:][:blockSize]
	for i := range block {
		block[i] = e
	}
	return b
}

// fold frees the block that an entry points to if it says the same everywhere,
// which it does when it holds no prefix of its own. No lookup runs meanwhile
// (Apply has the lock), so the block can be used again at once.
func (t *lpm4) fold(at int) bool {
	e := t.at(at)
	b := blockOf(*e)
	block := t.blocks[b<<8:][:blockSize]
	for _, x := range block {
		if x != block[0] || x&blockBit != 0 {
			return false
		}
	}
	*e = block[0]
	t.free = append(t.free, b)
	return true
}

// rebuild makes the table anew with another root.
func (t *lpm4) rebuild(shift uint8) {
	t.shift = shift
	n := 1 << (32 - shift)
	t.root = big[uint32](n, n)
	t.blocks, t.free = nil, nil
	if shift == 8 {
		// As much again as the root, so that growing copies little; what is not
		// used is never touched.
		t.blocks = big[uint32](0, n)
	}
	t.short = [256]uint32{}
	for k, slot := range t.slot.all() {
		addr, bits := unkey4(k)
		t.set(addr, bits, 0, leaf(bits, slot))
	}
}

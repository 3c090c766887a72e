package softpipe

import (
	"net/netip"
)

// insert adds a prefix that is not there.
func (t *lpm6) insert(p netip.Prefix, slot uint32) {
	t.routes.Insert(p, slot)
	switch n := t.len(); {
	case n > grow24 && t.width < 24:
		t.resize(24)
	case n > grow16 && t.width < 16:
		t.resize(16)
	default:
		t.set(prefix6{addr6(p.Addr()), uint8(p.Bits()), slot})
	}
}

// remove takes a prefix that is there out, and gives its memory back.
func (t *lpm6) remove(p netip.Prefix) {
	t.routes.Delete(p)
	switch n := t.len(); {
	case n < grow24/4 && t.width > 16:
		t.resize(16)
	case n < grow16/4 && t.width > 8:
		t.resize(8)
	default:
		t.unset(addr6(p.Addr()), uint8(p.Bits()))
	}
}

// cover returns the entry of the longest prefix of a that is up to n bits long; of
// those that short shows only if that is all.
func (t *lpm6) cover(a addr, n int, short bool) uint32 {
	if n < 0 {
		return 0
	}
	p, slot, ok := t.routes.LookupPrefixLPM(a.prefix(uint8(n)))
	if !ok || !short && p.Bits() < 8 {
		return 0
	}
	return leaf6(uint8(p.Bits()), slot)
}

// place is where an entry is that leads to what begins at depth.
type place struct {
	in    area
	depth uint8
	i     uint32
}

type area uint8

const (
	inRoot area = iota
	inBlock
	inItem // of a bucket: i is its number * 4 + the item's
)

func (t *lpm6) at(p place) *uint32 {
	switch p.in {
	case inRoot:
		return &t.root[p.i]
	case inBlock:
		return &t.blocks[p.i]
	}
	return &t.buckets[p.i/4][p.i%4].value
}

// path is the places on the way to a prefix. A step ends an octet further at least,
// or at /64.
type path struct {
	place [32]place
	n     int
}

func (p *path) add(x place) { p.place[p.n] = x; p.n++ }

func (p *path) last() place { return p.place[p.n-1] }

// descend goes to the node that shows a prefix longer than the root's bits: a block
// with entries for it, a bucket, or nothing yet. It adds change to the numbers of
// prefixes in the blocks on the way.
func (t *lpm6) descend(a addr, n uint8, change int) (p path) {
	p.add(place{inRoot, t.width, uint32(a.hi >> (64 - t.width))})
	for {
		at := p.last()
		e := *t.at(at)
		switch {
		case isBlock(e):
			t.own[nodeOf(e)] += uint32(change)
			if n <= at.depth+8 {
				return p
			}
			p.add(place{inBlock, at.depth + 8, nodeOf(e)<<8 | a.octet(at.depth)})
		case isBucket(e):
			b, half, on := &t.buckets[nodeOf(e)], a.half(at.depth), false
			for j := range b {
				if it := &b[j]; it.value&nodeBit != 0 && it.holds(half) && it.length(at.depth) < n {
					p.add(place{inItem, it.length(at.depth), nodeOf(e)*4 + uint32(j)})
					on = true
					break
				}
			}
			if !on {
				return p
			}
		default:
			return p
		}
	}
}

// set shows a prefix that is in routes.
func (t *lpm6) set(p prefix6) {
	e := leaf6(p.bits, p.slot)
	if t.top(p.addr, p.bits, 0, e) {
		return
	}
	way := t.descend(p.addr, p.bits, 1)
	at := way.last()
	node := *t.at(at)
	if isBlock(node) {
		t.paintBlock(node, at.depth, p.addr, p.bits, 0, e)
		return
	}
	if isBucket(node) && (p.bits <= 64 || at.depth >= 64) {
		b := &t.buckets[nodeOf(node)]
		it := newItem(p.addr, p.bits, at.depth, e)
		if t.within(b, &it, 0) {
			return // a node begins there and shows it
		}
		if b[1].shift == anything { // there is room
			b.put(it)
			return
		}
	} else if isBucket(node) && t.begin(nodeOf(node), p.addr, p.bits, e) {
		return
	}
	t.rebuild(at, p.addr)
}

// unset shows what is below a prefix that is no longer in routes.
func (t *lpm6) unset(a addr, n uint8) {
	below := t.cover(a, int(n)-1, n < 8)
	if t.top(a, n, n, below) {
		return
	}
	way := t.descend(a, n, -1)
	at := way.last()
	node := *t.at(at)
	switch {
	case isBlock(node):
		t.paintBlock(node, at.depth, a, n, n, below)
	case !isBucket(node):
		panic("softpipe: a prefix that nothing shows")
	case n > 64 && at.depth < 64:
		panic("softpipe: a long prefix that no node shows")
	default:
		b := &t.buckets[nodeOf(node)]
		it := newItem(a, n, at.depth, below)
		if t.within(b, &it, n) {
			break
		}
		j := len(b) - 1
		for b[j].key != it.key || b[j].shift != it.shift {
			j-- // to its end if it is not there, which cannot be
		}
		b.take(j)
		if b[len(b)-1].shift != anything {
			break
		}
		t.freeBucket = append(t.freeBucket, nodeOf(node))
		if at.in != inItem {
			*t.at(at) = b[0].value
			break
		}
		// It was behind a /64, which stays as a prefix or not at all.
		if leafBits6(b[0].value) == 64 {
			*t.at(at) = b[0].value
			break
		}
		way.n--
		outer := &t.buckets[at.i/4]
		outer.take(int(at.i % 4))
		if outer[len(outer)-1].shift == anything {
			*t.at(way.last()) = outer[0].value
			t.freeBucket = append(t.freeBucket, at.i/4)
		}
	}
	// The uppermost block with few prefixes left goes.
	for k, at := range way.place[:way.n] {
		if e := *t.at(at); isBlock(e) && t.own[nodeOf(e)] <= uint32(collapse) {
			if at.in == inItem {
				at = way.place[k-1]
			}
			t.rebuild(at, a)
			return
		}
	}
}

// begin shows a prefix longer than /64 in a bucket where no node shows those of its
// /64 yet, if there is room.
func (t *lpm6) begin(number uint32, a addr, n uint8, e uint32) bool {
	b := &t.buckets[number]
	is64 := -1 // the item of the /64 itself, if that is a prefix
	for j := range b {
		if b[j].shift == 0 && b[j].key == a.hi {
			is64 = j
		}
	}
	if is64 < 0 && b[1].shift != anything {
		return false
	}
	var under bucket
	under.clear(b.find(a.hi))
	under.put(newItem(a, n, 64, e))
	value := t.newBucket(&under) // may move buckets
	if b = &t.buckets[number]; is64 >= 0 {
		b[is64].value = value
	} else {
		b.put(newItem(a, 64, 0, value))
	}
	return true
}

// top paints a prefix that short or the root shows.
func (t *lpm6) top(a addr, n, from uint8, e uint32) bool {
	switch {
	case n < 8:
		t.paint(t.short[a.hi>>56:][:1<<(8-n)], from, n, e)
	case n <= t.width:
		t.paint(t.root[a.hi>>(64-t.width):][:1<<(t.width-n)], from, n, e)
	default:
		return false
	}
	return true
}

// paintBlock paints a prefix over its entries in a block at depth.
func (t *lpm6) paintBlock(block uint32, depth uint8, a addr, n, from uint8, e uint32) {
	t.paint(t.blocks[nodeOf(block)<<8|a.octet(depth):][:1<<(depth+8-n)], from, n, e)
}

// within paints a prefix over the nodes of a bucket that it holds; it reports
// whether one of them begins just there.
func (t *lpm6) within(b *bucket, p *item, from uint8) (there bool) {
	for j := range b {
		if it := &b[j]; it.value&nodeBit != 0 && it.shift <= p.shift && p.holds(it.key) {
			there = there || it.shift == p.shift
			to := leafBits6(p.value)
			if from != 0 {
				to = from
			}
			t.paintEntry(&it.value, from, to, p.value)
		}
	}
	return there
}

// paint writes e wherever a prefix of length from..to is the longest.
func (t *lpm6) paint(entries []uint32, from, to uint8, e uint32) {
	for i := range entries {
		t.paintEntry(&entries[i], from, to, e)
	}
}

func (t *lpm6) paintEntry(at *uint32, from, to uint8, e uint32) {
	switch old := *at; {
	case isBlock(old):
		t.paint(t.blocks[nodeOf(old)<<8:][:blockSize], from, to, e)
	case isBucket(old):
		b := &t.buckets[nodeOf(old)]
		for j := range b {
			if b[j].shift == anything || b[j].value&nodeBit != 0 {
				t.paintEntry(&b[j].value, from, to, e)
			}
		}
	default:
		if n := leafBits6(old); from <= n && n <= to {
			*at = e
		}
	}
}

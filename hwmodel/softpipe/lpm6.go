package softpipe

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"antiphon/hwmodel"

	"github.com/gaissmai/bart"
)

// An entry of an lpm6: 0 is nothing, with the lowest bit set a node (with the bit
// above it the number of a bucket, else of a block), else a route: its slot on top,
// and its prefix length.
const (
	nodeBit    = 1
	slotShift6 = 9
	maxRoutes6 = 1<<(32-slotShift6) - 1
)

func leaf6(bits uint8, slot uint32) uint32 { return slot<<slotShift6 | uint32(bits)<<1 }

func leafBits6(e uint32) uint8 { return uint8(e >> 1) }

func isBlock(e uint32) bool { return e&3 == 1 }

func isBucket(e uint32) bool { return e&3 == 3 }

func nodeOf(e uint32) uint32 { return e >> 2 }

// lpm6 is a longest-prefix-match table of IPv6 prefixes: a root indexed by the first
// 8, 16 or 24 bits (see lpm4), then blocks of 256 entries for 8 bits more where
// prefixes are dense, and buckets where they are not. Real tables are dense in some
// allocations down to /48, random ones nowhere: blocks alone would cost kilobytes
// per prefix.
//
// A bucket is a cache line: up to three prefixes, compared with at once. In the place
// of a prefix it can lead on to another node, whose prefixes all begin with it: so
// long paths without a choice cost one step. A step goes through one half of the
// address only; what is longer than /64 is always behind a bucket's item of /64.
//
// As in lpm4 blocks and buckets show everywhere the longest prefix that holds
// all of it, from /8 on; shorter ones are in short. What no block shows, because
// longer ones hide it, is still in routes.
type lpm6 struct {
	width   uint8 // bits of the root
	root    []uint32
	blocks  []uint32
	own     []uint32 // by block: prefixes in it, however deep
	buckets []bucket
	short   [256]uint32

	freeBlock, freeBucket []uint32

	routes bart.Table[uint32] // route slots
	work   []prefix6          // of rebuild
}

// bucket is items by rising length: first, as often as there is room, what shows
// where no other matches.
type bucket [4]item

// item is a prefix of one half of an address: shift is the number of bits that
// follow it in the half; 64 matches always.
type item struct {
	key   uint64
	shift uint32
	value uint32 // an entry
}

const (
	anything  = 64 // the shift that matches always
	bucketMax = len(bucket{}) - 1
	// collapse is the number of prefixes at which a block becomes a bucket's:
	// fewer than make a block, so that it does not flap.
	collapse = bucketMax - 1
)

// prefix6 is a prefix and its slot.
type prefix6 struct {
	addr addr
	bits uint8
	slot uint32
}

func newLPM6() *lpm6 { return &lpm6{width: 8, root: make([]uint32, 1<<8)} }

func addr6(a netip.Addr) addr {
	b := a.As16()
	return addr{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// half returns the half of a that bit number depth is in.
func (a addr) half(depth uint8) uint64 {
	if depth >= 64 {
		return a.lo
	}
	return a.hi
}

// octet returns the 8 bits from depth on.
func (a addr) octet(depth uint8) uint32 {
	return uint32(a.half(depth)>>((56-depth)&63)) & 0xff
}

// mask returns the first n bits.
func (a addr) mask(n uint8) addr {
	if n >= 64 {
		return addr{a.hi, a.lo & (^uint64(0) << (128 - n))}
	}
	return addr{a.hi & (^uint64(0) << (64 - n)), 0}
}

func (a addr) prefix(n uint8) netip.Prefix { return netip.PrefixFrom(netip6(a.mask(n)), int(n)) }

// common returns how many bits two addresses begin with in common.
func (a addr) common(b addr) uint8 {
	if a.hi != b.hi {
		return uint8(bits.LeadingZeros64(a.hi ^ b.hi))
	}
	return 64 + uint8(bits.LeadingZeros64(a.lo^b.lo))
}

// newItem returns the item of a prefix. depth is its node's: of the same half.
func newItem(a addr, n, depth uint8, value uint32) item {
	if depth < 64 {
		return item{a.hi, 64 - uint32(n), value}
	}
	return item{a.lo, 128 - uint32(n), value}
}

// length returns an item's prefix length in a bucket at depth.
func (it *item) length(depth uint8) uint8 { return depth&64 + uint8(64-it.shift) }

func (it *item) holds(half uint64) bool { return (half^it.key)>>it.shift == 0 }

// find returns the value of the longest item that holds half an address. All are
// compared, without a branch: which matches is nothing that could be guessed.
func (b *bucket) find(half uint64) uint32 {
	e := b[0].value
	if v := b[1].value; (half^b[1].key)>>b[1].shift == 0 {
		e = v
	}
	if v := b[2].value; (half^b[2].key)>>b[2].shift == 0 {
		e = v
	}
	if v := b[3].value; (half^b[3].key)>>b[3].shift == 0 {
		e = v
	}
	return e
}

// put adds an item; there is room.
func (b *bucket) put(it item) {
	j := 0
	for ; j+1 < len(b) && b[j+1].shift >= it.shift; j++ {
		b[j] = b[j+1]
	}
	b[j] = it
}

// take takes item j out. The first is what shows elsewhere, and stays so.
func (b *bucket) take(j int) { copy(b[1:j+1], b[:j]) }

// step returns the depth at which it goes on behind a bucket at depth.
func (b *bucket) step(half uint64, depth uint8) uint8 {
	j := len(b) - 1
	for !b[j].holds(half) {
		j--
	}
	return b[j].length(depth)
}

// lookup returns the slot of the longest prefix that holds a, 0 if none does.
func (t *lpm6) lookup(a addr) uint32 {
	e, depth := t.root[a.hi>>(64-t.width)], t.width
	for e&nodeBit != 0 {
		if isBlock(e) {
			e = t.blocks[nodeOf(e)<<8|a.octet(depth)]
			depth += 8
			continue
		}
		b, half := &t.buckets[nodeOf(e)], a.half(depth)
		if e = b.find(half); e&nodeBit != 0 {
			depth = b.step(half, depth)
		}
	}
	if e == 0 {
		e = t.short[a.hi>>56]
	}
	return e >> slotShift6
}

// deeper6 is the places of a vector whose lookup goes on in nodes: those of this
// step, those of the next.
type deeper6 struct {
	top             [hwmodel.VectorSize]uint32 // the first 32 bits
	blocks, buckets [2]steps6
}

type steps6 struct {
	at, depth [hwmodel.VectorSize]uint8
	entry     [hwmodel.VectorSize]uint32 // the index in blocks or buckets
}

// lookupAll looks dst[i] up for every place i, all below n; entry is as lpm4's.
func (t *lpm6) lookupAll(places []uint8, n int, dst *[hwmodel.VectorSize]addr, entry *[hwmodel.VectorSize]uint32, d *deeper6) {
	for _, i := range places {
		d.top[i] = uint32(dst[i].hi >> 32)
	}
	root, s := t.root, (32-t.width)&31
	ask(root, &d.top, n, s)
	nb, nk := 0, 0
	blocks, buckets := &d.blocks[0], &d.buckets[0]
	for _, i := range places {
		e := root[d.top[i]>>s]
		// Written always and kept if it is a node, as in lpm4.
		blocks.at[nb&0xff], blocks.depth[nb&0xff] = i, t.width
		blocks.entry[nb&0xff] = nodeOf(e)<<8 | d.top[i]>>((24-t.width)&31)&0xff
		buckets.at[nk&0xff], buckets.depth[nk&0xff] = i, t.width
		buckets.entry[nk&0xff] = nodeOf(e)
		nb += int(e &^ (e >> 1) & 1)
		nk += int(e & (e >> 1) & 1)
		if e == 0 {
			e = t.short[dst[i].hi>>56]
		}
		entry[i] = e >> slotShift6 << slotShift
	}
	for round := 0; nb+nk > 0; round ^= 1 {
		nb, nk = t.step(round, nb, nk, dst, entry, d)
	}
}

// step takes nb places through their blocks and nk through their buckets, and
// returns how many are to go on in either.
func (t *lpm6) step(round, nb, nk int, dst *[hwmodel.VectorSize]addr, entry *[hwmodel.VectorSize]uint32, d *deeper6) (mb, mk int) {
	inBlock, inBucket := &d.blocks[round&1], &d.buckets[round&1]
	blocks, buckets := &d.blocks[round&1^1], &d.buckets[round&1^1]
	ask(t.blocks, &inBlock.entry, nb, 0)
	ask(t.buckets, &inBucket.entry, nk, 0)
	for k, i := range inBlock.at[:nb] {
		e, depth := t.blocks[inBlock.entry[uint8(k)]], inBlock.depth[uint8(k)]+8
		blocks.at[mb&0xff], blocks.depth[mb&0xff] = i, depth
		blocks.entry[mb&0xff] = nodeOf(e)<<8 | dst[i].octet(depth)
		buckets.at[mk&0xff], buckets.depth[mk&0xff] = i, depth
		buckets.entry[mk&0xff] = nodeOf(e)
		mb += int(e &^ (e >> 1) & 1)
		mk += int(e & (e >> 1) & 1)
		if e == 0 {
			e = t.short[dst[i].hi>>56]
		}
		entry[i] = e >> slotShift6 << slotShift
	}
	for k, i := range inBucket.at[:nk] {
		depth := inBucket.depth[uint8(k)]
		b, half := &t.buckets[inBucket.entry[uint8(k)]], dst[i].half(depth)
		e := b.find(half)
		if e&nodeBit != 0 {
			depth = b.step(half, depth)
			if isBlock(e) {
				blocks.at[mb&0xff], blocks.depth[mb&0xff] = i, depth
				blocks.entry[mb&0xff] = nodeOf(e)<<8 | dst[i].octet(depth)
				mb++
			} else {
				buckets.at[mk&0xff], buckets.depth[mk&0xff] = i, depth
				buckets.entry[mk&0xff] = nodeOf(e)
				mk++
			}
			continue
		}
		if e == 0 {
			e = t.short[dst[i].hi>>56]
		}
		entry[i] = e >> slotShift6 << slotShift
	}
	return mb, mk
}

func (t *lpm6) len() int { return t.routes.Size6() }

// find returns the slot of exactly this prefix, 0 if it is not there.
func (t *lpm6) find(p netip.Prefix) uint32 {
	slot, _ := t.routes.Get(p)
	return slot
}

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

// resize makes the table anew with another root.
func (t *lpm6) resize(width uint8) {
	t.width = width
	t.root = big[uint32](1<<width, 1<<width)
	t.blocks, t.own, t.buckets, t.freeBlock, t.freeBucket = nil, nil, nil, nil, nil
	t.short = [256]uint32{}
	all := make([]prefix6, 0, t.len())
	for p, slot := range t.routes.Subnets(addr{}.prefix(0)) {
		x := prefix6{addr6(p.Addr()), uint8(p.Bits()), slot}
		if x.bits < 8 {
			t.top(x.addr, x.bits, 0, leaf6(x.bits, slot))
		} else {
			all = append(all, x)
		}
	}
	t.fill(inRoot, 0, 0, width, all)
}

// rebuild makes a node anew, from all the prefixes that begin with its own.
func (t *lpm6) rebuild(at place, a addr) {
	t.release(*t.at(at))
	some := t.work[:0]
	for p, slot := range t.routes.Subnets(a.prefix(at.depth)) {
		if n := uint8(p.Bits()); n > at.depth {
			some = append(some, prefix6{addr6(p.Addr()), n, slot})
		}
	}
	t.work = some
	e := t.build(some, at.depth, t.cover(a, int(at.depth), false))
	*t.at(at) = e
}

// build returns an entry that shows some prefixes, all longer than depth, shortest
// first and in order, and cover where there are none.
func (t *lpm6) build(some []prefix6, depth uint8, cover uint32) uint32 {
	if len(some) == 0 {
		return cover
	}
	first, last := some[0].addr, some[len(some)-1].addr
	shortest := some[0].bits
	for i := range some {
		shortest = min(shortest, some[i].bits)
	}
	if e, fits := t.fit(some, depth, cover); fits {
		return e
	}
	begin := min(first.common(last), shortest-1) &^ 7
	if depth < 64 {
		begin = min(begin, 64)
	}
	if begin <= depth {
		return t.fan(some, depth, cover)
	}
	var b bucket
	b.clear(cover)
	b[len(b)-1] = newItem(first.mask(begin), begin, depth, t.fan(some, begin, cover))
	return t.newBucket(&b)
}

func (b *bucket) clear(cover uint32) {
	for j := range b {
		b[j] = item{shift: anything, value: cover}
	}
}

// fit is build for what fits into a bucket.
func (t *lpm6) fit(some []prefix6, depth uint8, cover uint32) (e uint32, fits bool) {
	// Each item is the prefixes from..to: one, or one of /64 and those longer.
	type part struct{ from, to int }
	var parts [bucketMax]part
	n := 0
	for i := range some {
		p := &some[i]
		if depth < 64 && p.bits > 64 && n > 0 {
			if q := &some[parts[n-1].from]; q.bits >= 64 && q.addr.hi == p.addr.hi {
				parts[n-1].to = i + 1
				continue
			}
		}
		if n == len(parts) {
			return 0, false
		}
		parts[n] = part{i, i + 1}
		n++
	}
	var b bucket
	b.clear(cover)
	for _, x := range parts[:n] {
		p := some[x.from]
		value, bits := leaf6(p.bits, p.slot), p.bits
		if long := some[x.from:x.to]; depth < 64 && (len(long) > 1 || bits > 64) {
			under := b.find(p.addr.hi) // parts are in order, so what holds it is there
			if bits == 64 {
				under, long = value, long[1:]
			}
			value, bits = t.build(long, 64, under), 64
		}
		b.put(newItem(p.addr, bits, depth, value))
	}
	return t.newBucket(&b), true
}

// fan is build into a block.
func (t *lpm6) fan(some []prefix6, depth uint8, cover uint32) uint32 {
	b := t.newBlock(cover)
	t.own[b] = uint32(len(some))
	t.fill(inBlock, b<<8, depth, 8, some)
	return b<<2 | nodeBit
}

// fill shows prefixes in 1 << width entries from base on, for the bits from depth on.
// In order, what holds another comes before it.
func (t *lpm6) fill(in area, base uint32, depth, width uint8, some []prefix6) {
	index := func(a addr) uint32 {
		return base + uint32(a.half(depth)<<(depth&63)>>(64-width))
	}
	end := depth + width
	for i := 0; i < len(some); {
		p := &some[i]
		at := place{in, end, index(p.addr)}
		if p.bits <= end {
			for range 1 << (end - p.bits) {
				*t.at(at) = leaf6(p.bits, p.slot)
				at.i++
			}
			i++
			continue
		}
		from := i
		for i < len(some) && index(some[i].addr) == at.i {
			i++
		}
		e := t.build(some[from:i], end, *t.at(at)) // may move blocks
		*t.at(at) = e
	}
}

// newBlock returns a block that says e everywhere.
func (t *lpm6) newBlock(e uint32) uint32 {
	var b uint32
	if n := len(t.freeBlock); n > 0 {
		b, t.freeBlock = t.freeBlock[n-1], t.freeBlock[:n-1]
	} else {
		b = uint32(len(t.blocks) / blockSize)
		t.blocks = more(t.blocks, blockSize)
		t.own = append(t.own, 0)
	}
	block := t.blocks[b<<8:][:blockSize]
	for i := range block {
		block[i] = e
	}
	return b
}

// newBucket returns the entry of a new bucket.
func (t *lpm6) newBucket(b *bucket) uint32 {
	var k uint32
	if n := len(t.freeBucket); n > 0 {
		k, t.freeBucket = t.freeBucket[n-1], t.freeBucket[:n-1]
	} else {
		k = uint32(len(t.buckets))
		t.buckets = more(t.buckets, 1)
	}
	t.buckets[k] = *b
	return k<<2 | 3
}

// release frees the nodes from an entry on. No lookup runs meanwhile; see lpm4.fold.
func (t *lpm6) release(e uint32) {
	switch {
	case isBlock(e):
		for _, x := range t.blocks[nodeOf(e)<<8:][:blockSize] {
			t.release(x)
		}
		t.freeBlock = append(t.freeBlock, nodeOf(e))
	case isBucket(e):
		for _, it := range t.buckets[nodeOf(e)] {
			t.release(it.value)
		}
		t.freeBucket = append(t.freeBucket, nodeOf(e))
	}
}

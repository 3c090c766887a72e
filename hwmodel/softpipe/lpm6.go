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

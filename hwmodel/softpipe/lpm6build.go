package softpipe

import ()

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

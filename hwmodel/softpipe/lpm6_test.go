package softpipe

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"antiphon/hwmodel"
)

// linear6 is the specification of lpm6.
type linear6 map[netip.Prefix]uint32

func (l linear6) lookup(a netip.Addr) (slot uint32) {
	best := -1
	for p, s := range l {
		if p.Bits() > best && p.Contains(a) {
			best, slot = p.Bits(), s
		}
	}
	return slot
}

// both is a table and its specification.
type both struct {
	lpm  *lpm6
	want linear6
	// fixed keeps the root as it is.
	fixed bool
}

func newBoth(width uint8) *both {
	b := &both{newLPM6(), linear6{}, width != 0}
	if b.fixed {
		b.lpm.resize(width)
	}
	return b
}

func (b *both) insert(p netip.Prefix, slot uint32) {
	b.want[p] = slot
	if b.fixed {
		b.lpm.routes.Insert(p, slot)
		b.lpm.set(prefix6{addr6(p.Addr()), uint8(p.Bits()), slot})
	} else {
		b.lpm.insert(p, slot)
	}
}

func (b *both) remove(p netip.Prefix) {
	delete(b.want, p)
	if b.fixed {
		b.lpm.routes.Delete(p)
		b.lpm.unset(addr6(p.Addr()), uint8(p.Bits()))
	} else {
		b.lpm.remove(p)
	}
}

// check compares lookups one by one and as a vector, and the shape of the table.
func (b *both) check(t *testing.T, addrs []addr) {
	t.Helper()
	var dst [hwmodel.VectorSize]addr
	var entry [hwmodel.VectorSize]uint32
	var places []uint8
	for i, a := range addrs {
		dst[i] = a
		places = append(places, uint8(i))
	}
	b.lpm.lookupAll(places, len(places), &dst, &entry, new(deeper6))
	for i, a := range addrs {
		want := b.want.lookup(netip6(a))
		if got := b.lpm.lookup(a); got != want {
			t.Fatalf("%v is %d, want %d", netip6(a), got, want)
		}
		if got := entry[i] >> slotShift; got != want {
			t.Fatalf("%v is %d in a vector, want %d", netip6(a), got, want)
		}
	}
}

// sound panics unless every node is either in the table, once, or free, and blocks
// know how many prefixes they hold.
func (b *both) sound(t *testing.T) {
	t.Helper()
	l := b.lpm
	blocks, buckets := map[uint32]bool{}, map[uint32]bool{}
	var visit func(e uint32, a addr, depth uint8)
	visit = func(e uint32, a addr, depth uint8) {
		switch n := nodeOf(e); {
		case isBlock(e):
			if blocks[n] {
				t.Fatalf("block %d twice", n)
			}
			blocks[n] = true
			have := uint32(0)
			for p := range b.want {
				if p.Bits() > int(depth) && a.prefix(depth).Contains(p.Addr()) {
					have++
				}
			}
			if l.own[n] != have {
				t.Fatalf("block of %v holds %d, want %d", a.prefix(depth), l.own[n], have)
			}
			if have <= uint32(collapse) {
				t.Fatalf("block of %v for %d", a.prefix(depth), have)
			}
			for i, x := range l.blocks[n<<8:][:blockSize] {
				next := a
				if depth < 64 {
					next.hi |= uint64(i) << (56 - depth)
				} else {
					next.lo |= uint64(i) << (120 - depth)
				}
				visit(x, next, depth+8)
			}
		case isBucket(e):
			if buckets[n] {
				t.Fatalf("bucket %d twice", n)
			}
			buckets[n] = true
			for _, it := range l.buckets[n] {
				next := addr{it.key, 0}
				if depth >= 64 {
					next = addr{a.hi, it.key}
				}
				visit(it.value, next, it.length(depth))
			}
		}
	}
	for i, e := range l.root {
		visit(e, addr{hi: uint64(i) << (64 - l.width)}, l.width)
	}
	if len(blocks)+len(l.freeBlock) != len(l.blocks)/blockSize || len(buckets)+len(l.freeBucket) != len(l.buckets) {
		t.Fatalf("%d blocks and %d buckets in use, %d and %d free, of %d and %d", len(blocks), len(buckets),
			len(l.freeBlock), len(l.freeBucket), len(l.blocks)/blockSize, len(l.buckets))
	}
}

// empty checks a table without prefixes.
func (b *both) empty(t *testing.T) {
	t.Helper()
	b.sound(t)
	for i, e := range append(b.lpm.root, b.lpm.short[:]...) {
		if e != 0 {
			t.Fatalf("entry %d is %#x in an empty table", i, e)
		}
	}
}

// near returns addresses that have much in common.
func near(r *rand.Rand) addr {
	a := addr{0x2001_0db8_0000_0000, 0}
	switch r.IntN(4) {
	case 0:
		a.hi |= r.Uint64() & 0x0000_0000_0301_0003
		a.lo = r.Uint64() & 0x03
	case 1:
		a.hi |= r.Uint64() & 0x3
		a.lo = r.Uint64() & 0x0100_0000_0000_03ff
	case 2:
		a.hi |= r.Uint64() & 0x00ff_ff03_0000
	default:
		a.hi, a.lo = r.Uint64(), r.Uint64()
	}
	return a
}

// TestLPM6AgainstLinearScan adds, replaces and removes random nested prefixes under
// every root and compares lookups with a scan.
func TestLPM6AgainstLinearScan(t *testing.T) {
	for _, width := range []uint8{8, 16, 24} {
		r := rand.New(rand.NewPCG(1, uint64(width)))
		b := newBoth(width)
		most := 10
		for step := range 12000 {
			if step%1000 == 0 {
				most = []int{10, 200, 40, 500, 3}[step/1000%5]
			}
			n := uint8(r.IntN(129))
			if r.IntN(2) == 0 {
				n = uint8([]int{32, 40, 48, 56, 64, 65, 72, 120, 127, 128}[r.IntN(10)])
			}
			p := near(r).prefix(n)
			for q := range b.want { // down to the bound, starting anywhere
				if len(b.want) <= most {
					break
				}
				b.remove(q)
				if len(b.want)%3 == 0 {
					break
				}
			}
			if b.want[p] != 0 {
				b.remove(p)
			} else {
				b.insert(p, uint32(step+1))
			}
			a := addr6(p.Addr())
			end := a
			if n < 64 {
				end.hi |= ^uint64(0) >> n
				end.lo = ^uint64(0)
			} else {
				end.lo |= ^uint64(0) >> (n - 64)
			}
			b.check(t, []addr{a, end, {a.hi, a.lo - 1}, {a.hi - 1, a.lo}, {end.hi, end.lo + 1}, near(r), near(r), near(r)})
			if width < 24 && step%16 == 0 || step%512 == 0 {
				b.sound(t)
			}
		}
		for p := range b.want {
			b.remove(p)
			b.check(t, []addr{addr6(p.Addr()), near(r)})
		}
		b.empty(t)
	}
}

// TestLPM6Grows fills a table until its root has 24 bits, and empties it.
func TestLPM6Grows(t *testing.T) {
	const n = grow24 + 1000
	r := rand.New(rand.NewPCG(3, 4))
	l := newLPM6()
	var prefixes []netip.Prefix
	seen := map[netip.Prefix]bool{}
	for len(prefixes) < n {
		a := addr{0x2a00<<48 | r.Uint64()>>14, r.Uint64()}
		if p := a.prefix(64); !seen[p] { // of one length: so each is its own
			seen[p] = true
			prefixes = append(prefixes, p)
		}
	}
	widths := map[uint8]bool{}
	check := func(from, to int) {
		t.Helper()
		for i, p := range prefixes {
			want := uint32(i + 1)
			if i < from || i >= to {
				want = 0
			}
			if got := l.lookup(addr6(p.Addr())); got != want {
				t.Fatalf("with %d..%d: %v is %d", from, to, p, got)
			}
		}
	}
	for i, p := range prefixes {
		l.insert(p, uint32(i+1))
		if !widths[l.width] {
			widths[l.width] = true
			check(0, i+1)
		}
	}
	check(0, n)
	if l.width != 24 || len(widths) != 3 {
		t.Fatalf("width %d after %v", l.width, widths)
	}
	for i, p := range prefixes {
		before := l.width
		l.remove(p)
		if l.width != before || i%10000 == 0 {
			check(i+1, n)
		}
	}
	if l.width != 8 {
		t.Fatalf("width %d when empty", l.width)
	}
	(&both{lpm: l}).empty(t)
}

// TestLPM6Memory bounds what a prefix costs in the lookup structure.
func TestLPM6Memory(t *testing.T) {
	use := func(l *lpm6) int {
		return len(l.blocks)*4 + len(l.own)*4 + len(l.buckets)*64 - len(l.freeBlock)*blockSize*4 - len(l.freeBucket)*64
	}
	for _, c := range []struct {
		name string
		max  int // bytes per prefix, the root apart
		n    int
		make func(r *rand.Rand, i int) netip.Prefix
	}{
		{"random /32 to /64", 100, 100_000, func(r *rand.Rand, _ int) netip.Prefix {
			return addr{1<<61 | r.Uint64()>>3, 0}.prefix(uint8(32 + r.IntN(33)))
		}},
		{"host routes, a /64 each", 320, 20_000, func(r *rand.Rand, _ int) netip.Prefix {
			return addr{1<<61 | r.Uint64()>>3, r.Uint64()}.prefix(128)
		}},
		{"host routes, all in a /64", 300, 20_000, func(_ *rand.Rand, i int) netip.Prefix {
			return addr{1 << 61, uint64(i + 1)}.prefix(128)
		}},
		{"eight /64 in a /56", 400, 40_000, func(_ *rand.Rand, i int) netip.Prefix {
			site := rand.New(rand.NewPCG(uint64(i/8), 1)).Uint64()
			return addr{1<<61 | site>>11<<8 | uint64(i%8), 0}.prefix(64)
		}},
	} {
		r := rand.New(rand.NewPCG(7, 8))
		l, n := newLPM6(), 0
		for i := range c.n {
			if p := c.make(r, i); l.find(p) == 0 {
				n++
				l.insert(p, uint32(i+1))
			}
		}
		if got := use(l) / n; got > c.max {
			t.Errorf("%s: %d bytes for each of %d", c.name, got, n)
		} else {
			t.Logf("%s: %d bytes for each of %d", c.name, got, n)
		}
	}
}

// FuzzLPM6 reads operations of 6 bytes: length, three octets somewhere in an address,
// where, and what to do.
func FuzzLPM6(f *testing.F) {
	f.Add([]byte{48, 1, 2, 3, 4, 0, 64, 1, 2, 3, 4, 0, 128, 1, 2, 3, 13, 0, 48, 1, 2, 3, 4, 1})
	f.Add([]byte{128, 0, 0, 1, 13, 0, 128, 0, 0, 2, 13, 0, 128, 0, 0, 3, 13, 0, 128, 0, 0, 4, 13, 0, 128, 0, 0, 4, 13, 1, 128, 0, 0, 3, 13, 1})
	f.Fuzz(func(t *testing.T, ops []byte) {
		b := newBoth(8)
		var last []addr
		for i := 0; len(ops) >= 6 && i < 200; i++ {
			var a [16]byte
			a[0] = 0x20
			copy(a[ops[4]%16:], ops[1:4])
			x := addr6(netip.AddrFrom16(a))
			p := x.prefix(ops[0] % 129)
			if b.want[p] != 0 {
				b.remove(p)
			} else {
				b.insert(p, uint32(i+1))
			}
			last = append(last, x)
			last = last[max(0, len(last)-16):]
			b.check(t, last)
			ops = ops[6:]
		}
		b.sound(t)
		for p := range b.want {
			b.remove(p)
		}
		b.empty(t)
	})
}

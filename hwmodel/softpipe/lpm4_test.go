package softpipe

import (
	"math/rand/v2"
	"testing"
)

// linear is the specification of lpm4: prefixes to slots, looked up one by one.
type linear map[uint64]uint32

func (l linear) lookup(a uint32) (slot uint32) {
	best := -1
	for k, s := range l {
		if p, bits := unkey4(k); a&mask4(bits) == p && int(bits) > best {
			best, slot = int(bits), s
		}
	}
	return slot
}

func (l linear) any() (uint32, uint8) {
	for k := range l {
		return unkey4(k)
	}
	panic("empty")
}

// TestLPM4AgainstLinearScan adds and removes random nested prefixes under every
// root and compares all lookups with a scan.
func TestLPM4AgainstLinearScan(t *testing.T) {
	for _, shift := range []uint8{24, 16, 8} {
		r := rand.New(rand.NewPCG(1, uint64(shift)))
		near := func() uint32 { return 10<<24 | r.Uint32()&0x030303ff }
		lpm, want := newLPM4(), linear{}
		lpm.shift = shift
		lpm.root = make([]uint32, 1<<(32-shift))
		// paint instead of insert and remove, which would resize the root.
		insert := func(a uint32, bits uint8, slot uint32) {
			want[key4(a, bits)] = slot
			_, at := lpm.find(a, bits)
			lpm.slot.put(at, key4(a, bits), slot)
			lpm.lengths[bits]++
			lpm.set(a, bits, 0, leaf(bits, slot))
		}
		remove := func(a uint32, bits uint8) {
			delete(want, key4(a, bits))
			lpm.slot.remove(key4(a, bits))
			lpm.lengths[bits]--
			lpm.set(a, bits, bits, lpm.cover(a, bits))
		}
		for step := range 4000 {
			bits := uint8(r.IntN(33))
			a := near() & mask4(bits)
			if r.IntN(8) == 0 {
				a = r.Uint32() & mask4(bits)
			}
			switch {
			case want[key4(a, bits)] != 0:
				remove(a, bits)
			case len(want) > 100:
				remove(want.any())
			default:
				insert(a, bits, uint32(step+1))
			}
			for _, x := range []uint32{a, a | ^mask4(bits), a - 1, near()} {
				if got, w := lpm.lookup(x)>>slotShift, want.lookup(x); got != w {
					t.Fatalf("shift %d step %d: %08x is %d, want %d", shift, step, x, got, w)
				}
			}
		}
		for len(want) > 0 {
			remove(want.any())
		}
		if n := len(lpm.blocks)/blockSize - len(lpm.free); n != 0 {
			t.Errorf("shift %d: %d blocks leaked", shift, n)
		}
		for i, e := range append(lpm.root, lpm.short[:]...) {
			if e != 0 {
				t.Fatalf("shift %d: entry %d is %#x in an empty table", shift, i, e)
			}
		}
	}
}

// TestLPM4Grows fills a table past DIR-24-8 and empties it: lookups hold at every
// size, and the root goes up and down.
func TestLPM4Grows(t *testing.T) {
	lpm := newLPM4()
	const n = grow24 + 1000
	prefix := func(i int) uint32 { return 10<<24 + uint32(i)<<7 }
	check := func(have int) {
		t.Helper()
		for i := 0; i < n; i += 97 {
			want := uint32(i + 1)
			if i >= have {
				want = 0
			}
			if got := lpm.lookup(prefix(i)|5) >> slotShift; got != want {
				t.Fatalf("with %d: prefix %d is %d", have, i, got)
			}
		}
	}
	shifts := map[uint8]bool{}
	for i := range n {
		_, at := lpm.find(prefix(i), 25)
		lpm.insert(at, prefix(i), 25, uint32(i+1))
		if !shifts[lpm.shift] {
			shifts[lpm.shift] = true
			check(i + 1)
		}
	}
	check(n)
	if lpm.shift != 8 || len(shifts) != 3 {
		t.Fatalf("shift %d after %v", lpm.shift, shifts)
	}
	for i := n - 1; i >= 0; i-- {
		before := lpm.shift
		lpm.remove(prefix(i), 25)
		if lpm.shift != before {
			check(i)
		}
	}
	if lpm.shift != 24 || len(lpm.blocks) != 0 && len(lpm.free) != len(lpm.blocks)/blockSize {
		t.Fatalf("shift %d when empty", lpm.shift)
	}
}

package softpipe

import (
	"math/rand/v2"
	"testing"

	"antiphon/hwmodel"
)

// TestIndexesAgainstMaps adds and removes keys that follow each other and keys that
// do not, through several sizes.
func TestIndexesAgainstMaps(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	prefixes, wantPrefix := newPrefixIndex(), map[uint64]uint32{}
	ids, wantID := newSlots(hashNumber[hwmodel.CounterID]), map[hwmodel.CounterID]uint32{}
	for step := range 40000 {
		bits := uint8(r.IntN(33))
		addr := r.Uint32() & mask4(bits)
		id := hwmodel.CounterID(1 + r.IntN(6000))
		if step%2 == 0 {
			bits, addr = 24, 10<<24+r.Uint32N(6000)<<8
			id = hwmodel.CounterID(1+r.IntN(100)) << 40
		}
		key := key4(addr, bits)
		if at, there := prefixes.find(key); there != (wantPrefix[key] != 0) || prefixes.get(key) != wantPrefix[key] {
			t.Fatalf("step %d: prefix %x is %d, want %d", step, key, prefixes.get(key), wantPrefix[key])
		} else if there {
			prefixes.remove(key)
			delete(wantPrefix, key)
		} else {
			prefixes.put(at, key, uint32(step+1))
			wantPrefix[key] = uint32(step + 1)
		}
		if slot := ids.find(id); slot != wantID[id] {
			t.Fatalf("step %d: key %d is %d, want %d", step, id, slot, wantID[id])
		} else if slot != 0 {
			ids.release(slot)
			delete(wantID, id)
		} else {
			wantID[id] = ids.take(id)
		}
	}
	n := 0
	for key, slot := range prefixes.all() {
		if n++; wantPrefix[key] != slot {
			t.Errorf("prefix %x is %d, want %d", key, slot, wantPrefix[key])
		}
	}
	if n != len(wantPrefix) || n != prefixes.n || ids.index.len() != len(wantID) {
		t.Errorf("%d prefixes and %d keys, want %d and %d", n, ids.index.len(), len(wantPrefix), len(wantID))
	}
}

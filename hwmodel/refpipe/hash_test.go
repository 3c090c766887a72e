package refpipe

import (
	"testing"

	"antiphon/hwmodel"
)

// TestChooseLegBounds checks the last hash of each leg: bounds are rounded to the
// closest, not down (fib_rebalance, DIV_ROUND_CLOSEST_ULL).
func TestChooseLegBounds(t *testing.T) {
	legs := []hwmodel.Leg{
		{NextHop: 1, Weight: 1}, {NextHop: 2, Weight: 9, Dead: true}, {NextHop: 3, Weight: 1}, {NextHop: 4, Weight: 1},
	}
	for _, c := range []struct {
		hash uint32
		want hwmodel.NextHopID
	}{
		{0, 1},
		{715827882, 1}, // 2³¹/3 = 715827882.67
		{715827883, 3},
		{1431655764, 3}, // 2·2³¹/3 = 1431655765.33
		{1431655765, 4},
		{1<<31 - 1, 4},
	} {
		if leg, ok := chooseLeg(legs, c.hash); !ok || leg.NextHop != c.want {
			t.Errorf("hash %d: leg %d, want %d", c.hash, leg.NextHop, c.want)
		}
	}
	if leg, ok := chooseLeg([]hwmodel.Leg{{NextHop: 1, Weight: 1, Dead: true}}, 0); ok {
		t.Errorf("dead leg %d", leg.NextHop)
	}
}

package difflab

import "testing"

// tries bounds how often a shrinking scenario is played.
const tries = 400

// shrink makes a scenario smaller as long as something still differs: frames
// first, then rounds, then lines.
func shrink(t testing.TB, s *scenario) *scenario {
	left := tries
	var w *world
	fails := func(s *scenario) bool {
		if left--; left < 0 {
			return false
		}
		if w == nil {
			w = newWorld(t)
		}
		differs := len(w.play(t, s, nil)) > 0
		if !w.reset(t) {
			w = nil
		}
		return differs
	}
	if !fails(s) {
		s.name += ", not seen again in a new namespace"
		return s
	}
	keep := func(n *scenario) bool {
		if fails(n) {
			s = n
			return true
		}
		return false
	}
	for i := range s.rounds {
		fewer(len(s.rounds[i].shots), func(from, to int) bool {
			n := s.copy()
			n.rounds[i].shots = cut(n.rounds[i].shots, from, to)
			return keep(n)
		})
	}
	for i := len(s.rounds) - 1; i > 0; i-- { // the lines of a round go to the one before
		n := s.copy()
		n.rounds[i-1].lines = append(n.rounds[i-1].lines, n.rounds[i].lines...)
		n.rounds[i-1].shots = append(n.rounds[i-1].shots, n.rounds[i].shots...)
		n.rounds = cut(n.rounds, i, i+1)
		keep(n)
	}
	for again := true; again && left > 0; {
		again = false
		for i := range s.rounds {
			fewer(len(s.rounds[i].lines), func(from, to int) bool {
				n := s.copy()
				n.rounds[i].lines = cut(n.rounds[i].lines, from, to)
				if keep(n) {
					again = true
					return true
				}
				return false
			})
		}
	}
	return s
}

// fewer offers ever smaller parts of a list of n for removal; without removes
// one for good, or says no.
func fewer(n int, without func(from, to int) bool) {
	for size := (n + 1) / 2; size > 0; size /= 2 {
		for from := 0; from < n; {
			if to := min(from+size, n); without(from, to) {
				n -= to - from
			} else {
				from = to
			}
		}
	}
}

func cut[T any](list []T, from, to int) []T {
	return append(append([]T(nil), list[:from]...), list[to:]...)
}

func (s *scenario) copy() *scenario {
	n := &scenario{name: s.name}
	for _, r := range s.rounds {
		n.rounds = append(n.rounds, round{append([]string(nil), r.lines...), append([]shot(nil), r.shots...)})
	}
	return n
}

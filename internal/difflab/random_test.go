package difflab

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"antiphon/internal/netnstest"
)

// TestMain reads the flags: a seed repeats a run, more configurations and frames
// make a longer one.
func TestMain(m *testing.M) {
	flag.Uint64("seed", 0, "seed of the first random configuration, the next ones follow it; 0: a new one")
	flag.Int("configs", 600, "random configurations")
	flag.Int("frames", 120, "frames for each random configuration")
	flag.Parse()
	m.Run()
}

// number is a flag's value.
func number(name string) uint64 {
	switch v := flag.Lookup(name).Value.(flag.Getter).Get().(type) {
	case uint64:
		return v
	case int:
		return uint64(v)
	}
	panic("difflab: no such flag: " + name)
}

// Limits of a random run.
const (
	// changes is the number of rounds of a configuration.
	changes = 5
	// life is how many configurations share a namespace: what the kernel
	// remembers of earlier ones (03 item 18a) shall sometimes be nothing.
	life = 25
	// enough differences to look at.
	enough = 5
	// longRun has so many configurations that nothing may be left out.
	longRun = 1000
)

// TestRandom: random configurations, changes and frames; the kernel and both
// pipes agree on every frame.
func TestRandom(t *testing.T) {
	netnstest.Require(t)
	seed := number("seed")
	if seed == 0 {
		seed = rand.Uint64N(1 << 40)
	}
	configs, frames := number("configs"), number("frames")
	t.Logf("seed %d (repeat one configuration with: go test ./internal/difflab -run '^TestRandom$' -configs 1 -frames %d -seed SEED)", seed, frames)
	a := newTally()
	failed := 0
	for from := seed; from < seed+configs && failed < enough; from += life {
		t.Run(fmt.Sprintf("seeds %d on", from), func(t *testing.T) {
			w := newWorld(t)
			for one := from; one < min(from+life, seed+configs) && failed < enough; one++ {
				s := newGenerator(one).scenario(fmt.Sprintf("seed %d", one), changes, int(frames))
				d := w.play(t, s, a)
				if len(d) > 0 {
					failed++
					t.Errorf("seed %d: %d differences, the first: %v", one, len(d), d[0])
					small := shrink(t, s)
					t.Logf("keep this in keptScenarios:\n%v", small)
				}
				if !w.reset(t) {
					t.Logf("seed %d leaves traces: %s", one, w.read(t).difference(w.clean))
					w = newWorld(t)
				}
				a.lines, a.refused = a.lines+w.lines, a.refused+w.refused
				w.lines, w.refused = 0, 0
			}
		})
	}
	t.Log(a)
	if a.frames > 5000 && a.left*2 < a.frames { // of a few, chance decides
		t.Errorf("%d of %d frames left a port: want half", a.left, a.frames)
	}
	if m := a.missing(); configs >= longRun && len(m) > 0 {
		t.Errorf("no frame was about item %v", m)
	}
}

// TestKept: differences that were found and removed stay away.
func TestKept(t *testing.T) {
	for _, s := range keptScenarios() {
		t.Run(s.name, func(t *testing.T) {
			for _, d := range newWorld(t).play(t, s, nil) {
				t.Error(d)
			}
		})
	}
}

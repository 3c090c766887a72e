package truth

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"antiphon/agent/replica"
)

// TestMain reads the flags: a seed repeats a run, more operations make a longer one.
func TestMain(m *testing.M) {
	flag.Uint64("seed", 0, "seed of the random operations; 0: a new one")
	flag.Int("ops", 1000, "random operations of the main test; the variants make a share of them")
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// number is a flag's value.
func number(name string) uint64 {
	switch v := flag.Lookup(name).Value.(flag.Getter).Get().(type) {
	case uint64:
		return v
	case int:
		return uint64(v)
	}
	panic("truth: no such flag: " + name)
}

// seedOf is the run's seed, which a failure's log must show.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := number("seed")
	if seed == 0 {
		seed = rand.Uint64()>>1 + 1
	}
	t.Logf("seed %d (repeat with: go test ./internal/truth -run '^%s$' -seed %d)", seed, t.Name(), seed)
	return seed
}

// batchSize is how many operations come between two comparisons.
const batchSize = 10

// account adds up what a run did.
type account struct {
	kinds  map[string]int
	failed int
	began  time.Time
}

func (a *account) String() string {
	s, all := "", 0
	for _, k := range sorted(a.kinds) {
		s += fmt.Sprintf(" %s %d,", k, a.kinds[k])
		all += a.kinds[k]
	}
	return fmt.Sprintf("%d operations in %s:%s %d lines refused by the kernel", all, time.Since(a.began).Round(time.Millisecond), s, a.failed)
}

func sorted(m map[string]int) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// score writes what the mirror counted.
func score(t *testing.T, w *world) replica.Stats {
	t.Helper()
	s := w.stats(t)
	_, broken := w.gate.counts()
	t.Logf("mirror: %d dumps asked, %d verified, %d interrupted or spoilt (%d said by the shim), %d refused; %d rows swept; silent: %d deletions, %d changes nobody predicted; %d overruns; %d stranded; %d comparisons repeated because the kernel moved",
		s.DumpsRequested, s.DumpsVerified, s.DumpsInterrupted, broken, s.DumpsRefused, s.Swept, s.Silent, s.SilentChanges, s.Overruns, s.Stranded, w.again)
	for i, n := range s.Rules {
		if n != (replica.RuleStats{}) {
			t.Logf("  predicted by %-16s %5d suspects: right %d, wrong %d, told %d", replica.Rule(i), n.Suspects, n.Right, n.Wrong, n.Told)
		}
	}
	return s
}

// churn makes random operations and compares after every few.
func churn(t *testing.T, w *world, seed uint64, ops int) {
	t.Helper()
	t.Cleanup(func() { w.deleteOthers() })
	w.settled(t, "at the start")
	g := newGenerator(w, seed)
	a := &account{kinds: map[string]int{}, began: time.Now()}
	defer func() { t.Log(a) }()
	for done := 0; done < ops; done += batchSize {
		batch := make([]op, batchSize)
		for i := range batch {
			batch[i] = g.next()
			a.kinds[batch[i].kind]++
		}
		failed, err := w.perform(batch)
		if err != nil {
			t.Fatal(err)
		}
		a.failed += failed
		after := fmt.Sprintf("seed %d, after operation %d", seed, done+batchSize)
		w.settled(t, after)
		w.verified(t, after)
		if t.Failed() {
			var said strings.Builder
			for _, o := range batch {
				fmt.Fprintln(&said, " ", o)
			}
			t.Fatalf("%s; the last operations were\n%s", after, said.String())
		}
	}
}

// deleteOthers deletes the namespaces that operations made.
func (w *world) deleteOthers() {
	for _, c := range "ab" {
		name := fmt.Sprintf("%s-%c", w.ns.Name(), c)
		if _, err := os.Stat("/run/netns/" + name); err == nil {
			exec.Command("ip", "netns", "del", name).Run()
		}
	}
}

func TestIntegrationRandom(t *testing.T) {
	w := newWorld(t, options{})
	churn(t, w, seedOf(t), int(number("ops")))
	s := score(t, w)
	if s.Silent > 0 {
		t.Errorf("%d rows were deleted in silence and no rule predicted it", s.Silent)
	}
	if s.Stranded > 0 {
		t.Errorf("%d dumps were owed by nothing but left-over suspects", s.Stranded)
	}
}

// TestIntegrationRandomBlind is the same without predictions: dumps alone must
// bring the mirror in line.
func TestIntegrationRandomBlind(t *testing.T) {
	w := newWorld(t, options{blind: true})
	churn(t, w, seedOf(t), int(number("ops"))/4)
	s := score(t, w)
	for i, n := range s.Rules {
		switch r := replica.Rule(i); r {
		case replica.RuleGroup, replica.RuleRace, replica.RuleHint:
		default:
			if n.Suspects > 0 {
				t.Errorf("rule %s made %d suspects although predictions are off", r, n.Suspects)
			}
		}
	}
}

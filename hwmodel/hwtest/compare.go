package hwtest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"antiphon/hwmodel"
)

// Compare runs random tables and random and damaged frames through two pipes,
// which must treat every frame alike: verdict, reason, port and bytes. The tables
// are reached by different roads: a gets each set in one batch, b entry by entry
// from the set before. A difference is reported as one frame and the fewest
// entries that still show it; tables*frames frames are run.
func Compare(t *testing.T, seed uint64, tables, frames int, newA, newB func(t *testing.T, c Config) hwmodel.Pipe) {
	c := Config{Ports: ports()}
	a := &subject{Device: newA(t, c)}
	a.pipe = a.Device.(hwmodel.Pipe)
	b := &subject{Device: newB(t, c)}
	b.pipe = b.Device.(hwmodel.Pipe)
	for n := range tables {
		r := rand.New(rand.NewPCG(seed, uint64(n)))
		e := randomEntries(r)
		a.load(t, e)
		b.drift(t, r, e)
		equal(t, fmt.Sprintf("seed %d, tables %d: entries", seed, n), a.entries(t), b.entries(t))
		v := newBurst(r, frames)
		fa, fb := v.run(t, a.pipe), v.run(t, b.pipe)
		for i := range v.frames {
			if fa[i].equal(fb[i]) {
				continue
			}
			small := shrink(t, e, v.in[i], v.frames[i], newA, newB)
			text, err := json.MarshalIndent(small, "", " ")
			must(err)
			t.Fatalf("seed %d, tables %d, frame %d differ\na: %v\nb: %v\nin %d: % x\ntables:\n%s",
				seed, n, i, fa[i], fb[i], v.in[i], v.frames[i], text)
		}
		if t.Failed() {
			return
		}
	}
}

// drift makes the device hold exactly e, from whatever it held: deletes what must
// go and sets the rest in a random order, in batches of random length.
func (s *subject) drift(t *testing.T, r *rand.Rand, e hwmodel.Entries) {
	t.Helper()
	entries := singles(&e)
	r.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
	// Make before break, or the other way round.
	gone := keysNotIn(keysOf(&s.held), keysOf(&e))
	first := r.IntN(2) == 0
	if first {
		s.apply(t, hwmodel.Batch{Delete: gone})
	}
	for len(entries) > 0 {
		n := min(len(entries), 1+r.IntN(20))
		var b hwmodel.Batch
		for _, single := range entries[:n] {
			merge(&b.Set, single)
		}
		s.apply(t, b)
		entries = entries[n:]
	}
	if !first {
		s.apply(t, hwmodel.Batch{Delete: gone})
	}
	s.held = e
}

// burst is some frames.
type burst struct {
	in     []hwmodel.PortID
	frames [][]byte
}

func newBurst(r *rand.Rand, n int) (b burst) {
	for range n {
		in, f := RandomFrame(r)
		b.in, b.frames = append(b.in, in), append(b.frames, f)
	}
	return b
}

// run puts the frames through a pipe in full vectors.
func (b burst) run(t *testing.T, p hwmodel.Pipe) []fate {
	t.Helper()
	var fates []fate
	v := new(hwmodel.Vector)
	for at := 0; at < len(b.frames); at += v.N {
		v.N = min(hwmodel.VectorSize, len(b.frames)-at)
		for i := range v.N {
			v.In[i], v.Frame[i] = b.in[at+i], slices.Clone(b.frames[at+i])
		}
		p.Run(v)
		for i := range v.N {
			f := fate{Verdict: v.Verdict[i], Reason: v.Reason[i]}
			if f.Verdict == hwmodel.Forward {
				f.Out, f.Frame = v.Out[i], v.Frame[i]
			} else if !slices.Equal(v.Frame[i], b.frames[at+i]) {
				t.Errorf("%v frame was changed: % x", f.Verdict, b.frames[at+i])
			}
			fates = append(fates, f)
		}
	}
	return fates
}

// shrink takes entries away as long as the two still differ about the frame.
func shrink(t *testing.T, e hwmodel.Entries, in hwmodel.PortID, frame []byte, newA, newB func(t *testing.T, c Config) hwmodel.Pipe) hwmodel.Entries {
	differ := func(e hwmodel.Entries) bool {
		var fates [2]fate
		for i, mk := range []func(t *testing.T, c Config) hwmodel.Pipe{newA, newB} {
			p := mk(t, Config{Ports: ports()})
			if _, err := p.Apply(t.Context(), &hwmodel.Batch{Set: e}); err != nil {
				t.Fatal(err)
			}
			fates[i], _ = runOne(p, in, frame)
		}
		return !fates[0].equal(fates[1])
	}
	if !differ(e) {
		return e // it takes the history to show it
	}
	entries := singles(&e)
	for size := len(entries) / 2; size > 0; size /= 2 {
		for at := 0; at+size <= len(entries); {
			rest := slices.Concat(entries[:at], entries[at+size:])
			var less hwmodel.Entries
			for _, single := range rest {
				merge(&less, single)
			}
			if differ(less) {
				entries, e = rest, less
			} else {
				at += size
			}
		}
	}
	return e
}

// singles takes a set apart into sets of one entry.
func singles(e *hwmodel.Entries) (all []hwmodel.Entries) {
	if e.Settings != nil {
		all = append(all, hwmodel.Entries{Settings: e.Settings})
	}
	for i := range e.Interfaces {
		all = append(all, hwmodel.Entries{Interfaces: e.Interfaces[i : i+1]})
	}
	for i := range e.Neighbors {
		all = append(all, hwmodel.Entries{Neighbors: e.Neighbors[i : i+1]})
	}
	for i := range e.NextHops {
		all = append(all, hwmodel.Entries{NextHops: e.NextHops[i : i+1]})
	}
	for i := range e.Groups {
		all = append(all, hwmodel.Entries{Groups: e.Groups[i : i+1]})
	}
	for i := range e.Routes {
		all = append(all, hwmodel.Entries{Routes: e.Routes[i : i+1]})
	}
	for i := range e.Rules {
		all = append(all, hwmodel.Entries{Rules: e.Rules[i : i+1]})
	}
	for i := range e.Own {
		all = append(all, hwmodel.Entries{Own: e.Own[i : i+1]})
	}
	return all
}

// merge adds the entries of b to a.
func merge(a *hwmodel.Entries, b hwmodel.Entries) {
	if b.Settings != nil {
		a.Settings = b.Settings
	}
	a.Interfaces = append(a.Interfaces, b.Interfaces...)
	a.Neighbors = append(a.Neighbors, b.Neighbors...)
	a.NextHops = append(a.NextHops, b.NextHops...)
	a.Groups = append(a.Groups, b.Groups...)
	a.Routes = append(a.Routes, b.Routes...)
	a.Rules = append(a.Rules, b.Rules...)
	a.Own = append(a.Own, b.Own...)
}

// keysNotIn returns the keys of a that b has not.
func keysNotIn(a, b hwmodel.Keys) hwmodel.Keys {
	return hwmodel.Keys{
		Interfaces: without(a.Interfaces, b.Interfaces), Neighbors: without(a.Neighbors, b.Neighbors),
		NextHops: without(a.NextHops, b.NextHops), Groups: without(a.Groups, b.Groups),
		Routes: without(a.Routes, b.Routes), Own: without(a.Own, b.Own),
	}
}

func without[K comparable](a, b []K) []K {
	has := map[K]bool{}
	for _, k := range b {
		has[k] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(k K) bool { return has[k] })
}

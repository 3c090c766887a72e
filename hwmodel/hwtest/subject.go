package hwtest

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"antiphon/hwmodel"
)

// subject is the device under test.
type subject struct {
	hwmodel.Device
	pipe hwmodel.Pipe // nil: only Trace runs frames
	// held is what load last made the device hold.
	held hwmodel.Entries
}

// fate is what happened to one frame.
type fate struct {
	Verdict hwmodel.Verdict
	Reason  hwmodel.Reason
	Out     hwmodel.PortID // of a forwarded frame, like Frame
	Frame   []byte
}

func (f fate) String() string {
	if f.Verdict == hwmodel.Forward {
		return fmt.Sprintf("forward to %d: % x", f.Out, f.Frame)
	}
	return fmt.Sprintf("%v %v", f.Verdict, f.Reason)
}

func (f fate) equal(g fate) bool {
	return f.Verdict == g.Verdict && f.Reason == g.Reason && f.Out == g.Out && bytes.Equal(f.Frame, g.Frame)
}

func trapped(r hwmodel.Reason) fate { return fate{Reason: r} }
func dropped(r hwmodel.Reason) fate { return fate{Verdict: hwmodel.Drop, Reason: r} }

// runOne puts one frame through a pipe.
func runOne(p hwmodel.Pipe, in hwmodel.PortID, frame []byte) (fate, error) {
	v := new(hwmodel.Vector)
	v.N, v.In[0], v.Frame[0] = 1, in, slices.Clone(frame)
	p.Run(v)
	f := fate{Verdict: v.Verdict[0], Reason: v.Reason[0]}
	if f.Verdict == hwmodel.Forward {
		f.Out, f.Frame = v.Out[0], v.Frame[0]
		return f, nil
	}
	if !bytes.Equal(v.Frame[0], frame) {
		return f, fmt.Errorf("%v frame was changed:\n% x\n% x", f.Verdict, frame, v.Frame[0])
	}
	return f, nil
}

// send puts one frame through the device; Run and Trace must agree.
func (s *subject) send(t testing.TB, in hwmodel.PortID, frame []byte) fate {
	t.Helper()
	given := slices.Clone(frame)
	r, err := s.Trace(t.Context(), in, given)
	if err != nil {
		t.Fatal("trace:", err)
	}
	if !bytes.Equal(given, frame) {
		t.Fatalf("trace changed its input:\n% x\n% x", frame, given)
	}
	if len(r.Steps) == 0 {
		t.Error("trace without steps")
	}
	traced := fate{Verdict: r.Verdict, Reason: r.Reason, Out: r.Out, Frame: r.Frame}
	if s.pipe == nil {
		return traced
	}
	f, err := runOne(s.pipe, in, frame)
	if err != nil {
		t.Fatal(err)
	}
	if !f.equal(traced) {
		t.Fatalf("run and trace differ\nrun:   %v\ntrace: %v\nframe: % x", f, traced, frame)
	}
	return f
}

// expect sends a frame and requires its fate.
func (s *subject) expect(t testing.TB, in hwmodel.PortID, frame []byte, want fate) {
	t.Helper()
	if got := s.send(t, in, frame); !got.equal(want) {
		t.Errorf("got  %v\nwant %v\nin %d: % x", got, want, in, frame)
	}
}

// expectOut sends a frame and requires that it leaves by a port.
func (s *subject) expectOut(t testing.TB, in hwmodel.PortID, frame []byte, out hwmodel.PortID) {
	t.Helper()
	if got := s.send(t, in, frame); got.Verdict != hwmodel.Forward || got.Out != out {
		t.Errorf("got %v, want forward to %d\nin %d: % x", got, out, in, frame)
	}
}

// expectTrap sends a frame and requires that it traps, whatever the reason.
func (s *subject) expectTrap(t testing.TB, in hwmodel.PortID, frame []byte) {
	t.Helper()
	if got := s.send(t, in, frame); got.Verdict != hwmodel.Trap {
		t.Errorf("got %v, want a trap\nin %d: % x", got, in, frame)
	}
}

// apply performs a batch of which nothing may be refused.
func (s *subject) apply(t testing.TB, b hwmodel.Batch) hwmodel.Result {
	t.Helper()
	r, err := s.Apply(t.Context(), &b)
	if err != nil {
		t.Fatal("apply:", err)
	}
	if len(r.Refused) != 0 {
		t.Fatalf("refused: %+v", r.Refused)
	}
	return r
}

// load makes the device hold exactly e, but for what cannot be deleted.
func (s *subject) load(t testing.TB, e hwmodel.Entries) {
	t.Helper()
	s.apply(t, hwmodel.Batch{Delete: keysOf(&s.held)})
	s.apply(t, hwmodel.Batch{Set: e})
	s.held = e
}

// entries reads everything back, sorted.
func (s *subject) entries(t testing.TB) *hwmodel.Entries {
	t.Helper()
	all := new(hwmodel.Entries)
	err := s.Entries(t.Context(), func(e *hwmodel.Entries) bool {
		if e.Settings != nil {
			all.Settings = e.Settings
		}
		all.Interfaces = append(all.Interfaces, e.Interfaces...)
		all.Neighbors = append(all.Neighbors, e.Neighbors...)
		all.NextHops = append(all.NextHops, e.NextHops...)
		all.Groups = append(all.Groups, e.Groups...)
		all.Routes = append(all.Routes, e.Routes...)
		all.Rules = append(all.Rules, e.Rules...)
		all.Own = append(all.Own, e.Own...)
		return true
	})
	if err != nil {
		t.Fatal("entries:", err)
	}
	return sortEntries(all)
}

// holds requires that the device holds exactly these entries.
func (s *subject) holds(t testing.TB, want hwmodel.Entries) {
	t.Helper()
	equal(t, "entries", sortEntries(&want), s.entries(t))
}

// equal fails the test with a difference.
func equal[V any](t testing.TB, what string, want, got V) {
	t.Helper()
	d := gocmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}))
	if d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// keysOf names every entry that can be deleted.
func keysOf(e *hwmodel.Entries) (k hwmodel.Keys) {
	for _, v := range e.Interfaces {
		k.Interfaces = append(k.Interfaces, v.ID)
	}
	for _, v := range e.Neighbors {
		k.Neighbors = append(k.Neighbors, v.NeighborKey)
	}
	for _, v := range e.NextHops {
		k.NextHops = append(k.NextHops, v.ID)
	}
	for _, v := range e.Groups {
		k.Groups = append(k.Groups, v.ID)
	}
	for _, v := range e.Routes {
		k.Routes = append(k.Routes, v.RouteKey)
	}
	k.Own = slices.Clone(e.Own)
	return k
}

// sortEntries returns a copy of e with every table sorted by key.
func sortEntries(e *hwmodel.Entries) *hwmodel.Entries {
	c := &hwmodel.Entries{
		Settings:   e.Settings,
		Interfaces: slices.Clone(e.Interfaces), Neighbors: slices.Clone(e.Neighbors), NextHops: slices.Clone(e.NextHops),
		Groups: slices.Clone(e.Groups), Routes: slices.Clone(e.Routes), Rules: slices.Clone(e.Rules), Own: slices.Clone(e.Own),
	}
	slices.SortFunc(c.Interfaces, func(a, b hwmodel.Interface) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(c.Neighbors, func(a, b hwmodel.Neighbor) int {
		return cmp.Or(cmp.Compare(a.Interface, b.Interface), a.Addr.Compare(b.Addr))
	})
	slices.SortFunc(c.NextHops, func(a, b hwmodel.NextHop) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(c.Groups, func(a, b hwmodel.Group) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(c.Routes, func(a, b hwmodel.Route) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	slices.SortFunc(c.Rules, func(a, b hwmodel.Rules) int { return cmp.Compare(a.Family, b.Family) })
	slices.SortFunc(c.Own, func(a, b hwmodel.OwnAddress) int { return a.Addr.Compare(b.Addr) })
	return c
}

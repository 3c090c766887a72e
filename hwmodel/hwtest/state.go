package hwtest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"antiphon/hwmodel"
)

// testEntries reads back what was set, whole and in part.
func testEntries(t *testing.T, mk maker) {
	t.Run("empty", func(t *testing.T) { mk(t, Config{Ports: ports()}).holds(t, hwmodel.Entries{}) })
	t.Run("every-field", func(t *testing.T) {
		s, sc := mk(t, Config{Ports: ports()}), everyField()
		s.apply(t, hwmodel.Batch{Set: sc})
		s.holds(t, sc)
	})
	t.Run("random", func(t *testing.T) {
		s := mk(t, Config{Ports: ports()})
		r := rand.New(rand.NewPCG(8, 8))
		for range 30 {
			e := randomEntries(r)
			s.load(t, e)
			s.holds(t, e)
		}
	})
	t.Run("order-and-stop", func(t *testing.T) {
		s := mk(t, Config{Ports: ports()})
		sc := newScene(hwmodel.IPv4)
		sc.Own = append(sc.Own, hwmodel.OwnAddress{Addr: host4(1)})
		for i := range 5000 {
			r := mainRoute("0.0.0.0/0", i)
			r.Table = hwmodel.TableID(10 + i)
			sc.Routes = append(sc.Routes, r)
		}
		s.load(t, sc.Entries)
		chunks, last := 0, 0
		err := s.Entries(t.Context(), func(e *hwmodel.Entries) bool {
			chunks++
			for i, n := range []int{len(e.Interfaces), len(e.Neighbors), len(e.NextHops), len(e.Groups), len(e.Routes), len(e.Rules), len(e.Own)} {
				if n != 0 {
					if i < last {
						t.Errorf("table %d after table %d", i, last)
					}
					last = i
				}
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		s.holds(t, sc.Entries)
		for stop := 1; stop <= min(chunks, 3); stop++ {
			calls := 0
			if err := s.Entries(t.Context(), func(*hwmodel.Entries) bool { calls++; return calls < stop }); err != nil {
				t.Fatal(err)
			}
			if calls != stop {
				t.Errorf("%d calls after the read was ended at %d", calls, stop)
			}
		}
	})
	t.Run("read-back-is-the-callers", func(t *testing.T) {
		s, sc := mk(t, Config{Ports: ports()}), newScene(hwmodel.IPv4)
		s.load(t, sc.Entries)
		e := s.entries(t)
		for i := range e.Groups {
			e.Groups[i].Legs[0].Dead = true
		}
		e.Rules[0].List[0] = hwmodel.Rule{}
		e.Settings.Trap4 = hwmodel.ReasonResync
		s.expect(t, sc.in, sc.pkt.Frame(), forwarded(sc.pkt, 2))
		s.holds(t, newScene(hwmodel.IPv4).Entries)
	})
}

// everyField sets every field of every entry to something.
func everyField() hwmodel.Entries {
	return hwmodel.Entries{
		Settings: &hwmodel.Settings{Trap4: hwmodel.ReasonResync, Trap6: hwmodel.ReasonUnmirroredTC, HashPolicy4: 1, HashPolicy6: 1, HashSeed: 77, SeedKnown: true},
		Interfaces: []hwmodel.Interface{{
			ID: 1 << 31, Port: 2, MAC: hwmodel.MAC{2, 1, 2, 3, 4, 5}, MTU: 9000,
			In4: hwmodel.ReasonForwardingOff, In6: hwmodel.ReasonUnmirroredTC, Out4: hwmodel.ReasonInterfaceDown, Out6: hwmodel.ReasonUnmirroredXfrm,
			RPFilter: hwmodel.RPLoose, AcceptLocal: true, SourceCheck: true, RedirectTrap: true,
		}},
		Neighbors: []hwmodel.Neighbor{
			{NeighborKey: hwmodel.NeighborKey{Interface: 7, Addr: host4(1)}, MAC: hwmodel.MAC{2, 9}, Counter: 1 << 60},
			{NeighborKey: hwmodel.NeighborKey{Interface: 8, Addr: host6(1)}, MAC: hwmodel.MAC{4, 9}, Counter: 5},
		},
		NextHops: []hwmodel.NextHop{
			{ID: 1<<32 - 1, Interface: 9, Gateway: host4(3)}, {ID: 2, Interface: 9, Gateway: host6(3)},
			{ID: 3, Interface: 9}, {ID: 4, Trap: hwmodel.ReasonRouteEncap},
		},
		Groups: []hwmodel.Group{
			{ID: 1, Legs: []hwmodel.Leg{{NextHop: 5, Weight: 1}, {NextHop: 6, Weight: 65536, Dead: true}, {NextHop: 5, Weight: 256}}, Counter: 6},
			{ID: 2},
		},
		Routes: []hwmodel.Route{
			{RouteKey: mainRoute("0.0.0.0/0", 0).RouteKey, Action: hwmodel.RouteForward, Group: 3, MTU: 1400, Counter: 7},
			{RouteKey: mainRoute("255.255.255.255/32", 0).RouteKey, Action: hwmodel.RouteDrop, Reason: hwmodel.ReasonBlackhole, Counter: 8},
			{RouteKey: mainRoute("::/0", 0).RouteKey, Reason: hwmodel.ReasonUnreachable, Counter: 9},
			{RouteKey: mainRoute("::/1", 0).RouteKey, Action: hwmodel.RouteThrow},
			{RouteKey: mainRoute("::ffff:1.2.3.0/120", 0).RouteKey, Action: hwmodel.RouteThrow, Counter: 10},
		},
		Rules: []hwmodel.Rules{
			{Family: hwmodel.IPv4, List: []hwmodel.Rule{
				{Priority: 1, From: mainRoute("10.0.0.0/8", 0).Prefix, To: mainRoute("11.0.0.0/9", 0).Prefix, In: 4, Not: true,
					Action: hwmodel.RuleLookup, Table: 1 << 30, SuppressPrefixLen: 3},
				{Priority: 2, Action: hwmodel.RuleDrop, Reason: hwmodel.ReasonBlackhole, SuppressPrefixLen: -1},
				{Priority: 2, Action: hwmodel.RuleNext, SuppressPrefixLen: -1},
				{Priority: 1<<32 - 1, Reason: hwmodel.ReasonRuleSelector},
			}},
			{Family: hwmodel.IPv6},
		},
		Own: []hwmodel.OwnAddress{{Addr: host4(1)}, {Addr: host4(2)}},
	}
}

// counterOf returns a counter's reading, or false if it is not reported.
func counterOf(r hwmodel.CounterReport, id hwmodel.CounterID) (hwmodel.Counter, bool) {
	for _, c := range r.Counters {
		if c.ID == id {
			return c, true
		}
	}
	return hwmodel.Counter{}, false
}

func (s *subject) counters(t testing.TB, since uint64) hwmodel.CounterReport {
	t.Helper()
	r, err := s.Counters(t.Context(), since)
	if err != nil {
		t.Fatal("counters:", err)
	}
	return r
}

// testCounters counts packets through route, group and neighbour.
func testCounters(t *testing.T, mk maker) {
	const route, group, neighbor = 11, 12, 13
	counted := func() *scene {
		sc := newScene(hwmodel.IPv4)
		sc.target().Counter = route
		sc.group(2).Counter = group
		for i := range sc.Neighbors {
			if sc.Neighbors[i].Addr == host4(2) {
				sc.Neighbors[i].Counter = neighbor
			}
		}
		return sc
	}
	t.Run("clock", func(t *testing.T) {
		s := mk(t, Config{Ports: ports()})
		a := s.counters(t, 0)
		b := s.counters(t, a.Now)
		if a.Now == 0 || b.Now < a.Now || len(b.Counters) != 0 {
			t.Errorf("%+v, then %+v", a, b)
		}
	})
	t.Run("trace-does-not-count", func(t *testing.T) {
		s, sc := mk(t, Config{Ports: ports()}), counted()
		s.load(t, sc.Entries)
		if r, err := s.Trace(t.Context(), sc.in, sc.pkt.Frame()); err != nil || r.Verdict != hwmodel.Forward {
			t.Fatal(r.Verdict, err)
		}
		if r := s.counters(t, 0); len(r.Counters) != 0 {
			t.Errorf("counted: %+v", r.Counters)
		}
	})
	if mk(t, Config{Ports: ports()}).pipe == nil {
		return // nothing to count with
	}
	run := func(t *testing.T, s *subject, in hwmodel.PortID, frame []byte, n int) {
		t.Helper()
		for range n {
			if _, err := runOne(s.pipe, in, frame); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("forwarded", func(t *testing.T) {
		s, sc := mk(t, Config{Ports: ports()}), counted()
		s.load(t, sc.Entries)
		sc.pkt.Padding = 13
		frame := sc.pkt.Frame()
		before := s.counters(t, 0)
		if len(before.Counters) != 0 {
			t.Errorf("before any packet: %+v", before.Counters)
		}
		var last hwmodel.CounterReport
		for total := uint64(5); total <= 20; total += 5 {
			run(t, s, sc.in, frame, 5)
			now := s.counters(t, before.Now)
			for _, id := range []hwmodel.CounterID{route, group, neighbor} {
				c, ok := counterOf(now, id)
				if !ok || c.Packets != total || c.Bytes != total*uint64(len(frame)) {
					t.Errorf("counter %d after %d packets: %+v", id, total, c)
				}
				was, _ := counterOf(last, id)
				if c.LastUsed < before.Now || c.LastUsed < was.LastUsed {
					t.Errorf("counter %d last used at %d, asked since %d, before %d", id, c.LastUsed, before.Now, was.LastUsed)
				}
			}
			if len(now.Counters) != 3 {
				t.Errorf("counters %+v", now.Counters)
			}
			last = now
		}
		if r := s.counters(t, last.Now+1e18); len(r.Counters) != 0 {
			t.Errorf("moved in the future: %+v", r.Counters)
		}
	})
	t.Run("trapped-does-not-count", func(t *testing.T) {
		s, sc := mk(t, Config{Ports: ports()}), counted()
		sc.egress().Out4 = hwmodel.ReasonInterfaceDown
		s.load(t, sc.Entries)
		run(t, s, sc.in, sc.pkt.Frame(), 3)
		if r := s.counters(t, 0); len(r.Counters) != 0 {
			t.Errorf("counted: %+v", r.Counters)
		}
	})
	t.Run("dropped-counts-the-route", func(t *testing.T) {
		s, sc := mk(t, Config{Ports: ports()}), counted()
		sc.target().Action, sc.target().Reason = hwmodel.RouteDrop, hwmodel.ReasonBlackhole
		s.load(t, sc.Entries)
		frame := sc.pkt.Frame()
		run(t, s, sc.in, frame, 3)
		r := s.counters(t, 0)
		c, _ := counterOf(r, route)
		if len(r.Counters) != 1 || c.Packets != 3 || c.Bytes != 3*uint64(len(frame)) {
			t.Errorf("counted: %+v", r.Counters)
		}
	})
	t.Run("kept-over-replace", func(t *testing.T) {
		s, sc := mk(t, Config{Ports: ports()}), counted()
		s.load(t, sc.Entries)
		run(t, s, sc.in, sc.pkt.Frame(), 2)
		next := *sc.target()
		next.Group = 4 // another way, the same counter
		if r := s.apply(t, hwmodel.Batch{Set: hwmodel.Entries{Routes: []hwmodel.Route{next}}}); len(r.Final) != 0 {
			t.Errorf("final %+v", r.Final)
		}
		run(t, s, sc.in, sc.pkt.Frame(), 2)
		c, _ := counterOf(s.counters(t, 0), route)
		g, _ := counterOf(s.counters(t, 0), group)
		if c.Packets != 4 || g.Packets != 2 {
			t.Errorf("route %+v, group %+v", c, g)
		}
	})
	t.Run("final", func(t *testing.T) {
		s, sc := mk(t, Config{Ports: ports()}), counted()
		s.load(t, sc.Entries)
		frame := sc.pkt.Frame()
		run(t, s, sc.in, frame, 3)
		finals := func(b hwmodel.Batch, id hwmodel.CounterID, packets uint64) {
			t.Helper()
			r := s.apply(t, b)
			if len(r.Final) != 1 || r.Final[0].ID != id || r.Final[0].Packets != packets ||
				r.Final[0].Bytes != packets*uint64(len(frame)) || r.Final[0].LastUsed == 0 {
				t.Errorf("final %+v, want counter %d with %d packets", r.Final, id, packets)
			}
			if c, ok := counterOf(s.counters(t, 0), id); ok {
				t.Errorf("still reported: %+v", c)
			}
		}
		fresh := *sc.target()
		fresh.Counter = 21
		finals(hwmodel.Batch{Set: hwmodel.Entries{Routes: []hwmodel.Route{fresh}}}, route, 3)
		run(t, s, sc.in, frame, 2)
		finals(hwmodel.Batch{Delete: hwmodel.Keys{Routes: []hwmodel.RouteKey{fresh.RouteKey}}}, 21, 2)
		finals(hwmodel.Batch{Delete: hwmodel.Keys{Groups: []hwmodel.GroupID{2}}}, group, 5)
		uncounted := newScene(hwmodel.IPv4).Neighbors
		finals(hwmodel.Batch{Set: hwmodel.Entries{Neighbors: uncounted}}, neighbor, 5)
	})
}

// testAtomic runs vectors while every batch changes all a packet depends on: each
// packet sees one batch or the other, and never an older one after a newer one.
func testAtomic(t *testing.T, mk maker) {
	const batches, runners = 400, 2
	s := mk(t, Config{Ports: ports()})
	if s.pipe == nil {
		t.Skip("needs Run")
	}
	sc := newScene(hwmodel.IPv4)
	// Batch n: by port 2 + n%6, both addresses end in n, keys alternate so that
	// each batch also deletes what the one before set.
	batch := func(n int) hwmodel.Batch {
		var b hwmodel.Batch
		port := 2 + n%6
		out := *sc.iface(ifaceOf(port))
		out.MAC = numberedMAC(n)
		id := hwmodel.NextHopID(1000 + n)
		key := hwmodel.NeighborKey{Interface: out.ID, Addr: gatewayOf(hwmodel.IPv4, n)}
		b.Set.Interfaces = []hwmodel.Interface{out}
		b.Set.Neighbors = []hwmodel.Neighbor{{NeighborKey: key, MAC: numberedMAC(n)}}
		b.Set.NextHops = []hwmodel.NextHop{{ID: id, Interface: out.ID, Gateway: key.Addr}}
		b.Set.Groups = []hwmodel.Group{oneLeg(int(id), id)}
		b.Set.Routes = []hwmodel.Route{mainRoute(prefix4, int(id))}
		if n > 0 {
			old := ifaceOf(2 + (n-1)%6)
			b.Delete.Neighbors = []hwmodel.NeighborKey{{Interface: old, Addr: gatewayOf(hwmodel.IPv4, n-1)}}
			b.Delete.NextHops = []hwmodel.NextHopID{id - 1}
			b.Delete.Groups = []hwmodel.GroupID{hwmodel.GroupID(id) - 1}
		}
		return b
	}
	s.load(t, sc.Entries)
	s.apply(t, batch(0))

	frame := sc.pkt.Frame()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	errs := make(chan error, runners)
	for range runners {
		wg.Go(func() {
			if err := watch(s.pipe, sc.in, frame, stop); err != nil {
				errs <- err
			}
		})
	}
	for n := 1; n <= batches; n++ {
		s.apply(t, batch(n))
	}
	close(stop)
	wg.Wait()
	select {
	case err := <-errs:
		t.Error(err)
	default:
	}
	want := fate{Verdict: hwmodel.Forward, Out: hwmodel.PortID(2 + batches%6), Frame: forwarded(sc.pkt, 2).Frame}
	mac := numberedMAC(batches)
	copy(want.Frame, mac[:])
	copy(want.Frame[6:], mac[:])
	s.expect(t, sc.in, frame, want)
}

// watch runs vectors of one frame until told to stop and checks that each packet
// is of one batch, in order.
func watch(p hwmodel.Pipe, in hwmodel.PortID, frame []byte, stop <-chan struct{}) error {
	v := new(hwmodel.Vector)
	newest := 0
	for {
		v.N = hwmodel.VectorSize
		for i := range v.N {
			v.In[i] = in
			v.Frame[i] = append(v.Frame[i][:0], frame...)
		}
		p.Run(v)
		for i := range v.N {
			f := v.Frame[i]
			if v.Verdict[i] != hwmodel.Forward {
				return fmt.Errorf("%v %v between batches", v.Verdict[i], v.Reason[i])
			}
			to, from := int(f[4])<<8|int(f[5]), int(f[10])<<8|int(f[11])
			if to != from || v.Out[i] != hwmodel.PortID(2+to%6) {
				return fmt.Errorf("a mixture: neighbour of batch %d, interface of batch %d, port %d", to, from, v.Out[i])
			}
			if to < newest {
				return fmt.Errorf("batch %d after batch %d", to, newest)
			}
			newest = to
		}
		select {
		case <-stop:
			return nil
		default:
		}
	}
}

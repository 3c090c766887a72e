package softpipe

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"testing"

	"antiphon/hwmodel"
)

func readBack(t testing.TB, p *Pipe) *hwmodel.Entries {
	t.Helper()
	var all hwmodel.Entries
	err := p.Entries(context.Background(), func(e *hwmodel.Entries) bool {
		all.Interfaces = append(all.Interfaces, e.Interfaces...)
		all.Neighbors = append(all.Neighbors, e.Neighbors...)
		all.NextHops = append(all.NextHops, e.NextHops...)
		all.Groups = append(all.Groups, e.Groups...)
		all.Routes = append(all.Routes, e.Routes...)
		all.Rules = append(all.Rules, e.Rules...)
		all.Own = append(all.Own, e.Own...)
		if e.Settings != nil {
			all.Settings = e.Settings
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return &all
}

func keysOf(e *hwmodel.Entries) (k hwmodel.Keys) {
	for _, x := range e.Interfaces {
		k.Interfaces = append(k.Interfaces, x.ID)
	}
	for _, x := range e.Neighbors {
		k.Neighbors = append(k.Neighbors, x.NeighborKey)
	}
	for _, x := range e.NextHops {
		k.NextHops = append(k.NextHops, x.ID)
	}
	for _, x := range e.Groups {
		k.Groups = append(k.Groups, x.ID)
	}
	for _, x := range e.Routes {
		k.Routes = append(k.Routes, x.RouteKey)
	}
	k.Own = e.Own
	return k
}

// TestAnyOrder programs the bench entry by entry in random orders, most entries
// naming others that come later: it forwards from the last entry on, and never
// wrongly before. Taken out again in any order, nothing is left.
func TestAnyOrder(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		p, e := newTest(), rig()
		var parts []hwmodel.Batch
		add := func(s hwmodel.Entries) { parts = append(parts, hwmodel.Batch{Set: s}) }
		for i := range e.Interfaces {
			add(hwmodel.Entries{Interfaces: e.Interfaces[i : i+1]})
		}
		for i := range e.Neighbors {
			add(hwmodel.Entries{Neighbors: e.Neighbors[i : i+1]})
		}
		for i := range e.NextHops {
			add(hwmodel.Entries{NextHops: e.NextHops[i : i+1]})
		}
		for i := range e.Groups {
			add(hwmodel.Entries{Groups: e.Groups[i : i+1]})
		}
		for i := range e.Routes {
			add(hwmodel.Entries{Routes: e.Routes[i : i+1]})
		}
		for i := range e.Rules {
			add(hwmodel.Entries{Rules: e.Rules[i : i+1]})
		}
		add(hwmodel.Entries{Settings: e.Settings})
		r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		for _, b := range parts {
			apply(t, p, b)
			apply(t, p, b) // setting an equal entry changes nothing
			for _, f := range [][]byte{ok4(), ok6()} {
				if v, _, out, _ := one(p, 1, f); v == hwmodel.Forward && out != 2 || v == hwmodel.Drop {
					t.Fatalf("seed %d: %v out of %d", seed, v, out)
				}
			}
		}
		for _, f := range [][]byte{ok4(), ok6()} {
			if v, reason, _, _ := one(p, 1, f); v != hwmodel.Forward {
				t.Fatalf("seed %d: %v %v when all is there", seed, v, reason)
			}
		}
		k := keysOf(e)
		r.Shuffle(len(k.Routes), reflect.Swapper(k.Routes))
		switch seed % 3 {
		case 0:
			apply(t, p, hwmodel.Batch{Delete: k})
		case 1:
			apply(t, p, hwmodel.Batch{Delete: hwmodel.Keys{Interfaces: k.Interfaces, Neighbors: k.Neighbors}})
			apply(t, p, hwmodel.Batch{Delete: hwmodel.Keys{NextHops: k.NextHops, Groups: k.Groups}})
			apply(t, p, hwmodel.Batch{Delete: k})
		default:
			apply(t, p, hwmodel.Batch{Delete: hwmodel.Keys{Groups: k.Groups}})
			apply(t, p, hwmodel.Batch{Delete: hwmodel.Keys{Routes: k.Routes, NextHops: k.NextHops}})
			apply(t, p, hwmodel.Batch{Delete: k})
		}
		apply(t, p, hwmodel.Batch{Set: hwmodel.Entries{Rules: []hwmodel.Rules{{Family: hwmodel.IPv4}, {Family: hwmodel.IPv6}}}})
		for what, n := range map[string]int{"interfaces": p.t.ifaces.index.len(), "neighbours": p.t.neighs.index.len(),
			"next hops": p.t.hops.index.len(), "groups": p.t.groups.index.len(), "counters": p.t.counters.index.len(),
			"tables": len(p.t.lpm), "on-link": len(p.t.onlink4) + len(p.t.onlink6), "routes": len(p.t.route) - 1 - len(p.t.freeRoute)} {
			if n != 0 {
				t.Errorf("seed %d: %d %s left", seed, n, what)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	var sizes [hwmodel.TableCount]uint32
	for i := range sizes {
		sizes[i] = 1
	}
	p := New(Options{Ports: []hwmodel.PortInfo{{ID: 1}}, Sizes: sizes})
	full := func(r hwmodel.Refusal) hwmodel.Refusal { r.Reason = hwmodel.ReasonTableFull; return r }
	a1, a2 := ip("10.0.0.1"), ip("10.0.0.2")
	set := hwmodel.Entries{
		Interfaces: []hwmodel.Interface{{ID: 1, Port: 1}, {ID: 2, Port: 1}, {ID: 1, Port: 5}},
		Neighbors:  []hwmodel.Neighbor{{NeighborKey: hwmodel.NeighborKey{Interface: 1, Addr: a1}}, {NeighborKey: hwmodel.NeighborKey{Interface: 1, Addr: a2}}},
		NextHops:   []hwmodel.NextHop{{ID: 1, Interface: 1}, {ID: 2, Interface: 1}},
		Groups:     []hwmodel.Group{{ID: 1}, {ID: 2}, {ID: 1, Legs: make([]hwmodel.Leg, 257)}},
		Routes: []hwmodel.Route{{RouteKey: hwmodel.RouteKey{Table: 1, Prefix: prefix("10.0.0.0/8")}}, {RouteKey: hwmodel.RouteKey{Table: 1, Prefix: prefix("::/0")}},
			{RouteKey: hwmodel.RouteKey{Table: 1, Prefix: prefix("10.0.0.1/8")}}},
		Rules: []hwmodel.Rules{{Family: hwmodel.IPv4, List: []hwmodel.Rule{lookupIn(1)}}, {Family: hwmodel.IPv4, List: []hwmodel.Rule{lookupIn(1), lookupIn(1)}}},
		Own:   []hwmodel.OwnAddress{{Addr: a1}, {Addr: a2}},
	}
	got := apply(t, p, hwmodel.Batch{Set: set}).Refused
	want := []hwmodel.Refusal{
		full(hwmodel.Refusal{Table: hwmodel.TableInterface, Interface: 2}),
		{Table: hwmodel.TableInterface, Reason: hwmodel.ReasonNotAPort, Interface: 1},
		full(hwmodel.Refusal{Table: hwmodel.TableNeighbor, Neighbor: hwmodel.NeighborKey{Interface: 1, Addr: a2}}),
		full(hwmodel.Refusal{Table: hwmodel.TableNextHop, NextHop: 2}),
		full(hwmodel.Refusal{Table: hwmodel.TableGroup, Group: 2}),
		{Table: hwmodel.TableGroup, Reason: hwmodel.ReasonTooWide, Group: 1},
		full(hwmodel.Refusal{Table: hwmodel.TableRoute, Route: hwmodel.RouteKey{Table: 1, Prefix: prefix("::/0")}}),
		{Table: hwmodel.TableRoute, Reason: hwmodel.ReasonMalformed, Route: hwmodel.RouteKey{Table: 1, Prefix: prefix("10.0.0.1/8")}},
		full(hwmodel.Refusal{Table: hwmodel.TableRules, Family: hwmodel.IPv4}),
		full(hwmodel.Refusal{Table: hwmodel.TableOwnAddress}),
	}
	if !slices.Equal(got, want) {
		t.Errorf("refused\n%v, want\n%v", got, want)
	}
	e := readBack(t, p)
	if len(e.Interfaces) != 0 || len(e.Groups) != 0 || len(e.Rules) != 0 {
		t.Errorf("older values of refused entries are still there: %+v", e)
	}
	if len(e.Neighbors) != 1 || len(e.NextHops) != 1 || len(e.Routes) != 1 || len(e.Own) != 1 {
		t.Errorf("what fits is not there: %+v", e)
	}
	if r := apply(t, p, hwmodel.Batch{Set: hwmodel.Entries{Interfaces: set.Interfaces[1:2]}}); len(r.Refused) != 0 {
		t.Errorf("refused after room was made: %v", r.Refused)
	}
}

// TestCounters follows a packet's counters through replacement, sharing and end.
func TestCounters(t *testing.T) {
	p, e := newTest(), rig()
	apply(t, p, hwmodel.Batch{Set: *e})
	values := func(since uint64) (map[hwmodel.CounterID][2]uint64, uint64) {
		t.Helper()
		r, err := p.Counters(context.Background(), since)
		if err != nil {
			t.Fatal(err)
		}
		m := map[hwmodel.CounterID][2]uint64{}
		for _, c := range r.Counters {
			if c.LastUsed == 0 || c.LastUsed > p.clock.now() {
				t.Errorf("counter %d last used %d", c.ID, c.LastUsed)
			}
			m[c.ID] = [2]uint64{c.Packets, c.Bytes}
		}
		return m, r.Now
	}
	f := append(ok4(), 0, 0) // padding counts as received
	n := uint64(len(f))
	one(p, 1, f)
	one(p, 1, append(ok4(), 0, 0))
	one(p, 9, ok4()) // trapped: counts nowhere
	got, now := values(0)
	want := map[hwmodel.CounterID][2]uint64{102: {2, 2 * n}, 202: {2, 2 * n}, 302: {2, 2 * n}}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("counters %v, want %v", got, want)
	}
	if got, _ := values(now); len(got) != 0 {
		t.Errorf("moved since: %v", got)
	}
	route := e.Routes[slices.IndexFunc(e.Routes, func(r hwmodel.Route) bool { return r.Counter == 202 })]
	route.MTU = 1400
	if r := apply(t, p, hwmodel.Batch{Set: hwmodel.Entries{Routes: []hwmodel.Route{route}}}); len(r.Final) != 0 {
		t.Errorf("final %v though the counter stays", r.Final)
	}
	route.Counter = 999
	r := apply(t, p, hwmodel.Batch{Set: hwmodel.Entries{Routes: []hwmodel.Route{route}}})
	if len(r.Final) != 1 || r.Final[0].ID != 202 || r.Final[0].Packets != 2 || r.Final[0].Bytes != 2*n || r.Final[0].LastUsed == 0 {
		t.Errorf("final %+v", r.Final)
	}
	one(p, 1, ok4())
	got, _ = values(now)
	want = map[hwmodel.CounterID][2]uint64{102: {3, 3*n - 2}, 999: {1, n - 2}, 302: {3, 3*n - 2}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("counters %v, want %v", got, want)
	}
	// A dropping route counts what it drops.
	route.Action, route.Reason = hwmodel.RouteDrop, hwmodel.ReasonBlackhole
	apply(t, p, hwmodel.Batch{Set: hwmodel.Entries{Routes: []hwmodel.Route{route}}})
	one(p, 1, ok4())
	if got, _ = values(0); got[999] != [2]uint64{2, 2*n - 4} {
		t.Errorf("dropping route counted %v", got[999])
	}
	if r := apply(t, p, hwmodel.Batch{Delete: keysOf(e)}); len(r.Final) != 15 {
		t.Errorf("%d final readings, want 15", len(r.Final))
	}
}

// TestRunDoesNotAllocate also runs groups of several legs and reverse lookups.
func TestRunDoesNotAllocate(t *testing.T) {
	p, e := newTest(), rig()
	e.Groups[1].Legs = []hwmodel.Leg{{NextHop: 2, Weight: 1}, {NextHop: 3, Weight: 2}}
	e.Interfaces[0].RPFilter = hwmodel.RPStrict
	e.Settings.HashPolicy4 = 1
	apply(t, p, hwmodel.Batch{Set: *e})
	v := new(hwmodel.Vector)
	frames := [][]byte{ok4(), ok6(), frame4("10.1.0.9", "10.3.0.1", 0), {}, frame4("10.3.0.9", "10.2.0.1", 0)}
	buffers := make([][]byte, hwmodel.VectorSize)
	for i := range buffers {
		buffers[i] = make([]byte, 128)
	}
	fill := func() {
		v.N = hwmodel.VectorSize
		for i := range v.Frame {
			f := frames[i%len(frames)]
			v.In[i], v.Frame[i] = 1, buffers[i][:copy(buffers[i], f)]
		}
	}
	if n := testing.AllocsPerRun(100, func() { fill(); p.Run(v) }); n != 0 {
		t.Errorf("%v allocations per vector", n)
	}
	if v.Verdict[1] != hwmodel.Forward || v.Verdict[2] != hwmodel.Forward || v.Reason[4] != hwmodel.ReasonReversePath {
		t.Errorf("verdicts %v", v.Verdict[:5])
	}
}

// TestConcurrent lets packets, batches and readers run against each other; under
// the race detector it is about the locks, without it about atomicity: every
// batch moves both families from one port to the other, and no packet of a vector
// may see it half done. No count is lost.
func TestConcurrent(t *testing.T) {
	p, e := newTest(), rig()
	for n := range e.NextHops {
		e.NextHops[n].Gateway = ip(fmt.Sprintf("10.%d.0.1", n+1))
	}
	apply(t, p, hwmodel.Batch{Set: *e})
	const workers, vectors = 3, 60
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			v := new(hwmodel.Vector)
			for range vectors {
				v.N = 64
				for i := range v.N {
					v.In[i] = 1
					if v.Frame[i] = ok4(); i%2 == 1 {
						v.Frame[i] = ok6()
					}
				}
				p.Run(v)
				for i := range v.N {
					if v.Verdict[i] != hwmodel.Forward || v.Out[i] != v.Out[0] {
						t.Errorf("packet %d: %v %v, port %d and %d", i, v.Verdict[i], v.Reason[i], v.Out[i], v.Out[0])
						return
					}
				}
			}
		})
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			legs := []hwmodel.Leg{{NextHop: hwmodel.NextHopID(2 + n%2), Weight: 1}}
			g := hwmodel.Group{ID: 2, Legs: legs, Counter: 102}
			more := hwmodel.Route{RouteKey: hwmodel.RouteKey{Table: mainTable, Prefix: netip.PrefixFrom(netip4(40<<24+uint32(n)<<8), 24)}, Counter: hwmodel.CounterID(10000 + n)}
			apply(t, p, hwmodel.Batch{Set: hwmodel.Entries{Groups: []hwmodel.Group{g}, Routes: []hwmodel.Route{more}}})
			if _, err := p.Counters(context.Background(), 0); err != nil {
				t.Error(err)
			}
			if _, err := p.Trace(context.Background(), 1, ok4()); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	close(stop)
	readers.Wait()
	r, err := p.Counters(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(r.Counters, func(c hwmodel.Counter) bool { return c.ID == 102 })
	if i < 0 || r.Counters[i].Packets != workers*vectors*64 {
		t.Errorf("group counted %+v, want %d packets", r.Counters, workers*vectors*64)
	}
}

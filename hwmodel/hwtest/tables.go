package hwtest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"antiphon/hwmodel"
)

// piece is one entry that the scene's packet needs, and how to take it away.
type piece struct {
	name   string
	set    hwmodel.Entries
	delete hwmodel.Keys
}

// pieces takes the packet's needs out of a scene and returns them.
func (s *scene) pieces() []piece {
	f := s.family()
	ingress, egress, hop, route := *s.ingress(), *s.egress(), *s.hop(), *s.target()
	group := *s.group(route.Group)
	key := hwmodel.NeighborKey{Interface: ifaceOf(2), Addr: host(f, 2)}
	neighbor := s.Neighbors[slices.IndexFunc(s.Neighbors, func(n hwmodel.Neighbor) bool { return n.NeighborKey == key })]

	s.Interfaces = slices.DeleteFunc(s.Interfaces, func(v hwmodel.Interface) bool { return v.ID == ingress.ID || v.ID == egress.ID })
	s.Neighbors = slices.DeleteFunc(s.Neighbors, func(v hwmodel.Neighbor) bool { return v.NeighborKey == key })
	s.NextHops = slices.DeleteFunc(s.NextHops, func(v hwmodel.NextHop) bool { return v.ID == hop.ID })
	s.Groups = slices.DeleteFunc(s.Groups, func(v hwmodel.Group) bool { return v.ID == group.ID })
	s.Routes = slices.DeleteFunc(s.Routes, func(v hwmodel.Route) bool { return v.RouteKey == route.RouteKey })
	return []piece{
		{"ingress", hwmodel.Entries{Interfaces: []hwmodel.Interface{ingress}}, hwmodel.Keys{Interfaces: []hwmodel.InterfaceID{ingress.ID}}},
		{"egress", hwmodel.Entries{Interfaces: []hwmodel.Interface{egress}}, hwmodel.Keys{Interfaces: []hwmodel.InterfaceID{egress.ID}}},
		{"neighbor", hwmodel.Entries{Neighbors: []hwmodel.Neighbor{neighbor}}, hwmodel.Keys{Neighbors: []hwmodel.NeighborKey{key}}},
		{"nexthop", hwmodel.Entries{NextHops: []hwmodel.NextHop{hop}}, hwmodel.Keys{NextHops: []hwmodel.NextHopID{hop.ID}}},
		{"group", hwmodel.Entries{Groups: []hwmodel.Group{group}}, hwmodel.Keys{Groups: []hwmodel.GroupID{group.ID}}},
		{"route", hwmodel.Entries{Routes: []hwmodel.Route{route}}, hwmodel.Keys{Routes: []hwmodel.RouteKey{route.RouteKey}}},
	}
}

// testTables sets, replaces and deletes entries of every table.
func testTables(t *testing.T, mk maker) {
	for _, f := range []hwmodel.Family{hwmodel.IPv4, hwmodel.IPv6} {
		t.Run(fmt.Sprintf("IPv%d/any-order", f), func(t *testing.T) { testAnyOrder(t, mk, f) })
	}
	t.Run("replace", func(t *testing.T) { testReplace(t, mk) })
	t.Run("idempotent", func(t *testing.T) {
		s, sc := mk(t, Config{Ports: ports()}), newScene(hwmodel.IPv4)
		for range 3 {
			s.apply(t, hwmodel.Batch{Set: sc.Entries})
			s.holds(t, sc.Entries)
			s.expect(t, sc.in, sc.pkt.Frame(), forwarded(sc.pkt, 2))
		}
		gone := hwmodel.Entries{Settings: sc.Settings, Rules: sc.Rules}
		for range 3 {
			s.apply(t, hwmodel.Batch{Delete: keysOf(&sc.Entries)})
			s.holds(t, gone)
			s.expect(t, sc.in, sc.pkt.Frame(), trapped(hwmodel.ReasonNoInterface))
		}
	})
	t.Run("empty-batch", func(t *testing.T) {
		s := mk(t, Config{Ports: ports()})
		s.apply(t, hwmodel.Batch{})
		s.holds(t, hwmodel.Entries{})
	})
	t.Run("set-then-delete-in-one-batch", func(t *testing.T) {
		s, sc := mk(t, Config{Ports: ports()}), newScene(hwmodel.IPv4)
		s.apply(t, hwmodel.Batch{Set: sc.Entries, Delete: keysOf(&sc.Entries)})
		s.holds(t, hwmodel.Entries{Settings: sc.Settings, Rules: sc.Rules})
	})
	t.Run("interface-changes-identity", func(t *testing.T) {
		// Make before break: the port's new interface comes with the batch that
		// takes the old one.
		s, sc := mk(t, Config{Ports: ports()}), newScene(hwmodel.IPv4)
		s.load(t, sc.Entries)
		next := *sc.ingress()
		next.ID = 500
		s.apply(t, hwmodel.Batch{
			Set:    hwmodel.Entries{Interfaces: []hwmodel.Interface{next}},
			Delete: hwmodel.Keys{Interfaces: []hwmodel.InterfaceID{ifaceOf(1)}},
		})
		s.expect(t, sc.in, sc.pkt.Frame(), forwarded(sc.pkt, 2))
	})
	t.Run("batch-is-the-callers", func(t *testing.T) {
		// The device keeps nothing of the batch it was given.
		s, sc := mk(t, Config{Ports: ports()}), newScene(hwmodel.IPv4)
		want := newScene(hwmodel.IPv4)
		s.load(t, sc.Entries)
		sc.group(2).Legs[0] = hwmodel.Leg{NextHop: 7, Weight: 7, Dead: true}
		sc.rules().List[0] = hwmodel.Rule{}
		sc.Settings.Trap4 = hwmodel.ReasonResync
		s.holds(t, want.Entries)
		s.expect(t, sc.in, sc.pkt.Frame(), forwarded(sc.pkt, 2))
	})
}

// testAnyOrder sets the entries a packet needs in random orders, one batch each:
// it traps until the last is there, and as soon as one is gone.
func testAnyOrder(t *testing.T, mk maker, f hwmodel.Family) {
	s, sc := mk(t, Config{Ports: ports()}), newScene(f)
	frame, want := sc.pkt.Frame(), forwarded(sc.pkt, 2)
	pieces := sc.pieces()
	s.load(t, sc.Entries)
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		order := r.Perm(len(pieces))
		for _, i := range order {
			s.expectTrap(t, sc.in, frame)
			s.apply(t, hwmodel.Batch{Set: pieces[i].set})
		}
		s.expect(t, sc.in, frame, want)
		for _, p := range pieces {
			s.apply(t, hwmodel.Batch{Delete: p.delete})
			s.expectTrap(t, sc.in, frame)
			s.apply(t, hwmodel.Batch{Set: p.set})
			s.expect(t, sc.in, frame, want)
		}
		for _, i := range r.Perm(len(pieces)) {
			s.apply(t, hwmodel.Batch{Delete: pieces[i].delete})
			s.expectTrap(t, sc.in, frame)
		}
		if t.Failed() {
			t.Fatalf("order %v", order)
		}
	}
	s.holds(t, sc.Entries)
}

// testReplace gives every kind of entry a new value under its key.
func testReplace(t *testing.T, mk maker) {
	cases := []struct {
		name string
		set  func(sc *scene) hwmodel.Entries
		want func(sc *scene) fate
	}{
		{"settings", func(sc *scene) hwmodel.Entries {
			v := *sc.Settings
			v.Trap4 = hwmodel.ReasonUnmirroredNftables
			return hwmodel.Entries{Settings: &v}
		}, func(*scene) fate { return trapped(hwmodel.ReasonUnmirroredNftables) }},
		{"interface/mac", func(sc *scene) hwmodel.Entries {
			v := *sc.ingress()
			v.MAC = hwmodel.MAC{2, 9, 9, 9, 9, 9}
			return hwmodel.Entries{Interfaces: []hwmodel.Interface{v}}
		}, func(*scene) fate { return trapped(hwmodel.ReasonNotOurMAC) }},
		{"interface/ports-swapped", func(sc *scene) hwmodel.Entries {
			a, b := *sc.egress(), *sc.iface(ifaceOf(3))
			a.Port, b.Port = b.Port, a.Port
			return hwmodel.Entries{Interfaces: []hwmodel.Interface{a, b}}
		}, func(sc *scene) fate { f := forwarded(sc.pkt, 2); f.Out = 3; return f }},
		{"interface/egress-mac", func(sc *scene) hwmodel.Entries {
			v := *sc.egress()
			v.MAC = hwmodel.MAC{2, 9, 9, 9, 9, 9}
			return hwmodel.Entries{Interfaces: []hwmodel.Interface{v}}
		}, func(sc *scene) fate {
			f := forwarded(sc.pkt, 2)
			copy(f.Frame[6:], []byte{2, 9, 9, 9, 9, 9})
			return f
		}},
		{"neighbor", func(sc *scene) hwmodel.Entries {
			return hwmodel.Entries{Neighbors: []hwmodel.Neighbor{{
				NeighborKey: hwmodel.NeighborKey{Interface: ifaceOf(2), Addr: host4(2)}, MAC: hwmodel.MAC{2, 8, 8, 8, 8, 8}}}}
		}, func(sc *scene) fate {
			f := forwarded(sc.pkt, 2)
			copy(f.Frame, []byte{2, 8, 8, 8, 8, 8})
			return f
		}},
		{"nexthop", func(sc *scene) hwmodel.Entries {
			return hwmodel.Entries{NextHops: []hwmodel.NextHop{{ID: sc.hop().ID, Interface: ifaceOf(3), Gateway: host4(3)}}}
		}, func(sc *scene) fate { return forwarded(sc.pkt, 3) }},
		{"nexthop/trap", func(sc *scene) hwmodel.Entries {
			return hwmodel.Entries{NextHops: []hwmodel.NextHop{{ID: sc.hop().ID, Trap: hwmodel.ReasonSuspect}}}
		}, func(*scene) fate { return trapped(hwmodel.ReasonSuspect) }},
		{"group", func(sc *scene) hwmodel.Entries {
			return hwmodel.Entries{Groups: []hwmodel.Group{oneLeg(2, 4)}}
		}, func(sc *scene) fate { return forwarded(sc.pkt, 4) }},
		{"group/empty", func(sc *scene) hwmodel.Entries {
			return hwmodel.Entries{Groups: []hwmodel.Group{{ID: 2}}}
		}, func(*scene) fate { return trapped(hwmodel.ReasonNextHopDead) }},
		{"route/group", func(sc *scene) hwmodel.Entries {
			return hwmodel.Entries{Routes: []hwmodel.Route{mainRoute(prefix4, 5)}}
		}, func(sc *scene) fate { return forwarded(sc.pkt, 5) }},
		{"route/trap", func(sc *scene) hwmodel.Entries {
			return hwmodel.Entries{Routes: []hwmodel.Route{{RouteKey: sc.target().RouteKey, Reason: hwmodel.ReasonUnreachable}}}
		}, func(*scene) fate { return trapped(hwmodel.ReasonUnreachable) }},
		{"route/drop", func(sc *scene) hwmodel.Entries {
			return hwmodel.Entries{Routes: []hwmodel.Route{{RouteKey: sc.target().RouteKey, Action: hwmodel.RouteDrop, Reason: hwmodel.ReasonBlackhole}}}
		}, func(*scene) fate { return dropped(hwmodel.ReasonBlackhole) }},
		{"rules", func(sc *scene) hwmodel.Entries {
			return hwmodel.Entries{Rules: []hwmodel.Rules{{Family: hwmodel.IPv4, List: []hwmodel.Rule{lookup(77)}}}}
		}, func(*scene) fate { return trapped(hwmodel.ReasonNoRoute) }},
		{"own-address", func(sc *scene) hwmodel.Entries {
			return hwmodel.Entries{Own: []hwmodel.OwnAddress{{Addr: host4(1)}}}
		}, func(*scene) fate { return trapped(hwmodel.ReasonOwnSource) }},
		{"more-specific-route", func(sc *scene) hwmodel.Entries {
			r := mainRoute("10.2.3.0/24", 6)
			return hwmodel.Entries{Routes: []hwmodel.Route{r}}
		}, func(sc *scene) fate { return forwarded(sc.pkt, 6) }},
		{"less-specific-route", func(sc *scene) hwmodel.Entries {
			return hwmodel.Entries{Routes: []hwmodel.Route{mainRoute("10.0.0.0/8", 6)}}
		}, func(sc *scene) fate { return forwarded(sc.pkt, 2) }},
		{"other-table", func(sc *scene) hwmodel.Entries {
			r := mainRoute("10.2.3.4/32", 6)
			r.Table = 9
			return hwmodel.Entries{Routes: []hwmodel.Route{r}}
		}, func(sc *scene) fate { return forwarded(sc.pkt, 2) }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, sc := mk(t, Config{Ports: ports()}), newScene(hwmodel.IPv4)
			s.load(t, sc.Entries)
			s.expect(t, sc.in, sc.pkt.Frame(), forwarded(sc.pkt, 2))
			set := c.set(sc)
			s.apply(t, hwmodel.Batch{Set: set})
			s.expect(t, sc.in, sc.pkt.Frame(), c.want(sc))
			s.apply(t, hwmodel.Batch{Delete: newKeys(&set, &sc.Entries), Set: sc.Entries})
			s.expect(t, sc.in, sc.pkt.Frame(), forwarded(sc.pkt, 2))
			s.holds(t, sc.Entries)
		})
	}
}

// newKeys names what is in a and not in b: routes and own addresses.
func newKeys(a, b *hwmodel.Entries) (k hwmodel.Keys) {
	for _, r := range a.Routes {
		if !slices.ContainsFunc(b.Routes, func(o hwmodel.Route) bool { return o.RouteKey == r.RouteKey }) {
			k.Routes = append(k.Routes, r.RouteKey)
		}
	}
	k.Own = a.Own
	return k
}

// testFull fills each table: what does not fit is refused and the rest goes on.
func testFull(t *testing.T, mk maker) {
	const room = 5
	n := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, 0, byte(i)}) }
	ifaceKey := func(i int) hwmodel.NeighborKey { return hwmodel.NeighborKey{Interface: 1, Addr: n(i)} }
	routeKey := func(i int) hwmodel.RouteKey {
		return hwmodel.RouteKey{Table: hwmodel.TableID(1 + i%2), Prefix: netip.PrefixFrom(n(i), 32)}
	}
	cases := []struct {
		table   hwmodel.Table
		entry   func(e *hwmodel.Entries, i int)
		key     func(k *hwmodel.Keys, i int)
		refusal func(i int) hwmodel.Refusal
	}{
		{hwmodel.TableInterface,
			func(e *hwmodel.Entries, i int) {
				e.Interfaces = append(e.Interfaces, hwmodel.Interface{ID: hwmodel.InterfaceID(i), Port: hwmodel.PortID(i), MTU: 1500})
			},
			func(k *hwmodel.Keys, i int) { k.Interfaces = append(k.Interfaces, hwmodel.InterfaceID(i)) },
			func(i int) hwmodel.Refusal { return hwmodel.Refusal{Interface: hwmodel.InterfaceID(i)} }},
		{hwmodel.TableNeighbor,
			func(e *hwmodel.Entries, i int) {
				e.Neighbors = append(e.Neighbors, hwmodel.Neighbor{NeighborKey: ifaceKey(i)})
			},
			func(k *hwmodel.Keys, i int) { k.Neighbors = append(k.Neighbors, ifaceKey(i)) },
			func(i int) hwmodel.Refusal { return hwmodel.Refusal{Neighbor: ifaceKey(i)} }},
		{hwmodel.TableNextHop,
			func(e *hwmodel.Entries, i int) {
				e.NextHops = append(e.NextHops, hwmodel.NextHop{ID: hwmodel.NextHopID(i), Interface: 1})
			},
			func(k *hwmodel.Keys, i int) { k.NextHops = append(k.NextHops, hwmodel.NextHopID(i)) },
			func(i int) hwmodel.Refusal { return hwmodel.Refusal{NextHop: hwmodel.NextHopID(i)} }},
		{hwmodel.TableGroup,
			func(e *hwmodel.Entries, i int) { e.Groups = append(e.Groups, oneLeg(i, 1)) },
			func(k *hwmodel.Keys, i int) { k.Groups = append(k.Groups, hwmodel.GroupID(i)) },
			func(i int) hwmodel.Refusal { return hwmodel.Refusal{Group: hwmodel.GroupID(i)} }},
		{hwmodel.TableRoute,
			func(e *hwmodel.Entries, i int) {
				e.Routes = append(e.Routes, hwmodel.Route{RouteKey: routeKey(i), Reason: hwmodel.ReasonLocal})
			},
			func(k *hwmodel.Keys, i int) { k.Routes = append(k.Routes, routeKey(i)) },
			func(i int) hwmodel.Refusal { return hwmodel.Refusal{Route: routeKey(i)} }},
		{hwmodel.TableOwnAddress,
			func(e *hwmodel.Entries, i int) { e.Own = append(e.Own, hwmodel.OwnAddress{Addr: n(i)}) },
			func(k *hwmodel.Keys, i int) { k.Own = append(k.Own, hwmodel.OwnAddress{Addr: n(i)}) },
			func(i int) hwmodel.Refusal { return hwmodel.Refusal{} }},
	}
	for _, c := range cases {
		t.Run(c.table.String(), func(t *testing.T) {
			cfg := Config{Ports: ports()}
			cfg.Sizes[c.table] = room
			s := mk(t, cfg)
			caps, err := s.Capabilities(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if caps.Sizes[c.table] != room {
				t.Fatalf("declares %d entries, was made for %d", caps.Sizes[c.table], room)
			}
			some := func(numbers ...int) (e hwmodel.Entries, k hwmodel.Keys) {
				for _, i := range numbers {
					c.entry(&e, i)
					c.key(&k, i)
				}
				return e, k
			}
			refused := func(b hwmodel.Batch, numbers ...int) {
				t.Helper()
				var want []hwmodel.Refusal
				for _, i := range numbers {
					r := c.refusal(i)
					r.Table, r.Reason = c.table, hwmodel.ReasonTableFull
					want = append(want, r)
				}
				r, err := s.Apply(t.Context(), &b)
				if err != nil {
					t.Fatal(err)
				}
				equal(t, "refused", want, r.Refused)
			}
			five, _ := some(1, 2, 3, 4, 5)
			seven, _ := some(1, 2, 3, 4, 5, 6, 7)
			refused(hwmodel.Batch{Set: seven}, 6, 7)
			s.holds(t, five)
			refused(hwmodel.Batch{Set: five}) // replacing needs no room
			_, two := some(2)
			six, _ := some(6)
			refused(hwmodel.Batch{Set: six, Delete: two}, 6) // deletes come last
			refused(hwmodel.Batch{Set: six})
			now, _ := some(1, 3, 4, 5, 6)
			s.holds(t, now)
			mixed, _ := some(7, 3, 8, 1)
			refused(hwmodel.Batch{Set: mixed}, 7, 8)
			s.holds(t, now)
		})
	}
	t.Run("rules", func(t *testing.T) {
		// The size bounds one family's list; a list that is refused is gone.
		cfg := Config{Ports: ports()}
		cfg.Sizes[hwmodel.TableRules] = room
		s, sc := mk(t, cfg), newScene(hwmodel.IPv4)
		s.load(t, sc.Entries)
		long := hwmodel.Rules{Family: hwmodel.IPv4, List: slices.Repeat([]hwmodel.Rule{lookup(mainTable)}, room+1)}
		r, err := s.Apply(t.Context(), &hwmodel.Batch{Set: hwmodel.Entries{Rules: []hwmodel.Rules{long}}})
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "refused", []hwmodel.Refusal{{Table: hwmodel.TableRules, Reason: hwmodel.ReasonTableFull, Family: hwmodel.IPv4}}, r.Refused)
		s.expect(t, sc.in, sc.pkt.Frame(), trapped(hwmodel.ReasonNotProgrammed))
		six := newScene(hwmodel.IPv6)
		s.expect(t, six.in, six.pkt.Frame(), forwarded(six.pkt, 2))
		long.List = long.List[:room]
		s.apply(t, hwmodel.Batch{Set: hwmodel.Entries{Rules: []hwmodel.Rules{long}}})
		s.expect(t, sc.in, sc.pkt.Frame(), forwarded(sc.pkt, 2))
	})
	t.Run("too-wide-group", func(t *testing.T) {
		s, sc := mk(t, Config{Ports: ports()}), newScene(hwmodel.IPv4)
		s.load(t, sc.Entries)
		caps, err := s.Capabilities(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wide := hwmodel.Group{ID: 2, Legs: slices.Repeat([]hwmodel.Leg{{NextHop: 2, Weight: 1}}, caps.MaxLegs)}
		s.apply(t, hwmodel.Batch{Set: hwmodel.Entries{Groups: []hwmodel.Group{wide}}})
		s.expect(t, sc.in, sc.pkt.Frame(), forwarded(sc.pkt, 2))
		wide.Legs = append(wide.Legs, wide.Legs[0])
		r, err := s.Apply(t.Context(), &hwmodel.Batch{Set: hwmodel.Entries{Groups: []hwmodel.Group{wide, oneLeg(3, 4)}}})
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "refused", []hwmodel.Refusal{{Table: hwmodel.TableGroup, Reason: hwmodel.ReasonTooWide, Group: 2}}, r.Refused)
		s.expectTrap(t, sc.in, sc.pkt.Frame()) // the older value went
		sc.pkt.To = host4(3)
		s.expect(t, sc.in, sc.pkt.Frame(), forwarded(sc.pkt, 3)) // the rest of the batch came
	})
}

package resolve

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"antiphon/hwmodel"
	"antiphon/netstate"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/mdlayher/netlink"
)

func (w *world) fate(k netstate.Key, want Standing, why hwmodel.Reason) {
	w.Helper()
	w.Plan()
	f, ok := w.Fate(k)
	if !ok || f.Standing != want || f.Reason != why {
		w.Errorf("fate %v %v (%s) known=%v, want %v %v", f.Standing, f.Reason, f.Detail, ok, want, why)
	}
}

func TestRouteForwards(t *testing.T) {
	w := newWorld(t, "swp1", "swp2")
	nb := w.neighbor(2, "192.0.2.9", nudReachable)
	k := w.route(routeSpec{dst: "10.1.0.0/16", legs: []legSpec{{dev: 2, gw: "192.0.2.9"}}, mtu: 1400})
	e := w.Plan()
	if len(e.Interfaces) != 2 || len(e.Neighbors) != 1 || len(e.Groups) != 1 || len(e.NextHops) != 1 || len(e.Routes) != 1 || len(e.Rules) != 2 || e.Settings == nil {
		t.Fatalf("plan %+v", e)
	}
	route := e.Routes[0]
	if route.Action != hwmodel.RouteForward || route.MTU != 1400 || route.Group != e.Groups[0].ID || route.Counter == 0 {
		t.Errorf("route %+v", route)
	}
	if h := e.NextHops[0]; h.Interface != 2 || h.Gateway != netip.MustParseAddr("192.0.2.9") || h.Trap != 0 {
		t.Errorf("next hop %+v", h)
	}
	if n := e.Neighbors[0]; n.MAC != (hwmodel.MAC{2, 0, 0, 1, 0, 9}) {
		t.Errorf("neighbour %+v", n)
	}
	if s := *e.Settings; s.Trap4 != 0 || s.Trap6 != 0 || !s.SeedKnown || s.HashSeed != 7 {
		t.Errorf("settings %+v", s)
	}
	w.fate(k, Offloaded, 0)
	w.fate(nb, Offloaded, 0)

	// One neighbour change is one entry, however many routes use it.
	for i := range 50 {
		w.route(routeSpec{dst: fmt.Sprintf("10.2.%d.0/24", i), legs: []legSpec{{dev: 2, gw: "192.0.2.9"}}})
	}
	w.Plan()
	w.neighbor(2, "192.0.2.9", 0x20 /* FAILED */)
	b := w.Next()
	if b.Set.Len() != 0 || b.Delete.Len() != 1 {
		t.Errorf("batch %+v", b)
	}
	w.fate(k, Trapped, hwmodel.ReasonNeighborUnresolved)
	w.fate(nb, Trapped, hwmodel.ReasonNeighborUnresolved)
	w.gone(k)
	if _, held := w.routes()["10.1.0.0/16"]; held {
		t.Error("a route that is gone is held")
	}
}

func TestRouteReasons(t *testing.T) {
	leg := []legSpec{{dev: 1}}
	for name, c := range map[string]struct {
		spec   routeSpec
		action hwmodel.RouteAction
		why    hwmodel.Reason
	}{
		"unicast":     {routeSpec{legs: leg}, hwmodel.RouteForward, 0},
		"blackhole":   {routeSpec{typ: rtnBlackhole}, hwmodel.RouteDrop, hwmodel.ReasonBlackhole},
		"unreachable": {routeSpec{typ: rtnUnreachable}, hwmodel.RouteTrap, hwmodel.ReasonUnreachable},
		"prohibit":    {routeSpec{typ: rtnProhibit}, hwmodel.RouteTrap, hwmodel.ReasonProhibit},
		"throw":       {routeSpec{typ: rtnThrow}, hwmodel.RouteThrow, 0},
		"local":       {routeSpec{typ: rtnLocal, legs: leg}, hwmodel.RouteTrap, hwmodel.ReasonLocal},
		"broadcast":   {routeSpec{typ: rtnBroadcast, legs: leg}, hwmodel.RouteTrap, hwmodel.ReasonNotForwardable},
		"tos":         {routeSpec{tos: 0x10, legs: leg}, hwmodel.RouteTrap, hwmodel.ReasonRouteTOS},
		"suspect":     {routeSpec{suspect: true, legs: leg}, hwmodel.RouteTrap, hwmodel.ReasonSuspect},
		"host scope":  {routeSpec{scope: rtScopeHost, legs: leg}, hwmodel.RouteTrap, hwmodel.ReasonNotForwardable},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "swp1")
			c.spec.dst = "10.0.0.0/8"
			k := w.route(c.spec)
			got := w.routes()["10.0.0.0/8"]
			if got.Action != c.action || got.Reason != c.why {
				t.Errorf("got %+v", got)
			}
			if c.action == hwmodel.RouteTrap {
				w.fate(k, Trapped, c.why)
			} else {
				w.fate(k, Offloaded, 0)
			}
		})
	}
}

func TestMetricsAndTOSOfOnePrefix(t *testing.T) {
	w := newWorld(t, "swp1", "swp2")
	worse := w.route(routeSpec{dst: "10.0.0.0/8", metric: 20, legs: []legSpec{{dev: 2}}})
	better := w.route(routeSpec{dst: "10.0.0.0/8", metric: 10, legs: []legSpec{{dev: 1}}})
	w.fate(better, Offloaded, 0)
	w.fate(worse, Trapped, hwmodel.ReasonShadowed)
	w.gone(better)
	w.fate(worse, Offloaded, 0)
	tos := w.route(routeSpec{dst: "10.0.0.0/8", tos: 4, legs: []legSpec{{dev: 1}}})
	w.fate(worse, Trapped, hwmodel.ReasonRouteTOS)
	w.gone(tos)
	w.fate(worse, Offloaded, 0)
	// A suspect that would be chosen before: both in doubt.
	w.route(routeSpec{dst: "10.0.0.0/8", metric: 30, suspect: true, legs: []legSpec{{dev: 1}}})
	if r := w.routes()["10.0.0.0/8"]; r.Reason != hwmodel.ReasonSuspect {
		t.Errorf("got %+v", r)
	}
}

func TestLocalIsPartOfMainAndOverlapsTrap(t *testing.T) {
	w := newWorld(t, "swp1", "swp2")
	local := w.route(routeSpec{dst: "10.0.0.1/32", table: tableLocal, typ: rtnLocal, scope: rtScopeHost, legs: []legSpec{{dev: 1}}})
	w.fate(local, Trapped, hwmodel.ReasonLocal)
	if r := w.routes()["10.0.0.1/32"]; r.Reason != hwmodel.ReasonLocal {
		t.Errorf("main does not carry the local prefix: %+v", r)
	}
	if own := w.Plan().Own; len(own) != 1 || own[0].Addr != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("own addresses %v", own)
	}
	in := w.route(routeSpec{dst: "10.1.1.0/24", legs: []legSpec{{dev: 2}}})
	w.fate(in, Offloaded, 0)
	if w.Plan().Interfaces[0].SourceCheck {
		t.Error("source check without custom rules")
	}
	wide := w.route(routeSpec{dst: "10.1.0.0/16", table: tableLocal, typ: rtnLocal, scope: rtScopeHost, legs: []legSpec{{dev: 1}}})
	w.fate(in, Trapped, hwmodel.ReasonLocalMainOverlap)
	if !w.Plan().Interfaces[0].SourceCheck {
		t.Error("custom local route does not make the full source check")
	}
	w.gone(wide)
	w.fate(in, Offloaded, 0)
	w.gone(local)
	if p := w.Plan(); len(p.Own) != 0 || len(p.Routes) != 1 {
		t.Errorf("left over: %+v", p)
	}
}

func TestDeadLegs(t *testing.T) {
	w := newWorld(t, "swp1", "swp2")
	w.neighbor(1, "192.0.2.1", nudReachable)
	w.neighbor(2, "192.0.2.5", nudReachable)
	a1 := w.address(1, "192.0.2.2/30")
	w.address(2, "192.0.2.6/30")
	k := w.route(routeSpec{dst: "10.0.0.0/8", legs: []legSpec{{dev: 1, gw: "192.0.2.1", weight: 3}, {dev: 2, gw: "192.0.2.5"}}})
	dead := func() (out []bool) {
		w.Helper()
		for _, l := range w.Plan().Groups[0].Legs {
			out = append(out, l.Dead)
		}
		return out
	}
	if got := dead(); !slices.Equal(got, []bool{false, false}) {
		t.Errorf("dead %v", got)
	}
	w.link(2, "swp2", iffUp, nil) // no carrier: alive unless the sysctl says otherwise
	if got := dead(); !slices.Equal(got, []bool{false, false}) {
		t.Errorf("dead %v", got)
	}
	w.set["net.ipv4.conf.swp2.ignore_routes_with_linkdown"] = "1"
	w.settings()
	if got := dead(); !slices.Equal(got, []bool{false, true}) {
		t.Errorf("dead %v", got)
	}
	w.fate(k, Offloaded, 0)
	w.link(1, "swp1", 0, nil)
	if got := dead(); !slices.Equal(got, []bool{true, true}) {
		t.Errorf("dead %v", got)
	}
	w.fate(k, Trapped, hwmodel.ReasonInterfaceDown)
	w.link(1, "swp1", iffUp|iffLowerUp, nil)
	w.fate(k, Offloaded, 0)
	w.gone(a1) // marks the leg dead in silence
	w.fate(k, Trapped, hwmodel.ReasonSuspect)
}

func TestNexthopObjects(t *testing.T) {
	w := newWorld(t, "swp1", "swp2")
	w.neighbor(1, "192.0.2.1", nudReachable)
	w.neighbor(2, "192.0.2.5", nudPermanent)
	r := w.route(routeSpec{dst: "10.0.0.0/8", nhid: 9}) // forward reference
	w.fate(r, Trapped, hwmodel.ReasonMissingNexthop)
	g := w.nexthop(9, groupOf(1, 2))
	w.fate(g, Trapped, hwmodel.ReasonMissingNexthop)
	n1 := w.nexthop(1, via(1, "192.0.2.1"))
	w.fate(r, Offloaded, 0) // one leg of two
	w.nexthop(2, via(2, "192.0.2.5"))
	w.fate(r, Offloaded, 0)
	for _, k := range []netstate.Key{g, n1} {
		w.fate(k, Offloaded, 0)
	}
	before := w.Plan()
	w.nexthop(2, via(1, "192.0.2.1"))
	b := w.Next()
	if len(b.Set.Routes) != 0 || len(b.Set.Groups) != 1 {
		t.Errorf("replacing a nexthop rewrites %+v", b)
	}
	w.gone(n1)
	w.gone(g)
	w.fate(r, Trapped, hwmodel.ReasonMissingNexthop)
	w.gone(r)
	if p := w.Plan(); len(p.Groups) != 0 || len(p.NextHops) != 0 || len(p.Routes) != 0 {
		t.Errorf("left over %+v, before %+v", p, before)
	}
}

func TestRules(t *testing.T) {
	w := newWorld(t, "swp1", "swp2")
	list := func() []hwmodel.Rule {
		for _, x := range w.Plan().Rules {
			if x.Family == hwmodel.IPv4 {
				return x.List
			}
		}
		return nil
	}
	if got := list(); len(got) != 1 || got[0].Table != tableMain || got[0].Action != hwmodel.RuleLookup {
		t.Fatalf("default rules %+v", got)
	}
	selected := func(more ...func(*netlink.AttributeEncoder)) func(*netlink.AttributeEncoder) {
		return func(ae *netlink.AttributeEncoder) {
			for _, m := range more {
				m(ae)
			}
		}
	}
	iif := func(n string) func(*netlink.AttributeEncoder) {
		return func(ae *netlink.AttributeEncoder) { ae.String(3, n) }
	}
	mark := func(ae *netlink.AttributeEncoder) { ae.Uint32(10, 1); ae.Uint32(16, 0xffffffff) }
	proto := func(ae *netlink.AttributeEncoder) { ae.Uint8(22, 6) }
	a := w.rule(afInet, 100, 100, iif("swp2"))
	got := list()
	if len(got) != 3 || got[0].Table != tableLocal || got[1].In != 2 || got[1].Table != 100 || got[2].Table != tableMain {
		t.Fatalf("rules %+v", got)
	}
	w.fate(a, Offloaded, 0)
	if !w.Plan().Interfaces[0].SourceCheck {
		t.Error("custom rules do not make the full source check")
	}
	w.gone(a)
	never := w.rule(afInet, 100, 100, mark)
	if got := list(); len(got) != 2 {
		t.Errorf("a rule that no packet can match is held: %+v", got)
	}
	w.gone(never)
	inexact := w.rule(afInet, 100, 100, selected(proto, iif("swp1")))
	if got := list(); got[1].Action != hwmodel.RuleTrap || got[1].Reason != hwmodel.ReasonRuleSelector || got[1].In != 1 {
		t.Errorf("rules %+v", got)
	}
	w.fate(inexact, Trapped, hwmodel.ReasonRuleSelector)
	w.gone(inexact)
	// Two rules of one preference: order unknown.
	x, y := w.rule(afInet, 100, 100, iif("swp1")), w.rule(afInet, 100, 101, iif("swp2"))
	w.fate(x, Trapped, hwmodel.ReasonRuleSelector)
	w.gone(y)
	w.fate(x, Offloaded, 0)
	w.gone(x)
	if got := list(); len(got) != 1 {
		t.Errorf("not back to the default: %+v", got)
	}
	w.route(routeSpec{dst: "0.0.0.0/0", table: tableDefault, legs: []legSpec{{dev: 1}}})
	if got := list(); len(got) != 2 || got[1].Table != tableDefault {
		t.Errorf("table default is not looked up: %+v", got)
	}
}

func TestPresencesTrap(t *testing.T) {
	w := newWorld(t, "swp1", "swp2")
	w.neighbor(2, "192.0.2.9", nudReachable)
	k := w.route(routeSpec{dst: "10.1.0.0/16", legs: []legSpec{{dev: 2, gw: "192.0.2.9"}}})
	w.fate(k, Offloaded, 0)
	w.settings(netstate.Presence{What: "nftables", Family: afInet, Detail: "table ip f chain fwd"})
	w.fate(k, Trapped, hwmodel.ReasonUnmirroredNftables)
	if s := w.Plan().Settings; s.Trap4 != hwmodel.ReasonUnmirroredNftables || s.Trap6 != 0 {
		t.Errorf("settings %+v", s)
	}
	w.settings(netstate.Presence{What: "tc", Ifindex: 2, Egress: true})
	for _, i := range w.Plan().Interfaces {
		want := hwmodel.ReasonNone
		if i.ID == 2 {
			want = hwmodel.ReasonUnmirroredTC
		}
		if i.Out4 != want || i.In4 != 0 {
			t.Errorf("interface %+v", i)
		}
	}
	w.settings(netstate.Presence{What: "something new"})
	w.fate(k, Trapped, hwmodel.ReasonUnmirroredUnknown)
	w.settings()
	w.fate(k, Offloaded, 0)
	w.Resync(true)
	w.fate(k, Trapped, hwmodel.ReasonResync)
	w.Resync(false)
	// A macvlan on swp1, then swp1 in a bridge.
	up := w.link(7, "mv0", iffUp|iffLowerUp, func(ae *netlink.AttributeEncoder) { ae.Uint32(5, 1) })
	if got := w.interfaceOf(1).In4; got != hwmodel.ReasonUnmirroredUpper {
		t.Errorf("upper: %v", got)
	}
	w.gone(up)
	if got := w.interfaceOf(1).In4; got != 0 {
		t.Errorf("upper gone: %v", got)
	}
	w.link(1, "swp1", iffUp|iffLowerUp, func(ae *netlink.AttributeEncoder) { ae.Uint32(10, 8) })
	if i := w.interfaceOf(1); i.In4 != hwmodel.ReasonUnmirroredMaster || i.Out6 != hwmodel.ReasonUnmirroredMaster {
		t.Errorf("master: %+v", i)
	}
}

func (w *world) interfaceOf(id hwmodel.InterfaceID) hwmodel.Interface {
	for _, i := range w.Plan().Interfaces {
		if i.ID == id {
			return i
		}
	}
	w.Fatalf("no interface %d", id)
	return hwmodel.Interface{}
}

var sorted = []cmp.Option{
	cmpopts.SortSlices(func(a, b any) bool { return fmt.Sprint(a) < fmt.Sprint(b) }),
	cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}),
}

// A second agent that finds the device as the first left it writes nothing (I9)
// and goes on counting; one that finds it empty writes everything.
func TestAdopt(t *testing.T) {
	fill := func(w *world) netstate.Key {
		w.neighbor(1, "192.0.2.1", nudReachable)
		w.neighbor(2, "192.0.2.5", nudReachable)
		w.nexthop(1, via(1, "192.0.2.1"))
		w.nexthop(2, via(2, "192.0.2.5"))
		w.nexthop(9, groupOf(1, 2))
		w.route(routeSpec{dst: "10.9.0.0/16", nhid: 9})
		w.route(routeSpec{dst: "10.8.0.0/16", legs: []legSpec{{dev: 77}}})
		return w.route(routeSpec{dst: "10.1.0.0/16", legs: []legSpec{{dev: 2, gw: "192.0.2.5"}}})
	}
	a := newWorld(t, "swp1", "swp2")
	k := fill(a)
	held := a.Plan()
	var id hwmodel.CounterID
	for _, r := range held.Routes {
		if r.Prefix.String() == "10.1.0.0/16" {
			id = r.Counter
		}
	}
	b := newWorld(t, "swp1", "swp2")
	b.Adopt(a.caps, held)
	if fill(b) != k {
		t.Fatal("keys differ")
	}
	if batch := b.Next(); batch != nil {
		t.Errorf("writes into an unchanged device: %+v", batch)
	}
	if diff := cmp.Diff(held, b.Plan(), sorted...); diff != "" {
		t.Error(diff)
	}
	count := func(n uint64) hwmodel.CounterReport {
		return hwmodel.CounterReport{Counters: []hwmodel.Counter{{ID: id, Packets: n, Bytes: 100 * n, LastUsed: n}}}
	}
	if moved := b.Counters(count(5)); len(moved) != 1 || moved[0].Key != k || moved[0].Packets != 5 {
		t.Errorf("moved %+v", moved)
	}
	// The device starts again, empty.
	b.Adopt(a.caps, &hwmodel.Entries{})
	if batch := b.Next(); batch == nil || batch.Set.Len() != held.Len() {
		t.Errorf("an empty device gets %+v, want %d entries", batch, held.Len())
	}
	b.Counters(count(2))
	if n := b.Count(k); n.Packets != 7 || n.Bytes != 700 {
		t.Errorf("count %+v after a restart, want 5+2", n)
	}
	b.gone(k)
	if moved := b.Counters(hwmodel.CounterReport{}); len(moved) != 1 || !moved[0].Gone || moved[0].Packets != 7 {
		t.Errorf("moved %+v", moved)
	}
}

// A full table never lets a less specific entry take over (I13): whatever the
// order of events, an independent longest-prefix match over all kernel routes
// agrees with the device's, or the device traps.
func TestFullTableIsSafe(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 30 {
		w := newWorld(t, "swp1", "swp2", "swp3")
		w.caps.Sizes[hwmodel.TableRoute] = 8
		live := map[netip.Prefix]netstate.Key{}
		dev := map[netip.Prefix]uint32{}
		for range 120 {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(rng.IntN(2)) << 7, byte(rng.IntN(2)) << 7, 0}), rng.IntN(25)).Masked()
			if k, ok := live[p]; ok && rng.IntN(2) == 0 {
				w.gone(k)
				delete(live, p)
				delete(dev, p)
			} else {
				d := uint32(1 + rng.IntN(3))
				live[p] = w.route(routeSpec{dst: p.String(), legs: []legSpec{{dev: d}}})
				dev[p] = d
			}
			for b := w.Next(); b != nil; b = w.Next() {
				checkSafe(t, w, dev)
			}
			failed := 0
			for p, k := range live {
				if f, _ := w.Fate(k); f.Standing == Failed {
					failed++
					if f.Reason != hwmodel.ReasonTableFull {
						t.Fatalf("%v failed: %v", p, f.Reason)
					}
				}
			}
			if n := len(w.tRoute.installed); n > 8 || failed != max(0, len(live)-8) {
				t.Fatalf("%d installed, %d failed of %d", n, failed, len(live))
			}
		}
	}
}

func checkSafe(t *testing.T, w *world, dev map[netip.Prefix]uint32) {
	t.Helper()
	held := w.held()
	groups := map[hwmodel.GroupID]uint32{}
	for id, g := range w.groupIDs {
		groups[id] = g.legs[0].oif
	}
	trapped := false
	for _, r := range held.Rules {
		if r.Family == hwmodel.IPv4 {
			trapped = r.List[0].Action == hwmodel.RuleTrap
		}
	}
	for i := range 8 {
		addr := netip.AddrFrom4([4]byte{10, byte(i&1) << 7, byte(i&2) << 6, byte(i & 4)})
		kernel, bits := uint32(0), -1
		for p, d := range dev {
			if p.Contains(addr) && p.Bits() > bits {
				kernel, bits = d, p.Bits()
			}
		}
		device, dbits := uint32(0), -1
		for _, r := range held.Routes {
			if r.Table == tableMain && r.Prefix.Contains(addr) && r.Prefix.Bits() > dbits {
				dbits, device = r.Prefix.Bits(), 0
				if r.Action == hwmodel.RouteForward {
					device = groups[r.Group]
				}
			}
		}
		if device != 0 && !trapped && device != kernel {
			t.Fatalf("%v: device sends to %d, kernel to %d\n%+v", addr, device, kernel, held.Routes)
		}
	}
}

// Whatever the order of changes, the plan is the one a fresh resolver makes from
// the final rows.
func TestIncrementalEqualsFresh(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	w := newWorld(t, "swp1", "swp2", "swp3")
	rows := map[netstate.Key][]byte{}
	put := func(k netstate.Key, raw []byte) { rows[k] = raw }
	for range 1500 {
		dev := uint32(1 + rng.IntN(4))
		gw := fmt.Sprintf("192.0.2.%d", rng.IntN(4))
		switch op := rng.IntN(6); {
		case op == 0 && len(rows) > 0:
			for k := range rows {
				w.gone(k)
				delete(rows, k)
				break
			}
		case op == 1:
			raw := message(t, 28, append([]byte{afInet, 0, 0, 0, byte(dev), 0, 0, 0}, byte([]int{2, 4, 0x20, 0x80}[rng.IntN(4)]), 0, 0, 1), func(ae *netlink.AttributeEncoder) {
				ae.Bytes(1, netip.MustParseAddr(gw).AsSlice())
				ae.Bytes(2, []byte{2, 0, 0, 9, 9, byte(dev)})
			})
			put(w.row(raw), raw)
		case op == 2:
			raw := message(t, 104, []byte{afInet, 0, 0, 0, 0, 0, 0, 0}, func(ae *netlink.AttributeEncoder) {
				ae.Uint32(1, 1+uint32(rng.IntN(3)))
				via(dev, gw)(ae)
			})
			put(w.row(raw), raw)
		case op == 3:
			raw := message(t, 104, []byte{afInet, 0, 0, 0, 0, 0, 0, 0}, func(ae *netlink.AttributeEncoder) {
				ae.Uint32(1, 4+uint32(rng.IntN(2)))
				groupOf(1, 2, 3)(ae)
			})
			put(w.row(raw), raw)
		default:
			s := routeSpec{dst: fmt.Sprintf("10.%d.0.0/16", rng.IntN(5)), metric: uint32(rng.IntN(3)), tos: uint8(rng.IntN(20) / 19 * 4)}
			switch rng.IntN(4) {
			case 0:
				s.nhid = 1 + uint32(rng.IntN(5))
			case 1:
				s.legs = []legSpec{{dev: dev, gw: gw}, {dev: 1 + uint32(rng.IntN(3)), weight: 2}}
			case 2:
				s.legs = []legSpec{{dev: dev}}
			case 3:
				s.table, s.typ, s.scope, s.legs = tableLocal, rtnLocal, rtScopeHost, []legSpec{{dev: dev}}
			}
			raw := w.message(s)
			put(w.row(raw), raw)
		}
		if rng.IntN(3) == 0 {
			w.Next()
		}
	}
	fresh := newWorld(t, "swp1", "swp2", "swp3")
	for _, raw := range rows {
		fresh.row(raw)
	}
	anyCounter := cmpopts.IgnoreFields(hwmodel.Route{}, "Counter")
	opts := append([]cmp.Option{anyCounter, cmpopts.IgnoreFields(hwmodel.Group{}, "Counter"), cmpopts.IgnoreFields(hwmodel.Neighbor{}, "Counter")},
		cmpopts.SortSlices(func(a, b any) bool { return sortKey(a) < sortKey(b) }), sorted[1])
	if diff := cmp.Diff(fresh.Plan(), w.Plan(), opts...); diff != "" {
		t.Errorf("incremental differs from fresh (seed %d):\n%s", seed, diff)
	}
}

func sortKey(x any) string {
	switch v := x.(type) {
	case hwmodel.Route:
		v.Counter = 0
		return fmt.Sprint(v.RouteKey)
	case hwmodel.Group:
		return fmt.Sprint(v.ID)
	case hwmodel.Neighbor:
		return fmt.Sprint(v.NeighborKey)
	}
	return fmt.Sprint(x)
}

// With forwarding off on every port no route is in use, whatever the device holds.
func TestNothingGetsIn(t *testing.T) {
	w := newWorld(t, "swp1", "swp2")
	w.neighbor(2, "192.0.2.9", nudReachable)
	k := w.route(routeSpec{dst: "10.1.0.0/16", legs: []legSpec{{dev: 2, gw: "192.0.2.9"}}})
	w.set["net.ipv4.conf.swp1.forwarding"] = "0"
	w.settings()
	w.fate(k, Offloaded, 0)
	w.set["net.ipv4.conf.swp2.forwarding"] = "0"
	w.settings()
	w.fate(k, Trapped, hwmodel.ReasonForwardingOff)
}

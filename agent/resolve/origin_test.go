package resolve

import (
	"net/netip"
	"testing"

	"antiphon/hwmodel"
	"antiphon/netstate"
)

// TestOrigin: every entry leads back to the row that it was made from.
func TestOrigin(t *testing.T) {
	w := newWorld(t, "swp1", "swp2")
	neighbor := w.neighbor(1, "192.0.2.1", nudReachable)
	n1, n2 := w.nexthop(1, via(1, "192.0.2.1")), w.nexthop(2, via(2, "192.0.2.5"))
	group := w.nexthop(9, groupOf(1, 2))
	by := w.route(routeSpec{dst: "10.0.0.0/8", nhid: 9})
	inline := w.route(routeSpec{dst: "10.1.0.0/16", legs: []legSpec{{dev: 2, gw: "192.0.2.9"}}})
	rule := w.rule(afInet, 77, tableMain, nil)
	plan := w.Plan()
	want := func(what string, e Entry, want netstate.Key, known bool) {
		t.Helper()
		if got, ok := w.Origin(e); ok != known || known && got != want {
			t.Errorf("%s: %v (%v), want %v (%v)", what, got, ok, want, known)
		}
	}
	want("rule", Entry{Table: hwmodel.TableRules, Family: hwmodel.IPv4, Priority: 77}, rule, true)
	want("rule of the other family", Entry{Table: hwmodel.TableRules, Family: hwmodel.IPv6, Priority: 77}, rule, false)
	want("interface", Entry{Table: hwmodel.TableInterface, Interface: 2}, netstate.Key{Kind: netstate.KindLink, ID: 2}, true)
	want("neighbour", Entry{Table: hwmodel.TableNeighbor, Neighbor: hwmodel.NeighborKey{Interface: 1, Addr: netip.MustParseAddr("192.0.2.1")}}, neighbor, true)
	want("no neighbour", Entry{Table: hwmodel.TableNeighbor, Neighbor: hwmodel.NeighborKey{Interface: 2, Addr: netip.MustParseAddr("192.0.2.1")}}, neighbor, false)
	want("no route", Entry{Table: hwmodel.TableRoute, Route: hwmodel.RouteKey{Table: tableMain, Prefix: netip.MustParsePrefix("10.2.0.0/16")}}, by, false)
	routes := w.routes()
	for prefix, k := range map[string]netstate.Key{"10.0.0.0/8": by, "10.1.0.0/16": inline} {
		want(prefix, Entry{Table: hwmodel.TableRoute, Route: routes[prefix].RouteKey}, k, true)
	}
	objects := routes["10.0.0.0/8"].Group
	want("group of objects", Entry{Table: hwmodel.TableGroup, Group: objects}, group, true)
	want("group of a route's own legs", Entry{Table: hwmodel.TableGroup, Group: routes["10.1.0.0/16"].Group}, group, false)
	for _, h := range plan.NextHops {
		switch {
		case h.Interface == 1:
			want("next hop of the first member", Entry{Table: hwmodel.TableNextHop, Group: objects, NextHop: h.ID}, n1, true)
		case h.Gateway == netip.MustParseAddr("192.0.2.5"):
			want("next hop of the second member", Entry{Table: hwmodel.TableNextHop, Group: objects, NextHop: h.ID}, n2, true)
		default:
			want("next hop of a route's own leg", Entry{Table: hwmodel.TableNextHop, Group: routes["10.1.0.0/16"].Group, NextHop: h.ID}, n1, false)
		}
	}
}

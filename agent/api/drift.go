package api

import (
	"fmt"
	"net/netip"
	"slices"

	"antiphon/agent/resolve"
	"antiphon/hwmodel"
	"antiphon/netstate"
)

// refusals are what the agent knows that the device did not take: no drift.
type refusals struct {
	routes     map[hwmodel.RouteKey]bool
	neighbors  map[hwmodel.NeighborKey]bool
	interfaces map[hwmodel.InterfaceID]bool
	// others: a refused nexthop or rule. Groups and next hops have no row of
	// their own, so any refusal excuses one that is missing.
	rules  map[hwmodel.Family]bool
	groups bool
	// full: the route table has no room. Then routes may be missing that have no
	// row of their own (the main table carries the local one's prefixes), each
	// covered by a trap.
	full bool
	held map[hwmodel.RouteKey]hwmodel.RouteAction
}

// tableIsFull notes what a full route table holds.
func (r *refusals) tableIsFull(held []hwmodel.Route) {
	r.full, r.groups = true, true
	r.rules[hwmodel.IPv4], r.rules[hwmodel.IPv6] = true, true
	r.held = make(map[hwmodel.RouteKey]hwmodel.RouteAction, len(held))
	for _, x := range held {
		r.held[x.RouteKey] = x.Action
	}
}

// route says that a difference of a route is a known refusal, and a safe one.
func (r *refusals) route(want, have *hwmodel.Route) bool {
	switch {
	case have != nil && have.Action != hwmodel.RouteTrap:
		return false
	case r.routes[want.RouteKey]:
		return true
	case !r.full:
		return false
	case have != nil:
		return have.Reason == hwmodel.ReasonCoversRefused
	}
	return r.covered(want.RouteKey)
}

// covered says that no less specific route forwards what a missing one should get.
func (r *refusals) covered(k hwmodel.RouteKey) bool {
	for bits := k.Prefix.Bits() - 1; bits >= 0; bits-- {
		up := hwmodel.RouteKey{Table: k.Table, Prefix: netip.PrefixFrom(k.Prefix.Addr(), bits).Masked()}
		if action, ok := r.held[up]; ok {
			return action == hwmodel.RouteTrap
		}
	}
	return true // its rule traps, or the comparison of rules tells
}

// expected collects the refusals that the agent tells of.
func expected(fates map[netstate.Key]resolve.Fate) refusals {
	r := refusals{routes: map[hwmodel.RouteKey]bool{}, neighbors: map[hwmodel.NeighborKey]bool{}, interfaces: map[hwmodel.InterfaceID]bool{}, rules: map[hwmodel.Family]bool{}}
	for k, f := range fates {
		if f.Standing != resolve.Failed && f.Reason != hwmodel.ReasonCoversRefused {
			continue
		}
		switch k.Kind {
		case netstate.KindLink:
			r.interfaces[hwmodel.InterfaceID(k.ID)] = true
		case netstate.KindNeighbor:
			r.neighbors[hwmodel.NeighborKey{Interface: hwmodel.InterfaceID(k.ID), Addr: keyAddr(k)}] = true
		case netstate.KindRoute:
			r.routes[hwmodel.RouteKey{Table: hwmodel.TableID(k.ID), Prefix: keyPrefix(k)}] = true
			if k.ID == tableLocal { // the device's main table carries it too
				r.routes[hwmodel.RouteKey{Table: tableMain, Prefix: keyPrefix(k)}] = true
			}
			r.groups = true
			r.rules[familyOf(k)] = true // a table that is not whole makes its rules trap
		case netstate.KindRule:
			r.rules[familyOf(k)] = true
		case netstate.KindNexthop:
			r.groups = true
		}
	}
	return r
}

func familyOf(k netstate.Key) hwmodel.Family {
	if k.Family == familyIPv6 {
		return hwmodel.IPv6
	}
	return hwmodel.IPv4
}

// compareDevice holds the device's entries against what they should be. Counter
// identifiers are the agent's own business, and so are left out. An entry that
// only differs by what the device could not take is no drift, provided that it
// traps: it is absent or a trap.
func (a *VerifyAnswer) compareDevice(want, held *hwmodel.Entries, refused refusals, n *names) {
	var settings []hwmodel.Settings
	if held.Settings != nil {
		settings = append(settings, *held.Settings)
	}
	table(a, "settings", []hwmodel.Settings{*want.Settings}, settings,
		func(hwmodel.Settings) string { return "settings" }, func(x hwmodel.Settings) hwmodel.Settings { return x }, nil)
	table(a, "interface", want.Interfaces, held.Interfaces,
		func(x hwmodel.Interface) string { return n.name(uint32(x.ID)) },
		func(x hwmodel.Interface) hwmodel.Interface { return x },
		func(w, h *hwmodel.Interface) bool { return h == nil && refused.interfaces[w.ID] })
	table(a, "neighbor", want.Neighbors, held.Neighbors,
		func(x hwmodel.Neighbor) string { return fmt.Sprintf("%v dev %s", x.Addr, n.name(uint32(x.Interface))) },
		func(x hwmodel.Neighbor) hwmodel.Neighbor { x.Counter = 0; return x },
		func(w, h *hwmodel.Neighbor) bool { return h == nil && refused.neighbors[w.NeighborKey] })
	table(a, "next-hop", want.NextHops, held.NextHops,
		func(x hwmodel.NextHop) string { return fmt.Sprint(x.ID) },
		func(x hwmodel.NextHop) hwmodel.NextHop { return x },
		func(w, h *hwmodel.NextHop) bool { return h == nil && refused.groups })
	table(a, "group", want.Groups, held.Groups,
		func(x hwmodel.Group) string { return fmt.Sprint(x.ID) },
		func(x hwmodel.Group) string { x.Counter = 0; return fmt.Sprintf("%+v", x) },
		func(w, h *hwmodel.Group) bool { return h == nil && refused.groups })
	table(a, "route", want.Routes, held.Routes,
		func(x hwmodel.Route) string {
			return fmt.Sprintf("%v table %s", x.Prefix, netstate.TableName(uint32(x.Table)))
		},
		func(x hwmodel.Route) hwmodel.Route { x.Counter = 0; return x },
		refused.route)
	table(a, "rules", want.Rules, held.Rules,
		func(x hwmodel.Rules) string { return fmt.Sprintf("ipv%d", x.Family) },
		func(x hwmodel.Rules) string { return fmt.Sprintf("%+v", x) },
		func(w, h *hwmodel.Rules) bool {
			return w != nil && refused.rules[w.Family] && (h == nil || saferRules(w.List, h.List))
		})
	table(a, "own-address", want.Own, held.Own,
		func(x hwmodel.OwnAddress) string { return x.Addr.String() },
		func(x hwmodel.OwnAddress) hwmodel.OwnAddress { return x }, nil)
}

// saferRules: have is want with some rules turned into traps.
func saferRules(want, have []hwmodel.Rule) bool {
	return slices.EqualFunc(want, have, func(w, h hwmodel.Rule) bool {
		return w == h || h.Action == hwmodel.RuleTrap && w.Priority == h.Priority
	})
}

// table compares one table. comparable strips what does not matter; excused says
// that a difference is a known refusal. Either argument of it may be nil.
func table[V any, C comparable](a *VerifyAnswer, kind string, want, have []V, key func(V) string, strip func(V) C, excused func(want, have *V) bool) {
	byKey := make(map[string]*V, len(have))
	for i := range have {
		byKey[key(have[i])] = &have[i]
	}
	differ := func(k string, w, h *V) {
		if excused != nil && w != nil && excused(w, h) {
			return
		}
		d := Difference{Kind: kind, Key: k, Where: "device"}
		if w != nil {
			d.Kernel = fmt.Sprintf("%+v", *w)
		}
		if h != nil {
			d.Have = fmt.Sprintf("%+v", *h)
		}
		a.Differences = append(a.Differences, d)
	}
	for i := range want {
		k := key(want[i])
		h := byKey[k]
		delete(byKey, k)
		a.Checked["device"]++
		if h == nil || strip(*h) != strip(want[i]) {
			differ(k, &want[i], h)
		}
	}
	for k, h := range byKey {
		a.Checked["device"]++
		differ(k, nil, h)
	}
}

package resolve

import "antiphon/hwmodel"

// adopted is what was found in a device that an earlier agent programmed: rows
// that come to the same entries take over the counters, so that nothing is
// rewritten and counts go on.
type adopted struct {
	neighbors map[hwmodel.NeighborKey]hwmodel.CounterID
	routes    map[hwmodel.RouteKey]hwmodel.Route
	groups    map[hwmodel.GroupID]hwmodel.CounterID
}

// Adopt takes what the device really holds, read back at start and whenever the
// connection was lost, as what is installed. The next batch is the difference:
// cold start, warm restart and steady state are one path.
func (r *Resolver) Adopt(caps hwmodel.Capabilities, e *hwmodel.Entries) {
	r.setCapabilities(caps)
	r.tInterface.adopt(e.Interfaces, func(v hwmodel.Interface) hwmodel.InterfaceID { return v.ID })
	r.tNeighbor.adopt(e.Neighbors, func(v hwmodel.Neighbor) hwmodel.NeighborKey { return v.NeighborKey })
	r.tHop.adopt(e.NextHops, func(v hwmodel.NextHop) hwmodel.NextHopID { return v.ID })
	r.tGroup.adopt(e.Groups, func(v hwmodel.Group) hwmodel.GroupID { return v.ID })
	r.tRoute.adopt(e.Routes, func(v hwmodel.Route) hwmodel.RouteKey { return v.RouteKey })
	r.tRules.adopt(e.Rules, func(v hwmodel.Rules) hwmodel.Family { return v.Family })
	r.tOwn.adopt(e.Own, func(v hwmodel.OwnAddress) hwmodel.OwnAddress { return v })
	var s []hwmodel.Settings
	if e.Settings != nil {
		s = append(s, *e.Settings)
	}
	r.tSettings.adopt(s, func(hwmodel.Settings) struct{} { return struct{}{} })
	r.capacity.init()

	live := map[hwmodel.CounterID]struct{}{}
	keep := func(id hwmodel.CounterID) {
		if id != 0 {
			live[id] = struct{}{}
		}
	}
	r.adopted.neighbors = map[hwmodel.NeighborKey]hwmodel.CounterID{}
	for _, v := range e.Neighbors {
		keep(v.Counter)
		r.adopted.neighbors[v.NeighborKey] = v.Counter
	}
	r.adopted.routes = map[hwmodel.RouteKey]hwmodel.Route{}
	for _, v := range e.Routes {
		keep(v.Counter)
		r.adopted.routes[v.RouteKey] = v
	}
	r.adopted.groups = map[hwmodel.GroupID]hwmodel.CounterID{}
	for _, v := range e.Groups {
		keep(v.Counter)
		r.adopted.groups[v.ID] = v.Counter
	}
	r.counters.adopt(live)
	r.touchAll()
}

// groupCounter returns the counter that the adopted group of a nexthop object
// has: a group's identifier is the hash of its key.
func (a *adopted) groupCounter(k groupKey) (hwmodel.CounterID, bool) {
	id, ok := a.groups[stableID(string(k), func(hwmodel.GroupID) bool { return false })]
	return id, ok && id != 0
}

// touchAll marks every entry that the mirrored state asks for.
func (r *Resolver) touchAll() {
	r.settingsChanged()
	for _, n := range r.neighbors {
		r.tNeighbor.touch(n.key)
	}
	for id := range r.hopIDs {
		r.tHop.touch(id)
	}
	for k := range r.dests {
		r.touchRoute(k)
	}
	for a := range r.own {
		r.tOwn.touch(a)
	}
}

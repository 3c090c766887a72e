package resolve

import (
	"antiphon/hwmodel"
	"antiphon/netstate"
)

// Entry names one entry of a device's table: by Table, one of the keys.
type Entry struct {
	Table    hwmodel.Table
	Route    hwmodel.RouteKey
	Neighbor hwmodel.NeighborKey
	// Group of TableGroup, and of TableNextHop that the next hop was reached by.
	Group   hwmodel.GroupID
	NextHop hwmodel.NextHopID
	// Family and Priority of a rule.
	Family   hwmodel.Family
	Priority uint32
	// Interface of TableInterface.
	Interface hwmodel.InterfaceID
}

// Origin is the mirrored row that an entry comes from. Groups and next hops that
// routes give themselves have none but those routes.
func (r *Resolver) Origin(e Entry) (netstate.Key, bool) {
	switch e.Table {
	case hwmodel.TableInterface:
		_, ok := r.links[uint32(e.Interface)]
		return netstate.Key{Kind: netstate.KindLink, ID: uint32(e.Interface)}, ok
	case hwmodel.TableNeighbor:
		k := neighborKey(e.Neighbor)
		_, ok := r.neighbors[k]
		return k, ok
	case hwmodel.TableGroup:
		return r.groupOrigin(e.Group)
	case hwmodel.TableNextHop:
		return r.hopOrigin(e.Group, e.NextHop)
	case hwmodel.TableRoute:
		return r.routeOrigin(e.Route)
	case hwmodel.TableRules:
		for k, u := range r.rules {
			if family(u.Family) == e.Family && u.Priority == e.Priority {
				return k, true
			}
		}
	}
	return netstate.Key{}, false
}

// routeOrigin is the row in use; the device's main table has the local table's
// prefixes too (see wantRoute).
func (r *Resolver) routeOrigin(k hwmodel.RouteKey) (netstate.Key, bool) {
	d := r.dests[k]
	if d == nil && k.Table == tableMain {
		k.Table = tableLocal
		d = r.dests[k]
	}
	if d == nil {
		return netstate.Key{}, false
	}
	return d.rows[0].key, true
}

func (r *Resolver) groupOrigin(id hwmodel.GroupID) (netstate.Key, bool) {
	g := r.groupIDs[id]
	if g == nil || g.object == 0 {
		return netstate.Key{}, false
	}
	return netstate.Key{Kind: netstate.KindNexthop, ID: g.object}, true
}

// hopOrigin is the nexthop object that gave a group's next hop: the group's own
// or, if that is a group of objects, the first member with such a leg.
func (r *Resolver) hopOrigin(in hwmodel.GroupID, id hwmodel.NextHopID) (netstate.Key, bool) {
	own, ok := r.groupOrigin(in)
	h := r.hopIDs[id]
	if !ok || h == nil || r.objects[own.ID] == nil {
		return netstate.Key{}, false
	}
	ids := []uint32{own.ID}
	for _, m := range r.objects[own.ID].members {
		ids = append(ids, m.ID)
	}
	for _, id := range ids {
		if o := r.objects[id]; o != nil {
			for _, l := range o.legs {
				if l.hopKey() == h.key {
					return netstate.Key{Kind: netstate.KindNexthop, ID: id}, true
				}
			}
		}
	}
	return netstate.Key{}, false
}

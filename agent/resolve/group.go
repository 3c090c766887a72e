package resolve

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"

	"antiphon/hwmodel"
	"antiphon/netstate"
)

// groupKey identifies a next hop group: a nexthop object ("n" + id) or the legs
// themselves ("l" + family + legs), so that routes with equal legs share a group.
type groupKey string

// group is one device group and what it was made from.
type group struct {
	id     hwmodel.GroupID
	key    groupKey
	object uint32 // nexthop object id, 0 for legs of routes
	family uint8
	inline []leg // legs given by the routes themselves
	legs   []leg // legs now in use: inline, or those of the nexthop object
	refs   int
	// counter counts nexthop objects only: legs of routes are counted by the routes.
	counter hwmodel.CounterID
}

// leg is one way out before identifiers are given.
type leg struct {
	oif    uint32
	gw     netip.Addr // zero: connected
	weight uint32
	trap   hwmodel.Reason
	fixed  bool // the kernel removes legs of nexthop objects instead of marking them dead
}

// hopKey identifies a device next hop.
type hopKey struct {
	oif  uint32
	gw   netip.Addr
	trap hwmodel.Reason
}

// String is the key's canonical text.
func (k hopKey) String() string {
	return fmt.Sprintf("%d %v %v", k.oif, k.gw, k.trap)
}

// stableID names content: the FNV-1a hash of its canonical form, probed past
// identifiers in use and zero. An agent that starts anew arrives at the same
// identifiers and so finds nothing to rewrite in a device that kept them.
func stableID[ID ~uint32](content string, taken func(ID) bool) ID {
	h := fnv.New32a()
	h.Write([]byte(content))
	id := ID(h.Sum32())
	for id == 0 || taken(id) {
		id++
	}
	return id
}

type hop struct {
	id   hwmodel.NextHopID
	key  hopKey
	refs int
}

// object is a mirrored nexthop object.
type object struct {
	legs    []leg // of a single nexthop
	members []netstate.GroupMember
	trap    hwmodel.Reason // why it cannot be in the device
	counter hwmodel.CounterID
}

// routeGroup returns the group a route's legs make, with a reference taken.
func (r *Resolver) routeGroup(d *netstate.Route) *group {
	if d.NexthopID != 0 {
		return r.refGroup(objectKey(d.NexthopID), func(g *group) { g.object = d.NexthopID })
	}
	buf := make([]byte, 0, 64)
	buf = append(buf, 'l', d.Family)
	for _, l := range d.Legs {
		buf = binary.BigEndian.AppendUint32(buf, l.OIF)
		buf = binary.BigEndian.AppendUint32(buf, uint32(l.Weight))
		buf = append(buf, byte(l.Gateway.BitLen()/8))
		buf = append(buf, l.Gateway.AsSlice()...)
	}
	return r.refGroup(groupKey(buf), func(g *group) {
		g.family = d.Family
		for _, l := range d.Legs {
			g.inline = append(g.inline, leg{oif: l.OIF, gw: l.Gateway, weight: uint32(l.Weight)})
		}
	})
}

func objectKey(id uint32) groupKey {
	return groupKey(binary.BigEndian.AppendUint32([]byte{'n'}, id))
}

func (r *Resolver) refGroup(k groupKey, fill func(*group)) *group {
	g := r.groups[k]
	if g == nil {
		g = &group{key: k}
		fill(g)
		g.id = stableID(string(k), func(id hwmodel.GroupID) bool { return r.groupIDs[id] != nil })
		r.groups[k] = g
		r.groupIDs[g.id] = g
		r.tGroup.touch(g.id)
	}
	g.refs++
	return g
}

func (r *Resolver) releaseGroup(g *group) {
	if g == nil {
		return
	}
	if g.refs--; g.refs == 0 {
		delete(r.groups, g.key)
		delete(r.groupIDs, g.id)
		r.useLegs(g, nil)
		r.tGroup.touch(g.id)
	}
}

// useLegs gives a group its legs of now, keeping references of next hops.
func (r *Resolver) useLegs(g *group, legs []leg) {
	for _, l := range legs {
		r.refHop(l)
	}
	for _, l := range g.legs {
		r.releaseHop(l)
	}
	g.legs = legs
}

func (l leg) hopKey() hopKey {
	if l.trap != hwmodel.ReasonNone {
		return hopKey{trap: l.trap}
	}
	return hopKey{oif: l.oif, gw: l.gw}
}

func (r *Resolver) refHop(l leg) {
	k := l.hopKey()
	h := r.hops[k]
	if h == nil {
		h = &hop{key: k}
		h.id = stableID(k.String(), func(id hwmodel.NextHopID) bool { return r.hopIDs[id] != nil })
		r.hops[k] = h
		r.hopIDs[h.id] = h
		r.tHop.touch(h.id)
	}
	h.refs++
}

func (r *Resolver) releaseHop(l leg) {
	h := r.hops[l.hopKey()]
	if h.refs--; h.refs == 0 {
		delete(r.hops, h.key)
		delete(r.hopIDs, h.id)
		r.tHop.touch(h.id)
	}
}

func (r *Resolver) wantHop(id hwmodel.NextHopID) (hwmodel.NextHop, bool) {
	h := r.hopIDs[id]
	if h == nil {
		return hwmodel.NextHop{}, false
	}
	if h.key.trap != hwmodel.ReasonNone {
		return hwmodel.NextHop{ID: id, Trap: h.key.trap}, true
	}
	if why := r.hopTrap(h.key); why != hwmodel.ReasonNone {
		return hwmodel.NextHop{ID: id, Trap: why}, true
	}
	return hwmodel.NextHop{ID: id, Interface: hwmodel.InterfaceID(h.key.oif), Gateway: h.key.gw}, true
}

// hopTrap is why a way out cannot be used by the device.
func (r *Resolver) hopTrap(k hopKey) hwmodel.Reason {
	l := r.links[k.oif]
	if _, ok := r.portOf(l); !ok {
		return hwmodel.ReasonNotAPort
	}
	if !l.running() {
		return hwmodel.ReasonInterfaceDown
	}
	return hwmodel.ReasonNone
}

func (r *Resolver) wantGroup(id hwmodel.GroupID) (hwmodel.Group, bool) {
	g := r.groupIDs[id]
	if g == nil {
		return hwmodel.Group{}, false
	}
	legs := g.inline
	var counter hwmodel.CounterID
	if g.object != 0 {
		legs = r.objectLegs(g.object)
		if o := r.objects[g.object]; o != nil {
			counter = o.counter
		}
	}
	if r.doubtful(g, legs) {
		legs = []leg{{trap: hwmodel.ReasonSuspect, weight: 1}}
	}
	r.useLegs(g, legs)
	out := hwmodel.Group{ID: id, Counter: counter}
	for _, l := range g.legs {
		out.Legs = append(out.Legs, hwmodel.Leg{
			NextHop: r.hops[l.hopKey()].id,
			Weight:  l.weight,
			Dead:    r.legDead(g, l),
		})
	}
	return out, true
}

// legDead computes RTNH_F_DEAD, which the kernel sets and clears without a word
// (03 N4): the device is down, or has no carrier and such routes are ignored, or
// IPv6 was switched off there (net/ipv6/addrconf.c addrconf_ifdown).
// With one leg the route itself is dead then, and the next hop traps.
func (r *Resolver) legDead(g *group, l leg) bool {
	if l.fixed || l.trap != hwmodel.ReasonNone {
		return false
	}
	dev := r.links[l.oif]
	switch {
	case dev == nil || !dev.up:
		return true
	case g.family == afInet6 && r.settings.disabled6(dev.name) == hwmodel.ReasonInterfaceDown:
		return true
	case dev.lower:
		return false
	}
	ignore, known := r.settings.ignoreLinkdown(dev.name, g.family)
	return known && ignore
}

// doubtful reports whether a leg of several may be dead or alive without the
// mirror knowing, so that the kernel's spread over the other legs is unknown: it
// has no carrier and the sysctl that decides is not mirrored for its device, or
// it is an IPv6 one, whose LINKDOWN flag depends on what came first; or
// it is an IPv6 one of a device of which it is not known whether it has IPv6 on; or
// its device has no IPv4 address, and losing the last one marks IPv4 legs dead in
// silence (net/ipv4/fib_frontend.c fib_disable_ip), while never having had one
// does not.
func (r *Resolver) doubtful(g *group, legs []leg) bool {
	if len(legs) < 2 {
		return false
	}
	for _, l := range legs {
		dev := r.links[l.oif]
		if l.fixed || l.trap != hwmodel.ReasonNone || dev == nil || !dev.up {
			continue
		}
		if g.family == afInet && r.addressed[l.oif] == 0 {
			return true
		}
		if g.family == afInet6 && r.settings.disabled6(dev.name) == hwmodel.ReasonResync {
			return true
		}
		if dev.lower {
			continue
		}
		if _, known := r.settings.ignoreLinkdown(dev.name, g.family); !known || g.family == afInet6 || l.gw.Is6() {
			return true
		}
	}
	return false
}

// objectLegs returns the legs of a nexthop object or group as the kernel uses
// them; what cannot be in the device is one leg that traps.
func (r *Resolver) objectLegs(id uint32) []leg {
	o := r.objects[id]
	switch {
	case o == nil:
		return []leg{{trap: hwmodel.ReasonMissingNexthop, weight: 1}}
	case o.trap != hwmodel.ReasonNone:
		return []leg{{trap: o.trap, weight: 1}}
	case len(o.members) == 0:
		return o.legs
	}
	var legs []leg
	for _, m := range o.members {
		member := r.objects[m.ID]
		l := leg{trap: hwmodel.ReasonMissingNexthop}
		switch {
		case member == nil:
		case member.trap != hwmodel.ReasonNone:
			l.trap = member.trap
		case len(member.members) > 0:
			l.trap = hwmodel.ReasonRouteAttribute // the kernel has no groups of groups
		default:
			l = member.legs[0]
		}
		l.weight, l.fixed = uint32(m.Weight), true
		legs = append(legs, l)
	}
	return legs
}

func (r *Resolver) changeObject(c netstate.Change) error {
	id := c.Key.ID
	old := r.objects[id]
	var err error
	if c.Row == nil {
		if old != nil {
			r.counters.release(old.counter)
		}
		delete(r.objects, id)
	} else {
		var o *object
		o, err = decodeObject(c.Row)
		if old != nil {
			o.counter = old.counter
		} else {
			o.counter = r.counters.allocate(c.Key)
			if a, ok := r.adopted.groupCounter(objectKey(id)); ok {
				o.counter = r.counters.take(a, c.Key)
			}
		}
		r.objects[id] = o
	}
	// The object's own group, and the groups it is a member of.
	touch := func(id uint32) {
		if g := r.groups[objectKey(id)]; g != nil {
			r.tGroup.touch(g.id)
		}
	}
	touch(id)
	for gid, o := range r.objects {
		for _, m := range o.members {
			if m.ID == id {
				touch(gid)
			}
		}
	}
	return err
}

func decodeObject(row *netstate.Row) (*object, error) {
	var d netstate.Nexthop
	if err := d.Decode(row.Group[0]); err != nil {
		return &object{trap: hwmodel.ReasonSuspect}, err
	}
	o := &object{}
	switch {
	case row.Suspect:
		o.trap = hwmodel.ReasonSuspect
	case d.Unknown != 0 || d.FDB:
		o.trap = hwmodel.ReasonRouteAttribute
	case d.Encap:
		o.trap = hwmodel.ReasonRouteEncap
	case d.Blackhole:
		o.trap = hwmodel.ReasonBlackhole
	case d.IsGroup && d.GroupType != netstate.GroupMultipath:
		o.trap = hwmodel.ReasonResilientGroup
	case d.IsGroup:
		o.members = d.Group
	default:
		o.legs = []leg{{oif: d.OIF, gw: d.Gateway, weight: 1, fixed: true}}
	}
	return o, nil
}

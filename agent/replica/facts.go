package replica

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

	"antiphon/netstate"
)

// families that rows can have; links and nexthops have none.
var families = [...]uint8{0, unix.AF_INET, unix.AF_INET6}

// appendKeys appends the index keys of a row, each once. A message that cannot be
// decoded is in no index: nothing forwards by it.
func (r *Replica) appendKeys(keys []indexKey, row *netstate.Row) []indexKey {
	add := func(k indexKey) {
		k.kind, k.family = row.Key.Kind, row.Key.Family
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	for _, raw := range row.Group {
		switch row.Key.Kind {
		case netstate.KindAddr, netstate.KindNeighbor:
			add(indexKey{by: byLink, id: row.Key.ID})
		case netstate.KindNexthop:
			if r.nexthop.Decode(raw) != nil {
				continue
			}
			if r.nexthop.OIF != 0 {
				add(indexKey{by: byLink, id: r.nexthop.OIF})
			}
			for _, m := range r.nexthop.Group {
				add(indexKey{by: byNexthop, id: m.ID})
			}
		case netstate.KindRoute:
			if r.route.Decode(raw) != nil {
				continue
			}
			for _, l := range r.route.Legs {
				if l.OIF != 0 {
					add(indexKey{by: byLink, id: l.OIF})
				}
			}
			if r.route.NexthopID != 0 {
				add(indexKey{by: byNexthop, id: r.route.NexthopID})
			}
			if row.Key.Family == unix.AF_INET6 && r.route.PrefSrc.IsValid() {
				add(indexKey{by: bySource, addr: r.route.PrefSrc.As16()})
			}
		}
	}
	return keys
}

// linkState is what silent deletions depend on.
type linkState struct {
	known, up, carrier, vrf bool
	master, mtu             uint32
	typ                     uint16 // ARPHRD_*; this and kind are fixed for a netdev's life
	kind                    string
}

// linkNow reads a link's group, which may be empty.
func linkNow(group [][]byte) linkState {
	var d netstate.Link
	if len(group) == 0 || d.Decode(group[0]) != nil {
		return linkState{}
	}
	return linkState{
		known:   true,
		up:      d.Flags&unix.IFF_UP != 0,
		carrier: d.Flags&(unix.IFF_RUNNING|unix.IFF_LOWER_UP) != 0,
		master:  d.Master,
		mtu:     d.MTU,
		vrf:     d.Kind == "vrf",
		typ:     d.Type,
		kind:    d.Kind,
	}
}

// link returns the state of an interface.
func (r *Replica) link(ifindex uint32) linkState {
	e := r.rows[netstate.Key{Kind: netstate.KindLink, ID: ifindex}]
	if e == nil {
		return linkState{}
	}
	return linkNow(e.row.Group)
}

// up says that the interface is known to be administratively up.
func (r *Replica) up(ifindex uint32) bool {
	e := r.rows[netstate.Key{Kind: netstate.KindLink, ID: ifindex}]
	if e == nil || !e.present() || !r.trusted(netstate.KindLink) {
		return false
	}
	const at = netstate.HeaderBytes + 8 // ifi_flags of struct ifinfomsg
	raw := e.row.Group[0]
	return len(raw) >= at+4 && binary.NativeEndian.Uint32(raw[at:])&unix.IFF_UP != 0
}

// addressed says that an interface has an IPv4 address.
func (r *Replica) addressed(ifindex uint32) bool {
	return r.index[indexKey{by: byLink, kind: netstate.KindAddr, family: unix.AF_INET, id: ifindex}] != nil
}

// hasLeg says whether a route message has a leg of its own on an interface.
func (r *Replica) hasLeg(raw []byte, ifindex uint32) bool {
	if r.route.Decode(raw) != nil || r.route.NexthopID != 0 {
		return false
	}
	for _, l := range r.route.Legs {
		if l.OIF == ifindex {
			return true
		}
	}
	return false
}

// sameOrder says whether the legs of two equal messages about an IPv6 route come in
// one order. Only dumps tell the kernel's.
func (r *Replica) sameOrder(k netstate.Key, a, b []byte) bool {
	if k.Kind != netstate.KindRoute || k.Family != unix.AF_INET6 || r.route.Decode(a) != nil || len(r.route.Legs) < 2 {
		return true
	}
	legs := slices.Clone(r.route.Legs)
	return r.route.Decode(b) == nil && slices.EqualFunc(legs, r.route.Legs, func(x, y netstate.Leg) bool {
		return x.OIF == y.OIF && x.Gateway == y.Gateway
	})
}

// legElsewhere says whether the route that hasLeg just read has a leg on another
// interface too.
func (r *Replica) legElsewhere(ifindex uint32) bool {
	for _, l := range r.route.Legs {
		if l.OIF != ifindex {
			return true
		}
	}
	return false
}

// byObject says whether any message of a group forwards by a nexthop object. The
// legs such a message repeats may be out of date.
func (r *Replica) byObject(group [][]byte) bool {
	for _, raw := range group {
		if r.route.Decode(raw) == nil && r.route.NexthopID != 0 {
			return true
		}
	}
	return false
}

// leaves returns the members of a group of nexthops, or the nexthop itself.
func (r *Replica) leaves(id uint32) []uint32 {
	e := r.rows[netstate.Key{Kind: netstate.KindNexthop, ID: id}]
	if e == nil || !e.present() || r.nexthop.Decode(e.row.Group[0]) != nil || !r.nexthop.IsGroup {
		return []uint32{id}
	}
	ids := make([]uint32, len(r.nexthop.Group))
	for i, m := range r.nexthop.Group {
		ids[i] = m.ID
	}
	return ids
}

// nexthopLink returns the interface of a nexthop that is no group, 0 if unknown.
func (r *Replica) nexthopLink(id uint32) uint32 {
	e := r.rows[netstate.Key{Kind: netstate.KindNexthop, ID: id}]
	if e == nil || !e.present() || r.nexthop.Decode(e.row.Group[0]) != nil {
		return 0
	}
	return r.nexthop.OIF
}

// dies says whether the kernel flushes a route message without a word when the
// interface goes down: no leg is left on another link that is up and, for IPv4, has
// an address, without which its legs may be dead already. Local addresses
// stay (their scope is host), nexthop objects have their own rule.
func (r *Replica) dies(raw []byte, ifindex uint32) bool {
	if r.route.Decode(raw) != nil {
		return true
	}
	d := &r.route
	if d.NexthopID != 0 || d.Type == unix.RTN_LOCAL && d.Scope == unix.RT_SCOPE_HOST {
		return false
	}
	for _, l := range d.Legs {
		if l.OIF != ifindex && r.up(l.OIF) && (d.Family != unix.AF_INET || r.addressed(l.OIF)) {
			return false
		}
	}
	return len(d.Legs) > 0
}

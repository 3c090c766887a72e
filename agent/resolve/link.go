package resolve

import (
	"fmt"
	"net/netip"
	"slices"

	"antiphon/hwmodel"
	"antiphon/netstate"
)

// Interface flags, include/uapi/linux/if.h.
const (
	iffUp      = 1 << 0
	iffLowerUp = 1 << 16
)

// arphrdEther is the hardware type of Ethernet, include/uapi/linux/if_arp.h.
const arphrdEther = 1

// link is a mirrored netdev as far as forwarding cares.
type link struct {
	index   uint32
	name    string
	port    string // device port name from the altname, "" if none
	alts    string // the alternative names, each after a space
	up      bool
	lower   bool // carrier
	ether   bool
	mtu     uint32
	mac     hwmodel.MAC
	hasMAC  bool
	master  uint32
	parent  uint32 // IFLA_LINK within this namespace, 0 if none
	kind    string
	xdp     bool
	suspect bool
}

// running reports whether the kernel would send out of the link.
func (l *link) running() bool { return l.up && l.lower }

func (r *Resolver) changeLink(c netstate.Change) error {
	id := c.Key.ID
	old := r.links[id]
	var now *link
	var err error
	if c.Row != nil {
		if now, err = decodeLink(c.Row); err != nil {
			now = &link{index: id, suspect: true}
		}
	}
	if now == nil {
		delete(r.links, id)
	} else {
		r.links[id] = now
	}
	if old != nil && now != nil && *old == *now {
		return err
	}
	r.tInterface.touch(hwmodel.InterfaceID(id))
	for _, l := range []*link{old, now} {
		if l != nil && l.parent != 0 { // an upper came, went or moved
			r.tInterface.touch(hwmodel.InterfaceID(l.parent))
		}
	}
	for k, n := range r.neighbors {
		if k.ID == id {
			r.tNeighbor.touch(n.key)
		}
	}
	for k, h := range r.hops {
		if k.oif == id {
			r.tHop.touch(h.id)
		}
	}
	r.touchGroupsOn(id)
	if old == nil || now == nil || old.name != now.name || old.alts != now.alts {
		r.touchRules() // iif and oif selectors go by name, and mean ports
	}
	return err
}

// touchGroupsOn marks the groups that have a leg on the link.
func (r *Resolver) touchGroupsOn(id uint32) {
	for _, g := range r.groups {
		on := func(l leg) bool { return l.oif == id }
		if slices.ContainsFunc(g.legs, on) || slices.ContainsFunc(g.inline, on) {
			r.tGroup.touch(g.id)
		}
	}
}

func decodeLink(row *netstate.Row) (*link, error) {
	var d netstate.Link
	if err := d.Decode(row.Group[0]); err != nil {
		return nil, err
	}
	l := &link{
		index:   row.Key.ID,
		name:    d.Name,
		port:    d.Port(),
		up:      d.Flags&iffUp != 0,
		lower:   d.Flags&iffLowerUp != 0,
		ether:   d.Type == arphrdEther,
		mtu:     d.MTU,
		master:  d.Master,
		kind:    d.Kind,
		xdp:     d.XDPMode != 0,
		suspect: row.Suspect,
	}
	if d.HasParent && !d.HasNSID {
		l.parent = d.Parent
	}
	if l.parent == l.index {
		l.parent = 0
	}
	l.mac, l.hasMAC = d.Addr.MAC()
	for _, a := range d.AltNames {
		l.alts += " " + a
	}
	return l, nil
}

// portOf returns the device port whose representor the link is.
func (r *Resolver) portOf(l *link) (hwmodel.PortID, bool) {
	if l == nil || l.port == "" {
		return 0, false
	}
	p, ok := r.ports[l.port]
	return p, ok
}

// upperOf returns a netdev stacked on the link that takes frames from it before
// the IP layer sees them (a VLAN, macvlan, MACsec, ... device).
func (r *Resolver) upperOf(l *link) *link {
	for _, u := range r.links {
		if u.parent == l.index && u.kind != "veth" && u.kind != "vxlan" {
			return u
		}
	}
	return nil
}

func (r *Resolver) wantInterface(id hwmodel.InterfaceID) (hwmodel.Interface, bool) {
	l := r.links[uint32(id)]
	port, ok := r.portOf(l)
	if !ok || !l.hasMAC || !l.ether {
		return hwmodel.Interface{}, false
	}
	s := &r.settings
	return hwmodel.Interface{
		ID:           id,
		Port:         port,
		MAC:          l.mac,
		MTU:          l.mtu,
		In4:          first(r.linkTrap(l, true), s.ingress(l.index, afInet), s.forwarding4(l.name)),
		In6:          first(r.linkTrap(l, true), s.ingress(l.index, afInet6), s.forwarding6(l.name)),
		Out4:         first(r.linkTrap(l, false), s.egress(l.index, afInet)),
		Out6:         first(r.linkTrap(l, false), s.egress(l.index, afInet6), s.disabled6(l.name), s.mtu6(l)),
		RPFilter:     r.rpFilter(l),
		AcceptLocal:  s.or4(l.name, "accept_local"),
		SourceCheck:  r.customLookup4(),
		RedirectTrap: s.or4(l.name, "send_redirects"),
	}, true
}

// rpFilter: on a link without IPv4 addresses the loose filter is the strict one
// (__fib_validate_source: no_addr ends at last_resort, which any filter refuses).
func (r *Resolver) rpFilter(l *link) hwmodel.RPMode {
	mode := r.settings.rpFilter(l.name)
	if mode == hwmodel.RPLoose && r.addressed[l.index] == 0 {
		return hwmodel.RPStrict
	}
	return mode
}

// linkTrap is why the link itself cannot take part in forwarding, in or out.
func (r *Resolver) linkTrap(l *link, in bool) hwmodel.Reason {
	switch {
	case l.suspect:
		return hwmodel.ReasonSuspect
	case !l.up, !in && !l.lower:
		return hwmodel.ReasonInterfaceDown
	case l.master != 0:
		return hwmodel.ReasonUnmirroredMaster
	case in && l.xdp:
		return hwmodel.ReasonUnmirroredXDP
	case in && r.upperOf(l) != nil:
		return hwmodel.ReasonUnmirroredUpper
	}
	return hwmodel.ReasonNone
}

// first returns the first objection.
func first(reasons ...hwmodel.Reason) hwmodel.Reason {
	for _, x := range reasons {
		if x != hwmodel.ReasonNone {
			return x
		}
	}
	return hwmodel.ReasonNone
}

// Neighbour states, include/uapi/linux/neighbour.h. Those in nudValid send.
const (
	nudReachable = 0x02
	nudStale     = 0x04
	nudDelay     = 0x08
	nudProbe     = 0x10
	nudNoARP     = 0x40
	nudPermanent = 0x80
	nudValid     = nudPermanent | nudNoARP | nudReachable | nudProbe | nudStale | nudDelay
)

type neighbor struct {
	key     hwmodel.NeighborKey
	state   uint16
	mac     hwmodel.MAC
	hasMAC  bool
	suspect bool
	counter hwmodel.CounterID
}

func (r *Resolver) changeNeighbor(c netstate.Change) error {
	if c.Key.Flag != 0 {
		return nil // proxy entries answer ARP and ND, which trap anyway
	}
	addr, err := keyAddr(c.Key)
	if err != nil {
		return err
	}
	key := hwmodel.NeighborKey{Interface: hwmodel.InterfaceID(c.Key.ID), Addr: addr}
	r.tNeighbor.touch(key)
	old, had := r.neighbors[c.Key]
	if c.Row == nil {
		if had {
			r.counters.release(old.counter)
		}
		delete(r.neighbors, c.Key)
		return nil
	}
	var d netstate.Neighbor
	n := neighbor{key: key, suspect: c.Row.Suspect, counter: old.counter}
	if !had {
		n.counter = r.counters.allocate(c.Key)
		if a, ok := r.adopted.neighbors[key]; ok {
			n.counter = r.counters.take(a, c.Key)
		}
	}
	if err = d.Decode(c.Row.Group[0]); err != nil {
		n.suspect = true
	} else {
		n.state = d.State
		n.mac, n.hasMAC = d.LLAddr.MAC()
		n.hasMAC = n.hasMAC && d.HasLLAddr && d.Unknown == 0
	}
	r.neighbors[c.Key] = n
	return err
}

func (r *Resolver) wantNeighbor(k hwmodel.NeighborKey) (hwmodel.Neighbor, bool) {
	n, ok := r.neighbors[neighborKey(k)]
	if !ok || n.suspect || n.state&nudValid == 0 || !n.hasMAC {
		return hwmodel.Neighbor{}, false
	}
	if _, ok := r.portOf(r.links[uint32(k.Interface)]); !ok {
		return hwmodel.Neighbor{}, false
	}
	return hwmodel.Neighbor{NeighborKey: k, MAC: n.mac, Counter: n.counter}, true
}

// neighborKey is the mirrored identity of a device neighbour.
func neighborKey(k hwmodel.NeighborKey) netstate.Key {
	key := netstate.Key{Kind: netstate.KindNeighbor, Family: afInet6, ID: uint32(k.Interface)}
	if k.Addr.Is4() {
		key.Family = afInet
	}
	copy(key.Addr[:], k.Addr.AsSlice())
	return key
}

// keyAddr returns the address of a key by its family.
func keyAddr(k netstate.Key) (netip.Addr, error) {
	switch k.Family {
	case afInet:
		return netip.AddrFrom4([4]byte(k.Addr[:4])), nil
	case afInet6:
		return netip.AddrFrom16(k.Addr), nil
	}
	return netip.Addr{}, fmt.Errorf("address family %d, want AF_INET or AF_INET6", k.Family)
}

// changeAddr: IPv4 addresses are what no packet may have as source, and a link
// that loses its last one makes ECMP legs dead (see doubtful).
func (r *Resolver) changeAddr(c netstate.Change) error {
	if c.Key.Family != afInet {
		return nil
	}
	addr, err := keyAddr(c.Key)
	if err != nil {
		return err
	}
	own := hwmodel.OwnAddress{Addr: addr}
	_, had := r.addrs[c.Key]
	switch {
	case c.Row == nil && had:
		delete(r.addrs, c.Key)
		r.disown(own)
		if r.addressed[c.Key.ID]--; r.addressed[c.Key.ID] == 0 {
			delete(r.addressed, c.Key.ID)
			r.addressChanged(c.Key.ID)
		}
	case c.Row != nil && !had:
		r.addrs[c.Key] = struct{}{}
		r.own4(own)
		if r.addressed[c.Key.ID]++; r.addressed[c.Key.ID] == 1 {
			r.addressChanged(c.Key.ID)
		}
	}
	return nil
}

// addressChanged: a link has got its first IPv4 address, or lost its last.
func (r *Resolver) addressChanged(id uint32) {
	r.touchGroupsOn(id)
	r.tInterface.touch(hwmodel.InterfaceID(id))
}

func (r *Resolver) own4(a hwmodel.OwnAddress) {
	r.own[a]++
	r.tOwn.touch(a)
}

func (r *Resolver) disown(a hwmodel.OwnAddress) {
	if r.own[a]--; r.own[a] <= 0 {
		delete(r.own, a)
	}
	r.tOwn.touch(a)
}

func (r *Resolver) wantOwn(a hwmodel.OwnAddress) (hwmodel.OwnAddress, bool) {
	return a, r.own[a] > 0
}

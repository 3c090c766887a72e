package softpipe

import (
	"context"
	"net/netip"
	"slices"

	"antiphon/hwmodel"
)

// Apply implements hwmodel.Device. The batch is one step for packets; forwarding
// waits for it, about a quarter of a microsecond per IPv4 route, two per IPv6 route.
func (p *Pipe) Apply(ctx context.Context, b *hwmodel.Batch) (hwmodel.Result, error) {
	if err := ctx.Err(); err != nil {
		return hwmodel.Result{}, err
	}
	p.ctl.Lock()
	defer p.ctl.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	c := change{tables: &p.t, sizes: &p.caps.Sizes}
	c.set(&b.Set)
	c.remove(&b.Delete)
	p.t.settle()
	c.result.Final = p.retire(c.retired)
	return c.result, nil
}

// change is a batch being applied.
type change struct {
	*tables
	sizes  *[hwmodel.TableCount]uint32
	result hwmodel.Result
	// retired are counter slots that lost their last entry, at least for a moment.
	retired []uint32
	ahead   routesAhead
	// tab is the table of the route before, tabID.
	tab   *table
	tabID hwmodel.TableID
}

func (c *change) set(e *hwmodel.Entries) {
	for i := range e.Interfaces {
		if r := c.setInterface(&e.Interfaces[i]); r != hwmodel.ReasonNone {
			c.removeInterface(e.Interfaces[i].ID)
			c.refuse(hwmodel.Refusal{Table: hwmodel.TableInterface, Reason: r, Interface: e.Interfaces[i].ID})
		}
	}
	for i := range e.Neighbors {
		if r := c.setNeighbor(&e.Neighbors[i]); r != hwmodel.ReasonNone {
			c.removeNeighbor(e.Neighbors[i].NeighborKey)
			c.refuse(hwmodel.Refusal{Table: hwmodel.TableNeighbor, Reason: r, Neighbor: e.Neighbors[i].NeighborKey})
		}
	}
	for i := range e.NextHops {
		if r := c.setNextHop(&e.NextHops[i]); r != hwmodel.ReasonNone {
			c.removeNextHop(e.NextHops[i].ID)
			c.refuse(hwmodel.Refusal{Table: hwmodel.TableNextHop, Reason: r, NextHop: e.NextHops[i].ID})
		}
	}
	for i := range e.Groups {
		if r := c.setGroup(&e.Groups[i]); r != hwmodel.ReasonNone {
			c.removeGroup(e.Groups[i].ID)
			c.refuse(hwmodel.Refusal{Table: hwmodel.TableGroup, Reason: r, Group: e.Groups[i].ID})
		}
	}
	for i := range e.Routes {
		if i%askRoutes == 0 {
			c.ask(e.Routes[i:min(i+askRoutes, len(e.Routes))])
		}
		if r := c.setRoute(&e.Routes[i]); r != hwmodel.ReasonNone {
			c.removeRoute(e.Routes[i].RouteKey)
			c.refuse(hwmodel.Refusal{Table: hwmodel.TableRoute, Reason: r, Route: e.Routes[i].RouteKey})
		}
	}
	for i := range e.Rules {
		if r := c.setRules(&e.Rules[i]); r != hwmodel.ReasonNone {
			c.removeRules(e.Rules[i].Family)
			c.refuse(hwmodel.Refusal{Table: hwmodel.TableRules, Reason: r, Family: e.Rules[i].Family})
		}
	}
	for _, o := range e.Own {
		if r := c.setOwn(o.Addr); r != hwmodel.ReasonNone {
			c.refuse(hwmodel.Refusal{Table: hwmodel.TableOwnAddress, Reason: r})
		}
	}
	if e.Settings != nil {
		c.settings, c.programmed = *e.Settings, true
		c.trap = [2]hwmodel.Reason{e.Settings.Trap4, e.Settings.Trap6}
		c.hash = newHasher(e.Settings)
	}
}

func (c *change) remove(k *hwmodel.Keys) {
	for _, o := range k.Own {
		if _, ok := c.own[o.Addr]; ok {
			delete(c.own, o.Addr)
			c.present[hwmodel.TableOwnAddress]--
			c.ownDirty = true
		}
	}
	for _, r := range k.Routes {
		c.removeRoute(r)
	}
	for _, id := range k.Groups {
		c.removeGroup(id)
	}
	for _, id := range k.NextHops {
		c.removeNextHop(id)
	}
	for _, n := range k.Neighbors {
		c.removeNeighbor(n)
	}
	for _, id := range k.Interfaces {
		c.removeInterface(id)
	}
}

func (c *change) refuse(r hwmodel.Refusal) { c.result.Refused = append(c.result.Refused, r) }

// full reports whether a table takes no new entry.
func (c *change) full(t hwmodel.Table) bool { return c.present[t] >= c.sizes[t] }

// settle brings up to date what is computed from whole tables.
func (t *tables) settle() {
	if t.ownDirty {
		t.ownSet = newAddrSet(t.own)
		t.ownDirty = false
	}
	if t.stale {
		for slot := range t.way {
			t.refresh(uint32(slot))
		}
		t.stale = false
	}
	t.reverse = slices.ContainsFunc(t.iface, func(i iface) bool { return i.rp != hwmodel.RPOff || i.sourceCheck })
}

// recount moves a reference from one counter to another.
func (c *change) recount(slot *uint32, id hwmodel.CounterID) {
	old := *slot
	if c.counters.key[old] == id {
		return
	}
	*slot = c.counters.take(id)
	if c.counters.unref(old) {
		c.retired = append(c.retired, old)
	}
}

func (c *change) setInterface(i *hwmodel.Interface) hwmodel.Reason {
	switch {
	case i.ID == 0:
		return hwmodel.ReasonMalformed
	case int(i.Port) >= len(c.declared) || !c.declared[i.Port]:
		return hwmodel.ReasonNotAPort
	}
	slot := c.ifaces.find(i.ID)
	if !c.iface[slot].present {
		if c.full(hwmodel.TableInterface) {
			return hwmodel.ReasonTableFull
		}
		c.present[hwmodel.TableInterface]++
		slot = c.ifaces.take(i.ID)
	} else if c.iface[slot].port != i.Port {
		c.vacate(slot)
	}
	old := row(&c.iface, slot)
	now := iface{
		present: true, mac: macBits(i.MAC), mtu: i.MTU, port: i.Port,
		in: [2]hwmodel.Reason{i.In4, i.In6}, out: [2]hwmodel.Reason{i.Out4, i.Out6},
		rp: i.RPFilter, acceptLocal: i.AcceptLocal, sourceCheck: i.SourceCheck, redirectTrap: i.RedirectTrap,
	}
	c.stale = c.stale || *old != now
	*old = now
	c.occupy(i.Port)
	return hwmodel.ReasonNone
}

// vacate empties an interface's row and takes it off its port.
func (c *change) vacate(slot uint32) {
	port := c.iface[slot].port
	c.iface[slot] = iface{}
	c.stale = true
	c.occupy(port)
}

// occupy gives a port to its interface; should several name the port, to the one
// with the highest ID.
func (c *change) occupy(port hwmodel.PortID) {
	var best uint32
	for s := range c.iface {
		if c.iface[s].present && c.iface[s].port == port && c.ifaces.key[s] > c.ifaces.key[best] {
			best = uint32(s)
		}
	}
	c.portIface[port] = best
}

func (c *change) removeInterface(id hwmodel.InterfaceID) {
	slot := c.ifaces.find(id)
	if !c.iface[slot].present {
		return
	}
	c.vacate(slot)
	c.present[hwmodel.TableInterface]--
	c.ifaces.release(slot)
}

// takeInterface returns the slot of an interface that may not be there yet.
func (c *change) takeInterface(id hwmodel.InterfaceID) uint32 {
	slot := c.ifaces.take(id)
	row(&c.iface, slot)
	return slot
}

func (c *change) setNeighbor(n *hwmodel.Neighbor) hwmodel.Reason {
	if n.Interface == 0 || !n.Addr.IsValid() || n.Addr.Zone() != "" {
		return hwmodel.ReasonMalformed
	}
	slot := c.neighs.find(n.NeighborKey)
	if !c.neigh[slot].present {
		if c.full(hwmodel.TableNeighbor) {
			return hwmodel.ReasonTableFull
		}
		c.present[hwmodel.TableNeighbor]++
		slot = c.neighs.take(n.NeighborKey)
		r := row(&c.neigh, slot)
		r.present, r.iface = true, c.takeInterface(n.Interface)
		if n.Addr.Is4() {
			c.onlink4[uint64(r.iface)<<32|uint64(addr4(n.Addr))] = slot
		} else {
			c.onlink6[onlink6{addr: n.Addr.As16(), iface: r.iface}] = slot
		}
	}
	r := &c.neigh[slot]
	r.mac = macBits(n.MAC)
	c.recount(&r.counter, n.Counter)
	c.refreshNeighbor(slot)
	return hwmodel.ReasonNone
}

func (c *change) removeNeighbor(k hwmodel.NeighborKey) {
	slot := c.neighs.find(k)
	r := &c.neigh[slot]
	if !r.present {
		return
	}
	if k.Addr.Is4() {
		delete(c.onlink4, uint64(r.iface)<<32|uint64(addr4(k.Addr)))
	} else {
		delete(c.onlink6, onlink6{addr: k.Addr.As16(), iface: r.iface})
	}
	c.recount(&r.counter, 0)
	c.ifaces.release(r.iface)
	*r = neigh{hops: r.hops}
	c.refreshNeighbor(slot)
	c.present[hwmodel.TableNeighbor]--
	c.neighs.release(slot)
}

func (c *change) setNextHop(n *hwmodel.NextHop) hwmodel.Reason {
	switch {
	case n.ID == 0 || n.Interface == 0 && n.Trap == hwmodel.ReasonNone || n.Gateway.Zone() != "":
		return hwmodel.ReasonMalformed
	}
	slot := c.hops.find(n.ID)
	if !c.hop[slot].present {
		if c.full(hwmodel.TableNextHop) {
			return hwmodel.ReasonTableFull
		}
		c.present[hwmodel.TableNextHop]++
		slot = c.hops.take(n.ID)
		c.hopRows(slot)
	}
	c.unchain(slot)
	old := c.hop[slot]
	h := hop{present: true, trap: n.Trap, iface: c.takeInterface(n.Interface)}
	if n.Gateway.IsValid() {
		h.neigh = c.neighs.take(hwmodel.NeighborKey{Interface: n.Interface, Addr: n.Gateway})
		row(&c.neigh, h.neigh)
	}
	c.hop[slot] = h
	c.chain(slot)
	c.refresh(slot)
	c.ifaces.release(old.iface)
	c.neighs.release(old.neigh)
	return hwmodel.ReasonNone
}

// hopRows makes the rows of a next hop.
func (c *change) hopRows(slot uint32) {
	row(&c.hop, slot)
	row(&c.way, slot)
}

func (c *change) removeNextHop(id hwmodel.NextHopID) {
	slot := c.hops.find(id)
	h := c.hop[slot]
	if !h.present {
		return
	}
	c.unchain(slot)
	c.hop[slot] = hop{}
	c.refresh(slot)
	c.ifaces.release(h.iface)
	c.neighs.release(h.neigh)
	c.present[hwmodel.TableNextHop]--
	c.hops.release(slot)
}

func (c *change) setGroup(g *hwmodel.Group) hwmodel.Reason {
	if g.ID == 0 {
		return hwmodel.ReasonMalformed
	}
	if len(g.Legs) > hwmodel.MaxGroupLegs {
		return hwmodel.ReasonTooWide
	}
	for _, l := range g.Legs {
		if l.NextHop == 0 || l.Weight == 0 || l.Weight > 1<<16 {
			return hwmodel.ReasonMalformed
		}
	}
	slot := c.groups.find(g.ID)
	if !c.group[slot].present {
		if c.full(hwmodel.TableGroup) {
			return hwmodel.ReasonTableFull
		}
		c.present[hwmodel.TableGroup]++
		slot = c.groups.take(g.ID)
		row(&c.group, slot)
		row(&c.legs, slot)
		row(&c.shares, slot)
	}
	r := &c.group[slot]
	old := c.legs[slot]
	for _, l := range g.Legs {
		c.hopRows(c.hops.take(l.NextHop))
	}
	live := bounds(g.Legs, c.hops.find)
	r.present, r.live, r.hop, c.shares[slot] = true, uint32(len(live)), 0, nil
	if len(live) == 1 {
		r.hop = live[0].hop
	} else {
		c.shares[slot] = live
	}
	c.legs[slot] = slices.Clone(g.Legs)
	c.recount(&r.counter, g.Counter)
	c.releaseLegs(old)
	return hwmodel.ReasonNone
}

func (c *change) releaseLegs(legs []hwmodel.Leg) {
	for _, l := range legs {
		c.hops.release(c.hops.find(l.NextHop))
	}
}

func (c *change) removeGroup(id hwmodel.GroupID) {
	slot := c.groups.find(id)
	r := &c.group[slot]
	if !r.present {
		return
	}
	c.recount(&r.counter, 0)
	*r = group{}
	c.releaseLegs(c.legs[slot])
	c.legs[slot], c.shares[slot] = nil, nil
	c.present[hwmodel.TableGroup]--
	c.groups.release(slot)
}

func (c *change) setOwn(a netip.Addr) hwmodel.Reason {
	if !a.IsValid() {
		return hwmodel.ReasonMalformed
	}
	if _, ok := c.own[a]; ok {
		return hwmodel.ReasonNone
	}
	if c.full(hwmodel.TableOwnAddress) {
		return hwmodel.ReasonTableFull
	}
	c.own[a] = struct{}{}
	c.present[hwmodel.TableOwnAddress]++
	c.ownDirty = true
	return hwmodel.ReasonNone
}

package refpipe

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"

	"antiphon/hwmodel"
)

// tables is everything a device holds, by key.
type tables struct {
	settings   *hwmodel.Settings
	interfaces map[hwmodel.InterfaceID]hwmodel.Interface
	neighbors  map[hwmodel.NeighborKey]hwmodel.Neighbor
	nexthops   map[hwmodel.NextHopID]hwmodel.NextHop
	groups     map[hwmodel.GroupID]hwmodel.Group
	routes     map[hwmodel.RouteKey]hwmodel.Route
	rules      map[hwmodel.Family]hwmodel.Rules
	own        map[hwmodel.OwnAddress]hwmodel.OwnAddress
}

func newTables() tables {
	return tables{
		interfaces: map[hwmodel.InterfaceID]hwmodel.Interface{},
		neighbors:  map[hwmodel.NeighborKey]hwmodel.Neighbor{},
		nexthops:   map[hwmodel.NextHopID]hwmodel.NextHop{},
		groups:     map[hwmodel.GroupID]hwmodel.Group{},
		routes:     map[hwmodel.RouteKey]hwmodel.Route{},
		rules:      map[hwmodel.Family]hwmodel.Rules{},
		own:        map[hwmodel.OwnAddress]hwmodel.OwnAddress{},
	}
}

// interfaceAt returns the router interface of a port. If several name the port,
// it is the one with the highest ID: with ascending IDs the newest.
func (t *tables) interfaceAt(port hwmodel.PortID) (found hwmodel.Interface, ok bool) {
	for _, i := range t.interfaces {
		if i.Port == port && i.ID > found.ID {
			found, ok = i, true
		}
	}
	return found, ok
}

// longest returns the route with the longest prefix that contains addr.
func (t *tables) longest(table hwmodel.TableID, addr netip.Addr) (hwmodel.Route, bool) {
	for bits := addr.BitLen(); bits >= 0; bits-- {
		prefix, _ := addr.Prefix(bits) // cannot fail: bits ≤ BitLen, no zone
		if r, ok := t.routes[hwmodel.RouteKey{Table: table, Prefix: prefix}]; ok {
			return r, true
		}
	}
	return hwmodel.Route{}, false
}

// Apply implements hwmodel.Device.
func (p *Pipe) Apply(_ context.Context, b *hwmodel.Batch) (hwmodel.Result, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := applier{Pipe: p}
	a.set(&b.Set)
	a.delete(&b.Delete)
	a.finish()
	return a.result, nil
}

// applier is one batch on its way in.
type applier struct {
	*Pipe
	result hwmodel.Result
	// released are counters that lost an entry in this batch, in order.
	released []hwmodel.CounterID
}

// put sets one entry of a table, or removes the older value and says why not.
func put[K comparable, V any](a *applier, table hwmodel.Table, m map[K]V, k K, v V, objection hwmodel.Reason) hwmodel.Reason {
	_, exists := m[k]
	if objection == hwmodel.ReasonNone && !exists && uint32(len(m)) >= a.caps.Sizes[table] {
		objection = hwmodel.ReasonTableFull
	}
	if objection != hwmodel.ReasonNone {
		remove(a, m, k)
		return objection
	}
	// Acquire before release: an entry that keeps its counter keeps counting.
	a.acquire(counterOf(v))
	remove(a, m, k)
	m[k] = v
	return hwmodel.ReasonNone
}

func remove[K comparable, V any](a *applier, m map[K]V, k K) {
	if old, ok := m[k]; ok {
		a.release(counterOf(old))
		delete(m, k)
	}
}

// counterOf returns the counter an entry of any table names.
func counterOf(entry any) hwmodel.CounterID {
	switch e := entry.(type) {
	case hwmodel.Neighbor:
		return e.Counter
	case hwmodel.Group:
		return e.Counter
	case hwmodel.Route:
		return e.Counter
	}
	return 0
}

func (a *applier) acquire(id hwmodel.CounterID) {
	if id == 0 {
		return
	}
	c := a.counters[id]
	if c == nil {
		c = &counter{}
		a.counters[id] = c
	}
	c.entries++
}

func (a *applier) release(id hwmodel.CounterID) {
	if id == 0 {
		return
	}
	a.counters[id].entries--
	a.released = append(a.released, id)
}

// finish ends the counters that no entry names any more.
func (a *applier) finish() {
	for _, id := range a.released {
		if c := a.counters[id]; c != nil && c.entries == 0 {
			a.result.Final = append(a.result.Final, c.reading(id))
			delete(a.counters, id)
		}
	}
}

func (a *applier) refuse(r hwmodel.Refusal) {
	if r.Reason != hwmodel.ReasonNone {
		a.result.Refused = append(a.result.Refused, r)
	}
}

func (a *applier) set(e *hwmodel.Entries) {
	t := &a.tables
	for _, v := range e.Interfaces {
		r := put(a, hwmodel.TableInterface, t.interfaces, v.ID, v, hwmodel.ReasonNone)
		a.refuse(hwmodel.Refusal{Table: hwmodel.TableInterface, Reason: r, Interface: v.ID})
	}
	for _, v := range e.Neighbors {
		r := put(a, hwmodel.TableNeighbor, t.neighbors, v.NeighborKey, v, hwmodel.ReasonNone)
		a.refuse(hwmodel.Refusal{Table: hwmodel.TableNeighbor, Reason: r, Neighbor: v.NeighborKey})
	}
	for _, v := range e.NextHops {
		r := put(a, hwmodel.TableNextHop, t.nexthops, v.ID, v, hwmodel.ReasonNone)
		a.refuse(hwmodel.Refusal{Table: hwmodel.TableNextHop, Reason: r, NextHop: v.ID})
	}
	for _, v := range e.Groups {
		objection := hwmodel.ReasonNone
		if len(v.Legs) > a.caps.MaxLegs {
			objection = hwmodel.ReasonTooWide
		}
		v.Legs = slices.Clone(v.Legs)
		r := put(a, hwmodel.TableGroup, t.groups, v.ID, v, objection)
		a.refuse(hwmodel.Refusal{Table: hwmodel.TableGroup, Reason: r, Group: v.ID})
	}
	for _, v := range e.Routes {
		r := put(a, hwmodel.TableRoute, t.routes, v.RouteKey, v, hwmodel.ReasonNone)
		a.refuse(hwmodel.Refusal{Table: hwmodel.TableRoute, Reason: r, Route: v.RouteKey})
	}
	for _, v := range e.Rules {
		objection := hwmodel.ReasonNone
		if uint32(len(v.List)) > a.caps.Sizes[hwmodel.TableRules] {
			objection = hwmodel.ReasonTableFull
		}
		if objection != hwmodel.ReasonNone {
			delete(t.rules, v.Family)
		} else {
			v.List = slices.Clone(v.List)
			t.rules[v.Family] = v
		}
		a.refuse(hwmodel.Refusal{Table: hwmodel.TableRules, Reason: objection, Family: v.Family})
	}
	for _, v := range e.Own {
		r := put(a, hwmodel.TableOwnAddress, t.own, v, v, hwmodel.ReasonNone)
		a.refuse(hwmodel.Refusal{Table: hwmodel.TableOwnAddress, Reason: r})
	}
	if e.Settings != nil {
		s := *e.Settings
		t.settings = &s
	}
}

func (a *applier) delete(k *hwmodel.Keys) {
	t := &a.tables
	for _, v := range k.Own {
		remove(a, t.own, v)
	}
	for _, v := range k.Routes {
		remove(a, t.routes, v)
	}
	for _, v := range k.Groups {
		remove(a, t.groups, v)
	}
	for _, v := range k.NextHops {
		remove(a, t.nexthops, v)
	}
	for _, v := range k.Neighbors {
		remove(a, t.neighbors, v)
	}
	for _, v := range k.Interfaces {
		remove(a, t.interfaces, v)
	}
}

// Entries implements hwmodel.Device: one consistent snapshot, sorted by key.
func (p *Pipe) Entries(_ context.Context, yield func(*hwmodel.Entries) bool) error {
	p.mu.Lock()
	e := p.tables.snapshot()
	p.mu.Unlock()
	more := true
	chunks(e.Interfaces, &more, func(s []hwmodel.Interface) bool { return yield(&hwmodel.Entries{Interfaces: s}) })
	chunks(e.Neighbors, &more, func(s []hwmodel.Neighbor) bool { return yield(&hwmodel.Entries{Neighbors: s}) })
	chunks(e.NextHops, &more, func(s []hwmodel.NextHop) bool { return yield(&hwmodel.Entries{NextHops: s}) })
	chunks(e.Groups, &more, func(s []hwmodel.Group) bool { return yield(&hwmodel.Entries{Groups: s}) })
	chunks(e.Routes, &more, func(s []hwmodel.Route) bool { return yield(&hwmodel.Entries{Routes: s}) })
	chunks(e.Rules, &more, func(s []hwmodel.Rules) bool { return yield(&hwmodel.Entries{Rules: s}) })
	chunks(e.Own, &more, func(s []hwmodel.OwnAddress) bool { return yield(&hwmodel.Entries{Own: s}) })
	if more && e.Settings != nil {
		yield(&hwmodel.Entries{Settings: e.Settings})
	}
	return nil
}

func chunks[V any](all []V, more *bool, yield func([]V) bool) {
	for c := range slices.Chunk(all, chunkEntries) {
		if !*more {
			return
		}
		*more = yield(c)
	}
}

// snapshot copies everything, each table sorted by key.
func (t *tables) snapshot() *hwmodel.Entries {
	e := &hwmodel.Entries{
		Interfaces: sorted(t.interfaces, compare[hwmodel.InterfaceID]),
		Neighbors: sorted(t.neighbors, func(a, b hwmodel.NeighborKey) int {
			return cmp.Or(compare(a.Interface, b.Interface), a.Addr.Compare(b.Addr))
		}),
		NextHops: sorted(t.nexthops, compare[hwmodel.NextHopID]),
		Groups:   sorted(t.groups, compare[hwmodel.GroupID]),
		Routes: sorted(t.routes, func(a, b hwmodel.RouteKey) int {
			return cmp.Or(compare(a.Table, b.Table), a.Prefix.Compare(b.Prefix))
		}),
		Rules: sorted(t.rules, compare[hwmodel.Family]),
		Own:   sorted(t.own, func(a, b hwmodel.OwnAddress) int { return a.Addr.Compare(b.Addr) }),
	}
	for i := range e.Groups {
		e.Groups[i].Legs = slices.Clone(e.Groups[i].Legs)
	}
	for i := range e.Rules {
		e.Rules[i].List = slices.Clone(e.Rules[i].List)
	}
	if t.settings != nil {
		s := *t.settings
		e.Settings = &s
	}
	return e
}

func compare[T cmp.Ordered](a, b T) int { return cmp.Compare(a, b) }

func sorted[K comparable, V any](m map[K]V, order func(a, b K) int) []V {
	var all []V
	for _, k := range slices.SortedFunc(maps.Keys(m), order) {
		all = append(all, m[k])
	}
	return all
}

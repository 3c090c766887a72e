package resolve

import (
	"fmt"

	"antiphon/hwmodel"
	"antiphon/netstate"
)

// Resolver holds the decoded view of the mirrored state and what the device is
// known to hold. It is not safe for concurrent use.
type Resolver struct {
	caps   hwmodel.Capabilities
	ports  map[string]hwmodel.PortID // device port by name
	resync bool

	links     map[uint32]*link
	neighbors map[netstate.Key]neighbor
	objects   map[uint32]*object // nexthop objects by id
	rules     map[netstate.Key]rule
	local     map[hwmodel.Family]localOrder
	addrs     map[netstate.Key]struct{}
	addressed map[uint32]int // IPv4 addresses by link
	dests     map[hwmodel.RouteKey]*dest
	wide      map[hwmodel.RouteKey]struct{} // local-table prefixes shorter than a host's
	// population is the number of prefixes by table and family.
	population map[tableFamily]int
	settings   settings

	groups   map[groupKey]*group
	groupIDs map[hwmodel.GroupID]*group
	hops     map[hopKey]*hop
	hopIDs   map[hwmodel.NextHopID]*hop

	// One tracker per device table: what it holds and what must be looked at.
	tInterface track[hwmodel.InterfaceID, hwmodel.Interface]
	tNeighbor  track[hwmodel.NeighborKey, hwmodel.Neighbor]
	tHop       track[hwmodel.NextHopID, hwmodel.NextHop]
	tGroup     track[hwmodel.GroupID, hwmodel.Group]
	tRoute     track[hwmodel.RouteKey, hwmodel.Route]
	tRules     track[hwmodel.Family, hwmodel.Rules]
	tOwn       track[hwmodel.OwnAddress, hwmodel.OwnAddress]
	tSettings  track[struct{}, hwmodel.Settings]

	own      map[hwmodel.OwnAddress]int // references
	capacity capacity
	counters counters
	adopted  adopted
}

// New returns a resolver for a device with these capabilities that holds nothing.
func New(caps hwmodel.Capabilities) *Resolver {
	r := &Resolver{
		links:      map[uint32]*link{},
		neighbors:  map[netstate.Key]neighbor{},
		objects:    map[uint32]*object{},
		rules:      map[netstate.Key]rule{},
		local:      map[hwmodel.Family]localOrder{},
		addrs:      map[netstate.Key]struct{}{},
		addressed:  map[uint32]int{},
		dests:      map[hwmodel.RouteKey]*dest{},
		wide:       map[hwmodel.RouteKey]struct{}{},
		population: map[tableFamily]int{},
		groups:     map[groupKey]*group{},
		groupIDs:   map[hwmodel.GroupID]*group{},
		hops:       map[hopKey]*hop{},
		hopIDs:     map[hwmodel.NextHopID]*hop{},
		own:        map[hwmodel.OwnAddress]int{},
	}
	r.tInterface.init()
	r.tNeighbor.init()
	r.tHop.init()
	r.tGroup.init()
	r.tRoute.init()
	r.tRules.init()
	r.tOwn.init()
	r.tSettings.init()
	r.capacity.init()
	r.counters.init()
	r.setCapabilities(caps)
	r.settingsChanged()
	return r
}

func (r *Resolver) setCapabilities(caps hwmodel.Capabilities) {
	r.caps = caps
	r.ports = make(map[string]hwmodel.PortID, len(caps.Ports))
	for _, p := range caps.Ports {
		r.ports[p.Name] = p.ID
	}
}

// Change takes in one change of a mirrored row. A row that cannot be decoded is
// an error naming it; it is then treated as in doubt and never forwards.
func (r *Resolver) Change(c netstate.Change) error {
	var err error
	switch c.Key.Kind {
	case netstate.KindLink:
		err = r.changeLink(c)
	case netstate.KindAddr:
		err = r.changeAddr(c)
	case netstate.KindNeighbor:
		err = r.changeNeighbor(c)
	case netstate.KindRoute:
		err = r.changeRoute(c)
	case netstate.KindRule:
		err = r.changeRule(c)
	case netstate.KindNexthop:
		err = r.changeObject(c)
	default:
		err = fmt.Errorf("kind %v is not resolved", c.Key.Kind)
	}
	if err != nil {
		return fmt.Errorf("resolve %v row %+v: %w", c.Key.Kind, c.Key, err)
	}
	return nil
}

// Settings replaces all sysctls and presences.
func (r *Resolver) Settings(s *netstate.Settings) {
	r.settings.replace(s)
	r.settingsChanged()
}

// Resync says whether the mirror has lost its hold on the kernel: while true
// every packet traps.
func (r *Resolver) Resync(on bool) {
	if r.resync != on {
		r.resync = on
		r.tSettings.touch(struct{}{})
	}
}

// settingsChanged marks everything that settings or presences can affect.
func (r *Resolver) settingsChanged() {
	r.tSettings.touch(struct{}{})
	r.touchRules()
	for id := range r.links {
		r.tInterface.touch(hwmodel.InterfaceID(id))
	}
	for id := range r.groupIDs {
		r.tGroup.touch(id)
	}
}

// Pending reports whether Next would return a batch.
func (r *Resolver) Pending() bool {
	return r.tInterface.pending() || r.tNeighbor.pending() || r.tHop.pending() || r.tGroup.pending() ||
		r.tRoute.pending() || r.tRules.pending() || r.tOwn.pending() || r.tSettings.pending()
}

// Next returns the difference between what the device shall hold and what it
// holds, and from then on takes it as held; nil when there is none. Sets come
// before deletes (make before break, see hwmodel.Device.Apply). If the batch
// could not be applied, call Adopt with what the device really holds.
func (r *Resolver) Next() *hwmodel.Batch {
	if !r.Pending() {
		return nil
	}
	b := &hwmodel.Batch{}
	// Routes first: they decide which groups live, groups which next hops.
	r.capacity.admit(r)
	r.tRoute.diff(r.wantRoute, equalComparable, func(v hwmodel.Route) { b.Set.Routes = append(b.Set.Routes, v) },
		func(k hwmodel.RouteKey) { b.Delete.Routes = append(b.Delete.Routes, k) })
	r.capacity.retry(r)
	r.tGroup.diff(r.wantGroup, equalGroup, func(v hwmodel.Group) { b.Set.Groups = append(b.Set.Groups, v) },
		func(k hwmodel.GroupID) { b.Delete.Groups = append(b.Delete.Groups, k) })
	r.tHop.diff(r.wantHop, equalComparable, func(v hwmodel.NextHop) { b.Set.NextHops = append(b.Set.NextHops, v) },
		func(k hwmodel.NextHopID) { b.Delete.NextHops = append(b.Delete.NextHops, k) })
	r.tNeighbor.diff(r.wantNeighbor, equalComparable, func(v hwmodel.Neighbor) { b.Set.Neighbors = append(b.Set.Neighbors, v) },
		func(k hwmodel.NeighborKey) { b.Delete.Neighbors = append(b.Delete.Neighbors, k) })
	r.tInterface.diff(r.wantInterface, equalComparable, func(v hwmodel.Interface) { b.Set.Interfaces = append(b.Set.Interfaces, v) },
		func(k hwmodel.InterfaceID) { b.Delete.Interfaces = append(b.Delete.Interfaces, k) })
	r.tOwn.diff(r.wantOwn, equalComparable, func(v hwmodel.OwnAddress) { b.Set.Own = append(b.Set.Own, v) },
		func(k hwmodel.OwnAddress) { b.Delete.Own = append(b.Delete.Own, k) })
	r.tRules.diff(r.wantRules, equalRules, func(v hwmodel.Rules) { b.Set.Rules = append(b.Set.Rules, v) }, func(hwmodel.Family) {})
	r.tSettings.diff(r.wantSettings, equalComparable, func(v hwmodel.Settings) { b.Set.Settings = &v }, func(struct{}) {})
	if b.Set.Len() == 0 && b.Delete.Len() == 0 {
		return nil
	}
	return b
}

// Applied takes in the outcome of the last batch: refused entries are not held,
// and what they would have covered is made safe by the next batch (I13).
func (r *Resolver) Applied(res hwmodel.Result) {
	for _, f := range res.Refused {
		switch f.Table {
		case hwmodel.TableInterface:
			r.tInterface.refuse(f.Interface, f.Reason)
		case hwmodel.TableNeighbor:
			r.tNeighbor.refuse(f.Neighbor, f.Reason)
		case hwmodel.TableNextHop:
			r.tHop.refuse(f.NextHop, f.Reason)
		case hwmodel.TableGroup:
			r.tGroup.refuse(f.Group, f.Reason)
		case hwmodel.TableRoute:
			r.tRoute.refuse(f.Route, f.Reason)
			r.capacity.refused(r, f.Route, f.Reason)
		case hwmodel.TableRules:
			r.tRules.refuse(f.Family, f.Reason)
		}
	}
	for _, c := range res.Final {
		r.counters.final(c)
	}
}

// Plan returns everything the device shall hold, as it is held or will be after
// the next batch; refused entries are left out.
func (r *Resolver) Plan() *hwmodel.Entries {
	for r.Next() != nil {
	}
	return r.held()
}

// held returns what the device is taken to hold.
func (r *Resolver) held() *hwmodel.Entries {
	e := &hwmodel.Entries{}
	for _, v := range r.tInterface.installed {
		e.Interfaces = append(e.Interfaces, v)
	}
	for _, v := range r.tNeighbor.installed {
		e.Neighbors = append(e.Neighbors, v)
	}
	for _, v := range r.tHop.installed {
		e.NextHops = append(e.NextHops, v)
	}
	for _, v := range r.tGroup.installed {
		e.Groups = append(e.Groups, v)
	}
	for _, v := range r.tRoute.installed {
		e.Routes = append(e.Routes, v)
	}
	for _, v := range r.tRules.installed {
		e.Rules = append(e.Rules, v)
	}
	for _, v := range r.tOwn.installed {
		e.Own = append(e.Own, v)
	}
	if v, ok := r.tSettings.installed[struct{}{}]; ok {
		e.Settings = &v
	}
	return e
}

package resolve

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"antiphon/hwmodel"
	"antiphon/netstate"
)

// Route types, include/uapi/linux/rtnetlink.h.
const (
	rtnUnicast     = 1
	rtnLocal       = 2
	rtnBroadcast   = 3
	rtnBlackhole   = 6
	rtnUnreachable = 7
	rtnProhibit    = 8
	rtnThrow       = 9
)

const rtScopeHost = 254

type tableFamily struct {
	table  hwmodel.TableID
	family hwmodel.Family
}

// dest is all rows of one prefix in one kernel table: different metrics and TOS.
type dest struct {
	rows []destRow // by metric; the first is the kernel's choice
}

// destRow is one mirrored row, reduced to what the device needs.
type destRow struct {
	key     netstate.Key
	kind    uint8          // route type of the first alias
	object  hwmodel.Reason // what in the row itself keeps it out of the device
	group   *group         // of a forwarding row
	mtu     uint32
	counter hwmodel.CounterID
}

func routeKey(k netstate.Key) (hwmodel.RouteKey, error) {
	addr, err := keyAddr(k)
	if err != nil {
		return hwmodel.RouteKey{}, err
	}
	p, err := addr.Prefix(int(k.Len))
	if err != nil {
		return hwmodel.RouteKey{}, fmt.Errorf("prefix length %d: %w", k.Len, err)
	}
	return hwmodel.RouteKey{Table: hwmodel.TableID(k.ID), Prefix: p}, nil
}

func (r *Resolver) changeRoute(c netstate.Change) error {
	key, err := routeKey(c.Key)
	if err != nil {
		return err
	}
	d := r.dests[key]
	if d == nil {
		if c.Row == nil {
			return nil
		}
		d = &dest{}
		r.dests[key] = d
		r.populate(key, +1)
	}
	i := slices.IndexFunc(d.rows, func(x destRow) bool { return x.key == c.Key })
	switch {
	case c.Row == nil && i >= 0:
		r.counters.release(d.rows[i].counter)
		r.releaseGroup(d.rows[i].group)
		d.rows = slices.Delete(d.rows, i, i+1)
	case c.Row != nil:
		var row destRow
		row, err = r.decodeRoute(c.Row)
		if i >= 0 {
			row.counter = d.rows[i].counter
			r.releaseGroup(d.rows[i].group)
			d.rows[i] = row
		} else {
			row.counter = r.counters.allocate(c.Key)
			if a, ok := r.adopted.routes[key]; ok && a.Action == row.action() {
				row.counter = r.counters.take(a.Counter, c.Key)
			}
			d.rows = append(d.rows, row)
			slices.SortStableFunc(d.rows, func(a, b destRow) int { return cmp.Compare(a.key.Prio, b.key.Prio) })
		}
	}
	if len(d.rows) == 0 {
		delete(r.dests, key)
		r.populate(key, -1)
	}
	r.touchRoute(key)
	return err
}

// populate counts prefixes per table and keeps what depends on whole tables.
func (r *Resolver) populate(key hwmodel.RouteKey, n int) {
	p := tableFamily{key.Table, familyOf(key.Prefix)}
	r.population[p] += n
	if key.Table == tableDefault {
		r.tRules.touch(p.family)
	}
	if key.Table != tableLocal {
		return
	}
	if addr := key.Prefix.Addr(); key.Prefix.IsSingleIP() {
		if own := (hwmodel.OwnAddress{Addr: addr}); addr.Is4() && n > 0 {
			r.own4(own)
		} else if addr.Is4() {
			r.disown(own)
		}
		return
	} else if addr.IsLoopback() || addr.IsMulticast() || addr.IsLinkLocalUnicast() {
		return // never looked up: such destinations trap before
	}
	before := r.customLookup4()
	if n > 0 {
		r.wide[key] = struct{}{}
	} else {
		delete(r.wide, key)
	}
	for k := range r.dests {
		if k.Table == tableMain && key.Prefix.Overlaps(k.Prefix) {
			r.tRoute.touch(k)
		}
	}
	if r.customLookup4() != before {
		r.touchInterfaces()
	}
}

// touchRoute marks the entries that a prefix of a kernel table shows up in:
// local prefixes are in the device's main table too (see wantRoute).
func (r *Resolver) touchRoute(key hwmodel.RouteKey) {
	r.tRoute.touch(key)
	if key.Table == tableLocal {
		r.tRoute.touch(hwmodel.RouteKey{Table: tableMain, Prefix: key.Prefix})
	}
}

// decodeRoute reduces a row; on a decoding error the row is one that traps.
func (r *Resolver) decodeRoute(row *netstate.Row) (destRow, error) {
	out := destRow{key: row.Key}
	var d netstate.Route
	if err := d.Decode(row.Group[0]); err != nil {
		out.object = hwmodel.ReasonSuspect
		return out, err
	}
	out.kind = d.Type
	out.mtu, _ = d.MTU()
	out.object = rowObjection(row, &d)
	if d.Type == rtnUnicast && out.object == hwmodel.ReasonNone {
		out.group = r.routeGroup(&d)
	}
	return out, nil
}

// rowObjection is what in the messages themselves keeps the row out of the device.
func rowObjection(row *netstate.Row, d *netstate.Route) hwmodel.Reason {
	switch {
	case row.Suspect:
		return hwmodel.ReasonSuspect
	case d.TOS != 0:
		return hwmodel.ReasonRouteTOS
	case d.Src.IsValid() && d.Src.Bits() > 0:
		return hwmodel.ReasonSourceRouting
	case d.Unknown != 0:
		return hwmodel.ReasonRouteAttribute
	case d.HasExpires: // unused from then on; said only when it is collected, up to gc_interval later
		return hwmodel.ReasonRouteAttribute
	case d.Encap():
		return hwmodel.ReasonRouteEncap
	case d.Family == afInet6 && len(row.Group) > 1:
		return hwmodel.ReasonRouteAlias
	}
	for _, l := range d.Legs {
		if l.Realm != 0 { // tclassid: also changes the source check
			return hwmodel.ReasonRouteAttribute
		}
	}
	switch d.Type {
	case rtnUnicast:
		if d.Scope >= rtScopeHost || d.NexthopID == 0 && len(d.Legs) == 0 {
			return hwmodel.ReasonNotForwardable
		}
		return hwmodel.ReasonNone
	case rtnBlackhole, rtnThrow:
		return hwmodel.ReasonNone
	case rtnLocal:
		return hwmodel.ReasonLocal
	case rtnUnreachable:
		return hwmodel.ReasonUnreachable
	case rtnProhibit:
		return hwmodel.ReasonProhibit
	}
	return hwmodel.ReasonNotForwardable
}

func (x *destRow) action() hwmodel.RouteAction {
	switch {
	case x.object != hwmodel.ReasonNone:
		return hwmodel.RouteTrap
	case x.kind == rtnBlackhole:
		return hwmodel.RouteDrop
	case x.kind == rtnThrow:
		return hwmodel.RouteThrow
	}
	return hwmodel.RouteForward
}

// wantRoute: what the device shall hold for a prefix. The device's main table
// also carries the local table's prefixes, as long as the rules look up local
// first: with the default rules the kernel looks both up as one trie, and with
// other rules local comes first anyway, so a local prefix in main can only do
// what was done before. Where the two overlap, and where a throw route goes on,
// the kernel's answer depends on history that no dump shows (03 item 18a): those
// entries trap. Once local is not first, the kernel has taken the two apart.
func (r *Resolver) wantRoute(key hwmodel.RouteKey) (hwmodel.Route, bool) {
	if _, out := r.capacity.out[key]; out {
		return hwmodel.Route{}, false
	}
	d := r.dests[key]
	if order := r.local[familyOf(key.Prefix)]; key.Table == tableMain && order != localApart {
		local := r.dests[hwmodel.RouteKey{Table: tableLocal, Prefix: key.Prefix}]
		switch {
		case local != nil && (d != nil || order == localUnknown || local.rows[0].kind == rtnThrow),
			d != nil && r.insideWideLocal(key.Prefix):
			return hwmodel.Route{RouteKey: key, Reason: hwmodel.ReasonLocalMainOverlap}, true
		case d == nil:
			d = local
		}
	}
	if d == nil {
		return hwmodel.Route{}, false
	}
	if _, covers := r.capacity.covers[key]; covers {
		return hwmodel.Route{RouteKey: key, Reason: hwmodel.ReasonCoversRefused}, true
	}
	if why := d.objection(); why != hwmodel.ReasonNone {
		return hwmodel.Route{RouteKey: key, Reason: why}, true
	}
	best := &d.rows[0]
	out := hwmodel.Route{RouteKey: key, Action: best.action(), Reason: best.object}
	switch out.Action {
	case hwmodel.RouteForward:
		out.Group, out.MTU, out.Counter = best.group.id, best.mtu, best.counter
	case hwmodel.RouteDrop:
		out.Reason, out.Counter = hwmodel.ReasonBlackhole, best.counter
	}
	return out, true
}

// objection is what keeps the whole prefix out of the device: rows that could be
// chosen before or instead of the best one by something the device does not see.
func (d *dest) objection() hwmodel.Reason {
	for i := range d.rows {
		switch x := &d.rows[i]; {
		case x.key.TOS != 0:
			return hwmodel.ReasonRouteTOS
		case x.key.Flag != 0:
			return hwmodel.ReasonSourceRouting
		case x.object == hwmodel.ReasonSuspect && i > 0:
			return hwmodel.ReasonSuspect // might as well have another place now
		}
	}
	return hwmodel.ReasonNone
}

func (r *Resolver) insideWideLocal(p netip.Prefix) bool {
	for k := range r.wide {
		if k.Prefix.Overlaps(p) && k.Prefix.Bits() <= p.Bits() {
			return true
		}
	}
	return false
}

package resolve

import (
	"fmt"
	"slices"

	"antiphon/hwmodel"
	"antiphon/netstate"
)

// Standing is where a mirrored row's packets are dealt with. The numbers are
// those of transport.Fate.
type Standing uint8

const (
	// Offloaded: the device forwards (or drops) by it.
	Offloaded Standing = 1
	// Trapped: packets it applies to go to the host.
	Trapped Standing = 2
	// Failed: the device would not take it; its packets go to the host too.
	Failed Standing = 3
)

// String returns "offloaded", "trapped" or "failed".
func (s Standing) String() string {
	switch s {
	case Offloaded:
		return "offloaded"
	case Trapped:
		return "trapped"
	case Failed:
		return "failed"
	}
	return fmt.Sprintf("standing(%d)", uint8(s))
}

// Fate is what became of a mirrored row.
type Fate struct {
	Standing Standing
	// Reason is why not, ReasonNone when offloaded.
	Reason hwmodel.Reason
	// Detail is for people; it may be set for offloaded rows too.
	Detail string
}

func trapped(why hwmodel.Reason, detail string) Fate { return Fate{Trapped, why, detail} }
func failed(why hwmodel.Reason) Fate                 { return Fate{Failed, why, "the device refused it"} }

var offloaded = Fate{Standing: Offloaded}

// Fate answers for a mirrored row. ok is false if no such row is known.
func (r *Resolver) Fate(k netstate.Key) (fate Fate, ok bool) {
	switch k.Kind {
	case netstate.KindLink:
		l := r.links[k.ID]
		if l == nil {
			return Fate{}, false
		}
		return r.linkFate(l), true
	case netstate.KindAddr:
		if k.Family == afInet {
			_, ok = r.addrs[k]
		} else {
			ok = true // v6 addresses show in the local table only
		}
		return trapped(hwmodel.ReasonLocal, "packets for an address of the host go to the host"), ok
	case netstate.KindNeighbor:
		return r.neighborFate(k)
	case netstate.KindNexthop:
		return r.objectFate(k.ID)
	case netstate.KindRule:
		return r.ruleFate(k)
	case netstate.KindRoute:
		return r.routeFate(k)
	}
	return Fate{}, false
}

// familyTrap is the fate of everything of a family that traps as a whole.
func (r *Resolver) familyTrap(af uint8) (Fate, bool) {
	why := r.globalTrap(af)
	if why == hwmodel.ReasonNone {
		if why = r.closed(af); why == hwmodel.ReasonNone {
			return Fate{}, false
		}
		return trapped(why, "no port lets packets of the family in"), true
	}
	if p := r.settings.global(af); p != nil && why != hwmodel.ReasonResync {
		return trapped(why, p.Detail), true
	}
	return trapped(why, "the mirror is not caught up with the kernel"), true
}

// closed is why no port lets packets of a family in, ReasonNone if one does or
// there is no port at all.
func (r *Resolver) closed(af uint8) hwmodel.Reason {
	var why hwmodel.Reason
	for _, h := range r.tInterface.installed {
		in := h.In4
		if af == afInet6 {
			in = h.In6
		}
		if in == hwmodel.ReasonNone {
			return hwmodel.ReasonNone
		}
		why = first(why, in)
	}
	return why
}

func (r *Resolver) linkFate(l *link) Fate {
	id := hwmodel.InterfaceID(l.index)
	if l.port == "" {
		return trapped(hwmodel.ReasonNotAPort, "the netdev is no representor of a device port")
	}
	if _, ok := r.portOf(l); !ok {
		return trapped(hwmodel.ReasonNotAPort, fmt.Sprintf("the device has no port %q", l.port))
	}
	if why, refused := r.tInterface.refused[id]; refused {
		return failed(why)
	}
	h, ok := r.wantInterface(id)
	if !ok {
		return trapped(hwmodel.ReasonNotAPort, "no Ethernet address")
	}
	if r.globalTrap(afInet) != hwmodel.ReasonNone && r.globalTrap(afInet6) != hwmodel.ReasonNone {
		f, _ := r.familyTrap(afInet)
		return f
	}
	if h.In4 != hwmodel.ReasonNone && h.In6 != hwmodel.ReasonNone {
		return trapped(h.In4, r.linkDetail(l, h.In4))
	}
	detail := ""
	for _, x := range []struct {
		what string
		why  hwmodel.Reason
	}{{"IPv4 in", h.In4}, {"IPv6 in", h.In6}, {"IPv4 out", h.Out4}, {"IPv6 out", h.Out6}} {
		if x.why != hwmodel.ReasonNone {
			detail += fmt.Sprintf("%s traps: %v; ", x.what, x.why)
		}
	}
	return Fate{Standing: Offloaded, Detail: detail}
}

func (r *Resolver) linkDetail(l *link, why hwmodel.Reason) string {
	switch why {
	case hwmodel.ReasonUnmirroredMaster:
		if m := r.links[l.master]; m != nil {
			return fmt.Sprintf("enslaved to %s (%s)", m.name, m.kind)
		}
	case hwmodel.ReasonUnmirroredUpper:
		if u := r.upperOf(l); u != nil {
			return fmt.Sprintf("%s (%s) is stacked on it", u.name, u.kind)
		}
	case hwmodel.ReasonForwardingOff:
		return fmt.Sprintf("net.ipv4.conf.%s.forwarding is 0", l.name)
	}
	for _, p := range r.settings.presences {
		if p.Ifindex == l.index && presenceReason(p.What) == why {
			return p.Detail
		}
	}
	return ""
}

func (r *Resolver) neighborFate(k netstate.Key) (Fate, bool) {
	if k.Flag != 0 {
		return trapped(hwmodel.ReasonNotIP, "proxy entries answer ARP and ND, which the host does"), true
	}
	n, ok := r.neighbors[k]
	if !ok {
		return Fate{}, false
	}
	if why, refused := r.tNeighbor.refused[n.key]; refused {
		return failed(why), true
	}
	_, held := r.tNeighbor.installed[n.key]
	_, isPort := r.portOf(r.links[k.ID])
	switch {
	case n.suspect:
		return trapped(hwmodel.ReasonSuspect, ""), true
	case !isPort:
		return trapped(hwmodel.ReasonNotAPort, ""), true
	case !held:
		return trapped(hwmodel.ReasonNeighborUnresolved, ""), true
	}
	if f, all := r.familyTrap(k.Family); all {
		return f, true
	}
	return offloaded, true
}

func (r *Resolver) objectFate(id uint32) (Fate, bool) {
	o := r.objects[id]
	if o == nil {
		return Fate{}, false
	}
	if o.trap != hwmodel.ReasonNone {
		return trapped(o.trap, ""), true
	}
	if g := r.groups[objectKey(id)]; g != nil {
		return r.groupFate(g), true
	}
	return r.legsFate(r.objectLegs(id), nil), true
}

// groupFate is the fate of what forwards through a group.
func (r *Resolver) groupFate(g *group) Fate {
	if why, refused := r.tGroup.refused[g.id]; refused {
		return failed(why)
	}
	return r.legsFate(g.legs, func(l leg) bool { return r.legDead(g, l) })
}

// legsFate: offloaded if some leg forwards; the detail names those that trap.
func (r *Resolver) legsFate(legs []leg, dead func(leg) bool) Fate {
	good, live := 0, 0
	var why hwmodel.Reason
	detail := ""
	for _, l := range legs {
		reason := l.trap
		if reason == hwmodel.ReasonNone {
			reason = r.hopTrap(l.hopKey())
		}
		if reason == hwmodel.ReasonNone {
			reason = r.egressTrap(l)
		}
		if dead == nil || !dead(l) {
			live++
		} else if reason == hwmodel.ReasonNone {
			reason = hwmodel.ReasonNextHopDead
		}
		if reason == hwmodel.ReasonNone {
			good++
			continue
		}
		why = first(why, reason)
		detail += fmt.Sprintf("%s: %v; ", r.legText(l), reason)
	}
	switch {
	case good == 0:
		return trapped(first(why, hwmodel.ReasonNextHopDead), detail)
	case live > 1 && !r.policyComputed(legs):
		return trapped(hwmodel.ReasonMultipathPolicy, "the device does not compute this fib_multipath_hash_policy")
	}
	return Fate{Standing: Offloaded, Detail: detail}
}

// egressTrap: an unresolved gateway or an egress that traps.
func (r *Resolver) egressTrap(l leg) hwmodel.Reason {
	id := hwmodel.InterfaceID(l.oif)
	if h, ok := r.tInterface.installed[id]; ok && h.Out4 != hwmodel.ReasonNone && h.Out6 != hwmodel.ReasonNone {
		return h.Out4
	}
	if l.gw.IsValid() {
		if _, ok := r.tNeighbor.installed[hwmodel.NeighborKey{Interface: id, Addr: l.gw}]; !ok {
			return hwmodel.ReasonNeighborUnresolved
		}
	}
	return hwmodel.ReasonNone
}

func (r *Resolver) legText(l leg) string {
	dev := fmt.Sprintf("if%d", l.oif)
	if d := r.links[l.oif]; d != nil {
		dev = d.name
	}
	if l.gw.IsValid() {
		return fmt.Sprintf("via %v dev %s", l.gw, dev)
	}
	return "dev " + dev
}

// policyComputed reports whether the device spreads flows over these legs as
// the kernel does; groups serve both families, so both must be computed.
func (r *Resolver) policyComputed(legs []leg) bool {
	s, _ := r.wantSettings(struct{}{})
	v6 := slices.ContainsFunc(legs, func(l leg) bool { return l.gw.Is6() })
	if v6 {
		return s.HashPolicy6 < 8 && r.caps.HashPolicies6&(1<<s.HashPolicy6) != 0
	}
	return s.HashPolicy4 < 8 && r.caps.HashPolicies4&(1<<s.HashPolicy4) != 0
}

func (r *Resolver) ruleFate(k netstate.Key) (Fate, bool) {
	u, ok := r.rules[k]
	if !ok {
		return Fate{}, false
	}
	if u.suspect {
		return trapped(hwmodel.ReasonSuspect, ""), true
	}
	f := family(u.Family)
	if why, refused := r.tRules.refused[f]; refused {
		return failed(why), true
	}
	tied := 0
	for _, o := range r.rules {
		if o.Family == u.Family && o.Priority == u.Priority {
			tied++
		}
	}
	h, matters := r.translateRule(&u, tied > 1)
	switch {
	case !matters:
		return Fate{Standing: Offloaded, Detail: "no packet that comes in by a port can match it"}, true
	case h.Action == hwmodel.RuleTrap:
		detail := ""
		if tied > 1 {
			detail = "several rules share this preference: their order is not mirrored"
		}
		return trapped(h.Reason, detail), true
	}
	if g, all := r.familyTrap(u.Family); all {
		return g, true
	}
	return offloaded, true
}

func (r *Resolver) routeFate(k netstate.Key) (Fate, bool) {
	key, err := routeKey(k)
	if err != nil {
		return Fate{}, false
	}
	d := r.dests[key]
	if d == nil {
		return Fate{}, false
	}
	i := slices.IndexFunc(d.rows, func(x destRow) bool { return x.key == k })
	if i < 0 {
		return Fate{}, false
	}
	row := &d.rows[i]
	if row.object == hwmodel.ReasonSuspect {
		return trapped(hwmodel.ReasonSuspect, "in doubt until a dump settles it"), true
	}
	if why, out := r.capacity.out[key]; out {
		return failed(why), true
	}
	if why, refused := r.tRoute.refused[key]; refused {
		return failed(why), true
	}
	if row.object != hwmodel.ReasonNone {
		return trapped(row.object, ""), true
	}
	if why := d.objection(); why != hwmodel.ReasonNone {
		return trapped(why, "another route of the prefix decides by what the device does not see"), true
	}
	if i > 0 {
		return trapped(hwmodel.ReasonShadowed, "a route with a lower metric is in use"), true
	}
	if f, all := r.familyTrap(k.Family); all {
		return f, true
	}
	h, ok := r.tRoute.installed[key]
	switch {
	case !ok:
		return trapped(hwmodel.ReasonNotProgrammed, ""), true
	case h.Action == hwmodel.RouteTrap:
		return trapped(h.Reason, ""), true
	case h.Action == hwmodel.RouteForward:
		return r.groupFate(row.group), true
	}
	return offloaded, true
}

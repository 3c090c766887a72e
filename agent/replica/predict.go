package replica

import (
	"antiphon/netstate"

	"golang.org/x/sys/unix"
)

// happening is an event that may delete rows in silence. It is remembered for rows
// that a dump read before the event took effect and that the Replica gets to know
// only when that dump ends.
type happening struct {
	at   uint64 // clock
	why  Rule
	id   uint32   // interface or nexthop
	addr [16]byte // preferred source
	// carrier: only nexthop objects are affected, not routes with legs.
	carrier bool
}

// consequences predicts what else a change of a row did. Groups may be empty; a
// deletion counts even if the Replica did not know the row.
func (r *Replica) consequences(k netstate.Key, before, after [][]byte) {
	switch k.Kind {
	case netstate.KindLink:
		r.linkChanged(k.ID, linkNow(before), linkNow(after))
	case netstate.KindAddr:
		if len(after) == 0 {
			r.addressGone(k)
		}
	case netstate.KindNexthop:
		if len(after) == 0 {
			r.happen(happening{why: RuleNexthop, id: k.ID})
		} else if len(before) > 0 {
			r.nexthopChanged(k.ID)
		}
	}
}

func (r *Replica) linkChanged(id uint32, was, now linkState) {
	if !was.known { // assume what could lose the most
		was = linkState{up: true, carrier: true, mtu: now.mtu, typ: now.typ, kind: now.kind}
	}
	switch {
	case !now.known:
		r.happen(happening{why: RuleLinkGone, id: id})
	case was.typ != now.typ || was.kind != now.kind:
		r.happen(happening{why: RuleReuse, id: id})
	case was.master != now.master && (r.isVRF(was.master) || r.isVRF(now.master)):
		r.happen(happening{why: RuleMaster, id: id})
	case was.up && !now.up:
		r.happen(happening{why: RuleLinkDown, id: id})
	case was.carrier && !now.carrier:
		r.happen(happening{why: RuleLinkDown, id: id, carrier: true})
	case was.mtu >= minMTU6 && now.mtu < minMTU6:
		r.happen(happening{why: RuleMTU, id: id})
	}
	if was.mtu != now.mtu && now.known {
		// The kernel follows with the MTU of IPv6 routes, in silence (rt6_mtu_change).
		r.owe(netstate.KindRoute, scope{family: unix.AF_INET6}, RuleMTU)
	}
}

// minMTU6 is IPV6_MIN_MTU: a link with less has no IPv6 (addrconf_notify).
const minMTU6 = 1280

// isVRF says that a master is a VRF, or not known: only VRFs flush routes.
func (r *Replica) isVRF(master uint32) bool {
	if master == 0 {
		return false
	}
	l := r.link(master)
	return !l.known || l.vrf
}

// addressGone: without its last IPv4 address a link has no IPv4 at all. Others
// take only their own routes along, which is said (N2; measured on 6.18: a via
// route through the subnet stays while any address is left).
func (r *Replica) addressGone(k netstate.Key) {
	if k.Family == unix.AF_INET6 {
		r.happen(happening{why: RulePreferredSource, addr: k.Addr})
		return
	}
	left := r.index[indexKey{by: byLink, kind: netstate.KindAddr, family: unix.AF_INET, id: k.ID}]
	if left == nil || !r.trusted(netstate.KindAddr) {
		r.happen(happening{why: RuleLastAddress, id: k.ID})
	}
}

// happen applies an event to all rows known now, and remembers it for those that
// a dump owed or in flight will bring.
func (r *Replica) happen(h happening) {
	h.at = r.clock
	switch {
	case !r.owing() && r.flight == nil:
		r.recent = nil // dumps to come are after all of them
	case len(r.recent) < maxReplay:
		r.recent = append(r.recent, h)
	default:
		r.forget("too many events meanwhile")
	}
	r.apply(h)
}

// apply marks what an event may have deleted and owes the dumps that settle it.
func (r *Replica) apply(h happening) {
	switch h.why {
	case RuleNexthop:
		r.nexthopGone(h.id)
	case RulePreferredSource:
		k := indexKey{by: bySource, kind: netstate.KindRoute, family: unix.AF_INET6, addr: h.addr}
		r.refresh(r.index.entries(nil, k), h.why)
	case RuleLastAddress:
		r.routesDie(h, unix.AF_INET)
	case RuleMTU:
		r.silent6(h)
	case RuleLinkDown:
		if !h.carrier {
			r.routesDie(h, unix.AF_INET)
			r.silent6(h)
			r.rowsOn(h, true)
			r.keptAddresses(h)
		}
		r.nexthopsDie(h)
	default: // gone, master, reuse
		r.routesDie(h, unix.AF_INET)
		r.silent6(h)
		if h.why != RuleMaster {
			r.rowsOn(h, false)
		}
		r.nexthopsDie(h)
	}
}

// silent6 treats IPv6 routes like IPv4 ones if the kernel is told not to speak of
// those it flushes with a device (N29), or nobody has told us whether it is.
func (r *Replica) silent6(h happening) {
	if r.settings == nil {
		r.routesDie(h, unix.AF_INET6)
		return
	}
	if v := settingOf(r.settings, skipNotify); v != "" && v != "0" {
		r.routesDie(h, unix.AF_INET6)
	}
}

// skipNotify is the setting that makes IPv6 as silent as IPv4 (N29).
const skipNotify = "net.ipv6.route.skip_notify_on_dev_down"

func (r *Replica) routesOn(ifindex uint32, family uint8) []*entry {
	return r.index.entries(nil, indexKey{by: byLink, kind: netstate.KindRoute, family: family, id: ifindex})
}

// routesDie suspects the routes with own legs on an interface: any leg, or only if
// all are dead when the link is merely down.
func (r *Replica) routesDie(h happening, family uint8) {
	var w where
	for _, e := range r.routesOn(h.id, family) {
		for _, raw := range e.row.Group {
			if !r.hasLeg(raw, h.id) || h.why == RuleLinkDown && !r.dies(raw, h.id) {
				continue
			}
			r.suspect(e, h.why)
			w.add(e)
			break
		}
	}
	// The filter by interface works while the interface exists.
	if h.why != RuleLinkGone && h.why != RuleReuse && r.link(h.id).known {
		w.oif = h.id
	}
	r.oweWhere(w, h.why)
}

// rowsOn suspects addresses and neighbours of a link: all of them when it is gone
// (their deletions have been said before, so what is left is doubtful), proxy
// neighbours when it is down, whose deletion nobody says (N39).
func (r *Replica) rowsOn(h happening, proxiesOnly bool) {
	for _, k := range [...]netstate.Kind{netstate.KindAddr, netstate.KindNeighbor} {
		found := false
		for _, e := range r.onLink(k, h.id) {
			if proxiesOnly && (k != netstate.KindNeighbor || e.row.Key.Flag != 1) {
				continue
			}
			r.suspect(e, h.why)
			found = true
		}
		if found {
			r.owe(k, scope{}, h.why)
		}
	}
}

// keptAddresses owes a dump when a link with IPv6 addresses goes down: those that
// it keeps (keep_addr_on_down) become tentative, which nobody says.
func (r *Replica) keptAddresses(h happening) {
	k := indexKey{by: byLink, kind: netstate.KindAddr, family: unix.AF_INET6, id: h.id}
	if r.index[k] != nil {
		r.owe(netstate.KindAddr, scope{}, h.why)
	}
}

// nexthopsDie suspects the nexthop objects on a link that went down or lost
// carrier, the groups that shrink with them, and the routes of those (N9).
func (r *Replica) nexthopsDie(h happening) {
	on := r.index.entries(nil, indexKey{by: byLink, kind: netstate.KindNexthop, id: h.id})
	if len(on) == 0 {
		return
	}
	for _, e := range on {
		r.suspect(e, RuleNexthop)
	}
	r.owe(netstate.KindNexthop, scope{}, RuleNexthop)
	for _, e := range on {
		r.nexthopGone(e.row.Key.ID)
	}
}

// nexthopGone suspects the groups and routes that use a nexthop (N10, N11). The
// routes of a group die only with its last member.
func (r *Replica) nexthopGone(id uint32) {
	var w where
	r.usersDie(id, &w)
	groups := r.index.entries(nil, indexKey{by: byNexthop, kind: netstate.KindNexthop, id: id})
	for _, g := range groups {
		r.suspect(g, RuleNexthop)
		if r.allMembersDoubtful(g) {
			r.usersDie(g.row.Key.ID, &w)
		}
	}
	if len(groups) > 0 {
		r.owe(netstate.KindNexthop, scope{}, RuleNexthop)
	}
	r.oweWhere(w, RuleNexthop)
}

// usersDie suspects the routes that name a nexthop.
func (r *Replica) usersDie(id uint32, w *where) {
	for _, family := range [...]uint8{unix.AF_INET, unix.AF_INET6} {
		k := indexKey{by: byNexthop, kind: netstate.KindRoute, family: family, id: id}
		for _, e := range r.index.entries(nil, k) {
			r.suspect(e, RuleNexthop)
			w.add(e)
		}
	}
}

func (r *Replica) allMembersDoubtful(g *entry) bool {
	for _, id := range r.leaves(g.row.Key.ID) {
		e := r.rows[netstate.Key{Kind: netstate.KindNexthop, ID: id}]
		if e == nil || !e.present() {
			continue
		}
		if link := r.nexthopLink(id); e.row.Suspect || link != 0 && (!r.trusted(netstate.KindLink) || !r.link(link).carrier) {
			continue
		}
		return false
	}
	return true
}

// nexthopChanged refreshes the routes whose messages repeat the legs of a nexthop
// (nexthop_compat_mode): a shrunk group is not said again route by route (N12).
// They forward by the object, so they are not in doubt.
func (r *Replica) nexthopChanged(id uint32) {
	ids := []uint32{id}
	for _, g := range r.index.entries(nil, indexKey{by: byNexthop, kind: netstate.KindNexthop, id: id}) {
		ids = append(ids, g.row.Key.ID)
	}
	for _, id := range ids {
		for _, family := range [...]uint8{unix.AF_INET, unix.AF_INET6} {
			k := indexKey{by: byNexthop, kind: netstate.KindRoute, family: family, id: id}
			r.refresh(r.index.entries(nil, k), RuleNexthop)
		}
	}
}

// refresh owes a dump of routes whose value may have changed in silence without a
// change of what they do.
func (r *Replica) refresh(entries []*entry, why Rule) {
	var w where
	for _, e := range entries {
		w.add(e)
	}
	r.oweWhere(w, why)
}

// where adds up the smallest dump filter that covers routes.
type where struct {
	n      int
	family uint8
	table  uint32
	oif    uint32
	mixed  bool // of several tables
}

func (w *where) add(e *entry) {
	k := e.row.Key
	if w.n > 0 {
		if w.family != k.Family {
			w.family = 0
		}
		w.mixed = w.mixed || w.table != k.ID
	} else {
		w.family, w.table = k.Family, k.ID
	}
	w.n++
}

// oweWhere owes the dump: by interface, else by table if there is just one, else whole.
func (r *Replica) oweWhere(w where, why Rule) {
	s := scope{family: w.family}
	switch {
	case w.n == 0:
		return
	case w.oif != 0:
		s.oif = w.oif
	case !w.mixed:
		s.table = w.table
	}
	r.owe(netstate.KindRoute, s, why)
}

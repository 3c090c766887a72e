package softpipe

import (
	"net/netip"

	"antiphon/hwmodel"
)

// wellFormed reports whether a prefix can be a key.
func wellFormed(p netip.Prefix) bool {
	if p.IsValid() && p.Addr().Is4() {
		return addr4(p.Addr())&^mask4(uint8(p.Bits())) == 0
	}
	return p.IsValid() && p == p.Masked()
}

// askRoutes is how many routes are looked at ahead of being set.
const askRoutes = 64

// routesAhead are the places that setting routes will look at: in the table's root,
// in its index, in the index of counters.
type routesAhead struct {
	root, index, counter [hwmodel.VectorSize]uint32
}

// ask asks the cache for what setting these routes will read, as far as they are
// in the table of the first. A wrong guess costs nothing but time.
func (c *change) ask(routes []hwmodel.Route) {
	tab := c.lpm[routes[0].Table]
	if tab == nil {
		return
	}
	a, n := &c.ahead, 0
	for i := range routes[:min(len(routes), askRoutes)] {
		r := &routes[i]
		if ip := r.Prefix.Addr(); ip.Is4() && r.Prefix.IsValid() {
			k := addr4(ip)
			a.root[n] = k
			a.index[n] = tab.v4.slot.home(key4(k, uint8(r.Prefix.Bits())))
			a.counter[n] = c.counters.index.home(r.Counter)
			n++
		}
	}
	ask(tab.v4.root, &a.root, n, tab.v4.shift)
	ask(tab.v4.slot.entry, &a.index, n, 0)
	ask(c.counters.index.slot, &a.counter, n, 0)
}

func (c *change) setRoute(r *hwmodel.Route) hwmodel.Reason {
	switch {
	case r.Table == 0 || !wellFormed(r.Prefix):
		return hwmodel.ReasonMalformed
	case r.Action > hwmodel.RouteThrow:
		return hwmodel.ReasonNotForwardable
	}
	if c.tab == nil || c.tabID != r.Table {
		c.tab, c.tabID = c.lpm[r.Table], r.Table
	}
	tab := c.tab
	var slot, at uint32
	if tab != nil {
		slot, at = tab.find(r.Prefix)
	}
	if slot == 0 {
		if c.full(hwmodel.TableRoute) {
			return hwmodel.ReasonTableFull
		}
		if tab == nil {
			tab = c.table(r.Table)
			c.tab = tab
			_, at = tab.find(r.Prefix)
		}
		slot = c.newRoute()
		c.route[slot].bits = uint8(r.Prefix.Bits())
		tab.insert(at, r.Prefix, slot)
		c.present[hwmodel.TableRoute]++
	}
	rt := &c.route[slot]
	if c.groups.key[rt.group] != r.Group {
		to := c.groups.take(r.Group)
		row(&c.group, to)
		row(&c.legs, to)
		row(&c.shares, to)
		c.groups.release(rt.group)
		rt.group = to
	}
	rt.action, rt.reason, rt.bound = r.Action, r.Reason, r.MTU-1
	c.recount(&rt.counter, r.Counter)
	return hwmodel.ReasonNone
}

func (c *change) removeRoute(k hwmodel.RouteKey) {
	tab := c.lpm[k.Table]
	if tab == nil || !wellFormed(k.Prefix) {
		return
	}
	slot, _ := tab.find(k.Prefix)
	if slot == 0 {
		return
	}
	tab.remove(k.Prefix)
	c.tab = nil // it may go
	rt := &c.route[slot]
	c.groups.release(rt.group)
	c.recount(&rt.counter, 0)
	*rt = route{}
	c.freeRoute = append(c.freeRoute, slot)
	c.present[hwmodel.TableRoute]--
	c.tidy(k.Table, tab)
}

func (c *change) newRoute() uint32 {
	if n := len(c.freeRoute); n > 0 {
		slot := c.freeRoute[n-1]
		c.freeRoute = c.freeRoute[:n-1]
		return slot
	}
	c.route = more(c.route, 1)
	return uint32(len(c.route) - 1)
}

// table returns a table, making it.
func (t *tables) table(id hwmodel.TableID) *table {
	tab := t.lpm[id]
	if tab == nil {
		tab = &table{v4: newLPM4(), v6: newLPM6()}
		t.lpm[id] = tab
	}
	return tab
}

// tidy lets a table go that holds nothing and that no rule names.
func (t *tables) tidy(id hwmodel.TableID, tab *table) {
	if tab.rules == 0 && tab.len() == 0 {
		delete(t.lpm, id)
	}
}

func (c *change) setRules(s *hwmodel.Rules) hwmodel.Reason {
	if s.Family != hwmodel.IPv4 && s.Family != hwmodel.IPv6 {
		return hwmodel.ReasonMalformed
	}
	if len(s.List) > int(min(c.sizes[hwmodel.TableRules], 1<<16-1)) { // packet.rule
		return hwmodel.ReasonTableFull
	}
	for i := range s.List {
		if r := checkRule(s.Family, &s.List[i]); r != hwmodel.ReasonNone {
			return r
		}
	}
	set := &ruleset{set: append([]hwmodel.Rule{}, s.List...)}
	for i := range s.List {
		set.list = append(set.list, c.resolveRule(&s.List[i]))
	}
	c.removeRules(s.Family)
	c.rules[fam(s.Family)] = set
	return hwmodel.ReasonNone
}

func checkRule(f hwmodel.Family, r *hwmodel.Rule) hwmodel.Reason {
	for _, p := range []netip.Prefix{r.From, r.To} {
		if p != (netip.Prefix{}) && (!p.IsValid() || p.Addr().Is4() != (f == hwmodel.IPv4)) {
			return hwmodel.ReasonRuleSelector
		}
	}
	if r.Action > hwmodel.RuleNext || r.Action == hwmodel.RuleLookup && r.Table == 0 {
		return hwmodel.ReasonRuleAction
	}
	return hwmodel.ReasonNone
}

func (c *change) resolveRule(r *hwmodel.Rule) rule {
	n := rule{
		from: matchOf(r.From), to: matchOf(r.To), in: c.takeInterface(r.In), not: r.Not,
		action: r.Action, reason: r.Reason, suppress: r.SuppressPrefixLen,
	}
	n.anyone = !r.Not && r.In == 0 && n.from.mask == addr{} && n.to.mask == addr{}
	if r.Action == hwmodel.RuleLookup {
		n.table = c.table(r.Table)
		n.table.rules++
	}
	return n
}

func (c *change) removeRules(f hwmodel.Family) {
	set := c.rules[fam(f)]
	if set == nil || f != hwmodel.IPv4 && f != hwmodel.IPv6 {
		return
	}
	c.rules[fam(f)] = nil
	for i := range set.list {
		c.ifaces.release(set.list[i].in)
		if tab := set.list[i].table; tab != nil {
			tab.rules--
			c.tidy(set.set[i].Table, tab)
		}
	}
}

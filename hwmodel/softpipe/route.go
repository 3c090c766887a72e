package softpipe

import (
	"encoding/binary"
	"net/netip"

	"antiphon/hwmodel"
)

// routes does the stages rules and route: rule by rule over all packets that have
// no result yet, so that one table at a time is hot and its lookups overlap.
func (w *worker) routes(f int) {
	live := &w.live[f]
	set := w.t.rules[f]
	if set == nil {
		for _, i := range live.each() {
			w.trap(i, stageRules, hwmodel.ReasonNotProgrammed)
		}
		live.n = 0
		return
	}
	w.pending = *live
	live.n = 0
	for n := range set.list {
		if w.pending.n == 0 {
			return
		}
		r := &set.list[n]
		w.match(f, r)
		switch r.action {
		case hwmodel.RuleLookup:
			w.lookup(f, r, uint16(n))
		case hwmodel.RuleNext:
			for _, i := range w.matched.each() {
				w.pending.add(i)
			}
		case hwmodel.RuleDrop:
			for _, i := range w.matched.each() {
				w.trail.rule = uint16(n)
				w.drop(i, stageRules, r.reason, 0)
			}
		default:
			for _, i := range w.matched.each() {
				w.trail.rule = uint16(n)
				w.trap(i, stageRules, r.reason)
			}
		}
	}
	for _, i := range w.pending.each() {
		w.trail.rule = uint16(len(set.list))
		w.trap(i, stageRules, hwmodel.ReasonNoRoute)
	}
}

// match moves the pending packets that a rule matches to matched.
func (w *worker) match(f int, r *rule) {
	if r.anyone {
		w.matched = w.pending
		w.pending.n = 0
		return
	}
	pending := w.pending.each()
	w.pending.n, w.matched.n = 0, 0
	for _, i := range pending {
		if src, dst := w.addrs(f, i); r.matches(src, dst, w.in[i]) {
			w.matched.add(i)
		} else {
			w.pending.add(i)
		}
	}
}

// lookup performs a RuleLookup on the matched packets: results go on, traps and
// drops end, and what found nothing pends again.
func (w *worker) lookup(f int, r *rule, rule uint16) {
	matched := w.matched.each()
	if f == 0 {
		r.table.v4.lookupAll(matched, w.v.N, &w.dst4, &w.entry, &w.deeper)
	} else {
		r.table.v6.lookupAll(matched, w.v.N, &w.dst6, &w.entry, &w.deeper6)
	}
	rows, live := w.t.route, &w.live[f]
	ask(rows, &w.entry, w.v.N, slotShift)
	n := live.n
	for _, i := range matched {
		slot := w.entry[i] >> slotShift
		rt := &rows[slot]
		if w.tracing && slot != 0 {
			w.trail.rule, w.trail.route = rule, slot
		}
		if rt.action == hwmodel.RouteForward && int(rt.bits) > r.suppress {
			w.found[i] = *rt
			live.at[n&0xff] = i
			n++
			w.counted[0][i] = rt.counter
			continue
		}
		switch {
		case slot == 0 || rt.action == hwmodel.RouteThrow || rt.action == hwmodel.RouteForward:
			w.pending.add(i)
		case rt.action == hwmodel.RouteDrop:
			w.drop(i, stageRoute, rt.reason, rt.counter)
		default:
			w.trap(i, stageRoute, rt.reason)
		}
	}
	live.n = n
	ask(w.count, &w.counted[0], w.v.N, 0)
}

func netip6(a addr) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], a.hi)
	binary.BigEndian.PutUint64(b[8:], a.lo)
	return netip.AddrFrom16(b)
}

// sourceFits is the stage rpf, the IPv4 reverse path filter
// (net/ipv4/fib_frontend.c __fib_validate_source): it reports whether a packet may
// have come in by an interface; it would leave by out, and by is the interface in.
func (t *tables) sourceFits(src, dst, by, out uint32, in *iface) bool {
	for n := range t.rules[0].list {
		r := &t.rules[0].list[n]
		if !r.matches(addr{lo: uint64(dst)}, addr{lo: uint64(src)}, out) || r.action == hwmodel.RuleNext {
			continue
		}
		if r.action != hwmodel.RuleLookup {
			return in.rp == hwmodel.RPOff && r.reason.LookupError()
		}
		slot := r.table.v4.lookup(src) >> slotShift
		rt := &t.route[slot]
		if slot == 0 || rt.action == hwmodel.RouteThrow || r.suppresses(rt) {
			continue
		}
		if rt.action != hwmodel.RouteForward && rt.reason.LookupError() {
			return in.rp == hwmodel.RPOff
		}
		return rt.action == hwmodel.RouteForward && (in.rp != hwmodel.RPStrict || t.leavesBy(rt.group, by))
	}
	return in.rp == hwmodel.RPOff
}

// leavesBy reports whether some live leg of a group leaves by an interface.
func (t *tables) leavesBy(slot, iface uint32) bool {
	g := &t.group[slot]
	if g.live == 1 {
		return t.hop[g.hop].leavesBy(iface)
	}
	for _, l := range t.shares[slot] {
		if t.hop[l.hop].leavesBy(iface) {
			return true
		}
	}
	return false
}

func (h *hop) leavesBy(iface uint32) bool {
	return h.present && h.trap == hwmodel.ReasonNone && h.iface == iface
}

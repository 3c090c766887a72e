package refpipe

import (
	"net/netip"

	"antiphon/hwmodel"
)

// resultKind says how a lookup through the rules ended.
type resultKind uint8

const (
	resultNone     resultKind = iota // end of the list
	resultUnset                      // the family has no rules
	resultRoute                      // a route that is not a throw
	resultRuleTrap                   // a rule that traps
	resultRuleDrop                   // a rule that drops
)

// result is the end of a lookup through the rules.
type result struct {
	kind   resultKind
	reason hwmodel.Reason
	route  hwmodel.Route
	rule   *hwmodel.Rule // that decided, nil at the end of the list
}

func (r result) verdict() hwmodel.Verdict {
	if r.kind == resultRuleDrop {
		return hwmodel.Drop
	}
	return hwmodel.Trap
}

// error is the reason of a result that ends a lookup without a way out.
func (r result) error() hwmodel.Reason {
	if r.kind != resultRoute {
		return r.reason
	}
	if r.route.Action == hwmodel.RouteForward {
		return hwmodel.ReasonNone
	}
	return r.route.Reason
}

// lookup is the stage "rules": it looks up dst for a packet from src that came in
// by an interface.
func (w *walk) lookup(src, dst netip.Addr, in hwmodel.InterfaceID) result {
	rules, ok := w.tables.rules[w.pkt.family]
	if !ok {
		return result{kind: resultUnset, reason: hwmodel.ReasonNotProgrammed}
	}
	for _, rule := range rules.List {
		if !selects(rule, src, dst, in) {
			continue
		}
		switch rule.Action {
		case hwmodel.RuleNext:
		case hwmodel.RuleDrop:
			return result{kind: resultRuleDrop, reason: rule.Reason, rule: &rule}
		case hwmodel.RuleLookup:
			route, ok := w.tables.longest(rule.Table, dst)
			suppressed := route.Action == hwmodel.RouteForward && route.Prefix.Bits() <= rule.SuppressPrefixLen
			if ok && route.Action != hwmodel.RouteThrow && !suppressed {
				return result{kind: resultRoute, route: route, rule: &rule}
			}
		default:
			return result{kind: resultRuleTrap, reason: rule.Reason, rule: &rule}
		}
	}
	return result{kind: resultNone, reason: hwmodel.ReasonNoRoute}
}

// selects is fib_rule_match (net/core/fib_rules.c): Not inverts the whole.
func selects(r hwmodel.Rule, src, dst netip.Addr, in hwmodel.InterfaceID) bool {
	match := (!r.From.IsValid() || r.From.Contains(src)) &&
		(!r.To.IsValid() || r.To.Contains(dst)) &&
		(r.In == 0 || r.In == in)
	return match != r.Not
}

// sourcePasses is the stage "rpf" (fib_validate_source, net/ipv4/fib_frontend.c).
// out is where the packet would leave: the answer would come in there.
func (w *walk) sourcePasses(out hwmodel.InterfaceID) bool {
	mode := w.in.RPFilter
	if mode == hwmodel.RPOff && !w.in.SourceCheck {
		return true
	}
	found := w.lookup(w.pkt.dst, w.pkt.src, out)
	passes := false
	switch {
	case found.kind == resultNone, found.error().LookupError():
		passes = mode == hwmodel.RPOff
	case found.kind != resultRoute || found.route.Action != hwmodel.RouteForward:
	case mode == hwmodel.RPStrict:
		passes = w.leavesBy(found.route.Group, w.in.ID)
	default:
		passes = true
	}
	return passes
}

// leavesBy says whether some live leg of a group leaves by an interface.
func (w *walk) leavesBy(group hwmodel.GroupID, by hwmodel.InterfaceID) bool {
	for _, leg := range w.tables.groups[group].Legs {
		hop, ok := w.tables.nexthops[leg.NextHop]
		if ok && !leg.Dead && hop.Trap == hwmodel.ReasonNone && hop.Interface == by {
			return true
		}
	}
	return false
}

package resolve

import (
	"bytes"
	"cmp"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"

	"antiphon/hwmodel"
	"antiphon/netstate"
)

// Kernel routing tables, include/uapi/linux/rtnetlink.h.
const (
	tableDefault = 253
	tableMain    = 254
	tableLocal   = 255
)

// rule is a mirrored policy rule; the decoded message is kept because what it
// means depends on links, which come and go.
type rule struct {
	netstate.Rule
	suspect bool
}

func (r *Resolver) touchRules() {
	r.tRules.touch(hwmodel.IPv4)
	r.tRules.touch(hwmodel.IPv6)
}

func (r *Resolver) changeRule(c netstate.Change) error {
	var err error
	before := r.customLookup4()
	if c.Row == nil {
		delete(r.rules, c.Key)
	} else {
		n := rule{suspect: c.Row.Suspect}
		if err = n.Decode(c.Row.Group[0]); err != nil {
			n.suspect = true
			n.Family, n.Priority = c.Key.Family, c.Key.Prio
		}
		r.rules[c.Key] = n
	}
	r.touchRules()
	r.tSettings.touch(struct{}{}) // see dissects6
	if r.customLookup4() != before {
		r.touchInterfaces()
	}
	f := family(c.Key.Family)
	if order := r.orderOfLocal(c.Key.Family); order != r.local[f] {
		r.local[f] = order
		for k := range r.dests {
			if familyOf(k.Prefix) == f {
				r.touchRoute(k)
			}
		}
	}
	return err
}

// dissects6 reports whether an IPv6 rule makes the kernel dissect packets before
// it looks up a route (fib_rule_requires_fldissect, include/net/fib_rules.h). The
// multipath hash of policy 0 is then made of what was dissected: another flow
// label, another protocol (net/ipv6/route.c ip6_multipath_l3_keys).
func (r *Resolver) dissects6() bool {
	for _, u := range r.rules {
		if u.Family == afInet6 && (u.IPProto != 0 || u.Sport != (netstate.PortRange{}) || u.Dport != (netstate.PortRange{})) {
			return true
		}
	}
	return false
}

// localOrder is when the kernel looks up the table local.
type localOrder uint8

const (
	localApart   localOrder = iota // where its rules say, apart from main
	localFirst                     // before everything else
	localUnknown                   // first, or not at all
)

// orderOfLocal reads the rules of a family.
func (r *Resolver) orderOfLocal(af uint8) localOrder {
	least, order, custom := uint32(math.MaxUint32), localApart, false
	for _, u := range r.rules {
		if u.Family != af {
			continue
		}
		custom = custom || !u.isDefault()
		if u.Priority > least {
			continue
		}
		if u.Priority < least {
			order = localApart // tied ones trap anyway
		}
		if least = u.Priority; u.Table == tableLocal && u.Action == netstate.RuleToTable && u.plain() {
			order = localFirst
		}
	}
	// IPv6 does not look at its rules until one is added; to remove that of local
	// is nothing to it (net/ipv6/fib6_rules.c fib6_has_custom_rules).
	if order == localApart && af == afInet6 && !custom {
		return localUnknown
	}
	return order
}

func (r *Resolver) touchInterfaces() {
	for id := range r.links {
		r.tInterface.touch(hwmodel.InterfaceID(id))
	}
}

// isDefault reports whether the rule is one the kernel makes at start.
func (u *rule) isDefault() bool {
	if !u.plain() || u.Action != netstate.RuleToTable {
		return false
	}
	switch {
	case u.Priority == 0 && u.Table == tableLocal:
		return true
	case u.Priority == 32766 && u.Table == tableMain:
		return true
	case u.Priority == 32767 && u.Table == tableDefault && u.Family == afInet:
		return true
	}
	return false
}

// plain reports whether the rule has no selector at all.
func (u *rule) plain() bool {
	sel, exact, never := u.selectors(nil)
	return exact && !never && !u.Invert() && sel == (hwmodel.Rule{}) && u.SuppressPrefixLen < 0 && u.SuppressIfGroup < 0 &&
		u.IIF == "" && u.OIF == "" && !u.HasMark
}

// customLookup4 reports whether the IPv4 source check looks beyond the host's
// own addresses (net/ipv4/fib_frontend.c fib_validate_source).
func (r *Resolver) customLookup4() bool {
	for k := range r.wide {
		if k.Prefix.Addr().Is4() {
			return true
		}
	}
	for _, u := range r.rules {
		if u.Family == afInet && !u.isDefault() {
			return true
		}
	}
	return false
}

// selectors translates what the device can match on. exact is false if the
// kernel also looks at something the device does not (then sel is a superset);
// never is true if no packet that comes in by a port can match.
func (u *rule) selectors(port func(name string) (id hwmodel.InterfaceID, certain bool)) (sel hwmodel.Rule, exact, never bool) {
	exact = true
	if u.From.IsValid() && u.From.Bits() > 0 {
		sel.From = u.From
	}
	if u.To.IsValid() && u.To.Bits() > 0 {
		sel.To = u.To
	}
	if u.IIF != "" && port != nil {
		if sel.In, exact = port(u.IIF); sel.In == 0 {
			never = true
		}
	}
	// Forwarded packets have no output interface, no tunnel id, no mark (whatever
	// could set one makes everything trap) and no VRF (its ports trap).
	if u.OIF != "" || u.TunID != 0 || u.L3MDev || u.Mark&u.MarkMask != 0 {
		never = true
	}
	if u.TOS != 0 || u.HasDSCP || u.HasFlowlabel || u.IPProto != 0 || u.Sport != (netstate.PortRange{}) || u.Dport != (netstate.PortRange{}) || u.SportMask|u.DportMask != 0 || u.HasUIDRange || u.Realm != 0 || u.Unknown != 0 {
		exact = false
	}
	return sel, exact, never
}

func (r *Resolver) wantRules(f hwmodel.Family) (hwmodel.Rules, bool) {
	family := uint8(afInet)
	if f == hwmodel.IPv6 {
		family = afInet6
	}
	var rules []rule
	byDefault := true
	// Rules of one preference trap, but must not change places for nothing.
	for _, k := range slices.SortedFunc(maps.Keys(r.rules), func(a, b netstate.Key) int {
		return cmp.Or(cmp.Compare(a.Prio, b.Prio), bytes.Compare(a.Addr[:], b.Addr[:]))
	}) {
		if u := r.rules[k]; u.Family == family {
			if u.suspect {
				return hwmodel.Rules{Family: f, List: []hwmodel.Rule{{Reason: hwmodel.ReasonSuspect, SuppressPrefixLen: -1}}}, true
			}
			rules = append(rules, u)
			byDefault = byDefault && u.isDefault()
		}
	}
	out := hwmodel.Rules{Family: f}
	for i, u := range rules {
		// With the kernel's own rules alone the table main, which always carries
		// the local prefixes too, says everything that local would.
		if byDefault && u.Table == tableLocal {
			continue
		}
		if u.Table == tableDefault && u.Action == netstate.RuleToTable && !r.hasRoutes(tableDefault, f) {
			continue
		}
		tied := i > 0 && rules[i-1].Priority == u.Priority || i+1 < len(rules) && rules[i+1].Priority == u.Priority
		if h, ok := r.translateRule(&u, tied); ok {
			out.List = append(out.List, h)
		}
	}
	return out, true
}

// translateRule returns the device's rule, or false if it can never matter.
// Tied rules share a preference: their order is not in the mirror, so packets
// that could match either trap.
func (r *Resolver) translateRule(u *rule, tied bool) (hwmodel.Rule, bool) {
	sel, exact, never := u.selectors(r.portByIfname)
	switch {
	case never && !u.Invert():
		return hwmodel.Rule{}, false
	case never: // the inverse of "never" is "always"
		sel, exact = hwmodel.Rule{}, true
	case u.Invert() && !exact:
		sel = hwmodel.Rule{}
	default:
		sel.Not = u.Invert() && sel != (hwmodel.Rule{})
		if u.Invert() && !sel.Not { // not from all: matches nothing
			return hwmodel.Rule{}, false
		}
	}
	sel.Priority = u.Priority
	sel.SuppressPrefixLen = -1
	switch {
	case !exact:
		sel.Reason = hwmodel.ReasonRuleSelector
		return sel, true
	case tied:
		sel.Reason = hwmodel.ReasonRuleSelector
		return sel, true
	case u.SuppressIfGroup >= 0:
		sel.Reason = hwmodel.ReasonRuleAction
		return sel, true
	}
	switch u.Action {
	case netstate.RuleToTable:
		if _, bare := r.capacity.bare[tableFamily{hwmodel.TableID(u.Table), family(u.Family)}]; bare {
			sel.Reason = hwmodel.ReasonCoversRefused
			return sel, true
		}
		sel.Action, sel.Table = hwmodel.RuleLookup, hwmodel.TableID(u.Table)
		sel.SuppressPrefixLen = int(u.SuppressPrefixLen)
	case netstate.RuleNop:
		sel.Action = hwmodel.RuleNext
	case netstate.RuleBlackhole:
		sel.Action, sel.Reason = hwmodel.RuleDrop, hwmodel.ReasonBlackhole
	case netstate.RuleUnreachable:
		sel.Reason = hwmodel.ReasonUnreachable
	case netstate.RuleProhibit:
		sel.Reason = hwmodel.ReasonProhibit
	default:
		sel.Reason = hwmodel.ReasonRuleAction
	}
	return sel, true
}

// portByIfname returns the router interface of a port's representor by its
// current name, 0 if the name is no port. A rule made with an alternative name
// matches by it until the link is renamed (net/core/fib_rules.c fib_nl2rule,
// attach_rules), which the mirror does not show: that is not certain.
func (r *Resolver) portByIfname(name string) (id hwmodel.InterfaceID, certain bool) {
	for index, l := range r.links {
		if _, ok := r.portOf(l); !ok {
			continue
		}
		if l.name == name {
			return hwmodel.InterfaceID(index), true
		}
		if slices.Contains(strings.Fields(l.alts), name) {
			id = hwmodel.InterfaceID(index)
		}
	}
	return id, id == 0
}

// hasRoutes reports whether the table holds any route of the family.
func (r *Resolver) hasRoutes(table uint32, f hwmodel.Family) bool {
	return r.population[tableFamily{hwmodel.TableID(table), f}] > 0
}

// family translates an address family.
func family(af uint8) hwmodel.Family {
	if af == afInet {
		return hwmodel.IPv4
	}
	return hwmodel.IPv6
}

func familyOf(p netip.Prefix) hwmodel.Family {
	if p.Addr().Is4() {
		return hwmodel.IPv4
	}
	return hwmodel.IPv6
}

package hwtest

import (
	"fmt"
	"net/netip"
	"testing"

	"antiphon/hwmodel"
)

// testRules: selectors, actions and what makes a lookup go on.
//
// Table 1 has the scene's routes; table 2 the packet's target by port 3, table 3
// throws it, table 4 has only a default route by port 4, table 5 is empty, table
// 6 traps and table 7 drops it.
func testRules(t *testing.T, mk maker) {
	for _, f := range []hwmodel.Family{hwmodel.IPv4, hwmodel.IPv6} {
		sc := newScene(f)
		target, all := prefix4, "0.0.0.0/0"
		if f == hwmodel.IPv6 {
			target, all = prefix6, "::/0"
		}
		in := func(table hwmodel.TableID, prefix string, action hwmodel.RouteAction, r hwmodel.Reason, port int) {
			v := mainRoute(prefix, int(viaHost(f, port)))
			v.Table, v.Action, v.Reason = table, action, r
			sc.Routes = append(sc.Routes, v)
		}
		in(2, target, hwmodel.RouteForward, 0, 3)
		in(3, target, hwmodel.RouteThrow, 0, 0)
		in(3, all, hwmodel.RouteForward, 0, 5)
		in(4, all, hwmodel.RouteForward, 0, 4)
		in(6, target, hwmodel.RouteTrap, hwmodel.ReasonLocal, 0)
		in(7, target, hwmodel.RouteDrop, hwmodel.ReasonBlackhole, 0)

		from := netip.PrefixFrom(sc.pkt.From, 24).Masked()
		to := netip.MustParsePrefix(target)
		elsewhere := netip.PrefixFrom(host(f, 7), 24).Masked()
		if f == hwmodel.IPv6 {
			from, elsewhere = netip.PrefixFrom(sc.pkt.From, 64).Masked(), netip.PrefixFrom(host(f, 7), 64).Masked()
		}
		rule := func(table hwmodel.TableID, change func(r *hwmodel.Rule)) hwmodel.Rule {
			r := lookup(table)
			if change != nil {
				change(&r)
			}
			return r
		}
		out := func(port int) fate { return forwarded(sc.pkt, port) }
		cases := []struct {
			name string
			list []hwmodel.Rule
			want fate
		}{
			{"first-wins", []hwmodel.Rule{lookup(2), lookup(1)}, out(3)},
			{"order-not-priority", []hwmodel.Rule{
				rule(2, func(r *hwmodel.Rule) { r.Priority = 9 }), rule(1, func(r *hwmodel.Rule) { r.Priority = 1 })}, out(3)},
			{"empty-table-goes-on", []hwmodel.Rule{lookup(5), lookup(2)}, out(3)},
			{"missing-table-goes-on", []hwmodel.Rule{lookup(4000), lookup(2)}, out(3)},
			{"throw-goes-on", []hwmodel.Rule{lookup(3), lookup(2)}, out(3)},
			{"throw-last", []hwmodel.Rule{lookup(3)}, trapped(hwmodel.ReasonNoRoute)},
			{"trap-ends", []hwmodel.Rule{lookup(6), lookup(2)}, trapped(hwmodel.ReasonLocal)},
			{"drop-ends", []hwmodel.Rule{lookup(7), lookup(2)}, dropped(hwmodel.ReasonBlackhole)},
			{"next", []hwmodel.Rule{{Action: hwmodel.RuleNext, Reason: hwmodel.ReasonLocal, SuppressPrefixLen: -1}, lookup(2)}, out(3)},
			{"next-last", []hwmodel.Rule{{Action: hwmodel.RuleNext, SuppressPrefixLen: -1}}, trapped(hwmodel.ReasonNoRoute)},
			{"rule-traps", []hwmodel.Rule{{Reason: hwmodel.ReasonRuleAction, SuppressPrefixLen: -1}, lookup(2)}, trapped(hwmodel.ReasonRuleAction)},
			{"rule-drops", []hwmodel.Rule{{Action: hwmodel.RuleDrop, Reason: hwmodel.ReasonBlackhole, SuppressPrefixLen: -1}, lookup(2)}, dropped(hwmodel.ReasonBlackhole)},
			{"unreached-rules-do-nothing", []hwmodel.Rule{lookup(2), {Action: hwmodel.RuleDrop, Reason: hwmodel.ReasonBlackhole}}, out(3)},

			{"from", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.From = from }), lookup(1)}, out(3)},
			{"from-host", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.From = netip.PrefixFrom(sc.pkt.From, sc.pkt.From.BitLen()) }), lookup(1)}, out(3)},
			{"from-other", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.From = elsewhere }), lookup(1)}, out(2)},
			{"from-all", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.From = netip.MustParsePrefix(all) }), lookup(1)}, out(3)},
			{"to", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.To = to }), lookup(1)}, out(3)},
			{"to-other", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.To = elsewhere }), lookup(1)}, out(2)},
			{"in", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.In = ifaceOf(1) }), lookup(1)}, out(3)},
			{"in-other", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.In = ifaceOf(2) }), lookup(1)}, out(2)},
			{"in-nowhere", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.In = 4000 }), lookup(1)}, out(2)},
			{"all-selectors", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.From, r.To, r.In = from, to, ifaceOf(1) }), lookup(1)}, out(3)},
			{"one-selector-misses", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.From, r.To, r.In = from, elsewhere, ifaceOf(1) }), lookup(1)}, out(2)},
			{"not-all", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.Not = true }), lookup(1)}, out(2)},
			{"not-from", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.From, r.Not = from, true }), lookup(1)}, out(2)},
			{"not-from-other", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.From, r.Not = elsewhere, true }), lookup(1)}, out(3)},
			{"not-inverts-the-whole", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.From, r.To, r.Not = from, elsewhere, true }), lookup(1)}, out(3)},
			{"not-in", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.In, r.Not = ifaceOf(1), true }), lookup(1)}, out(2)},
			{"not-in-other", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.In, r.Not = ifaceOf(2), true }), lookup(1)}, out(3)},
			{"not-to-other", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.To, r.Not = elsewhere, true }), lookup(1)}, out(3)},
			{"not-drop", []hwmodel.Rule{{Not: true, From: elsewhere, Action: hwmodel.RuleDrop, Reason: hwmodel.ReasonProhibit, SuppressPrefixLen: -1}, lookup(1)}, dropped(hwmodel.ReasonProhibit)},

			{"suppress-default", []hwmodel.Rule{rule(4, func(r *hwmodel.Rule) { r.SuppressPrefixLen = 0 }), lookup(1)}, out(2)},
			{"suppress-spares-longer", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.SuppressPrefixLen = 0 }), lookup(1)}, out(3)},
			{"suppress-own-length", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.SuppressPrefixLen = to.Bits() }), lookup(1)}, out(2)},
			{"suppress-one-shorter", []hwmodel.Rule{rule(2, func(r *hwmodel.Rule) { r.SuppressPrefixLen = to.Bits() - 1 }), lookup(1)}, out(3)},
			{"suppress-does-not-try-shorter", []hwmodel.Rule{rule(1, func(r *hwmodel.Rule) { r.SuppressPrefixLen = 128 }), lookup(4)}, out(4)},
			{"suppress-spares-drops", []hwmodel.Rule{rule(7, func(r *hwmodel.Rule) { r.SuppressPrefixLen = 128 }), lookup(1)}, dropped(hwmodel.ReasonBlackhole)},
			{"suppress-spares-traps", []hwmodel.Rule{rule(6, func(r *hwmodel.Rule) { r.SuppressPrefixLen = 128 }), lookup(1)}, trapped(hwmodel.ReasonLocal)},
			{"suppress-last", []hwmodel.Rule{rule(4, func(r *hwmodel.Rule) { r.SuppressPrefixLen = 0 })}, trapped(hwmodel.ReasonNoRoute)},
		}
		t.Run(fmt.Sprintf("IPv%d", f), func(t *testing.T) {
			s := mk(t, Config{Ports: ports()})
			s.load(t, sc.Entries)
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) {
					s.apply(t, hwmodel.Batch{Set: hwmodel.Entries{Rules: []hwmodel.Rules{{Family: f, List: c.list}}}})
					s.expect(t, sc.in, sc.pkt.Frame(), c.want)
				})
			}
		})
	}
}

// testSource is the reverse path filter and the source checks of IPv4.
func testSource(t *testing.T, mk maker) {
	s := mk(t, Config{Ports: ports()})
	const home = "10.0.1.0/24" // the route back to the packet's source
	cases := []struct {
		name   string
		make   func(sc *scene)
		passes bool
	}{
		{"off", func(sc *scene) { sc.route(home).Action = hwmodel.RouteTrap }, true},
		{"strict", func(sc *scene) { sc.ingress().RPFilter = hwmodel.RPStrict }, true},
		{"strict/elsewhere", func(sc *scene) { sc.ingress().RPFilter = hwmodel.RPStrict; sc.route(home).Group = 103 }, false},
		{"strict/any-leg", func(sc *scene) {
			sc.ingress().RPFilter = hwmodel.RPStrict
			sc.group(101).Legs = []hwmodel.Leg{{NextHop: 3, Weight: 1}, {NextHop: 101, Weight: 1}}
		}, true},
		{"strict/dead-leg", func(sc *scene) {
			sc.ingress().RPFilter = hwmodel.RPStrict
			sc.group(101).Legs = []hwmodel.Leg{{NextHop: 3, Weight: 1}, {NextHop: 101, Weight: 1, Dead: true}}
		}, false},
		{"strict/missing-group", func(sc *scene) { sc.ingress().RPFilter = hwmodel.RPStrict; sc.route(home).Group = 4000 }, false},
		{"loose", func(sc *scene) { sc.ingress().RPFilter = hwmodel.RPLoose }, true},
		{"loose/elsewhere", func(sc *scene) { sc.ingress().RPFilter = hwmodel.RPLoose; sc.route(home).Group = 103 }, true},
		{"loose/default", func(sc *scene) {
			sc.ingress().RPFilter = hwmodel.RPLoose
			*sc.route(home) = mainRoute("0.0.0.0/0", 3)
		}, true},
		{"loose/no-route", func(sc *scene) { sc.ingress().RPFilter = hwmodel.RPLoose; sc.route(home).Action = hwmodel.RouteThrow }, false},
		{"loose/trap", func(sc *scene) { sc.ingress().RPFilter = hwmodel.RPLoose; sc.route(home).Action = hwmodel.RouteTrap }, false},
		{"loose/drop", func(sc *scene) { sc.ingress().RPFilter = hwmodel.RPLoose; sc.route(home).Action = hwmodel.RouteDrop }, false},
		{"check", func(sc *scene) { sc.ingress().SourceCheck = true }, true},
		{"check/elsewhere", func(sc *scene) { sc.ingress().SourceCheck = true; sc.route(home).Group = 103 }, true},
		{"check/no-route", func(sc *scene) { sc.ingress().SourceCheck = true; sc.route(home).Action = hwmodel.RouteThrow }, true},
		{"check/trap", func(sc *scene) { sc.ingress().SourceCheck = true; sc.route(home).Action = hwmodel.RouteTrap }, false},
		{"check/drop", func(sc *scene) { sc.ingress().SourceCheck = true; sc.route(home).Action = hwmodel.RouteDrop }, false},
		{"check/rule-drop", func(sc *scene) {
			sc.ingress().SourceCheck = true
			sc.rules().List = []hwmodel.Rule{{To: netip.MustParsePrefix(home), Action: hwmodel.RuleDrop, SuppressPrefixLen: -1}, lookup(mainTable)}
		}, false},
		{"swapped-selectors", func(sc *scene) {
			// The source is looked up as a destination, coming from the packet's
			// destination: only these two rules together let it pass.
			sc.ingress().RPFilter = hwmodel.RPStrict
			there, back := lookup(mainTable), lookup(mainTable)
			there.From = netip.MustParsePrefix(home)
			back.From, back.To = netip.MustParsePrefix(prefix4), netip.MustParsePrefix(home)
			sc.rules().List = []hwmodel.Rule{there, back}
		}, true},
		{"swapped-selectors/missing", func(sc *scene) {
			sc.ingress().RPFilter = hwmodel.RPStrict
			there := lookup(mainTable)
			there.From = netip.MustParsePrefix(home)
			sc.rules().List = []hwmodel.Rule{there}
		}, false},
		{"check/lookup-error", func(sc *scene) {
			sc.ingress().SourceCheck = true
			sc.route(home).Action, sc.route(home).Reason = hwmodel.RouteDrop, hwmodel.ReasonBlackhole
		}, true},
		{"loose/lookup-error", func(sc *scene) {
			sc.ingress().RPFilter = hwmodel.RPLoose
			sc.route(home).Action, sc.route(home).Reason = hwmodel.RouteTrap, hwmodel.ReasonUnreachable
		}, false},
		{"check/rule-lookup-error", func(sc *scene) {
			sc.ingress().SourceCheck = true
			sc.rules().List = []hwmodel.Rule{{To: netip.MustParsePrefix(home), Reason: hwmodel.ReasonProhibit, SuppressPrefixLen: -1}, lookup(mainTable)}
		}, true},
		{"rule-with-in-elsewhere", func(sc *scene) {
			sc.ingress().SourceCheck = true
			sc.rules().List = append([]hwmodel.Rule{{In: ifaceOf(7), Reason: hwmodel.ReasonRuleAction, SuppressPrefixLen: -1}}, sc.rules().List...)
		}, true},
		{"rule-with-in-of-egress", func(sc *scene) {
			sc.ingress().SourceCheck = true
			sc.rules().List = append([]hwmodel.Rule{{In: ifaceOf(2), Reason: hwmodel.ReasonRuleAction, SuppressPrefixLen: -1}}, sc.rules().List...)
		}, false},
		{"rule-with-in-behind", func(sc *scene) {
			sc.ingress().SourceCheck = true
			r := lookup(4000)
			r.In = ifaceOf(7)
			sc.rules().List = append(sc.rules().List, r)
		}, true},
		{"suppressed", func(sc *scene) {
			sc.ingress().RPFilter = hwmodel.RPLoose
			*sc.route(home) = mainRoute("0.0.0.0/0", 3)
			sc.rules().List[0].SuppressPrefixLen = 0
		}, false},
		{"other-interface", func(sc *scene) { sc.egress().RPFilter = hwmodel.RPStrict; sc.route(home).Group = 103 }, true},
		{"own-source/accept-local", func(sc *scene) {
			sc.Own = []hwmodel.OwnAddress{{Addr: host4(1)}}
			sc.ingress().AcceptLocal = true
		}, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			sc := newScene(hwmodel.IPv4)
			c.make(sc)
			s.load(t, sc.Entries)
			want := trapped(hwmodel.ReasonReversePath)
			if c.passes {
				want = forwarded(sc.pkt, 2)
			}
			s.expect(t, sc.in, sc.pkt.Frame(), want)
		})
	}
	t.Run("IPv6-has-none", func(t *testing.T) {
		sc := newScene(hwmodel.IPv6)
		sc.ingress().RPFilter, sc.ingress().SourceCheck = hwmodel.RPStrict, true
		sc.pkt.From = netip.MustParseAddr("2001:db8:dead::1")
		s.load(t, sc.Entries)
		s.expect(t, sc.in, sc.pkt.Frame(), forwarded(sc.pkt, 2))
	})
}

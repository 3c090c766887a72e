package hwtest

import (
	"net/netip"
	"slices"
	"testing"

	"antiphon/hwmodel"
)

// fault is one thing that can be wrong with a scene: where in the pipeline it is
// found and what becomes of the packet. Several faults can be in one scene; a
// later one in this file's order must not undo an earlier one when it is made
// first.
type fault struct {
	name string
	want fate
	make func(s *scene)
	// only is the family it exists in, 0: both.
	only hwmodel.Family
	// naked scenes lack what a device cannot be made to forget.
	naked bool
}

// faults lists the pipeline's objections in the order of hwmodel.Device.
func faults() []fault {
	one := func(name string, r hwmodel.Reason, mk func(s *scene)) fault {
		return fault{name: name, want: trapped(r), make: mk}
	}
	only := func(f hwmodel.Family, x fault) fault { x.only = f; return x }
	naked := func(x fault) fault { x.naked = true; return x }
	const v4, v6 = hwmodel.IPv4, hwmodel.IPv6
	return []fault{
		one("parse/tag-802.1Q", hwmodel.ReasonVLANTag, func(s *scene) { s.pkt.Tag = 0x8100 }),
		one("parse/tag-802.1ad", hwmodel.ReasonVLANTag, func(s *scene) { s.pkt.Tag = 0x88a8 }),
		one("parse/arp", hwmodel.ReasonNotIP, func(s *scene) { s.pkt.EtherType = 0x0806 }),
		one("parse/length", hwmodel.ReasonNotIP, func(s *scene) { s.pkt.EtherType = 46 }),
		one("interface/none", hwmodel.ReasonNoInterface, func(s *scene) {
			s.Interfaces = slices.DeleteFunc(s.Interfaces, func(i hwmodel.Interface) bool { return i.Port == 1 })
		}),
		naked(one("interface/no-settings", hwmodel.ReasonNotProgrammed, func(s *scene) { s.Settings = nil })),
		one("mac/broadcast", hwmodel.ReasonBroadcast, func(s *scene) { s.pkt.DstMAC = hwmodel.MAC{255, 255, 255, 255, 255, 255} }),
		one("mac/multicast", hwmodel.ReasonBroadcast, func(s *scene) { s.pkt.DstMAC = hwmodel.MAC{1, 0, 0x5e, 1, 1, 1} }),
		one("mac/other", hwmodel.ReasonNotOurMAC, func(s *scene) { s.pkt.DstMAC = hostMAC(7) }),
		one("mac/other-port", hwmodel.ReasonNotOurMAC, func(s *scene) { s.pkt.DstMAC = routerMAC(2) }),
		one("family/settings", hwmodel.ReasonResync, func(s *scene) {
			if s.Settings != nil {
				s.Settings.Trap4, s.Settings.Trap6 = hwmodel.ReasonResync, hwmodel.ReasonResync
			}
		}),
		one("family/interface", hwmodel.ReasonForwardingOff, func(s *scene) {
			s.ingress().In4, s.ingress().In6 = hwmodel.ReasonForwardingOff, hwmodel.ReasonForwardingOff
		}),
		one("header/version", hwmodel.ReasonMalformed, func(s *scene) { s.pkt.Version = 5 }),
		only(v4, one("header/options", hwmodel.ReasonIPOptions, func(s *scene) { s.pkt.IHL = 6 })),
		only(v4, one("header/short-ihl", hwmodel.ReasonIPOptions, func(s *scene) { s.pkt.IHL = 4 })),
		one("header/too-long", hwmodel.ReasonMalformed, func(s *scene) { s.pkt.Length = 1800 }),
		only(v4, one("header/too-short", hwmodel.ReasonMalformed, func(s *scene) { s.pkt.Length = 19 })),
		only(v4, one("header/checksum", hwmodel.ReasonMalformed, func(s *scene) { s.pkt.BadChecksum = true })),
		only(v6, one("header/hop-by-hop", hwmodel.ReasonHopByHop, func(s *scene) {
			s.pkt.Proto, s.pkt.Payload = 0, make([]byte, 1300)
		})),
		only(v4, one("source/martian", hwmodel.ReasonMartianSource, func(s *scene) { s.pkt.From = netip.MustParseAddr("127.0.0.1") })),
		only(v6, one("source/martian", hwmodel.ReasonMartianSource, func(s *scene) { s.pkt.From = netip.MustParseAddr("fe80::1") })),
		only(v4, one("source/own", hwmodel.ReasonOwnSource, func(s *scene) {
			s.Own = append(s.Own, hwmodel.OwnAddress{Addr: host4(1)}, hwmodel.OwnAddress{Addr: netip.MustParseAddr("127.0.0.1")})
		})),
		only(v4, one("dest/martian", hwmodel.ReasonMartianDest, func(s *scene) { s.pkt.To = netip.MustParseAddr("127.0.0.1") })),
		only(v6, one("dest/martian", hwmodel.ReasonMartianDest, func(s *scene) { s.pkt.To = netip.MustParseAddr("ff0e::1") })),
		one("ttl/1", hwmodel.ReasonTTLExpired, func(s *scene) { s.pkt.TTL = 1 }),
		one("ttl/0", hwmodel.ReasonTTLExpired, func(s *scene) { s.pkt.TTL = 0 }),
		naked(one("rules/none", hwmodel.ReasonNotProgrammed, func(s *scene) { s.Rules = nil })),
		one("rules/trap", hwmodel.ReasonRuleSelector, func(s *scene) { firstRule(s, hwmodel.RuleTrap, hwmodel.ReasonRuleSelector) }),
		{name: "rules/drop", want: dropped(hwmodel.ReasonBlackhole), make: func(s *scene) {
			firstRule(s, hwmodel.RuleDrop, hwmodel.ReasonBlackhole)
		}},
		one("rules/empty", hwmodel.ReasonNoRoute, func(s *scene) { s.rules().List = nil }),
		one("rules/no-route", hwmodel.ReasonNoRoute, func(s *scene) {
			key := s.target().RouteKey
			s.Routes = slices.DeleteFunc(s.Routes, func(r hwmodel.Route) bool { return r.RouteKey == key })
		}),
		one("route/trap", hwmodel.ReasonLocal, func(s *scene) {
			s.target().Action, s.target().Reason = hwmodel.RouteTrap, hwmodel.ReasonLocal
		}),
		{name: "route/drop", want: dropped(hwmodel.ReasonBlackhole), make: func(s *scene) {
			s.target().Action, s.target().Reason = hwmodel.RouteDrop, hwmodel.ReasonBlackhole
		}},
		one("route/throw", hwmodel.ReasonNoRoute, func(s *scene) { s.target().Action = hwmodel.RouteThrow }),
		one("group/dead", hwmodel.ReasonNextHopDead, func(s *scene) {
			s.group(hwmodel.GroupID(viaHost(s.family(), 2))).Legs[0].Dead = true
		}),
		one("nexthop/trap", hwmodel.ReasonNotAPort, func(s *scene) { s.hop().Trap = hwmodel.ReasonNotAPort }),
		one("egress/no-interface", hwmodel.ReasonNoInterface, func(s *scene) { s.hop().Interface = 99 }),
		one("egress/out", hwmodel.ReasonInterfaceDown, func(s *scene) {
			for i := range s.Interfaces {
				s.Interfaces[i].Out4, s.Interfaces[i].Out6 = hwmodel.ReasonInterfaceDown, hwmodel.ReasonInterfaceDown
			}
		}),
		one("mtu/interface", hwmodel.ReasonTooBig, func(s *scene) {
			for i := range s.Interfaces {
				s.Interfaces[i].MTU = 20
			}
		}),
		one("mtu/route", hwmodel.ReasonTooBig, func(s *scene) { s.target().MTU = 20 }),
		one("redirect/due", hwmodel.ReasonRedirectDue, func(s *scene) {
			s.hop().Interface, s.hop().Gateway = ifaceOf(1), host(s.family(), 1)
			s.ingress().RedirectTrap = true
		}),
		only(v4, one("rpf/strict", hwmodel.ReasonReversePath, func(s *scene) {
			s.ingress().RPFilter = hwmodel.RPStrict
			s.route("10.0.1.0/24").Group = 103
		})),
		only(v4, one("rpf/loose", hwmodel.ReasonReversePath, func(s *scene) {
			s.ingress().RPFilter = hwmodel.RPLoose
			s.route("10.0.1.0/24").Action = hwmodel.RouteThrow
		})),
		only(v4, one("rpf/source-check", hwmodel.ReasonReversePath, func(s *scene) {
			s.ingress().SourceCheck = true
			s.route("10.0.1.0/24").Action = hwmodel.RouteTrap
		})),
		one("neighbour/none", hwmodel.ReasonNeighborUnresolved, func(s *scene) { s.Neighbors = nil }),
	}
}

func firstRule(s *scene, action hwmodel.RuleAction, r hwmodel.Reason) {
	s.rules().List = append([]hwmodel.Rule{{Action: action, Reason: r, SuppressPrefixLen: -1}}, s.rules().List...)
}

// stage is the part of a fault's name before the slash.
func (f fault) stage() string {
	for i, c := range f.name {
		if c == '/' {
			return f.name[:i]
		}
	}
	return f.name
}

// testPipeline makes every fault alone, and with every fault of a later stage:
// the earlier one is what the packet meets.
func testPipeline(t *testing.T, mk maker) {
	all := faults()
	for _, family := range []hwmodel.Family{hwmodel.IPv4, hwmodel.IPv6} {
		t.Run(map[hwmodel.Family]string{4: "IPv4", 6: "IPv6"}[family], func(t *testing.T) {
			shared := mk(t, Config{Ports: ports()})
			play := func(t *testing.T, first fault, more ...fault) {
				s := newScene(family)
				subj := shared
				for _, f := range append(slices.Clone(more), first) { // later ones first
					f.make(s)
					if f.naked {
						subj = mk(t, Config{Ports: ports()})
					}
				}
				subj.load(t, s.Entries)
				subj.expect(t, s.in, s.pkt.Frame(), first.want)
			}
			t.Run("forward", func(t *testing.T) {
				s := newScene(family)
				shared.load(t, s.Entries)
				shared.expect(t, s.in, s.pkt.Frame(), forwarded(s.pkt, 2))
			})
			for i, f := range all {
				if f.only != 0 && f.only != family {
					continue
				}
				t.Run(f.name, func(t *testing.T) {
					play(t, f)
					for _, later := range all[i+1:] {
						if later.only != 0 && later.only != family || later.stage() == f.stage() || later.naked && f.naked {
							continue
						}
						t.Run("before/"+later.name, func(t *testing.T) { play(t, f, later) })
					}
				})
			}
		})
	}
}

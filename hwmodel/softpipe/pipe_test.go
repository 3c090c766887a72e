package softpipe

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"antiphon/hwmodel"
)

// The bench: port p has interface 10p with MAC 02:00:00:00:00:p; behind each is
// 10.p.0.0/16 and 2001:db8:p::/48, connected, with neighbours at .0.1 and ::1.
func mac(n byte) hwmodel.MAC { return hwmodel.MAC{2, 0, 0, 0, 0, n} }

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func ip(s string) netip.Addr       { return netip.MustParseAddr(s) }

const (
	reasonRule = hwmodel.ReasonProhibit
	mainTable  = 254
	sideTable  = 7
)

func newTest() *Pipe {
	return New(Options{Ports: []hwmodel.PortInfo{{ID: 1, Name: "a"}, {ID: 2, Name: "b"}, {ID: 3, Name: "c"}, {ID: 9, Name: "bare"}}})
}

func rig() *hwmodel.Entries {
	e := &hwmodel.Entries{Settings: &hwmodel.Settings{HashSeed: 42, SeedKnown: true}}
	for n := byte(1); n <= 3; n++ {
		id := hwmodel.InterfaceID(n) * 10
		e.Interfaces = append(e.Interfaces, hwmodel.Interface{ID: id, Port: hwmodel.PortID(n), MAC: mac(n), MTU: 1500})
		e.NextHops = append(e.NextHops, hwmodel.NextHop{ID: hwmodel.NextHopID(n), Interface: id})
		e.Groups = append(e.Groups, hwmodel.Group{ID: hwmodel.GroupID(n), Counter: hwmodel.CounterID(100 + uint64(n)),
			Legs: []hwmodel.Leg{{NextHop: hwmodel.NextHopID(n), Weight: 1}}})
		for i, s := range []string{"10.0.0.0/16", "2001:db8::/48"} {
			p := prefix(s)
			b := p.Addr().AsSlice()
			b[1+4*i] = n
			a, _ := netip.AddrFromSlice(b)
			e.Routes = append(e.Routes, hwmodel.Route{RouteKey: hwmodel.RouteKey{Table: mainTable, Prefix: netip.PrefixFrom(a, p.Bits())},
				Action: hwmodel.RouteForward, Group: hwmodel.GroupID(n), Counter: hwmodel.CounterID(200 + 10*uint64(i) + uint64(n))})
			b[len(b)-1] = 1
			a, _ = netip.AddrFromSlice(b)
			e.Neighbors = append(e.Neighbors, hwmodel.Neighbor{NeighborKey: hwmodel.NeighborKey{Interface: id, Addr: a},
				MAC: mac(0x80 + n), Counter: hwmodel.CounterID(300 + 10*uint64(i) + uint64(n))})
		}
	}
	main := []hwmodel.Rule{{Priority: 32766, Action: hwmodel.RuleLookup, Table: mainTable, SuppressPrefixLen: -1}}
	e.Rules = []hwmodel.Rules{{Family: hwmodel.IPv4, List: main}, {Family: hwmodel.IPv6, List: main}}
	return e
}

func apply(t testing.TB, p *Pipe, b hwmodel.Batch) hwmodel.Result {
	t.Helper()
	r, err := p.Apply(context.Background(), &b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// frame4 is an Ethernet frame to port 1's interface with a UDP packet.
func frame4(src, dst string, payload int) []byte {
	f := make([]byte, ethLen+ip4Len+8+payload)
	to, from := mac(1), mac(0x81)
	copy(f, to[:])
	copy(f[6:], from[:])
	binary.BigEndian.PutUint16(f[12:], etherIPv4)
	h := f[ethLen:]
	h[0], h[8], h[9] = 0x45, 64, protoUDP
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)))
	copy(h[12:], ip(src).AsSlice())
	copy(h[16:], ip(dst).AsSlice())
	binary.BigEndian.PutUint16(h[20:], 1234)
	binary.BigEndian.PutUint16(h[22:], 53)
	return fixed(f)
}

// fixed puts the right header checksum in.
func fixed(f []byte) []byte {
	h := f[ethLen:]
	h[10], h[11] = 0, 0
	var s uint32
	for i := 0; i < ip4Len; i += 2 {
		s += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	s = s&0xffff + s>>16
	s = s&0xffff + s>>16
	binary.BigEndian.PutUint16(h[10:], ^uint16(s))
	return f
}

func frame6(src, dst string, payload int) []byte {
	f := make([]byte, ethLen+ip6Len+8+payload)
	to, from := mac(1), mac(0x81)
	copy(f, to[:])
	copy(f[6:], from[:])
	binary.BigEndian.PutUint16(f[12:], etherIPv6)
	h := f[ethLen:]
	h[0], h[6], h[7] = 0x60, protoUDP, 64
	binary.BigEndian.PutUint16(h[4:], uint16(8+payload))
	copy(h[8:], ip(src).AsSlice())
	copy(h[24:], ip(dst).AsSlice())
	return f
}

func one(p *Pipe, in hwmodel.PortID, f []byte) (hwmodel.Verdict, hwmodel.Reason, hwmodel.PortID, []byte) {
	v := new(hwmodel.Vector)
	v.N, v.In[0], v.Frame[0] = 1, in, f
	p.Run(v)
	return v.Verdict[0], v.Reason[0], v.Out[0], v.Frame[0]
}

// step is a case: the rig changed by set, one packet, and what becomes of it.
type step struct {
	name    string
	set     func(e *hwmodel.Entries)
	in      hwmodel.PortID // 1 if 0
	frame   []byte
	verdict hwmodel.Verdict
	reason  hwmodel.Reason
	out     hwmodel.PortID
	stage   string
}

func edit(f []byte, at int, b ...byte) []byte {
	copy(f[at:], b)
	return f
}

func ok4() []byte { return frame4("10.1.0.9", "10.2.0.1", 10) }
func ok6() []byte { return frame6("2001:db8:1::9", "2001:db8:2::1", 10) }

func rules4(list ...hwmodel.Rule) func(*hwmodel.Entries) {
	return func(e *hwmodel.Entries) { e.Rules[0].List = list }
}

func lookupIn(table hwmodel.TableID) hwmodel.Rule {
	return hwmodel.Rule{Action: hwmodel.RuleLookup, Table: table, SuppressPrefixLen: -1}
}

func addRoute(s string, r hwmodel.Route) func(*hwmodel.Entries) {
	return func(e *hwmodel.Entries) {
		if r.Table == 0 {
			r.Table = mainTable
		}
		r.Prefix = prefix(s)
		e.Routes = append(e.Routes, r)
	}
}

func all(f ...func(*hwmodel.Entries)) func(*hwmodel.Entries) {
	return func(e *hwmodel.Entries) {
		for _, g := range f {
			g(e)
		}
	}
}

func interface1(f func(i *hwmodel.Interface)) func(*hwmodel.Entries) {
	return func(e *hwmodel.Entries) { f(&e.Interfaces[0]) }
}

func interface2(f func(i *hwmodel.Interface)) func(*hwmodel.Entries) {
	return func(e *hwmodel.Entries) { f(&e.Interfaces[1]) }
}

func steps() []step {
	const trap, drop, forward = hwmodel.Trap, hwmodel.Drop, hwmodel.Forward
	side := func(s string, a hwmodel.RouteAction) func(*hwmodel.Entries) {
		return addRoute(s, hwmodel.Route{RouteKey: hwmodel.RouteKey{Table: sideTable}, Action: a, Group: 3, Reason: hwmodel.ReasonLocal})
	}
	return []step{
		{name: "forward 4", frame: ok4(), verdict: forward, out: 2, stage: "rewrite"},
		{name: "forward 6", frame: ok6(), verdict: forward, out: 2, stage: "rewrite"},
		{name: "padding 4", frame: append(ok4(), 1, 2, 3), verdict: forward, out: 2, stage: "rewrite"},
		{name: "padding 6", frame: append(ok6(), 1, 2, 3), verdict: forward, out: 2, stage: "rewrite"},
		{name: "checksum carry", frame: fixed(edit(ok4(), ethLen+4, 0x2b, 0x2e)), verdict: forward, out: 2, stage: "rewrite"},

		{name: "short", frame: ok4()[:13], reason: hwmodel.ReasonMalformed, stage: "parse"},
		{name: "empty", frame: nil, reason: hwmodel.ReasonMalformed, stage: "parse"},
		{name: "vlan", frame: edit(ok4(), 12, 0x81, 0), reason: hwmodel.ReasonVLANTag, stage: "parse"},
		{name: "qinq", frame: edit(ok4(), 12, 0x88, 0xa8), reason: hwmodel.ReasonVLANTag, stage: "parse"},
		{name: "arp", frame: edit(ok4(), 12, 8, 6), reason: hwmodel.ReasonNotIP, stage: "parse"},
		{name: "bare port", in: 9, frame: ok4(), reason: hwmodel.ReasonNoInterface, stage: "interface"},
		{name: "unknown port", in: 65535, frame: ok4(), reason: hwmodel.ReasonNoInterface, stage: "interface"},
		{name: "no settings", set: func(e *hwmodel.Entries) { e.Settings = nil }, frame: ok4(), reason: hwmodel.ReasonNotProgrammed, stage: "interface"},
		{name: "broadcast", frame: edit(ok4(), 0, 255, 255, 255, 255, 255, 255), reason: hwmodel.ReasonBroadcast, stage: "mac"},
		{name: "other mac", frame: edit(ok4(), 5, 2), reason: hwmodel.ReasonNotOurMAC, stage: "mac"},
		{name: "trap4", set: func(e *hwmodel.Entries) { e.Settings.Trap4 = hwmodel.ReasonResync }, frame: ok4(), reason: hwmodel.ReasonResync, stage: "family"},
		{name: "trap4 leaves 6", set: func(e *hwmodel.Entries) { e.Settings.Trap4 = hwmodel.ReasonResync }, frame: ok6(), verdict: forward, out: 2, stage: "rewrite"},
		{name: "in6", set: interface1(func(i *hwmodel.Interface) { i.In6 = hwmodel.ReasonForwardingOff }), frame: ok6(), reason: hwmodel.ReasonForwardingOff, stage: "family"},

		{name: "version", frame: edit(ok4(), ethLen, 0x65), reason: hwmodel.ReasonMalformed, stage: "header"},
		{name: "options", frame: edit(ok4(), ethLen, 0x46), reason: hwmodel.ReasonIPOptions, stage: "header"},
		{name: "checksum", frame: edit(ok4(), ethLen+10, 1, 1), reason: hwmodel.ReasonMalformed, stage: "header"},
		{name: "total 19", frame: fixed(edit(ok4(), ethLen+2, 0, 19)), reason: hwmodel.ReasonMalformed, stage: "header"},
		{name: "total beyond", frame: fixed(edit(ok4(), ethLen+2, 0, 39)), reason: hwmodel.ReasonMalformed, stage: "header"},
		{name: "cut 4", frame: ok4()[:33], reason: hwmodel.ReasonMalformed, stage: "header"},
		{name: "cut 6", frame: ok6()[:53], reason: hwmodel.ReasonMalformed, stage: "header"},
		{name: "version 6", frame: edit(ok6(), ethLen, 0x40), reason: hwmodel.ReasonMalformed, stage: "header"},
		{name: "payload beyond", frame: edit(ok6(), ethLen+4, 0, 19), reason: hwmodel.ReasonMalformed, stage: "header"},
		{name: "hop by hop", frame: edit(ok6(), ethLen+6, 0), reason: hwmodel.ReasonHopByHop, stage: "header"},
		{name: "jumbo", frame: edit(ok6(), ethLen+4, 0, 0), reason: hwmodel.ReasonMalformed, stage: "header"},
		{name: "no next header", frame: edit(ok6(), ethLen+4, 0, 0, 59), verdict: forward, out: 2, stage: "rewrite"},

		{name: "source 0.0.0.0", frame: frame4("0.0.0.0", "10.2.0.1", 0), reason: hwmodel.ReasonMartianSource, stage: "source"},
		{name: "source 0.1.2.3", frame: frame4("0.1.2.3", "10.2.0.1", 0), verdict: forward, out: 2, stage: "rewrite"},
		{name: "source 240", frame: frame4("240.1.2.3", "10.2.0.1", 0), verdict: forward, out: 2, stage: "rewrite"},
		{name: "source loopback", frame: frame4("127.1.2.3", "10.2.0.1", 0), reason: hwmodel.ReasonMartianSource, stage: "source"},
		{name: "source multicast", frame: frame4("224.1.2.3", "10.2.0.1", 0), reason: hwmodel.ReasonMartianSource, stage: "source"},
		{name: "source broadcast", frame: frame4("255.255.255.255", "10.2.0.1", 0), reason: hwmodel.ReasonMartianSource, stage: "source"},
		{name: "own source", set: func(e *hwmodel.Entries) { e.Own = []hwmodel.OwnAddress{{Addr: ip("10.1.0.9")}} }, frame: ok4(), reason: hwmodel.ReasonOwnSource, stage: "source"},
		{name: "own source accepted", set: all(func(e *hwmodel.Entries) { e.Own = []hwmodel.OwnAddress{{Addr: ip("10.1.0.9")}} }, interface1(func(i *hwmodel.Interface) { i.AcceptLocal = true })), frame: ok4(), verdict: forward, out: 2, stage: "rewrite"},
		{name: "source ::", frame: frame6("::", "2001:db8:2::1", 0), reason: hwmodel.ReasonMartianSource, stage: "source"},
		{name: "source ::1", frame: frame6("::1", "2001:db8:2::1", 0), reason: hwmodel.ReasonMartianSource, stage: "source"},
		{name: "source link-local", frame: frame6("febf::1", "2001:db8:2::1", 0), reason: hwmodel.ReasonMartianSource, stage: "source"},
		{name: "source mapped", frame: frame6("::ffff:1.2.3.4", "2001:db8:2::1", 0), verdict: forward, out: 2, stage: "rewrite"},
		{name: "dest 0.0.0.0", frame: frame4("10.1.0.9", "0.0.0.0", 0), reason: hwmodel.ReasonMartianDest, stage: "dest"},
		{name: "dest multicast", frame: frame4("10.1.0.9", "239.0.0.1", 0), reason: hwmodel.ReasonMartianDest, stage: "dest"},
		{name: "dest ::1", frame: frame6("2001:db8:1::9", "::1", 0), reason: hwmodel.ReasonMartianDest, stage: "dest"},
		{name: "dest ::", frame: frame6("2001:db8:1::9", "::", 0), reason: hwmodel.ReasonNoRoute, stage: "rules"},
		{name: "dest multicast 6", frame: frame6("2001:db8:1::9", "ff0e::1", 0), reason: hwmodel.ReasonMartianDest, stage: "dest"},
		{name: "ttl 1", frame: fixed(edit(ok4(), ethLen+8, 1)), reason: hwmodel.ReasonTTLExpired, stage: "ttl"},
		{name: "ttl 2", frame: fixed(edit(ok4(), ethLen+8, 2)), verdict: forward, out: 2, stage: "rewrite"},
		{name: "hop limit 0", frame: edit(ok6(), ethLen+7, 0), reason: hwmodel.ReasonTTLExpired, stage: "ttl"},

		{name: "no rules", set: func(e *hwmodel.Entries) { e.Rules = e.Rules[1:] }, frame: ok4(), reason: hwmodel.ReasonNotProgrammed, stage: "rules"},
		{name: "empty rules", set: rules4(), frame: ok4(), reason: hwmodel.ReasonNoRoute, stage: "rules"},
		{name: "no route", frame: frame4("10.1.0.9", "11.0.0.1", 0), reason: hwmodel.ReasonNoRoute, stage: "rules"},
		{name: "no table", set: rules4(lookupIn(99)), frame: ok4(), reason: hwmodel.ReasonNoRoute, stage: "rules"},
		{name: "table to table", set: rules4(lookupIn(99), lookupIn(mainTable)), frame: ok4(), verdict: forward, out: 2, stage: "rewrite"},
		{name: "rule drop", set: rules4(hwmodel.Rule{Action: hwmodel.RuleDrop, Reason: hwmodel.ReasonBlackhole}), frame: ok4(), verdict: drop, reason: hwmodel.ReasonBlackhole, stage: "rules"},
		{name: "rule trap", set: rules4(hwmodel.Rule{Reason: reasonRule}), frame: ok4(), reason: reasonRule, stage: "rules"},
		{name: "rule next", set: rules4(hwmodel.Rule{Action: hwmodel.RuleNext}, lookupIn(mainTable)), frame: ok4(), verdict: forward, out: 2, stage: "rewrite"},
		{name: "rule from", set: rules4(hwmodel.Rule{From: prefix("10.1.0.8/31"), Reason: reasonRule}, lookupIn(mainTable)), frame: ok4(), reason: reasonRule, stage: "rules"},
		{name: "rule from other", set: rules4(hwmodel.Rule{From: prefix("10.1.0.10/31"), Reason: reasonRule}, lookupIn(mainTable)), frame: ok4(), verdict: forward, out: 2, stage: "rewrite"},
		{name: "rule to", set: rules4(hwmodel.Rule{To: prefix("10.2.0.1/32"), Reason: reasonRule}, lookupIn(mainTable)), frame: ok4(), reason: reasonRule, stage: "rules"},
		{name: "rule in", set: rules4(hwmodel.Rule{In: 10, Reason: reasonRule}, lookupIn(mainTable)), frame: ok4(), reason: reasonRule, stage: "rules"},
		{name: "rule in other", set: rules4(hwmodel.Rule{In: 20, Reason: reasonRule}, lookupIn(mainTable)), frame: ok4(), verdict: forward, out: 2, stage: "rewrite"},
		{name: "rule not all", set: rules4(hwmodel.Rule{Not: true, From: prefix("10.1.0.0/16"), To: prefix("10.2.0.0/16"), Reason: reasonRule}, lookupIn(mainTable)), frame: ok4(), verdict: forward, out: 2, stage: "rewrite"},
		{name: "rule not half", set: rules4(hwmodel.Rule{Not: true, From: prefix("10.1.0.0/16"), To: prefix("10.3.0.0/16"), Reason: reasonRule}, lookupIn(mainTable)), frame: ok4(), reason: reasonRule, stage: "rules"},
		{name: "rule 6 from", set: func(e *hwmodel.Entries) {
			e.Rules[1].List = []hwmodel.Rule{{From: prefix("2001:db8:1::8/125"), To: prefix("2001::/16"), Reason: reasonRule}}
		}, frame: ok6(), reason: reasonRule, stage: "rules"},
		{name: "side table", set: all(rules4(lookupIn(sideTable), lookupIn(mainTable)), side("10.2.0.0/24", hwmodel.RouteForward)), frame: frame4("10.1.0.9", "10.2.0.9", 0), reason: hwmodel.ReasonNeighborUnresolved, stage: "neighbor"},
		{name: "throw", set: all(rules4(lookupIn(sideTable), lookupIn(mainTable)), side("10.2.0.0/24", hwmodel.RouteThrow)), frame: ok4(), verdict: forward, out: 2, stage: "rewrite"},
		{name: "suppress", set: all(rules4(hwmodel.Rule{Action: hwmodel.RuleLookup, Table: sideTable, SuppressPrefixLen: 0}, lookupIn(mainTable)), side("0.0.0.0/0", hwmodel.RouteForward)), frame: ok4(), verdict: forward, out: 2, stage: "rewrite"},
		{name: "suppress not", set: all(rules4(hwmodel.Rule{Action: hwmodel.RuleLookup, Table: sideTable, SuppressPrefixLen: 0}, lookupIn(mainTable)), side("0.0.0.0/1", hwmodel.RouteTrap)), frame: ok4(), reason: hwmodel.ReasonLocal, stage: "route"},
		{name: "route trap", set: addRoute("10.2.0.1/32", hwmodel.Route{Reason: hwmodel.ReasonLocal}), frame: ok4(), reason: hwmodel.ReasonLocal, stage: "route"},
		{name: "route drop", set: addRoute("10.2.0.1/32", hwmodel.Route{Action: hwmodel.RouteDrop, Reason: hwmodel.ReasonBlackhole}), frame: ok4(), verdict: drop, reason: hwmodel.ReasonBlackhole, stage: "route"},

		{name: "no group", set: addRoute("10.2.0.1/32", hwmodel.Route{Action: hwmodel.RouteForward, Group: 77}), frame: ok4(), reason: hwmodel.ReasonNextHopDead, stage: "group"},
		{name: "dead group", set: func(e *hwmodel.Entries) { e.Groups[1].Legs[0].Dead = true }, frame: ok4(), reason: hwmodel.ReasonNextHopDead, stage: "group"},
		{name: "one live leg", set: func(e *hwmodel.Entries) {
			e.Groups[1].Legs = []hwmodel.Leg{{NextHop: 3, Weight: 9, Dead: true}, {NextHop: 2, Weight: 1}}
		}, frame: ok4(), verdict: forward, out: 2, stage: "rewrite"},
		{name: "hash policy", set: func(e *hwmodel.Entries) {
			e.Settings.HashPolicy4 = 2
			e.Groups[1].Legs = []hwmodel.Leg{{NextHop: 2, Weight: 9}, {NextHop: 2, Weight: 1}}
		}, frame: ok4(), reason: hwmodel.ReasonMultipathPolicy, stage: "group"},
		{name: "no next hop", set: func(e *hwmodel.Entries) { e.NextHops = e.NextHops[:1] }, frame: ok4(), reason: hwmodel.ReasonNextHopDead, stage: "nexthop"},
		{name: "next hop trap", set: func(e *hwmodel.Entries) { e.NextHops[1].Trap = hwmodel.ReasonNotAPort }, frame: ok4(), reason: hwmodel.ReasonNotAPort, stage: "nexthop"},
		{name: "no egress", set: func(e *hwmodel.Entries) { e.NextHops[1].Interface = 99 }, frame: ok4(), reason: hwmodel.ReasonNoInterface, stage: "egress"},
		{name: "out4", set: interface2(func(i *hwmodel.Interface) { i.Out4 = hwmodel.ReasonInterfaceDown }), frame: ok4(), reason: hwmodel.ReasonInterfaceDown, stage: "egress"},
		{name: "mtu exact", set: interface2(func(i *hwmodel.Interface) { i.MTU = 38 }), frame: ok4(), verdict: forward, out: 2, stage: "rewrite"},
		{name: "mtu", set: interface2(func(i *hwmodel.Interface) { i.MTU = 37 }), frame: ok4(), reason: hwmodel.ReasonTooBig, stage: "mtu"},
		{name: "mtu 6", set: interface2(func(i *hwmodel.Interface) { i.MTU = 57 }), frame: ok6(), reason: hwmodel.ReasonTooBig, stage: "mtu"},
		{name: "route mtu", set: addRoute("10.2.0.1/32", hwmodel.Route{Action: hwmodel.RouteForward, Group: 2, MTU: 37}), frame: ok4(), reason: hwmodel.ReasonTooBig, stage: "mtu"},
		{name: "same port", frame: frame4("10.1.0.9", "10.1.0.1", 0), verdict: forward, out: 1, stage: "rewrite"},
		{name: "redirect", set: interface1(func(i *hwmodel.Interface) { i.RedirectTrap = true }), frame: frame4("10.1.0.9", "10.1.0.1", 0), reason: hwmodel.ReasonRedirectDue, stage: "redirect"},
		{name: "redirect 6", frame: frame6("2001:db8:1::9", "2001:db8:1::1", 0), reason: hwmodel.ReasonRedirectDue, stage: "redirect"},

		{name: "strict", set: interface1(func(i *hwmodel.Interface) { i.RPFilter = hwmodel.RPStrict }), frame: ok4(), verdict: forward, out: 2, stage: "rewrite"},
		{name: "strict wrong", set: interface1(func(i *hwmodel.Interface) { i.RPFilter = hwmodel.RPStrict }), frame: frame4("10.3.0.9", "10.2.0.1", 0), reason: hwmodel.ReasonReversePath, stage: "rpf"},
		{name: "strict any leg", set: all(interface1(func(i *hwmodel.Interface) { i.RPFilter = hwmodel.RPStrict }), func(e *hwmodel.Entries) {
			e.Groups[2].Legs = []hwmodel.Leg{{NextHop: 3, Weight: 1}, {NextHop: 1, Weight: 1}}
		}), frame: frame4("10.3.0.9", "10.2.0.1", 0), verdict: forward, out: 2, stage: "rewrite"},
		{name: "loose", set: interface1(func(i *hwmodel.Interface) { i.RPFilter = hwmodel.RPLoose }), frame: frame4("10.3.0.9", "10.2.0.1", 0), verdict: forward, out: 2, stage: "rewrite"},
		{name: "loose no route", set: interface1(func(i *hwmodel.Interface) { i.RPFilter = hwmodel.RPLoose }), frame: frame4("11.3.0.9", "10.2.0.1", 0), reason: hwmodel.ReasonReversePath, stage: "rpf"},
		{name: "source check no route", set: interface1(func(i *hwmodel.Interface) { i.SourceCheck = true }), frame: frame4("11.3.0.9", "10.2.0.1", 0), verdict: forward, out: 2, stage: "rewrite"},
		{name: "source check local", set: all(interface1(func(i *hwmodel.Interface) { i.SourceCheck = true }), addRoute("10.1.0.9/32", hwmodel.Route{Reason: hwmodel.ReasonLocal})), frame: ok4(), reason: hwmodel.ReasonReversePath, stage: "rpf"},
		{name: "source check rule in", set: all(interface1(func(i *hwmodel.Interface) { i.SourceCheck = true }), rules4(hwmodel.Rule{In: 20}, lookupIn(mainTable))), frame: ok4(), reason: hwmodel.ReasonReversePath, stage: "rpf"},
		{name: "source check reversed", set: all(interface1(func(i *hwmodel.Interface) { i.SourceCheck = true }), rules4(hwmodel.Rule{From: prefix("10.2.0.0/16"), To: prefix("10.1.0.0/16")}, lookupIn(mainTable))), frame: ok4(), reason: hwmodel.ReasonReversePath, stage: "rpf"},

		{name: "no neighbour", frame: frame4("10.1.0.9", "10.2.0.2", 0), reason: hwmodel.ReasonNeighborUnresolved, stage: "neighbor"},
		{name: "no neighbour 6", frame: frame6("2001:db8:1::9", "2001:db8:2::2", 0), reason: hwmodel.ReasonNeighborUnresolved, stage: "neighbor"},
		{name: "gateway", set: func(e *hwmodel.Entries) { e.NextHops[1].Gateway = ip("10.2.0.1") }, frame: frame4("10.1.0.9", "10.2.0.2", 0), verdict: forward, out: 2, stage: "rewrite"},
		{name: "via inet6", set: func(e *hwmodel.Entries) { e.NextHops[1].Gateway = ip("2001:db8:2::1") }, frame: frame4("10.1.0.9", "10.2.0.2", 0), verdict: forward, out: 2, stage: "rewrite"},
		{name: "unresolved gateway", set: func(e *hwmodel.Entries) { e.NextHops[1].Gateway = ip("10.2.0.7") }, frame: ok4(), reason: hwmodel.ReasonNeighborUnresolved, stage: "neighbor"},
	}
}

func TestPipeline(t *testing.T) {
	for _, s := range steps() {
		t.Run(s.name, func(t *testing.T) {
			p, e := newTest(), rig()
			if s.set != nil {
				s.set(e)
			}
			if r := apply(t, p, hwmodel.Batch{Set: *e}); len(r.Refused) > 0 {
				t.Fatalf("refused: %+v", r.Refused)
			}
			if s.in == 0 {
				s.in = 1
			}
			before := slices.Clone(s.frame)
			tr, err := p.Trace(context.Background(), s.in, s.frame)
			if err != nil {
				t.Fatal(err)
			}
			if last := tr.Steps[len(tr.Steps)-1].Stage; last != s.stage {
				t.Errorf("trace ends in %q, want %q", last, s.stage)
			}
			if !bytes.Equal(s.frame, before) {
				t.Error("trace touched the frame")
			}
			if r, err := p.Counters(context.Background(), 0); err != nil || len(r.Counters) != 0 {
				t.Errorf("trace counted %v, %v", r.Counters, err)
			}
			verdict, reason, out, f := one(p, s.in, s.frame)
			if verdict != s.verdict || reason != s.reason || out != s.out {
				t.Fatalf("%v %v port %d, want %v %v port %d", verdict, reason, out, s.verdict, s.reason, s.out)
			}
			if tr.Verdict != verdict || tr.Reason != reason || tr.Out != out {
				t.Errorf("trace says %v %v port %d", tr.Verdict, tr.Reason, tr.Out)
			}
			if verdict != hwmodel.Forward {
				if !bytes.Equal(s.frame, before) {
					t.Error("frame changed")
				}
				return
			}
			if want := forwarded(before, byte(out)); !bytes.Equal(f, want) || !bytes.Equal(tr.Frame, want) {
				t.Errorf("frame\n%x\n%x traced\n%x want", f, tr.Frame, want)
			}
		})
	}
}

// forwarded is what must leave by a port of the bench, written the slow way.
func forwarded(f []byte, out byte) []byte {
	f = slices.Clone(f)
	to, from := mac(0x80+out), mac(out)
	copy(f, to[:])
	copy(f[6:], from[:])
	h := f[ethLen:]
	if h[0]>>4 == 6 {
		h[7]--
		return f[:ethLen+ip6Len+int(binary.BigEndian.Uint16(h[4:]))]
	}
	h[8]--
	return fixed(f)[:ethLen+int(binary.BigEndian.Uint16(h[2:]))]
}

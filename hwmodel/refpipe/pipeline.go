package refpipe

import (
	"fmt"
	"net"
	"net/netip"

	"antiphon/hwmodel"
)

// outcome is what happens to a frame. The zero value traps for no reason.
type outcome struct {
	verdict  hwmodel.Verdict
	reason   hwmodel.Reason
	out      hwmodel.PortID
	frame    []byte
	counters []hwmodel.CounterID
}

// walk is one packet on its way through the stages of hwmodel.Device.
type walk struct {
	tables *tables
	caps   *hwmodel.Capabilities
	steps  *[]hwmodel.TraceStep // nil unless traced
	pkt    packet
	in     hwmodel.Interface
}

// note records a stage that lets the packet pass, with the entry it looked up if
// there is one, and what that says.
func (w *walk) note(stage string, table hwmodel.Table, entry, detail string) {
	if w.steps == nil {
		return
	}
	s := hwmodel.TraceStep{Stage: stage, Entry: entry, Detail: detail}
	if table != 0 {
		s.Table = table.String()
	}
	*w.steps = append(*w.steps, s)
}

// object turns the stage noted last into the one that objects.
func (w *walk) object(verdict hwmodel.Verdict, r hwmodel.Reason) {
	if w.steps == nil {
		return
	}
	last := &(*w.steps)[len(*w.steps)-1]
	last.Detail = fmt.Sprintf("%v: %v", verdict, r)
}

// trap ends the packet's way at the stage noted last.
func (w *walk) trap(r hwmodel.Reason) outcome {
	w.object(hwmodel.Trap, r)
	return outcome{reason: r}
}

// run is the pipeline: first objection wins.
func (w *walk) run(port hwmodel.PortID, frame []byte) outcome {
	if r := w.checks(port, frame); r != hwmodel.ReasonNone {
		return w.trap(r)
	}
	found := w.lookup(w.pkt.src, w.pkt.dst, w.in.ID)
	if found.rule == nil {
		w.note("rules", 0, "", "")
	} else {
		w.note("rules", hwmodel.TableRules, fmt.Sprintf("priority %d", found.rule.Priority), fmt.Sprintf("lookup table %d", found.rule.Table))
	}
	if found.kind != resultRoute {
		w.object(found.verdict(), found.reason)
		return outcome{verdict: found.verdict(), reason: found.reason}
	}
	route := found.route
	w.note("route", hwmodel.TableRoute, fmt.Sprintf("table %d %v", route.Table, route.Prefix), fmt.Sprintf("group %d", route.Group))
	switch route.Action {
	case hwmodel.RouteDrop:
		w.object(hwmodel.Drop, route.Reason)
		return outcome{verdict: hwmodel.Drop, reason: route.Reason, counters: []hwmodel.CounterID{route.Counter}}
	case hwmodel.RouteForward:
		return w.forward(route)
	}
	return w.trap(route.Reason)
}

// checks are the stages from "parse" to "ttl".
func (w *walk) checks(port hwmodel.PortID, frame []byte) hwmodel.Reason {
	p, t := &w.pkt, w.tables
	stage := func(name string, r hwmodel.Reason) hwmodel.Reason {
		w.note(name, 0, "", "pass")
		return r
	}
	if r := stage("parse", p.parseEthernet(frame)); r != hwmodel.ReasonNone {
		return r
	}
	var ok bool
	w.in, ok = t.interfaceAt(port)
	w.note("interface", hwmodel.TableInterface, fmt.Sprintf("port %d", port), fmt.Sprintf("interface %d", w.in.ID))
	switch {
	case !ok:
		return hwmodel.ReasonNoInterface
	case t.settings == nil:
		return hwmodel.ReasonNotProgrammed
	}
	if r := stage("mac", w.checkMAC()); r != hwmodel.ReasonNone {
		return r
	}
	if r := stage("family", w.checkFamily()); r != hwmodel.ReasonNone {
		return r
	}
	if r := stage("header", p.parseIP()); r != hwmodel.ReasonNone {
		return r
	}
	if r := stage("source", w.checkSource()); r != hwmodel.ReasonNone {
		return r
	}
	if r := stage("dest", w.checkDest()); r != hwmodel.ReasonNone {
		return r
	}
	if p.ttl <= 1 {
		return stage("ttl", hwmodel.ReasonTTLExpired)
	}
	return stage("ttl", hwmodel.ReasonNone)
}

func (w *walk) checkMAC() hwmodel.Reason {
	switch dst := hwmodel.MAC(w.pkt.eth.DstMAC); {
	case dst[0]&1 != 0:
		return hwmodel.ReasonBroadcast
	case dst != w.in.MAC:
		return hwmodel.ReasonNotOurMAC
	}
	return hwmodel.ReasonNone
}

func (w *walk) checkFamily() hwmodel.Reason {
	if w.pkt.family == hwmodel.IPv4 {
		return first(w.tables.settings.Trap4, w.in.In4)
	}
	return first(w.tables.settings.Trap6, w.in.In6)
}

// first returns the first reason that is one.
func first(a, b hwmodel.Reason) hwmodel.Reason {
	if a != hwmodel.ReasonNone {
		return a
	}
	return b
}

func (w *walk) checkSource() hwmodel.Reason {
	src := w.pkt.src
	if unroutable(src) || src == netip.IPv6Unspecified() {
		return hwmodel.ReasonMartianSource
	}
	if _, own := w.tables.own[hwmodel.OwnAddress{Addr: src}]; own && src.Is4() && !w.in.AcceptLocal {
		return hwmodel.ReasonOwnSource
	}
	return hwmodel.ReasonNone
}

func (w *walk) checkDest() hwmodel.Reason {
	if unroutable(w.pkt.dst) {
		return hwmodel.ReasonMartianDest
	}
	return hwmodel.ReasonNone
}

// unroutable says whether an address is neither source nor destination of a
// forwarded packet. It looks at the bytes: netip's own predicates see the IPv4
// address in an IPv4-mapped one, the kernel does not.
func unroutable(a netip.Addr) bool {
	if a.Is4() {
		b := a.As4()
		return b == [4]byte{} || b[0] == 127 || b[0]>>4 == 0xe || b == [4]byte{255, 255, 255, 255}
	}
	b := a.As16()
	return a == netip.IPv6Loopback() || b[0] == 0xff || b[0] == 0xfe && b[1]&0xc0 == 0x80
}

// forward are the stages from "group" on.
func (w *walk) forward(route hwmodel.Route) outcome {
	p, t := &w.pkt, w.tables

	group := t.groups[route.Group] // absent: no legs
	leg, r := w.leg(group)
	w.note("group", hwmodel.TableGroup, fmt.Sprint(route.Group), fmt.Sprintf("next hop %d, one of %d live", leg.NextHop, live(group)))
	if r != hwmodel.ReasonNone {
		return w.trap(r)
	}

	hop, ok := t.nexthops[leg.NextHop]
	via := ""
	if hop.Gateway.IsValid() {
		via = " via " + hop.Gateway.String()
	}
	w.note("nexthop", hwmodel.TableNextHop, fmt.Sprint(leg.NextHop), fmt.Sprintf("interface %d%s", hop.Interface, via))
	switch {
	case !ok:
		return w.trap(hwmodel.ReasonNextHopDead)
	case hop.Trap != hwmodel.ReasonNone:
		return w.trap(hop.Trap)
	}

	out, ok := t.interfaces[hop.Interface]
	r = out.Out6
	if p.family == hwmodel.IPv4 {
		r = out.Out4
	}
	w.note("egress", hwmodel.TableInterface, fmt.Sprint(hop.Interface), fmt.Sprintf("port %d", out.Port))
	switch {
	case !ok:
		return w.trap(hwmodel.ReasonNoInterface)
	case r != hwmodel.ReasonNone:
		return w.trap(r)
	}

	length := uint32(len(p.ip))
	most := out.MTU
	if route.MTU != 0 {
		most = min(most, route.MTU)
	}
	w.note("mtu", 0, "", fmt.Sprintf("%d of %d bytes", length, most))
	if length > most {
		return w.trap(hwmodel.ReasonTooBig)
	}

	w.note("redirect", 0, "", "pass")
	if out.ID == w.in.ID && (p.family == hwmodel.IPv6 || out.RedirectTrap) {
		return w.trap(hwmodel.ReasonRedirectDue)
	}

	w.note("rpf", 0, "", "pass")
	if p.family == hwmodel.IPv4 && !w.sourcePasses(out.ID) {
		return w.trap(hwmodel.ReasonReversePath)
	}

	key := hwmodel.NeighborKey{Interface: out.ID, Addr: hop.Gateway}
	if !hop.Gateway.IsValid() {
		key.Addr = p.dst
	}
	neighbor, ok := t.neighbors[key]
	w.note("neighbor", hwmodel.TableNeighbor, fmt.Sprintf("%v on interface %d", key.Addr, key.Interface), net.HardwareAddr(neighbor.MAC[:]).String())
	if !ok {
		return w.trap(hwmodel.ReasonNeighborUnresolved)
	}

	frame, err := p.rewritten(out.MAC, neighbor.MAC)
	w.note("rewrite", 0, "", fmt.Sprintf("out of port %d", out.Port))
	if err != nil {
		return w.trap(hwmodel.ReasonMalformed)
	}
	return outcome{
		verdict: hwmodel.Forward, out: out.Port, frame: frame,
		counters: []hwmodel.CounterID{route.Counter, group.Counter, neighbor.Counter},
	}
}

// leg chooses a group's leg for the packet. A kernel with a random seed may choose
// any live leg by weight: then this takes seed 0.
func (w *walk) leg(g hwmodel.Group) (hwmodel.Leg, hwmodel.Reason) {
	s, p := w.tables.settings, &w.pkt
	policy, supported := s.HashPolicy4, w.caps.HashPolicies4
	if p.family == hwmodel.IPv6 {
		policy, supported = s.HashPolicy6, w.caps.HashPolicies6
	}
	live := 0
	for _, l := range g.Legs {
		if !l.Dead {
			live++
		}
	}
	var hash uint32
	if live > 1 { // of one leg, or none, nothing is chosen
		if policy > 7 || supported>>policy&1 == 0 {
			return hwmodel.Leg{}, hwmodel.ReasonMultipathPolicy
		}
		var seed uint32
		if s.SeedKnown {
			seed = s.HashSeed
		}
		if p.family == hwmodel.IPv4 {
			hash = multipathHash(keys4(p.ip, policy), seed)
		} else {
			hash = multipathHash(keys6(p.ip, policy), seed)
		}
	}
	leg, ok := chooseLeg(g.Legs, hash)
	if !ok {
		return leg, hwmodel.ReasonNextHopDead
	}
	return leg, hwmodel.ReasonNone
}

// live counts the legs of a group that are not dead.
func live(g hwmodel.Group) (n int) {
	for _, l := range g.Legs {
		if !l.Dead {
			n++
		}
	}
	return n
}

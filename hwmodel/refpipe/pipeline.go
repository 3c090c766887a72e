package refpipe

import (
	"fmt"
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

func trap(r hwmodel.Reason) outcome { return outcome{reason: r} }

// walk is one packet on its way through the stages of hwmodel.Device.
type walk struct {
	tables *tables
	caps   *hwmodel.Capabilities
	steps  *[]hwmodel.TraceStep // nil unless traced
	pkt    packet
	in     hwmodel.Interface
}

// note records a stage, with the entry it looked up if there is one.
func (w *walk) note(stage string, table hwmodel.Table, entry any, detail any) {
	if w.steps == nil {
		return
	}
	s := hwmodel.TraceStep{Stage: stage, Detail: fmt.Sprint(detail)}
	if table != 0 {
		s.Table, s.Entry = table.String(), fmt.Sprint(entry)
	}
	*w.steps = append(*w.steps, s)
}

// run is the pipeline: first objection wins.
func (w *walk) run(port hwmodel.PortID, frame []byte) outcome {
	if r := w.checks(port, frame); r != hwmodel.ReasonNone {
		return trap(r)
	}
	found := w.lookup(w.pkt.src, w.pkt.dst, w.in.ID)
	w.note("rules", hwmodel.TableRules, w.pkt.family, found)
	if found.kind != resultRoute {
		return outcome{verdict: found.verdict(), reason: found.reason}
	}
	route := found.route
	w.note("route", hwmodel.TableRoute, routeText(route.RouteKey), routeDetail(route))
	switch route.Action {
	case hwmodel.RouteDrop:
		return outcome{verdict: hwmodel.Drop, reason: route.Reason, counters: []hwmodel.CounterID{route.Counter}}
	case hwmodel.RouteForward:
		return w.forward(route)
	}
	return trap(route.Reason)
}

// checks are the stages from "parse" to "ttl".
func (w *walk) checks(port hwmodel.PortID, frame []byte) hwmodel.Reason {
	p, t := &w.pkt, w.tables
	stage := func(name string, r hwmodel.Reason) hwmodel.Reason {
		w.note(name, 0, nil, r)
		return r
	}
	if r := stage("parse", p.parseEthernet(frame)); r != hwmodel.ReasonNone {
		return r
	}
	var ok bool
	w.in, ok = t.interfaceAt(port)
	w.note("interface", hwmodel.TableInterface, w.in.ID, ok)
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
	w.note("group", hwmodel.TableGroup, route.Group, fmt.Sprintf("leg %d, %v", leg.NextHop, r))
	if r != hwmodel.ReasonNone {
		return trap(r)
	}

	hop, ok := t.nexthops[leg.NextHop]
	w.note("nexthop", hwmodel.TableNextHop, leg.NextHop, fmt.Sprintf("interface %d, gateway %v, trap %v", hop.Interface, hop.Gateway, hop.Trap))
	switch {
	case !ok:
		return trap(hwmodel.ReasonNextHopDead)
	case hop.Trap != hwmodel.ReasonNone:
		return trap(hop.Trap)
	}

	out, ok := t.interfaces[hop.Interface]
	r = out.Out6
	if p.family == hwmodel.IPv4 {
		r = out.Out4
	}
	w.note("egress", hwmodel.TableInterface, hop.Interface, r)
	switch {
	case !ok:
		return trap(hwmodel.ReasonNoInterface)
	case r != hwmodel.ReasonNone:
		return trap(r)
	}

	length := uint32(len(p.ip))
	w.note("mtu", 0, nil, fmt.Sprintf("%d of %d, route %d", length, out.MTU, route.MTU))
	if length > out.MTU || route.MTU != 0 && length > route.MTU {
		return trap(hwmodel.ReasonTooBig)
	}

	if out.ID == w.in.ID && (p.family == hwmodel.IPv6 || out.RedirectTrap) {
		w.note("redirect", 0, nil, hwmodel.ReasonRedirectDue)
		return trap(hwmodel.ReasonRedirectDue)
	}

	if p.family == hwmodel.IPv4 && !w.sourcePasses(out.ID) {
		return trap(hwmodel.ReasonReversePath)
	}

	key := hwmodel.NeighborKey{Interface: out.ID, Addr: hop.Gateway}
	if !hop.Gateway.IsValid() {
		key.Addr = p.dst
	}
	neighbor, ok := t.neighbors[key]
	w.note("neighbour", hwmodel.TableNeighbor, fmt.Sprintf("%d %v", key.Interface, key.Addr), ok)
	if !ok {
		return trap(hwmodel.ReasonNeighborUnresolved)
	}

	frame, err := p.rewritten(out.MAC, neighbor.MAC)
	w.note("rewrite", 0, nil, fmt.Sprintf("to port %d", out.Port))
	if err != nil {
		return trap(hwmodel.ReasonMalformed)
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

func routeText(k hwmodel.RouteKey) string { return fmt.Sprintf("%d %v", k.Table, k.Prefix) }

func routeDetail(r hwmodel.Route) string {
	switch r.Action {
	case hwmodel.RouteForward:
		return fmt.Sprintf("group %d", r.Group)
	case hwmodel.RouteDrop:
		return "drop " + r.Reason.String()
	}
	return "trap " + r.Reason.String()
}

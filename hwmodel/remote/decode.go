package remote

import (
	"math"

	"antiphon/hwmodel"
)

func (c *codec) capabilities(p *Capabilities) hwmodel.Capabilities {
	out := hwmodel.Capabilities{
		Name: p.Name, Instance: p.Instance,
		Ports:         each(c, "ports", p.Ports, portInfo),
		HashPolicies4: number(c, "hash_policies4", p.HashPolicies4, uint8(math.MaxUint8)),
		HashPolicies6: number(c, "hash_policies6", p.HashPolicies6, uint8(math.MaxUint8)),
		MaxLegs:       int(p.MaxLegs),
	}
	if p.MaxLegs > math.MaxInt32 {
		c.fail("max_legs", "%d, expected at most %d", p.MaxLegs, math.MaxInt32)
	}
	for _, s := range p.Sizes {
		out.Sizes[c.table("sizes.table", s.Table)] = s.Size
	}
	return out
}

func portInfo(c *codec, p *PortInfo) hwmodel.PortInfo {
	return hwmodel.PortInfo{ID: c.port("id", p.Id), Name: p.Name}
}

func batch(c *codec, p *Batch) *hwmodel.Batch {
	out := &hwmodel.Batch{}
	if p.Set != nil {
		out.Set = *within(c, "set", p.Set, entries)
	}
	if p.Delete != nil {
		out.Delete = *within(c, "delete", p.Delete, keys)
	}
	return out
}

func entries(c *codec, p *Entries) *hwmodel.Entries {
	out := &hwmodel.Entries{
		Interfaces: each(c, "interfaces", p.Interfaces, iface),
		Neighbors:  each(c, "neighbors", p.Neighbors, neighbor),
		NextHops:   each(c, "next_hops", p.NextHops, nextHop),
		Groups:     each(c, "groups", p.Groups, group),
		Routes:     each(c, "routes", p.Routes, route),
		Rules:      each(c, "rules", p.Rules, rules),
		Own:        each(c, "own", p.Own, own),
	}
	if p.Settings != nil {
		out.Settings = within(c, "settings", p.Settings, settings)
	}
	return out
}

func keys(c *codec, p *Keys) *hwmodel.Keys {
	return &hwmodel.Keys{
		Interfaces: ids[uint32, hwmodel.InterfaceID](c, p.Interfaces),
		Neighbors:  each(c, "neighbors", p.Neighbors, neighborKey),
		NextHops:   ids[uint32, hwmodel.NextHopID](c, p.NextHops),
		Groups:     ids[uint32, hwmodel.GroupID](c, p.Groups),
		Routes:     each(c, "routes", p.Routes, routeKey),
		Own:        each(c, "own", p.Own, own),
	}
}

func settings(c *codec, p *Settings) *hwmodel.Settings {
	return &hwmodel.Settings{
		Trap4: c.reason("trap4", p.Trap4), Trap6: c.reason("trap6", p.Trap6),
		HashPolicy4: number(c, "hash_policy4", p.HashPolicy4, uint8(math.MaxUint8)),
		HashPolicy6: number(c, "hash_policy6", p.HashPolicy6, uint8(math.MaxUint8)),
		HashSeed:    p.HashSeed, SeedKnown: p.SeedKnown,
	}
}

func iface(c *codec, p *Interface) hwmodel.Interface {
	return hwmodel.Interface{
		ID: hwmodel.InterfaceID(p.Id), Port: c.port("port", p.Port), MAC: c.mac("mac", p.Mac), MTU: p.Mtu,
		In4: c.reason("in4", p.In4), In6: c.reason("in6", p.In6),
		Out4: c.reason("out4", p.Out4), Out6: c.reason("out6", p.Out6),
		RPFilter:    number(c, "rp_filter", p.RpFilter, hwmodel.RPLoose),
		AcceptLocal: p.AcceptLocal, SourceCheck: p.SourceCheck, RedirectTrap: p.RedirectTrap,
	}
}

func neighborKey(c *codec, p *NeighborKey) hwmodel.NeighborKey {
	return hwmodel.NeighborKey{Interface: hwmodel.InterfaceID(p.GetInterface()), Addr: c.addr("addr", p.GetAddr(), false)}
}

func neighbor(c *codec, p *Neighbor) hwmodel.Neighbor {
	return hwmodel.Neighbor{
		NeighborKey: within(c, "key", p.Key, neighborKey),
		MAC:         c.mac("mac", p.Mac), Counter: hwmodel.CounterID(p.Counter),
	}
}

func nextHop(c *codec, p *NextHop) hwmodel.NextHop {
	return hwmodel.NextHop{
		ID: hwmodel.NextHopID(p.Id), Trap: c.reason("trap", p.Trap),
		Interface: hwmodel.InterfaceID(p.Interface), Gateway: c.addr("gateway", p.Gateway, true),
	}
}

func group(c *codec, p *Group) hwmodel.Group {
	return hwmodel.Group{
		ID: hwmodel.GroupID(p.Id), Legs: each(c, "legs", p.Legs, leg), Counter: hwmodel.CounterID(p.Counter),
	}
}

func leg(_ *codec, p *Leg) hwmodel.Leg {
	return hwmodel.Leg{NextHop: hwmodel.NextHopID(p.NextHop), Weight: p.Weight, Dead: p.Dead}
}

func routeKey(c *codec, p *RouteKey) hwmodel.RouteKey {
	prefix := c.prefix("prefix", p.GetPrefix(), false)
	if prefix != prefix.Masked() {
		c.fail("prefix", "%s has bits set behind its length", prefix)
	}
	return hwmodel.RouteKey{Table: hwmodel.TableID(p.GetTable()), Prefix: prefix}
}

func route(c *codec, p *Route) hwmodel.Route {
	return hwmodel.Route{
		RouteKey: within(c, "key", p.Key, routeKey),
		Action:   number(c, "action", p.Action, hwmodel.RouteThrow),
		Reason:   c.reason("reason", p.Reason), Group: hwmodel.GroupID(p.Group),
		MTU: p.Mtu, Counter: hwmodel.CounterID(p.Counter),
	}
}

func rules(c *codec, p *Rules) hwmodel.Rules {
	return hwmodel.Rules{Family: c.family("family", p.Family), List: each(c, "list", p.List, rule)}
}

func rule(c *codec, p *Rule) hwmodel.Rule {
	return hwmodel.Rule{
		Priority: p.Priority, From: c.prefix("from", p.From, true), To: c.prefix("to", p.To, true),
		In: hwmodel.InterfaceID(p.In), Not: p.Not,
		Action: number(c, "action", p.Action, hwmodel.RuleNext), Reason: c.reason("reason", p.Reason),
		Table: hwmodel.TableID(p.Table), SuppressPrefixLen: int(p.SuppressPrefixLen),
	}
}

func own(c *codec, p []byte) hwmodel.OwnAddress {
	return hwmodel.OwnAddress{Addr: c.addr("addr", p, false)}
}

func result(c *codec, p *Result) *hwmodel.Result {
	return &hwmodel.Result{
		Refused: each(c, "refused", p.Refused, refusal),
		Final:   each(c, "final", p.Final, counter),
	}
}

func refusal(c *codec, p *Refusal) hwmodel.Refusal {
	out := hwmodel.Refusal{
		Table: c.table("table", p.Table), Reason: c.reason("reason", p.Reason),
		Interface: hwmodel.InterfaceID(p.Interface), NextHop: hwmodel.NextHopID(p.NextHop),
		Group: hwmodel.GroupID(p.Group),
	}
	if p.Neighbor != nil {
		out.Neighbor = within(c, "neighbor", p.Neighbor, neighborKey)
	}
	if p.Route != nil {
		out.Route = within(c, "route", p.Route, routeKey)
	}
	if p.Family != 0 {
		out.Family = c.family("family", p.Family)
	}
	return out
}

func counter(_ *codec, p *Counter) hwmodel.Counter {
	return hwmodel.Counter{ID: hwmodel.CounterID(p.Id), Packets: p.Packets, Bytes: p.Bytes, LastUsed: p.LastUsed}
}

func count(p *PacketsBytes) hwmodel.PacketsBytes {
	return hwmodel.PacketsBytes{Packets: p.GetPackets(), Bytes: p.GetBytes()}
}

func (c *codec) reasonCounts(field string, p []*ReasonCount) (out [hwmodel.ReasonCount]hwmodel.PacketsBytes) {
	for _, r := range p {
		out[c.reason(field, r.Reason)] = count(r.Count)
	}
	return out
}

func portCounters(c *codec, p *PortCounters) hwmodel.PortCounters {
	return hwmodel.PortCounters{
		Port: c.port("port", p.Port), RX: count(p.Rx), TX: count(p.Tx),
		Forwarded: count(p.Forwarded), Trapped: count(p.Trapped),
		Injected: count(p.Injected), Copied: count(p.Copied),
		Dropped: c.reasonCounts("dropped", p.Dropped), TrappedBy: c.reasonCounts("trapped_by", p.TrappedBy),
	}
}

func report(c *codec, p *CounterReport) *hwmodel.CounterReport {
	return &hwmodel.CounterReport{
		Now:      p.Now,
		Counters: each(c, "counters", p.Counters, counter),
		Ports:    each(c, "ports", p.Ports, portCounters),
	}
}

func traceStep(_ *codec, p *TraceStep) hwmodel.TraceStep {
	return hwmodel.TraceStep{Stage: p.Stage, Table: p.Table, Entry: p.Entry, Detail: p.Detail}
}

func (c *codec) trace(p *TraceResult) hwmodel.TraceResult {
	return hwmodel.TraceResult{
		Steps:   each(c, "steps", p.Steps, traceStep),
		Verdict: number(c, "verdict", p.Verdict, hwmodel.Drop),
		Reason:  c.reason("reason", p.Reason), Out: c.port("out", p.Out), Frame: p.Frame,
	}
}

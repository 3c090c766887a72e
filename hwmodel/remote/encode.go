package remote

import (
	"math"

	"antiphon/hwmodel"
)

func ids[A, B ~uint32](_ *codec, in []A) []B {
	if len(in) == 0 {
		return nil
	}
	out := make([]B, len(in))
	for i, id := range in {
		out[i] = B(id)
	}
	return out
}

func (c *codec) putCapabilities(h hwmodel.Capabilities) *Capabilities {
	if h.MaxLegs < 0 || h.MaxLegs > math.MaxInt32 {
		c.fail("max_legs", "%d, expected 0 to %d", h.MaxLegs, math.MaxInt32)
	}
	out := &Capabilities{
		Name: h.Name, Instance: h.Instance, MaxLegs: uint32(h.MaxLegs),
		HashPolicies4: uint32(h.HashPolicies4), HashPolicies6: uint32(h.HashPolicies6),
	}
	for _, p := range h.Ports {
		out.Ports = append(out.Ports, &PortInfo{Id: uint32(p.ID), Name: p.Name})
	}
	for table, size := range h.Sizes {
		if size != 0 {
			out.Sizes = append(out.Sizes, &TableSize{Table: uint32(table), Size: size})
		}
	}
	return out
}

func putEntries(c *codec, h *hwmodel.Entries) *Entries {
	out := &Entries{
		Interfaces: each(c, "interfaces", h.Interfaces, putInterface),
		Neighbors:  each(c, "neighbors", h.Neighbors, putNeighbor),
		NextHops:   each(c, "next_hops", h.NextHops, putNextHop),
		Groups:     each(c, "groups", h.Groups, putGroup),
		Routes:     each(c, "routes", h.Routes, putRoute),
		Rules:      each(c, "rules", h.Rules, putRules),
		Own:        each(c, "own", h.Own, putOwn),
	}
	if s := h.Settings; s != nil {
		out.Settings = &Settings{
			Trap4: uint32(s.Trap4), Trap6: uint32(s.Trap6),
			HashPolicy4: uint32(s.HashPolicy4), HashPolicy6: uint32(s.HashPolicy6),
			HashSeed: s.HashSeed, SeedKnown: s.SeedKnown,
		}
	}
	return out
}

func putKeys(c *codec, h *hwmodel.Keys) *Keys {
	return &Keys{
		Interfaces: ids[hwmodel.InterfaceID, uint32](c, h.Interfaces),
		Neighbors:  each(c, "neighbors", h.Neighbors, putNeighborKey),
		NextHops:   ids[hwmodel.NextHopID, uint32](c, h.NextHops),
		Groups:     ids[hwmodel.GroupID, uint32](c, h.Groups),
		Routes:     each(c, "routes", h.Routes, putRouteKey),
		Own:        each(c, "own", h.Own, putOwn),
	}
}

func putInterface(_ *codec, h hwmodel.Interface) *Interface {
	return &Interface{
		Id: uint32(h.ID), Port: uint32(h.Port), Mac: h.MAC[:], Mtu: h.MTU,
		In4: uint32(h.In4), In6: uint32(h.In6), Out4: uint32(h.Out4), Out6: uint32(h.Out6),
		RpFilter: uint32(h.RPFilter), AcceptLocal: h.AcceptLocal,
		SourceCheck: h.SourceCheck, RedirectTrap: h.RedirectTrap,
	}
}

func putNeighborKey(c *codec, h hwmodel.NeighborKey) *NeighborKey {
	return &NeighborKey{Interface: uint32(h.Interface), Addr: c.putAddr("addr", h.Addr)}
}

func putNeighbor(c *codec, h hwmodel.Neighbor) *Neighbor {
	return &Neighbor{Key: within(c, "key", h.NeighborKey, putNeighborKey), Mac: h.MAC[:], Counter: uint64(h.Counter)}
}

func putNextHop(c *codec, h hwmodel.NextHop) *NextHop {
	return &NextHop{
		Id: uint32(h.ID), Trap: uint32(h.Trap), Interface: uint32(h.Interface),
		Gateway: c.putAddr("gateway", h.Gateway),
	}
}

func putGroup(c *codec, h hwmodel.Group) *Group {
	return &Group{Id: uint32(h.ID), Legs: each(c, "legs", h.Legs, putLeg), Counter: uint64(h.Counter)}
}

func putLeg(_ *codec, h hwmodel.Leg) *Leg {
	return &Leg{NextHop: uint32(h.NextHop), Weight: h.Weight, Dead: h.Dead}
}

func putRouteKey(c *codec, h hwmodel.RouteKey) *RouteKey {
	return &RouteKey{Table: uint32(h.Table), Prefix: c.putPrefix("prefix", h.Prefix)}
}

func putRoute(c *codec, h hwmodel.Route) *Route {
	return &Route{
		Key: within(c, "key", h.RouteKey, putRouteKey), Action: uint32(h.Action), Reason: uint32(h.Reason),
		Group: uint32(h.Group), Mtu: h.MTU, Counter: uint64(h.Counter),
	}
}

func putRules(c *codec, h hwmodel.Rules) *Rules {
	return &Rules{Family: uint32(h.Family), List: each(c, "list", h.List, putRule)}
}

func putRule(c *codec, h hwmodel.Rule) *Rule {
	if h.SuppressPrefixLen < math.MinInt32 || h.SuppressPrefixLen > math.MaxInt32 {
		c.fail("suppress_prefix_len", "%d is out of range", h.SuppressPrefixLen)
	}
	return &Rule{
		Priority: h.Priority, From: c.putPrefix("from", h.From), To: c.putPrefix("to", h.To),
		In: uint32(h.In), Not: h.Not, Action: uint32(h.Action), Reason: uint32(h.Reason),
		Table: uint32(h.Table), SuppressPrefixLen: int32(h.SuppressPrefixLen),
	}
}

func putOwn(c *codec, h hwmodel.OwnAddress) []byte { return c.putAddr("addr", h.Addr) }

func putResult(c *codec, h *hwmodel.Result) *Result {
	return &Result{
		Refused: each(c, "refused", h.Refused, putRefusal),
		Final:   each(c, "final", h.Final, putCounter),
	}
}

func putRefusal(c *codec, h hwmodel.Refusal) *Refusal {
	out := &Refusal{
		Table: uint32(h.Table), Reason: uint32(h.Reason), Interface: uint32(h.Interface),
		NextHop: uint32(h.NextHop), Group: uint32(h.Group), Family: uint32(h.Family),
	}
	if h.Neighbor != (hwmodel.NeighborKey{}) {
		out.Neighbor = within(c, "neighbor", h.Neighbor, putNeighborKey)
	}
	if h.Route != (hwmodel.RouteKey{}) {
		out.Route = within(c, "route", h.Route, putRouteKey)
	}
	return out
}

func putCounter(_ *codec, h hwmodel.Counter) *Counter {
	return &Counter{Id: uint64(h.ID), Packets: h.Packets, Bytes: h.Bytes, LastUsed: h.LastUsed}
}

func putCount(h hwmodel.PacketsBytes) *PacketsBytes {
	return &PacketsBytes{Packets: h.Packets, Bytes: h.Bytes}
}

func putReasonCounts(h *[hwmodel.ReasonCount]hwmodel.PacketsBytes) []*ReasonCount {
	var out []*ReasonCount
	for reason, count := range h {
		if count != (hwmodel.PacketsBytes{}) {
			out = append(out, &ReasonCount{Reason: uint32(reason), Count: putCount(count)})
		}
	}
	return out
}

func putPortCounters(_ *codec, h hwmodel.PortCounters) *PortCounters {
	return &PortCounters{
		Port: uint32(h.Port), Rx: putCount(h.RX), Tx: putCount(h.TX),
		Forwarded: putCount(h.Forwarded), Trapped: putCount(h.Trapped),
		Injected: putCount(h.Injected), Copied: putCount(h.Copied),
		Dropped: putReasonCounts(&h.Dropped), TrappedBy: putReasonCounts(&h.TrappedBy),
	}
}

func putReport(c *codec, h *hwmodel.CounterReport) *CounterReport {
	return &CounterReport{
		Now:      h.Now,
		Counters: each(c, "counters", h.Counters, putCounter),
		Ports:    each(c, "ports", h.Ports, putPortCounters),
	}
}

func putTrace(h hwmodel.TraceResult) *TraceResult {
	out := &TraceResult{
		Verdict: uint32(h.Verdict), Reason: uint32(h.Reason), Out: uint32(h.Out), Frame: h.Frame,
	}
	for _, s := range h.Steps {
		out.Steps = append(out.Steps, &TraceStep{Stage: s.Stage, Table: s.Table, Entry: s.Entry, Detail: s.Detail})
	}
	return out
}

package softpipe

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"antiphon/hwmodel"
)

// Trace implements hwmodel.Device: the stages that Run has, on a worker that does
// not count, and then what they left behind told in words.
func (p *Pipe) Trace(ctx context.Context, in hwmodel.PortID, frame []byte) (hwmodel.TraceResult, error) {
	if err := ctx.Err(); err != nil {
		return hwmodel.TraceResult{}, err
	}
	w, v := &worker{tracing: true}, new(hwmodel.Vector)
	v.N, v.In[0], v.Frame[0] = 1, in, slices.Clone(frame)
	p.mu.RLock()
	defer p.mu.RUnlock()
	w.stages(&p.t, v)
	r := hwmodel.TraceResult{Verdict: v.Verdict[0], Reason: v.Reason[0], Steps: w.explain(in)}
	if r.Verdict == hwmodel.Forward {
		r.Out, r.Frame = v.Out[0], v.Frame[0]
	}
	return r, nil
}

// explain tells the stages that packet 0 went through.
func (w *worker) explain(in hwmodel.PortID) []hwmodel.TraceStep {
	p := &w.trail
	var steps []hwmodel.TraceStep
	for s := stageParse; s <= p.stage; s++ {
		step := hwmodel.TraceStep{Stage: s.String(), Detail: "pass"}
		w.describe(p, s, in, &step)
		if s == p.stage && w.v.Verdict[0] != hwmodel.Forward {
			step.Detail = w.v.Verdict[0].String() + ": " + w.v.Reason[0].String()
		}
		steps = append(steps, step)
	}
	return steps
}

// describe fills in what a stage looked up.
func (w *worker) describe(p *trail, s stage, in hwmodel.PortID, step *hwmodel.TraceStep) {
	t := w.t
	entry := func(table hwmodel.Table, format string, a ...any) {
		step.Table, step.Entry = table.String(), fmt.Sprintf(format, a...)
	}
	switch s {
	case stageInterface:
		entry(hwmodel.TableInterface, "port %d", in)
		if p.in != 0 {
			step.Detail = fmt.Sprintf("interface %d", t.ifaces.key[p.in])
		}
	case stageRules:
		set := t.rules[w.family(p)]
		if set == nil || int(p.rule) >= len(set.set) {
			break
		}
		r := &set.set[p.rule]
		entry(hwmodel.TableRules, "priority %d", r.Priority)
		if r.Action == hwmodel.RuleLookup {
			step.Detail = fmt.Sprintf("lookup table %d", r.Table)
		}
	case stageRoute:
		rt := &t.route[p.route]
		entry(hwmodel.TableRoute, "table %d %s", t.rules[w.family(p)].set[p.rule].Table, w.prefix(p, int(rt.bits)))
		step.Detail = fmt.Sprintf("group %d", t.groups.key[rt.group])
	case stageGroup:
		entry(hwmodel.TableGroup, "%d", t.groups.key[w.found[0].group])
		g := &t.group[w.found[0].group]
		step.Detail = fmt.Sprintf("next hop %d, one of %d live", t.hops.key[p.hop], g.live)
	case stageNextHop:
		entry(hwmodel.TableNextHop, "%d", t.hops.key[p.hop])
		h := &t.hop[p.hop]
		step.Detail = fmt.Sprintf("interface %d", t.ifaces.key[h.iface])
		if h.neigh != 0 {
			step.Detail += " via " + t.neighs.key[h.neigh].Addr.String()
		}
	case stageEgress:
		entry(hwmodel.TableInterface, "%d", t.ifaces.key[p.out])
		step.Detail = fmt.Sprintf("port %d", t.iface[p.out].port)
	case stageMTU:
		step.Detail = fmt.Sprintf("%d of %d bytes", w.ipLen[0], t.iface[p.out].mtu)
	case stageNeighbor:
		k := t.neighs.key[p.neigh]
		if p.neigh == 0 {
			k = hwmodel.NeighborKey{Interface: t.ifaces.key[p.out], Addr: w.addr(p)}
		}
		entry(hwmodel.TableNeighbor, "%s on interface %d", k.Addr, k.Interface)
		step.Detail = fmt.Sprintf("%x", macOf(t.neigh[p.neigh].mac))
	case stageRewrite:
		step.Detail = fmt.Sprintf("out of port %d", w.v.Out[0])
	}
}

// family returns the family index of packet 0.
func (w *worker) family(p *trail) int {
	if w.v.Frame[0][ethLen]>>4 == 6 {
		return 1
	}
	return 0
}

func (w *worker) addr(p *trail) netip.Addr {
	f := w.family(p)
	_, dst := w.addrs(f, 0)
	if f == 0 {
		return netip4(uint32(dst.lo))
	}
	return netip6(dst)
}

func (w *worker) prefix(p *trail, bits int) netip.Prefix {
	return netip.PrefixFrom(w.addr(p), bits).Masked()
}

package api

import (
	"cmp"
	"context"
	"slices"

	"antiphon/agent"
	"antiphon/hwmodel"
	"antiphon/transport"
)

// CountersAnswer is what counters answers. At rest, in every row,
// rx = forwarded + trapped + Σ dropped.
type CountersAnswer struct {
	Ports []PortCounts `json:"ports"`
	Total PortCounts   `json:"total"`
}

// PortCounts are the counts of a port, or of all (then without a name).
type PortCounts struct {
	Name      string               `json:"name,omitempty"`
	RX        hwmodel.PacketsBytes `json:"rx"`
	TX        hwmodel.PacketsBytes `json:"tx"`
	Forwarded hwmodel.PacketsBytes `json:"forwarded"`
	Trapped   hwmodel.PacketsBytes `json:"trapped"`
	Injected  hwmodel.PacketsBytes `json:"injected"`
	Copied    hwmodel.PacketsBytes `json:"copied"`
	Dropped   []ReasonCount        `json:"dropped"`
	// TrappedBy says why packets trapped and sums up to Trapped; only where asked
	// for (transport.CountersArgs).
	TrappedBy []ReasonCount `json:"trapped_by,omitempty"`
}

// ReasonCount is how often a reason applied.
type ReasonCount struct {
	Reason  string `json:"reason"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// fresh reads the device's counters and then lets f look.
func (v *Verbs) fresh(ctx context.Context, f func(agent.View)) error {
	if err := v.agent.Refresh(ctx); err != nil {
		return err
	}
	return v.agent.View(ctx, f)
}

func (v *Verbs) counters(ctx context.Context, args transport.CountersArgs) (any, error) {
	var ports []hwmodel.PortCounters
	var caps hwmodel.Capabilities
	var status agent.Status
	if err := v.fresh(ctx, func(w agent.View) {
		ports = slices.Clone(w.Ports())
		caps, _ = w.Capabilities()
		status = w.Status()
	}); err != nil {
		return nil, err
	}
	if !status.DeviceUp {
		return nil, &agent.UnreachableError{Part: "device", Why: v.deviceTrouble(status)}
	}
	answer := countersOf(caps.Ports, ports)
	if !args.Reasons {
		answer.Total.TrappedBy = nil
		for i := range answer.Ports {
			answer.Ports[i].TrappedBy = nil
		}
	}
	return answer, nil
}

// deviceTrouble says what is wrong with the device, and where it should be.
func (v *Verbs) deviceTrouble(s agent.Status) string {
	if at := v.agent.DeviceAddress(); at != "" {
		return at + ": " + s.DeviceError
	}
	return s.DeviceError
}

// countersOf writes counts of every port the device declares, in its order.
func countersOf(infos []hwmodel.PortInfo, counts []hwmodel.PortCounters) CountersAnswer {
	byID := make(map[hwmodel.PortID]*hwmodel.PortCounters, len(counts))
	for i := range counts {
		byID[counts[i].Port] = &counts[i]
	}
	infos = slices.Clone(infos)
	slices.SortFunc(infos, func(a, b hwmodel.PortInfo) int { return cmp.Compare(a.ID, b.ID) })
	a := CountersAnswer{Ports: make([]PortCounts, 0, len(infos))}
	var total hwmodel.PortCounters
	for _, info := range infos {
		n := byID[info.ID]
		if n == nil {
			n = &hwmodel.PortCounters{}
		}
		a.Ports = append(a.Ports, portCounts(info.Name, n))
		for _, x := range [...]struct{ sum, n *hwmodel.PacketsBytes }{
			{&total.RX, &n.RX}, {&total.TX, &n.TX}, {&total.Forwarded, &n.Forwarded},
			{&total.Trapped, &n.Trapped}, {&total.Injected, &n.Injected}, {&total.Copied, &n.Copied},
		} {
			add(x.sum, *x.n)
		}
		for r := range n.Dropped {
			add(&total.Dropped[r], n.Dropped[r])
			add(&total.TrappedBy[r], n.TrappedBy[r])
		}
	}
	a.Total = portCounts("", &total)
	return a
}

func add(sum *hwmodel.PacketsBytes, n hwmodel.PacketsBytes) {
	sum.Packets += n.Packets
	sum.Bytes += n.Bytes
}

func portCounts(name string, n *hwmodel.PortCounters) PortCounts {
	return PortCounts{
		Name: name, RX: n.RX, TX: n.TX, Forwarded: n.Forwarded, Trapped: n.Trapped,
		Injected: n.Injected, Copied: n.Copied,
		Dropped: byReason(n.Dropped[:]), TrappedBy: byReason(n.TrappedBy[:]),
	}
}

// byReason lists the reasons that counted, in the enumeration's order.
func byReason(by []hwmodel.PacketsBytes) []ReasonCount {
	out := []ReasonCount{}
	for r, n := range by {
		if n.Packets != 0 {
			out = append(out, ReasonCount{hwmodel.Reason(r).String(), n.Packets, n.Bytes})
		}
	}
	return out
}

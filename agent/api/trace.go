package api

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"antiphon/agent"
	"antiphon/hwmodel"
	"antiphon/netstate"
	"antiphon/netstate/ipjson"
	"antiphon/transport"
)

// Lengths of a frame that can be traced.
const (
	ethernetHeader = 14
	maxTraceFrame  = 64 << 10
)

// TraceAnswer is what trace answers.
type TraceAnswer struct {
	In      string      `json:"in"`
	Steps   []TraceStep `json:"steps"`
	Verdict string      `json:"verdict"`
	Reason  string      `json:"reason"`
	Out     string      `json:"out,omitempty"`
	// Frame is the forwarded frame in hexadecimal.
	Frame string `json:"frame,omitempty"`
}

// TraceStep is one stage.
type TraceStep struct {
	Stage  string `json:"stage"`
	Table  string `json:"table,omitempty"`
	Entry  string `json:"entry,omitempty"`
	Detail string `json:"detail"`
	// Origin is the kernel row that the entry comes from, OriginKind its kind.
	OriginKind string        `json:"origin_kind,omitempty"`
	Origin     ipjson.Object `json:"origin,omitempty"`
}

// trace runs a frame through the device's tables. A destination address of all
// zeroes stands for the ingress interface's own.
func (v *Verbs) trace(ctx context.Context, args transport.TraceArgs) (any, error) {
	if n := len(args.Frame); n < ethernetHeader || n > maxTraceFrame {
		return nil, usage("trace: a frame of %d bytes, want %d to %d", n, ethernetHeader, maxTraceFrame)
	}
	var in hwmodel.PortInfo
	var found bool
	var caps hwmodel.Capabilities
	var representor netstate.Link
	if err := v.agent.View(ctx, func(w agent.View) {
		caps, _ = w.Capabilities()
		if in, found = w.Port(args.Port); !found {
			// The interface may have been renamed: its name is fine too.
			for _, p := range caps.Ports {
				if index, ok := w.Representor(p.ID); ok && w.LinkName(index) == args.Port {
					in, found = p, true
				}
			}
		}
		if index, ok := w.Representor(in.ID); ok {
			if row := w.Row(netstate.Key{Kind: netstate.KindLink, ID: index}); row != nil {
				_ = representor.Decode(row.Group[0]) // no address then: the device says so
			}
		}
	}); err != nil {
		return nil, err
	}
	if !found {
		return nil, usage("trace: the device has no port %.32q", args.Port)
	}
	frame := slices.Clone(args.Frame)
	if [6]byte(frame[:6]) == [6]byte{} {
		if mac, ok := representor.Addr.MAC(); ok {
			copy(frame, mac[:])
		}
	}
	r, err := v.agent.Device().Trace(ctx, in.ID, frame)
	if err != nil {
		return nil, &agent.UnreachableError{Part: "device", Why: err.Error()}
	}
	a := TraceAnswer{In: in.Name, Steps: make([]TraceStep, 0, len(r.Steps)), Verdict: r.Verdict.String(), Reason: reasonText(r.Reason)}
	for _, s := range r.Steps {
		a.Steps = append(a.Steps, TraceStep{Stage: s.Stage, Table: s.Table, Entry: s.Entry, Detail: s.Detail})
	}
	if err := v.origins(ctx, a.Steps); err != nil {
		return nil, err
	}
	if r.Verdict == hwmodel.Forward {
		a.Frame = hex.EncodeToString(r.Frame)
		for _, p := range caps.Ports {
			if p.ID == r.Out {
				a.Out = p.Name
			}
		}
	}
	if r.Verdict == hwmodel.Drop {
		return a, errNegative
	}
	return a, nil
}

// origins finds the kernel rows that the looked up entries come from.
func (v *Verbs) origins(ctx context.Context, steps []TraceStep) error {
	found := make([]*netstate.Row, len(steps))
	var n *names
	if err := v.agent.View(ctx, func(w agent.View) {
		n = snapshotNames(w)
		for i, s := range steps {
			found[i] = origin(w, s)
		}
	}); err != nil {
		return err
	}
	for i, row := range found {
		if row == nil {
			continue
		}
		o, err := n.kernelObject(row.Key.Kind, row.Group[0])
		if err != nil {
			return fmt.Errorf("trace: row of sequence %d: %w", row.Seq, err)
		}
		steps[i].OriginKind, steps[i].Origin = row.Key.Kind.String(), o
	}
	return nil
}

// origin finds the row of one entry, nil if it has none: groups and next hops
// are made of several. Entries are text, so it looks for what names the row: a
// prefix and a table, or an address and an interface.
func origin(w agent.View, s TraceStep) *netstate.Row {
	var prefix netip.Prefix
	var addr netip.Addr
	var number uint32
	for _, word := range strings.Fields(s.Entry) {
		if p, err := netip.ParsePrefix(word); err == nil {
			prefix = p
		} else if a, err := netip.ParseAddr(word); err == nil {
			addr = a
		} else if x, err := strconv.ParseUint(word, 10, 32); err == nil {
			number = uint32(x)
		}
	}
	kind, match := netstate.KindRoute, func(k netstate.Key) bool { return k.ID == number && keyPrefix(k) == prefix }
	switch {
	case s.Table == "route" && prefix.IsValid():
	case s.Table == "neighbor" && addr.IsValid():
		kind, match = netstate.KindNeighbor, func(k netstate.Key) bool { return k.ID == number && keyAddr(k) == addr }
	default:
		return nil
	}
	// The lowest metric is the one in use; the device's main table carries the
	// local table's prefixes too.
	var best, local *netstate.Row
	for row := range w.Rows(kind) {
		switch {
		case match(row.Key):
			if best == nil || row.Key.Prio < best.Key.Prio {
				best = row
			}
		case kind == netstate.KindRoute && number == tableMain && row.Key.ID == tableLocal && keyPrefix(row.Key) == prefix:
			local = row
		}
	}
	if best == nil {
		return local
	}
	return best
}

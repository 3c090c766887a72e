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
	"antiphon/agent/resolve"
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
	if err := v.origins(ctx, familyOfFrame(frame), a.Steps); err != nil {
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

// familyOfFrame is IPv4 unless the frame says IPv6.
func familyOfFrame(frame []byte) hwmodel.Family {
	if frame[12] == 0x86 && frame[13] == 0xdd {
		return hwmodel.IPv6
	}
	return hwmodel.IPv4
}

// origins finds the kernel rows that the looked up entries come from.
func (v *Verbs) origins(ctx context.Context, family hwmodel.Family, steps []TraceStep) error {
	found := make([]*netstate.Row, len(steps))
	var n *names
	if err := v.agent.View(ctx, func(w agent.View) {
		n = snapshotNames(w)
		var group hwmodel.GroupID
		for i, s := range steps {
			e, ok := parseEntry(s, family)
			if e.Table == hwmodel.TableGroup {
				group = e.Group
			}
			if e.Group = group; ok {
				found[i] = w.Origin(e)
			}
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

// parseEntry reads what a device says of the entry that a stage looked up. That is
// text for people, so it looks for what names the entry: a number, and a prefix or
// an address.
func parseEntry(s TraceStep, family hwmodel.Family) (resolve.Entry, bool) {
	var prefix netip.Prefix
	var addr netip.Addr
	var number uint32
	numbered := false
	for _, word := range strings.Fields(s.Entry) {
		if p, err := netip.ParsePrefix(word); err == nil {
			prefix = p
		} else if a, err := netip.ParseAddr(word); err == nil {
			addr = a
		} else if x, err := strconv.ParseUint(word, 10, 32); err == nil && !numbered {
			number, numbered = uint32(x), true
		}
	}
	e := resolve.Entry{Family: family}
	switch s.Table {
	case hwmodel.TableRules.String():
		e.Table, e.Priority = hwmodel.TableRules, number
	case hwmodel.TableRoute.String():
		e.Table, e.Route = hwmodel.TableRoute, hwmodel.RouteKey{Table: hwmodel.TableID(number), Prefix: prefix}
		numbered = numbered && prefix.IsValid()
	case hwmodel.TableGroup.String():
		e.Table, e.Group = hwmodel.TableGroup, hwmodel.GroupID(number)
	case hwmodel.TableNextHop.String():
		e.Table, e.NextHop = hwmodel.TableNextHop, hwmodel.NextHopID(number)
	case hwmodel.TableNeighbor.String():
		e.Table, e.Neighbor = hwmodel.TableNeighbor, hwmodel.NeighborKey{Interface: hwmodel.InterfaceID(number), Addr: addr}
		numbered = numbered && addr.IsValid()
	}
	return e, numbered && e.Table != 0
}

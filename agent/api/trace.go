package api

import (
	"context"
	"encoding/hex"
	"slices"

	"antiphon/agent"
	"antiphon/hwmodel"
	"antiphon/netstate"
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
		a.Steps = append(a.Steps, TraceStep{s.Stage, s.Table, s.Entry, s.Detail})
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

package api

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"antiphon/agent"
	"antiphon/agent/resolve"
	"antiphon/hwmodel"
	"antiphon/netstate"
)

// Version is the release all programs of this tree carry.
const Version = "0.1.0"

// StatusAnswer is what status answers.
type StatusAnswer struct {
	Healthy bool         `json:"healthy"`
	Host    HostStatus   `json:"host"`
	Link    LinkStatus   `json:"link"`
	Agent   AgentStatus  `json:"agent"`
	Device  DeviceStatus `json:"device"`
	// Multipath says whether the choice of a leg is exactly the kernel's.
	Multipath MultipathStatus `json:"multipath"`
	// Traps are kernel states and doubts that make more than one row trap.
	Traps []Trap `json:"traps"`
	// NotHere is what this kernel, or this shim's rights, do not allow.
	NotHere []string `json:"not_on_this_kernel"`
}

// HostStatus is the mirrored kernel.
type HostStatus struct {
	Connected bool           `json:"connected"`
	InSync    bool           `json:"in_sync"`
	Pending   []string       `json:"pending,omitempty"`
	Seq       uint64         `json:"seq"`
	ChangeAgo float64        `json:"last_change_seconds"`
	Overruns  uint64         `json:"overruns"`
	Suspects  int            `json:"suspects"`
	ID        string         `json:"id,omitempty"`
	Kernel    string         `json:"kernel,omitempty"`
	Features  []string       `json:"features,omitempty"`
	Rows      map[string]int `json:"rows"`
}

// LinkStatus is the session between shim and agent.
type LinkStatus struct {
	Connected bool    `json:"connected"`
	Peer      string  `json:"peer,omitempty"`
	Epoch     uint64  `json:"epoch"`
	Seconds   float64 `json:"seconds"` // up, or without one
}

// AgentStatus is the agent itself.
type AgentStatus struct {
	Version    string `json:"version"`
	Arch       string `json:"arch"`
	Programmed uint64 `json:"programmed"`
	Batches    uint64 `json:"batches"`
	// Doubt is why everything traps.
	Doubt string `json:"doubt,omitempty"`
	// Held: the first snapshot is not complete, the device is left as it is.
	Held bool `json:"held,omitempty"`
	// NotResolved counts rows that could not be understood; they trap.
	NotResolved uint64 `json:"not_resolved"`
}

// DeviceStatus is the device and what it holds.
type DeviceStatus struct {
	Connected bool                  `json:"connected"`
	Error     string                `json:"error,omitempty"`
	Model     string                `json:"model,omitempty"`
	Ports     int                   `json:"ports"`
	Tables    map[string]TableUsage `json:"tables"`
	Refused   int                   `json:"refused"`
}

// TableUsage is how full a table is.
type TableUsage struct {
	Used int    `json:"used"`
	Size uint32 `json:"size"`
}

// MultipathStatus is how flows are spread over legs.
type MultipathStatus struct {
	SeedKnown bool   `json:"seed_known"`
	Policy4   string `json:"policy4"`
	Policy6   string `json:"policy6"`
	Says      string `json:"says"`
}

// Trap is something that makes more than one row trap.
type Trap struct {
	Reason string `json:"reason"`
	// Scope: "everything", "ipv4", "ipv6", with "dev swp1" and a direction if limited.
	Scope  string `json:"scope"`
	Detail string `json:"detail,omitempty"`
}

func (v *Verbs) status(ctx context.Context, _ noArgs) (any, error) {
	var s agent.Status
	var caps hwmodel.Capabilities
	var settings *netstate.Settings
	var n *names
	refused := 0
	if err := v.agent.View(ctx, func(w agent.View) {
		s = w.Status()
		caps, _ = w.Capabilities()
		settings = w.Settings()
		n = snapshotNames(w)
		for _, kind := range netstate.Kinds {
			for row := range w.Rows(kind) {
				if isRefused(w.Fate(row.Key)) {
					refused++
				}
			}
		}
	}); err != nil {
		return nil, err
	}
	a := StatusAnswer{
		Host: HostStatus{
			Connected: s.Session != nil, InSync: s.InSync, Pending: s.Pending, Seq: s.Seq,
			ChangeAgo: s.LastChange.Seconds(), Overruns: s.Overruns, Suspects: s.Suspects, Rows: map[string]int{},
		},
		Link: LinkStatus{Connected: s.Session != nil, Peer: s.Peer, Epoch: s.Epoch, Seconds: time.Since(s.Since).Seconds()},
		Agent: AgentStatus{
			Version: Version, Arch: runtime.GOARCH, Programmed: s.Programmed, Batches: s.Batches,
			Doubt: s.Doubt, Held: s.Held, NotResolved: s.NotResolved,
		},
		Device:    DeviceStatus{Connected: s.DeviceUp, Error: s.DeviceError, Model: caps.Name, Ports: len(caps.Ports), Refused: refused, Tables: map[string]TableUsage{}},
		Multipath: multipath(settings),
		Traps:     traps(s, settings, n),
		NotHere:   []string{},
	}
	for kind, count := range s.Rows {
		a.Host.Rows[kind.String()] = count
	}
	if h := s.Session; h != nil {
		a.Host.ID, a.Host.Kernel, a.Host.Features = h.GetHostId(), h.GetKernelRelease(), h.GetFeatures()
		a.NotHere = notHere(h.GetFeatures())
	}
	if s.DeviceUp {
		if err := v.usage(ctx, caps, a.Device.Tables); err != nil {
			a.Device.Connected, a.Device.Error = false, err.Error()
		}
	}
	if a.Healthy = a.Host.Connected && a.Device.Connected && s.Doubt == "" && !s.Held; !a.Healthy {
		return a, errNegative
	}
	return a, nil
}

// usage counts what the device really holds.
func (v *Verbs) usage(ctx context.Context, caps hwmodel.Capabilities, tables map[string]TableUsage) error {
	var used [hwmodel.TableCount]int
	err := v.agent.Device().Entries(ctx, func(e *hwmodel.Entries) bool {
		used[hwmodel.TableInterface] += len(e.Interfaces)
		used[hwmodel.TableNeighbor] += len(e.Neighbors)
		used[hwmodel.TableNextHop] += len(e.NextHops)
		used[hwmodel.TableGroup] += len(e.Groups)
		used[hwmodel.TableRoute] += len(e.Routes)
		used[hwmodel.TableOwnAddress] += len(e.Own)
		for _, r := range e.Rules {
			used[hwmodel.TableRules] += len(r.List)
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("read the device's entries: %w", err)
	}
	for t := hwmodel.TableInterface; int(t) < hwmodel.TableCount; t++ {
		tables[t.String()] = TableUsage{used[t], caps.Sizes[t]}
	}
	return nil
}

// isRefused: the device did not take it, or cannot take its kind.
func isRefused(f resolve.Fate) bool {
	return f.Standing == resolve.Failed || f.Standing == resolve.Trapped && slices.Contains(incapable[:], f.Reason)
}

// incapable are the reasons that say what the device lacks.
var incapable = [...]hwmodel.Reason{
	hwmodel.ReasonTableFull, hwmodel.ReasonCoversRefused, hwmodel.ReasonTooWide, hwmodel.ReasonResilientGroup,
	hwmodel.ReasonMultipathPolicy, hwmodel.ReasonRouteEncap, hwmodel.ReasonRuleSelector, hwmodel.ReasonRuleAction,
}

// wanted are the features a shim has where kernel and rights allow, and what is
// missing without them.
var wanted = [...]struct{ feature, without string }{
	{"strict-dump", "filtered dumps: every repair reads whole tables"},
	{"bpf-counters", "counters in BPF maps (needs --bpffs and the right to use BPF)"},
	{"neighbour-use", "telling the kernel that neighbours are in use: they may go stale under traffic"},
	{"presences", "seeing unmirrored kernel state"},
}

func notHere(features []string) []string {
	out := []string{}
	for _, w := range wanted {
		if !slices.Contains(features, w.feature) {
			out = append(out, w.without)
		}
	}
	return out
}

func multipath(s *netstate.Settings) MultipathStatus {
	m := MultipathStatus{Policy4: "unknown", Policy6: "unknown"}
	for _, p := range [...]struct {
		to   *string
		name string
	}{{&m.Policy4, "net.ipv4.fib_multipath_hash_policy"}, {&m.Policy6, "net.ipv6.fib_multipath_hash_policy"}} {
		if value, ok := setting(s, p.name); ok {
			*p.to = value
		}
	}
	m.SeedKnown = settingOn(s, "net.ipv4.fib_multipath_hash_seed")
	if m.SeedKnown {
		m.Says = "the seed is set: the device chooses exactly the kernel's leg"
	} else {
		m.Says = "net.ipv4.fib_multipath_hash_seed is 0, so the kernel's seed is random and unknown: " +
			"the device chooses a live leg by weight, constant per flow, not always the kernel's"
	}
	return m
}

// traps lists what makes more than one row trap.
func traps(s agent.Status, settings *netstate.Settings, n *names) []Trap {
	out := []Trap{}
	switch {
	case s.Doubt != "":
		out = append(out, Trap{hwmodel.ReasonResync.String(), "everything", s.Doubt})
	case settings == nil:
		out = append(out, Trap{hwmodel.ReasonResync.String(), "everything", "the host has not sent its settings"})
	}
	if settings == nil {
		return out
	}
	for _, p := range settings.Presences {
		out = append(out, Trap{presenceReason(p.What), presenceScope(p, n), p.Detail})
	}
	for _, f := range [...]struct{ name, scope string }{
		{"net.ipv4.conf.all.forwarding", "ipv4"}, {"net.ipv6.conf.all.forwarding", "ipv6"},
	} {
		// Per interface for IPv4, so that only "off" for all is worth a line.
		if value, ok := setting(settings, f.name); ok && value == "0" && (f.scope == "ipv6" || allForwardingOff(settings)) {
			out = append(out, Trap{hwmodel.ReasonForwardingOff.String(), f.scope, f.name + " is 0"})
		}
	}
	return out
}

// allForwardingOff: no interface forwards IPv4.
func allForwardingOff(s *netstate.Settings) bool {
	for _, x := range s.Settings {
		if strings.HasPrefix(x.Name, "net.ipv4.conf.") && strings.HasSuffix(x.Name, ".forwarding") && x.Value != "0" {
			return false
		}
	}
	return true
}

// presenceReason is the reason that a presence gives.
func presenceReason(what string) string {
	if r, err := hwmodel.ParseReason("unmirrored-" + what); err == nil {
		return r.String()
	}
	return hwmodel.ReasonUnmirroredUnknown.String()
}

func presenceScope(p netstate.Presence, n *names) string {
	scope := map[uint8]string{0: "everything", familyIPv4: "ipv4", familyIPv6: "ipv6"}[p.Family]
	if p.Ifindex == 0 {
		return scope
	}
	if p.Family == 0 {
		scope = ""
	}
	scope += " dev " + n.name(p.Ifindex)
	switch {
	case p.Ingress && !p.Egress:
		scope += " ingress"
	case p.Egress && !p.Ingress:
		scope += " egress"
	}
	return strings.TrimSpace(scope)
}

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"antiphon/agent/api"
)

// printer collects the text of an answer.
type printer struct{ bytes.Buffer }

func (w *printer) line(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

// number writes a count with a space between thousands.
func number[N ~int | ~uint32 | ~uint64](n N) string {
	s := strconv.FormatUint(uint64(n), 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

// ago writes a time that has passed.
func ago(seconds float64) string {
	if seconds < 10 {
		return fmt.Sprintf("%.1fs", seconds)
	}
	return (time.Duration(seconds) * time.Second).String()
}

func countersText(w *printer, body []byte) error {
	var a api.CountersAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return err
	}
	a.Total.Name = "total"
	w.line("%-12s %14s %14s %14s %14s %14s %14s", "packets", "rx", "tx", "forwarded", "trapped", "injected", "dropped")
	for _, p := range append(a.Ports, a.Total) {
		var dropped uint64
		for _, d := range p.Dropped {
			dropped += d.Packets
		}
		w.line("%-12s %14s %14s %14s %14s %14s %14s", p.Name, number(p.RX.Packets), number(p.TX.Packets),
			number(p.Forwarded.Packets), number(p.Trapped.Packets), number(p.Injected.Packets), number(dropped))
	}
	for _, list := range []struct {
		word string
		by   []api.ReasonCount
	}{{"trapped", a.Total.TrappedBy}, {"dropped", a.Total.Dropped}} {
		slices.SortStableFunc(list.by, func(x, y api.ReasonCount) int { return cmp.Compare(y.Packets, x.Packets) })
		for _, r := range list.by {
			w.line("%s  %-24s %14s", list.word, r.Reason, number(r.Packets))
		}
	}
	return nil
}

func statusText(w *printer, body []byte) error {
	var a api.StatusAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return err
	}
	sync := "in sync"
	switch {
	case !a.Host.Connected:
		sync = "no shim"
	case !a.Host.InSync:
		sync = "catching up"
	}
	w.line("host    %s  %s  seq %s  last change %s ago  overruns %s  suspect %s", cmp.Or(a.Host.Kernel, "unknown"), sync,
		number(a.Host.Seq), ago(a.Host.ChangeAgo), number(a.Host.Overruns), number(a.Host.Suspects))
	w.line("        rows    %s", countsText(a.Host.Rows))
	for _, p := range a.Host.Pending {
		w.line("        pending %s", p)
	}
	if a.Link.Connected {
		w.line("link    %s  epoch %s  up %s", strings.TrimSpace(a.Link.Peer), number(a.Link.Epoch), ago(a.Link.Seconds))
	} else {
		w.line("link    none for %s", ago(a.Link.Seconds))
	}
	w.line("agent   antiphond %s %s  programmed %s  batches %s", a.Agent.Version, a.Agent.Arch, number(a.Agent.Programmed), number(a.Agent.Batches))
	if a.Agent.Held {
		w.line("        the first snapshot is not complete: the device is left as it is")
	}
	if a.Agent.NotResolved > 0 {
		w.line("        rows not understood %s: they trap", number(a.Agent.NotResolved))
	}
	switch {
	case a.Device.Connected:
		refused := ""
		if a.Device.Refused > 0 {
			refused = "  <- antiphon why --refused"
		}
		t := a.Device.Tables
		w.line("device  %s  ports %d  routes %s/%s  neighbours %s/%s  groups %s/%s  refused %s%s", a.Device.Model, a.Device.Ports,
			number(t["route"].Used), number(t["route"].Size), number(t["neighbor"].Used), number(t["neighbor"].Size),
			number(t["group"].Used), number(t["group"].Size), number(a.Device.Refused), refused)
	default:
		w.line("device  not reachable: %s", a.Device.Error)
	}
	w.line("ecmp    policy %s (IPv4) %s (IPv6): %s", a.Multipath.Policy4, a.Multipath.Policy6, a.Multipath.Says)
	for _, t := range a.Traps {
		w.line("traps   %s  %s  %s", t.Scope, t.Reason, t.Detail)
	}
	for _, m := range a.NotHere {
		w.line("not on this kernel: %s", m)
	}
	return nil
}

func countsText(m map[string]int) string {
	var parts []string
	for k, n := range m {
		parts = append(parts, k+" "+number(n))
	}
	slices.Sort(parts)
	return strings.Join(parts, "  ")
}

func whyText(w *printer, body []byte) error {
	var a struct {
		Objects []struct {
			api.Explanation
			Kernel row `json:"kernel"`
		} `json:"objects"`
	}
	if err := unmarshal(body, &a); err != nil {
		return err
	}
	if len(a.Objects) == 0 {
		w.line("The device took everything.")
	}
	for i, e := range a.Objects {
		if i > 0 {
			w.line("")
		}
		w.line("%s", e.Says)
		w.line("  kernel   present   seq %s  %s", number(e.Seq), rowText(e.Kind, e.Kernel))
		stored := "stored"
		if e.Suspect {
			stored = "in doubt"
		}
		w.line("  agent    %-9s seq %s", stored, number(e.Seq))
		state := map[string]string{"offloaded": "holds it", "trapped": "traps", "failed": "refused"}[e.Fate]
		switch {
		case e.Reason == "":
			w.line("  device   %-9s %s pkts, %s bytes", state, number(e.Packets), number(e.Bytes))
		case e.Detail == "":
			w.line("  device   %-9s %s", state, e.Reason)
		default:
			w.line("  device   %-9s %s: %s", state, e.Reason, e.Detail)
		}
		if e.Reason == "" && e.Detail != "" {
			w.line("           %s", e.Detail)
		}
		for _, t := range e.Traps {
			w.line("  traps    %-9s %s: %s", t.Scope, t.Reason, t.Detail)
		}
		if e.Fix != "" {
			w.line("  fix      %s", e.Fix)
		}
	}
	return nil
}

func verifyText(w *printer, body []byte) error {
	var a api.VerifyAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return err
	}
	w.line("checked %s", countsText(a.Checked))
	text := func(v any) string {
		if v == nil {
			return "nothing"
		}
		if s, ok := v.(string); ok {
			return s
		}
		// It was JSON a moment ago.
		line, _ := json.Marshal(v)
		return string(line)
	}
	for _, d := range a.Differences {
		w.line("%s %s differs in the %s", d.Kind, d.Key, d.Where)
		w.line("  kernel   %s", text(d.Kernel))
		w.line("  %-8s %s", d.Where, text(d.Have))
	}
	if len(a.Differences) == 0 {
		w.line("kernel, agent and device agree")
	}
	return nil
}

func traceText(w *printer, body []byte) error {
	var a struct {
		api.TraceAnswer
		Steps []struct {
			api.TraceStep
			Origin row `json:"origin"`
		} `json:"steps"`
	}
	if err := unmarshal(body, &a); err != nil {
		return err
	}
	for i, s := range a.Steps {
		where := strings.TrimSpace(s.Table + " " + s.Entry)
		if where != "" {
			where += " -> "
		}
		w.line("%2d %-10s %s%s", i+1, s.Stage, where, s.Detail)
		if s.Origin != nil {
			w.line("              of %s %s", s.OriginKind, rowText(s.OriginKind, s.Origin))
		}
	}
	switch a.Verdict {
	case "forward":
		w.line("verdict: forward out of %s", a.Out)
	case "trap":
		w.line("verdict: trap to %s (%s)", a.In, a.Reason)
	default:
		w.line("verdict: %s (%s)", a.Verdict, a.Reason)
	}
	return nil
}

package demo

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"antiphon/agent/resolve"
	"antiphon/hwmodel"
	"antiphon/hwmodel/refpipe"
	"antiphon/hwmodel/softpipe"
	"antiphon/netstate"
)

// The router of the live demo as a kernel had it: its netlink dumps (every
// message prefixed by its length, 32 bits big-endian, after the magic) and its
// sysctls, a name=value line each. Written by TestRecord -update.
//
//go:embed router.nl
var recordedState []byte

//go:embed router.sysctl
var recordedSysctls string

// stateMagic begins a recorded state.
const stateMagic = "ANTNL1\n"

// readState splits a recorded state into messages.
func readState(b []byte) ([][]byte, error) {
	rest, ok := bytes.CutPrefix(b, []byte(stateMagic))
	if !ok {
		return nil, fmt.Errorf("recorded state: want %q at offset 0", stateMagic)
	}
	var out [][]byte
	for len(rest) > 0 {
		if len(rest) < 4 {
			return nil, fmt.Errorf("recorded state: %d bytes at the end, want a length", len(rest))
		}
		n := binary.BigEndian.Uint32(rest)
		if uint64(n) > uint64(len(rest)-4) {
			return nil, fmt.Errorf("recorded state: message of %d bytes at offset %d, %d are left", n, len(b)-len(rest), len(rest)-4)
		}
		out = append(out, rest[4:4+n])
		rest = rest[4+n:]
	}
	return out, nil
}

// recorded hands the recorded router to a resolver and returns its rows.
func recorded(r *resolve.Resolver) (map[netstate.Key]*netstate.Row, error) {
	s := &netstate.Settings{}
	for line := range strings.Lines(recordedSysctls) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		s.Settings = append(s.Settings, netstate.Setting{Name: name, Value: value})
	}
	r.Settings(s)
	messages, err := readState(recordedState)
	if err != nil {
		return nil, err
	}
	rows := map[netstate.Key]*netstate.Row{}
	var order []netstate.Key
	for _, raw := range messages {
		k, _, err := netstate.KeyOf(raw)
		if errors.Is(err, netstate.ErrNotMirrored) {
			continue
		} else if err != nil {
			return nil, err
		}
		if rows[k] == nil {
			rows[k] = &netstate.Row{Key: k}
			order = append(order, k)
		}
		rows[k].Group = append(rows[k].Group, raw)
	}
	for _, k := range order {
		if err := r.Change(netstate.Change{Key: k, Row: rows[k]}); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// inMemory is tier 0: the recorded router in both pipes, the same flows, no
// kernel. Each pipe is the other's oracle, and the case table both of theirs.
func inMemory(ctx context.Context, o Options) error {
	a := &account{out: o.Out}
	a.line("Antiphon demo, tier %d: in memory, a recorded router, no kernel; left out: live mirroring, TAP ports, traps to a host, BPF maps", Memory)
	var info []hwmodel.PortInfo
	for i := 1; i <= hosts; i++ {
		info = append(info, hwmodel.PortInfo{ID: hwmodel.PortID(i), Name: swp(i)})
	}
	soft, ref := softpipe.New(softpipe.Options{Ports: info}), refpipe.New(refpipe.Options{Ports: info})
	resolvers := map[hwmodel.Pipe]*resolve.Resolver{}
	for _, p := range []hwmodel.Pipe{soft, ref} {
		caps, err := p.Capabilities(ctx)
		if err != nil {
			return err
		}
		r := resolve.New(caps)
		rows, err := recorded(r)
		if err != nil {
			return err
		}
		resolvers[p] = r
		for b := r.Next(); b != nil; b = r.Next() {
			res, err := p.Apply(ctx, b)
			if err != nil {
				return err
			}
			r.Applied(res)
		}
		fates := map[string]int{}
		for k := range rows {
			f, _ := r.Fate(k)
			fates[f.Standing.String()]++
		}
		a.line("  %-8s %d rows: %d offloaded, %d trapped, %d failed", caps.Name, len(rows), fates["offloaded"], fates["trapped"], fates["failed"])
	}
	counts := map[string]int{}
	for _, f := range plan() {
		for n := range f.count {
			frame, err := f.frame(n)
			if err != nil {
				return err
			}
			x, y := one(soft, f.from, frame), one(ref, f.from, frame)
			if x != y {
				a.check(fmt.Sprintf("flow %v → %v packet %d: softpipe %v, refpipe %v", f.src, f.dst, n, x, y))
			}
			if x.verdict != f.want {
				a.check(fmt.Sprintf("flow %v → %v packet %d: %v, the case table says %v", f.src, f.dst, n, x.verdict, f.want))
			}
			counts[x.verdict.String()]++
		}
	}
	a.line("\nTraffic: %d forwarded, %d trapped, %d dropped, every frame equal from both pipes", counts["forward"], counts["trap"], counts["drop"])
	equal := 0
	for k, n := range countsOf(ctx, resolvers, soft) {
		if m := countsOf(ctx, resolvers, ref)[k]; m != n {
			a.check(fmt.Sprintf("%v: softpipe counted %v, refpipe %v", k, n, m))
			continue
		}
		equal++
	}
	a.line("  %d counters compared between the pipes", equal)
	return a.verdict()
}

type result struct {
	verdict hwmodel.Verdict
	out     hwmodel.PortID
	frame   string
}

func one(p hwmodel.Pipe, in int, frame []byte) result {
	var v hwmodel.Vector
	v.N, v.In[0], v.Frame[0] = 1, hwmodel.PortID(in), slices.Clone(frame)
	p.Run(&v)
	return result{v.Verdict[0], v.Out[0], string(v.Frame[0])}
}

// countsOf returns what a pipe counted, by row.
func countsOf(ctx context.Context, resolvers map[hwmodel.Pipe]*resolve.Resolver, p hwmodel.Pipe) map[netstate.Key]counted {
	out := map[netstate.Key]counted{}
	rep, err := p.Counters(ctx, 0)
	if err != nil {
		return out
	}
	resolvers[p].Counters(rep)
	for _, c := range rep.Counters {
		if k, ok := resolvers[p].CounterRow(c.ID); ok {
			out[k] = counted{c.Packets, c.Bytes}
		}
	}
	return out
}

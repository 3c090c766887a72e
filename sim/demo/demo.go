package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrDisagree says that something did not agree; the account has named it.
var ErrDisagree = errors.New("the demo disagrees with its oracles")

// Tier of simulation (page 08): it is printed, and never silently lowered.
type Tier int

const (
	// Memory: no kernel, a recorded router.
	Memory Tier = 0
	// Rootless: real netlink and TAPs in a user namespace, no BPF maps.
	Rootless Tier = 1
	// Root: everything.
	Root Tier = 2
)

// Options of a run.
type Options struct {
	Tier Tier
	// Antiphon is the command line tool, State a missing directory for the
	// simulation, Out where the account goes.
	Antiphon, State string
	Out             io.Writer
}

// patience bounds how long traffic and counters may take to settle.
const patience = 5 * time.Second

// Run performs the demo. It returns ErrDisagree if an oracle disagrees, another
// error if it could not be done.
func Run(ctx context.Context, o Options) error {
	if o.Tier == Memory {
		return inMemory(ctx, o)
	}
	return live(ctx, o)
}

// account is what the demo prints and counts.
type account struct {
	out   io.Writer
	wrong []string
}

func (a *account) line(format string, args ...any) { fmt.Fprintf(a.out, format+"\n", args...) }

func (a *account) check(wrong ...string) {
	for _, w := range wrong {
		a.line("  DISAGREES  %s", w)
	}
	a.wrong = append(a.wrong, wrong...)
}

func (a *account) verdict() error {
	if len(a.wrong) > 0 {
		a.line("\n%d things disagree.", len(a.wrong))
		return ErrDisagree
	}
	a.line("\nEverything agrees.")
	return nil
}

func live(ctx context.Context, o Options) (err error) {
	a := &account{out: o.Out}
	n := &network{antiphon: o.Antiphon, state: o.State, prefix: fmt.Sprintf("antiphon-demo-%d-", os.Getpid())}
	defer func() { err = errors.Join(err, n.down()) }()
	maps := o.Tier == Root && haveBPFTool()
	a.line("Antiphon demo, tier %d%s, kernel %s", o.Tier, map[Tier]string{Rootless: " (user namespace: no BPF maps)", Root: " (root)"}[o.Tier], kernelRelease())
	if o.Tier == Root && !maps {
		a.line("  left out: counters in BPF maps, because bpftool is not installed")
	}
	if err := n.up(ctx); err != nil {
		return err
	}
	if err := n.configure(ctx, routed()...); err != nil {
		return err
	}
	vrf := "VRF routes: this kernel has VRFs, the device traps them"
	if n.ip(ctx, n.router(), "link add name antiphon-vrf type vrf table 77") != nil {
		vrf = "VRF: not on this kernel"
	} else if err := n.ip(ctx, n.router(), "link del dev antiphon-vrf"); err != nil {
		return err
	}
	a.line("\nTyped in the router (%d lines):", len(n.typed))
	for _, l := range n.typed[len(n.typed)-16:] {
		a.line("  %s", l)
	}
	a.line("  %s", vrf)
	if _, err := n.cli(ctx, "barrier"); err != nil {
		return err
	}
	if err := n.printStatus(ctx, a); err != nil {
		return err
	}
	checked, wrong, err := n.checkFates(ctx)
	if err != nil {
		return err
	}
	a.line("\nFates: %d routes of `ip -j route` held against the case table, %d differ", checked, len(wrong))
	a.check(wrong...)

	flows := plan()
	if err := n.traffic(ctx, a, flows, maps); err != nil {
		return err
	}
	if err := n.changes(ctx, a); err != nil {
		return err
	}
	return a.verdict()
}

func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// printStatus says what is mirrored and what the device took.
func (n *network) printStatus(ctx context.Context, a *account) error {
	a.line("\nMirrored and programmed:")
	for _, kind := range []string{"link", "address", "neighbor", "nexthop", "rule", "route"} {
		out, err := n.cli(ctx, "show", kind, "-j")
		if err != nil {
			return err
		}
		var rows []struct {
			Fate, Reason string
			AddrInfo     []json.RawMessage `json:"addr_info"`
		}
		if err := json.Unmarshal(out, &rows); err != nil {
			return fmt.Errorf("antiphon show %s -j: %w", kind, err)
		}
		fates, reasons := map[string]int{}, map[string]int{}
		total := len(rows)
		for _, r := range rows {
			fates[r.Fate]++
			if r.Fate != "offloaded" && r.Reason != "" {
				reasons[r.Reason]++
			}
			total += max(0, len(r.AddrInfo)-1)
		}
		a.line("  %-9s %4d rows: %d offloaded, %d trapped, %d failed%s", kind, total, fates["offloaded"], fates["trapped"], fates["failed"], list(reasons))
	}
	return nil
}

func list(m map[string]int) string {
	var out []string
	for k, n := range m {
		out = append(out, fmt.Sprintf("%s %d", k, n))
	}
	if len(out) == 0 {
		return ""
	}
	slices.Sort(out)
	return " (" + strings.Join(out, ", ") + ")"
}

// traffic sends the flows and holds captures, device and maps against each other.
func (n *network) traffic(ctx context.Context, a *account, flows []*flow, maps bool) error {
	var wires []*wire
	defer func() {
		for _, w := range wires {
			w.close()
		}
	}()
	for i := 1; i <= hosts; i++ {
		w, err := openWire(n.host(i), i)
		if err != nil {
			return err
		}
		wires = append(wires, w)
	}
	before, err := n.portCounters(ctx)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	sent, err := send(limited, wires, flows)
	if err != nil {
		return err
	}
	a.line("\nTraffic: %d packets, %d bytes in %d flows", sent.packets, sent.bytes, len(flows))
	var forwarded, dropped, trapped counted
	groups := map[string][2]counted{}
	var order []string
	for _, f := range flows {
		frame, err := f.frame(0)
		if err != nil {
			return err
		}
		all := counted{uint64(f.count), uint64(f.count * len(frame))}
		switch f.want.String() {
		case "forward":
			forwarded = forwarded.plus(all)
		case "drop":
			dropped = dropped.plus(all)
		default:
			trapped = trapped.plus(all)
		}
		name := fmt.Sprintf("%-8s %s table %s", f.want, prefixText(f.dest), tableText(f.table))
		if _, ok := groups[name]; !ok {
			order = append(order, name)
		}
		g := groups[name]
		groups[name] = [2]counted{g[0].plus(all), g[1].plus(f.received)}
		if want := uint64(f.count); f.delivered() && f.received.packets != want || !f.delivered() && f.received.packets != 0 {
			a.check(fmt.Sprintf("flow %v → %v (%v): sent %d, hosts captured %d", f.src, f.dst, f.want, f.count, f.received.packets))
		}
	}
	for _, name := range order {
		g := groups[name]
		a.line("  %-44s sent %5d  captured %5d", name, g[0].packets, g[1].packets)
	}
	if d := duplicates(wires); d != 0 {
		a.check(fmt.Sprintf("%d duplicates captured", d))
	}
	return n.compareCounters(ctx, a, flows, before, forwarded, dropped, trapped, maps)
}

// portTotals is the total of `antiphon show counters -j`.
type portTotals struct {
	RX, Forwarded, Trapped struct{ Packets, Bytes uint64 }
	Dropped                []struct {
		Reason         string
		Packets, Bytes uint64
	}
}

func (n *network) portCounters(ctx context.Context) (portTotals, error) {
	out, err := n.cli(ctx, "show", "counters", "-j")
	if err != nil {
		return portTotals{}, err
	}
	var doc struct{ Total portTotals }
	if err := json.Unmarshal(out, &doc); err != nil {
		return portTotals{}, fmt.Errorf("antiphon show counters -j: %w", err)
	}
	return doc.Total, nil
}

func (t portTotals) dropped(reason string) uint64 {
	for _, d := range t.Dropped {
		if d.Reason == reason {
			return d.Packets
		}
	}
	return 0
}

// compareCounters: the port counters once the flows are through, and the BPF
// maps as soon as the next report has reached them.
func (n *network) compareCounters(ctx context.Context, a *account, flows []*flow, before portTotals, forwarded, dropped, trapped counted, maps bool) error {
	after, err := n.portCounters(ctx)
	if err != nil {
		return err
	}
	got := counted{after.Forwarded.Packets - before.Forwarded.Packets, after.Forwarded.Bytes - before.Forwarded.Bytes}
	a.line("  device: %d forwarded, %d dropped, %d trapped (the kernel's own ARP, ND and MLD included)", got.packets,
		after.dropped("blackhole")-before.dropped("blackhole"), after.Trapped.Packets-before.Trapped.Packets)
	if got != forwarded {
		a.check(fmt.Sprintf("port counters say %d packets %d bytes forwarded, hosts' captures %d packets %d bytes", got.packets, got.bytes, forwarded.packets, forwarded.bytes))
	}
	if d := after.dropped("blackhole") - before.dropped("blackhole"); d != dropped.packets {
		a.check(fmt.Sprintf("port counters say %d dropped as blackhole, sent were %d", d, dropped.packets))
	}
	if d := after.Trapped.Packets - before.Trapped.Packets; d < trapped.packets {
		a.check(fmt.Sprintf("port counters say %d trapped, at least %d had to be", d, trapped.packets))
	}
	if !maps {
		return nil
	}
	want, err := expect(ctx, n, flows)
	if err != nil {
		return err
	}
	var equal int
	var wrong []string
	for deadline := time.Now().Add(patience); ; {
		objects, dense, err := n.readMaps(ctx)
		if err != nil {
			return err
		}
		if equal, wrong = want.compare(objects, dense); len(wrong) == 0 || time.Now().After(deadline) || ctx.Err() != nil {
			break
		}
	}
	a.line("  BPF maps, read by bpftool: %d counters equal the hosts' captures, %d differ", equal, len(wrong))
	a.check(wrong...)
	return nil
}

// changes makes what kernels delete without a word, and verifies after each.
func (n *network) changes(ctx context.Context, a *account) error {
	a.line("\nChanges, each followed by barrier and verify:")
	for _, line := range []string{
		"ip route replace 198.51.100.0/24 via 10.3.0.2",
		"ip nexthop del id 3",
		"ip link set dev swp3 down",
		"ip link set dev swp3 up",
		"ip addr del 10.2.0.1/24 dev swp2",
		"ip rule del pref 1000",
	} {
		if err := n.configure(ctx, line); err != nil {
			return err
		}
		if _, err := n.cli(ctx, "barrier"); err != nil {
			return err
		}
		_, err := n.cli(ctx, "verify")
		_, wrong, fateErr := n.checkFates(ctx)
		if fateErr != nil {
			return fateErr
		}
		mark := "agrees"
		if err != nil || len(wrong) > 0 {
			mark = "DISAGREES"
		}
		a.line("  %-48s %s", line, mark)
		if err != nil {
			wrong = append(wrong, err.Error())
		}
		a.check(wrong...)
	}
	return nil
}

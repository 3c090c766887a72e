package truth

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"antiphon/hwmodel"
)

// controls are routes by the control port: nothing may ever stop them.
var controls = []string{
	fmt.Sprintf("route add 99.0.0.0/24 via 10.%d.0.9", control),
	fmt.Sprintf("route add 99.1.0.0/24 nexthop via 10.%d.0.9 nexthop via 10.%d.0.10", control, control),
	fmt.Sprintf("route add fd98::/48 via fd0%d::9", control),
	fmt.Sprintf("nexthop add id 99 via 10.%d.0.9 dev swp%d", control, control),
	"route add 99.2.0.0/24 nhid 99",
	fmt.Sprintf("neigh add 10.%d.0.9 lladdr 02:00:00:00:03:99 nud permanent dev swp%d", control, control),
}

// forwardsControls requires that the device forwards by every control route.
func forwardsControls(t *testing.T, held *hwmodel.Entries, after string) {
	t.Helper()
	have := map[string]bool{}
	for _, x := range ways(held) {
		have[x.prefix.String()] = true
	}
	for _, p := range []string{"99.0.0.0/24", "99.1.0.0/24", "99.2.0.0/24", "fd98::/48"} {
		if !have[p] {
			t.Errorf("%s: %s, which nothing touched, does not forward", after, p)
		}
	}
}

// blindly does operations while dumps are held back, and requires that the device
// forwards by nothing that the kernel has not, and by all the controls. Then dumps
// go on and everything must settle.
func (w *world) blindly(t *testing.T, after string, perform func() error) (before, now *hwmodel.Entries) {
	t.Helper()
	before, err := w.held()
	if err != nil {
		t.Fatal(err)
	}
	w.gate.hold()
	if err := perform(); err != nil {
		t.Fatal(err)
	}
	for range restless {
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
		first, err := kernelSays(w.ns)
		if err != nil {
			t.Fatal(err)
		}
		w.programmed(t)
		if now, err = w.held(); err != nil {
			t.Fatal(err)
		}
		second, err := kernelSays(w.ns)
		if err != nil {
			t.Fatal(err)
		}
		if len(difference(first.lines(), second.lines())) > 0 {
			w.again++
			continue
		}
		for _, g := range ghosts(now, second) {
			t.Errorf("%s, dumps held back: %s", after, g)
		}
		break
	}
	if err := w.gate.release(); err != nil {
		t.Fatal(err)
	}
	return before, now
}

// programmed waits until every notification so far has come to its effect in the
// device, dumps or not: a barrier's marker comes, though the barrier itself waits.
func (w *world) programmed(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	at := w.gate.at()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.agent.Barrier(ctx, false) // ends with ctx: its dumps are held back
	}()
	err := w.gate.programmed(ctx, at)
	cancel()
	<-done
	if err != nil {
		t.Fatalf("notifications are not programmed: %v", err)
	}
}

// lost lists the prefixes by which the device forwarded before and does not now.
func lost(before, now *hwmodel.Entries) (prefixes []string) {
	have := map[string]bool{}
	for _, x := range ways(now) {
		have[x.prefix.String()] = true
	}
	for _, x := range ways(before) {
		if !have[x.prefix.String()] {
			prefixes = append(prefixes, x.prefix.String())
		}
	}
	slices.Sort(prefixes)
	return slices.Compact(prefixes)
}

// TestIntegrationBlocked does what deletes in silence, one thing at a time, while
// dumps are held back.
func TestIntegrationBlocked(t *testing.T) {
	for _, tc := range []struct {
		name, setup, act string
		carrier          bool   // w1 goes down
		stops            string // prefixes that must not forward any more, by prediction alone
	}{
		{name: "N1 link down", setup: "route add 9.0.0.0/24 via 10.1.0.9; route add 9.1.0.0/24 dev swp1", act: "link set swp1 down", stops: "10.1.0.0/24 9.0.0.0/24 9.1.0.0/24 fd01::/64"},
		{name: "N1 ECMP, all legs", setup: "route add 9.0.0.0/24 nexthop via 10.1.0.9 nexthop via 10.1.0.10", act: "link set swp1 down", stops: "10.1.0.0/24 9.0.0.0/24 fd01::/64"},
		{name: "N2 last address", setup: "route add 9.0.0.0/24 via 10.1.0.9; route add 9.2.0.0/24 via 10.1.0.9 table 77; rule add from all to 9.2.0.0/16 lookup 77", act: "addr del 10.1.0.1/24 dev swp1", stops: "10.1.0.0/24 9.0.0.0/24 9.2.0.0/24"},
		{name: "N3 preferred source", setup: "addr add 10.3.3.1/24 dev swp1; route add 9.0.0.0/24 via 10.1.0.9 src 10.3.3.1", act: "addr del 10.3.3.1/24 dev swp1", stops: "10.3.3.0/24 9.0.0.0/24"},
		{name: "N4 one leg of two", setup: "route add 9.0.0.0/24 nexthop via 10.1.0.9 nexthop via 10.2.0.9", act: "link set swp1 down", stops: "10.1.0.0/24 fd01::/64"},
		{name: "N5 link deleted", setup: "route add 9.0.0.0/24 nexthop via 10.1.0.9 nexthop via 10.2.0.9; route add 9.1.0.0/24 via 10.1.0.9", act: "link del swp1", stops: "10.1.0.0/24 9.0.0.0/24 9.1.0.0/24 fd01::/64"},
		{name: "N6 carrier loss", setup: "route add 9.0.0.0/24 via 10.1.0.9", carrier: true},
		{name: "N7 master", setup: "link add br0 type bridge; route add 9.0.0.0/24 via 10.1.0.9", act: "link set swp1 master br0"},
		{name: "N8 gateway of the other family", setup: "route add 9.0.0.0/24 via inet6 fd01::9 dev swp1", act: "link set swp1 down", stops: "10.1.0.0/24 9.0.0.0/24 fd01::/64"},
		{name: "N9 nexthop, link down", setup: "nexthop add id 1 via 10.1.0.9 dev swp1; nexthop add id 2 via 10.2.0.9 dev swp2; nexthop add id 10 group 1/2; route add 9.0.0.0/24 nhid 1; route add 9.1.0.0/24 nhid 10", act: "link set swp1 down", stops: "10.1.0.0/24 9.0.0.0/24 fd01::/64"},
		{name: "N9 nexthop, carrier loss", setup: "nexthop add id 1 via 10.1.0.9 dev swp1; nexthop add id 10 group 1; route add 9.0.0.0/24 nhid 1; route add 9.1.0.0/24 nhid 10", carrier: true, stops: "9.0.0.0/24 9.1.0.0/24"},
		{name: "N11 nexthop deleted", setup: "nexthop add id 1 via 10.1.0.9 dev swp1; nexthop add id 2 via 10.2.0.9 dev swp2; nexthop add id 10 group 1/2; route add 9.0.0.0/24 nhid 1; route add 9.1.0.0/24 nhid 10", act: "nexthop del id 1", stops: "9.0.0.0/24"},
		{name: "N29 silent IPv6", setup: "route add fd99::/48 via fd01::9; route add fd97::/48 nexthop via fd01::9 nexthop via fd02::9", act: "link set swp1 down", stops: "10.1.0.0/24 fd01::/64 fd99::/48"},
		{name: "N29 MTU without IPv6", setup: "route add fd99::/48 via fd01::9; route add fd97::/48 nexthop via fd01::9 nexthop via fd02::9", act: "link set swp1 mtu 1000", stops: "fd01::/64 fd99::/48"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, options{})
			if strings.HasPrefix(tc.name, "N29") {
				if err := w.sysctl("net/ipv6/route/skip_notify_on_dev_down", "1"); err != nil {
					t.Skip("this kernel always notifies:", err)
				}
			}
			for _, line := range append(slices.Clone(controls), strings.Split(tc.setup, "; ")...) {
				w.ns.IP(t, line)
			}
			w.settled(t, "before")
			if v := w.trace(t, 2, "99.0.0.1"); v.Verdict != hwmodel.Forward {
				t.Fatalf("the control does not forward: %+v", v)
			}
			before, now := w.blindly(t, tc.name, func() error {
				if tc.carrier {
					_, err := w.wire.Try("ip", "link", "set", "w1", "down")
					return err
				}
				_, err := w.ns.Try("ip", strings.Fields(tc.act)...)
				return err
			})
			stopped := lost(before, now)
			for p := range strings.FieldsSeq(tc.stops) {
				if !slices.Contains(stopped, p) {
					t.Errorf("%s forwards still; stopped are %q", p, stopped)
				}
			}
			forwardsControls(t, now, tc.name)
			if v := w.trace(t, 2, "9.0.0.1"); strings.Contains(tc.stops, "9.0.0.0/24") && v.Verdict == hwmodel.Forward {
				t.Errorf("a packet for a route that is gone is forwarded: %+v", v)
			}
			if v := w.trace(t, 2, "99.0.0.1"); v.Verdict != hwmodel.Forward {
				t.Errorf("a packet for the control traps: %+v", v)
			}
			w.settled(t, "after the dumps")
			w.verified(t, "after the dumps")
		})
	}
}

// TestIntegrationBlockedRandom holds dumps back behind each few random operations.
func TestIntegrationBlockedRandom(t *testing.T) {
	w := newWorld(t, options{})
	seed := seedOf(t)
	t.Cleanup(w.deleteOthers)
	for _, line := range controls {
		w.ns.IP(t, line)
	}
	w.settled(t, "at the start")
	g := newGenerator(w, seed)
	rounds := int(number("ops")) / 5
	for round := range rounds {
		ops := []op{g.next(), g.next()}
		after := fmt.Sprintf("seed %d, round %d, %v", seed, round, ops)
		_, now := w.blindly(t, after, func() error { _, err := w.perform(ops); return err })
		forwardsControls(t, now, after)
		w.settled(t, after)
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d rounds", rounds)
	score(t, w)
}

package truth

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"antiphon/agent"
	"antiphon/agent/replica"
	"antiphon/hwmodel"
	"antiphon/netstate"
)

// storm is n routes as lines for `ip -batch`.
func storm(verb string, n int) []string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf("route %s 30.%d.%d.%d via 10.1.0.9", verb, i>>16, i>>8&0xff, i&0xff)
	}
	return lines
}

func (w *world) batch(t *testing.T, lines []string) {
	t.Helper()
	if _, failed, why, err := ipBatch(w.ns, lines); err != nil || failed > 0 {
		t.Fatalf("ip -batch: %d failed: %v: %.300s", failed, err, why)
	}
}

// TestIntegrationOverflow makes the notification socket overflow: everything traps,
// dumps repair, and no route stays that the kernel has not.
func TestIntegrationOverflow(t *testing.T) {
	const routes = 20000
	w := newWorld(t, options{liveBuffer: 4096})
	w.settled(t, "at the start")
	resyncs := w.pipe.resynced()
	w.batch(t, storm("add", routes))
	w.settled(t, "after the storm")
	if s := w.status(t); s.Overruns == 0 {
		t.Fatal("nothing overflowed")
	} else if got := s.Rows[netstate.KindRoute]; got < routes {
		t.Errorf("%d routes mirrored, want at least %d", got, routes)
	}
	w.batch(t, append(storm("del", routes/2), "link set swp2 down", "link set swp2 up"))
	w.settled(t, "after half of it was taken back")
	w.verified(t, "after half of it was taken back")
	if got := w.pipe.resynced() - resyncs; got == 0 {
		t.Error("the device was never told to trap everything")
	} else {
		t.Logf("the device trapped everything %d times", got)
	}
	score(t, w)
}

// TestIntegrationDumpRace changes routes without pause while dumps of everything
// run one after the other.
func TestIntegrationDumpRace(t *testing.T) {
	const audits = 150
	w := newWorld(t, options{})
	w.batch(t, storm("add", 5000))
	w.settled(t, "at the start")
	add, del := storm("add", 300), storm("del", 300)
	var lines []string
	for i := range add {
		lines = append(lines, del[i], strings.Replace(add[i], ".9", ".10", 1), strings.Replace(add[i], "add", "append", 1), del[i], del[i], add[i])
	}
	stop := make(chan struct{})
	rounds := 0
	var churn sync.WaitGroup
	churn.Go(func() {
		for ; ; rounds++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, _, _, err := ipBatch(w.ns, lines); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range audits {
		if err := w.barrier(true); err != nil {
			t.Errorf("barrier with audit: %v; pending %q", err, w.status(t).Pending)
			break
		}
	}
	close(stop)
	churn.Wait()
	t.Logf("%d rounds of %d changes during %d audits", rounds, len(lines), audits)
	w.settled(t, "after the race")
	w.verified(t, "after the race")
	if s := score(t, w); s.Rules[replica.RuleRace].Suspects == 0 {
		t.Log("no key was caught between a dump and its notification")
	}
}

// eventually polls the agent's view until it shows something.
func (w *world) eventually(t *testing.T, what string, shown func(agent.View) bool) time.Duration {
	t.Helper()
	began := time.Now()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for time.Since(began) < patience {
		var done bool
		w.view(t, func(v agent.View) { done = shown(v) })
		if done {
			return time.Since(began)
		}
		<-poll.C
	}
	t.Fatalf("%s did not come within %s", what, patience)
	return 0
}

// mirrored is a setting as the agent has it.
func mirrored(v agent.View, name string) string {
	if s := v.Settings(); s != nil {
		for _, x := range s.Settings {
			if x.Name == name {
				return x.Value
			}
		}
	}
	return ""
}

// TestIntegrationSettings writes sysctls, of which nobody is told, and requires
// that a barrier covers them, and that they come without one within a second or so.
func TestIntegrationSettings(t *testing.T) {
	w := newWorld(t, options{})
	w.settled(t, "at the start")
	for _, s := range []struct{ name, on, off string }{
		{"net.ipv4.conf.swp1.rp_filter", "1", "2"},
		{"net.ipv4.conf.swp1.forwarding", "0", "1"},
		{"net.ipv4.conf.swp1.ignore_routes_with_linkdown", "1", "0"},
		{"net.ipv4.conf.all.rp_filter", "2", "0"},
		{"net.ipv4.ip_forward", "0", "1"},
		{"net.ipv6.conf.all.forwarding", "0", "1"},
		{"net.ipv4.nexthop_compat_mode", "0", "1"},
		{"net.ipv6.route.skip_notify_on_dev_down", "1", "0"},
		{"net.ipv4.fib_multipath_hash_policy", "1", "0"},
		{"net.ipv4.fib_multipath_hash_seed", "7", "9"},
	} {
		key := strings.ReplaceAll(s.name, ".", "/")
		if err := w.sysctl(key, s.on); err != nil {
			t.Logf("%s is not there: %v", s.name, err)
			continue
		}
		if err := w.barrier(false); err != nil {
			t.Fatal(err)
		}
		w.view(t, func(v agent.View) {
			if got := mirrored(v, s.name); got != s.on {
				t.Errorf("%s: after a barrier the agent has %q, want %q", s.name, got, s.on)
			}
		})
		if err := w.sysctl(key, s.off); err != nil {
			t.Fatal(err)
		}
		took := w.eventually(t, s.name, func(v agent.View) bool { return mirrored(v, s.name) == s.off })
		t.Logf("%s: without a barrier after %s", s.name, took.Round(time.Millisecond))
	}
	w.sysctl("net/ipv4/conf/all/rp_filter", "0")
	for value, mode := range map[string]hwmodel.RPMode{"0": hwmodel.RPOff, "1": hwmodel.RPStrict, "2": hwmodel.RPLoose} {
		if err := w.sysctl("net/ipv4/conf/swp1/rp_filter", value); err != nil {
			t.Fatal(err)
		}
		if err := w.barrier(false); err != nil {
			t.Fatal(err)
		}
		if got := w.interfaceOf(t, 1).RPFilter; got != mode {
			t.Errorf("rp_filter %s: after a barrier the device has mode %d, want %d", value, got, mode)
		}
	}
	w.settled(t, "at the end")
}

// interfaceOf is the device's router interface on a port.
func (w *world) interfaceOf(t *testing.T, port hwmodel.PortID) hwmodel.Interface {
	t.Helper()
	held, err := agent.ReadBack(context.Background(), w.pipe)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range held.Interfaces {
		if i.Port == port {
			return i
		}
	}
	t.Fatalf("the device has no interface on port %d", port)
	return hwmodel.Interface{}
}

package e2e

import (
	"bufio"
	"encoding/binary"
	"flag"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"antiphon/internal/netnstest"
)

// soak is how long TestLiveness keeps neighbours alive: one turn of the kernel's
// timers in `make test`, a minute in `make soak`.
var soak = flag.Duration("soak", turn, "how long traffic keeps neighbours alive")

// turn is the longest that a neighbour in use takes from REACHABLE (3.3 s, see
// living) over STALE (until the agent reads counters) and DELAY (1 s) to PROBE.
const turn = 5 * time.Second

// pace is the time between two steps of traffic that goes on for a while.
const pace = 20 * time.Millisecond

// neighbors are hosts of a test's own making behind a port: they answer ARP and
// neighbour solicitations when and for whom the test wants.
type neighbors struct {
	t       *testing.T
	wire    *netnstest.Wire
	mac     [6]byte
	silent  map[netip.Addr]bool
	asked   map[netip.Addr]int // solicitations, by the address asked for
	waiting []solicitation     // those of silent hosts
}

// solicitation is a question for an address, and the answer to it.
type solicitation struct {
	target netip.Addr
	answer []byte
}

func newNeighbors(l *lab, port int) *neighbors {
	l.t.Helper()
	return &neighbors{t: l.t, wire: l.host(port).Wire(l.t, wireName(port)), mac: hostMAC(port),
		silent: map[netip.Addr]bool{}, asked: map[netip.Addr]int{}}
}

// answer answers what has been asked so far.
func (n *neighbors) answer() {
	n.t.Helper()
	for _, f := range n.wire.Drain(n.t) {
		s, ok := n.solicited(f)
		if !ok {
			continue
		}
		n.asked[s.target]++
		if n.silent[s.target] {
			n.waiting = append(n.waiting, s)
			continue
		}
		n.wire.Send(n.t, s.answer)
	}
}

// speak makes a host answer from now on, what it was asked before first.
func (n *neighbors) speak(host netip.Addr) {
	n.t.Helper()
	n.silent[host] = false
	for _, s := range n.waiting {
		if s.target == host {
			n.wire.Send(n.t, s.answer)
			break
		}
	}
	n.waiting = slices.DeleteFunc(n.waiting, func(s solicitation) bool { return s.target == host })
}

// solicited recognizes an ARP request or a neighbour solicitation.
func (n *neighbors) solicited(f []byte) (solicitation, bool) {
	const arpRequest, arpReply, solicitType, advertType, icmp6 = 1, 2, 135, 136, 58
	switch {
	case len(f) >= 42 && f[12] == 0x08 && f[13] == 0x06 && f[21] == arpRequest:
		a := make([]byte, 60)
		copy(a, f[:42])
		copy(a, f[6:12])
		copy(a[6:], n.mac[:])
		a[21] = arpReply
		copy(a[22:], n.mac[:])
		copy(a[28:], f[38:42])
		copy(a[32:], f[22:32])
		return solicitation{netip.AddrFrom4([4]byte(f[38:42])), a}, true
	case len(f) >= 78 && f[12] == 0x86 && f[13] == 0xdd && f[20] == icmp6 && f[54] == solicitType:
		a := make([]byte, 86)
		copy(a, f[6:12])
		copy(a[6:], n.mac[:])
		copy(a[12:], f[12:22])
		binary.BigEndian.PutUint16(a[18:], 32)
		copy(a[22:], f[62:78]) // from the target
		copy(a[38:], f[22:38]) // to who asks
		a[54], a[58] = advertType, 0x60
		copy(a[62:], f[62:78])
		a[78], a[79] = 2, 1
		copy(a[80:], n.mac[:])
		binary.BigEndian.PutUint16(a[56:], icmp6Checksum(a[14:]))
		return solicitation{netip.AddrFrom16([16]byte(f[62:78])), a}, true
	}
	return solicitation{}, false
}

// icmp6Checksum is that of an IPv6 packet whose payload is ICMPv6 of even length
// (RFC 4443, section 2.3).
func icmp6Checksum(ip []byte) uint16 {
	sum := uint32(len(ip)-40) + 58
	for i := 8; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// history is what the kernel says of neighbours while a test runs.
type history struct {
	mu     sync.Mutex
	states map[string][]string // by address; "Deleted" ends a life
}

// watchNeighbors follows the router's neighbours until the test ends.
func watchNeighbors(l *lab) *history {
	l.t.Helper()
	h := &history{states: map[string][]string{}}
	cmd := exec.Command("ip", "-o", "monitor", "neigh")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = l.dut.Do(cmd.Start)
	}
	if err != nil {
		l.t.Fatalf("ip monitor neigh: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			h.note(strings.Fields(lines.Text()))
		}
	}()
	l.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it never ends by itself
		<-done
		_ = cmd.Wait() // it was killed
	})
	// It listens when it tells of a change.
	for until := time.Now().Add(patience); len(h.of("10.1.0.99")) == 0; {
		if time.Now().After(until) {
			l.t.Fatal("ip monitor neigh says nothing")
		}
		l.dut.IP(l.t, "neigh replace 10.1.0.99 lladdr 02:00:00:00:00:99 dev swp1 nud permanent")
		l.dut.IP(l.t, "neigh del 10.1.0.99 dev swp1")
	}
	return h
}

func (h *history) note(words []string) {
	if len(words) < 2 {
		return
	}
	addr, state := words[0], words[len(words)-1]
	if addr == "Deleted" {
		addr, state = words[1], "Deleted"
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.states[addr] = append(h.states[addr], state)
}

// of returns the states of a neighbour so far.
func (h *history) of(addr string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.states[addr])
}

// count is how often a neighbour came to a state.
func (h *history) count(addr, state string) (n int) {
	for _, s := range h.of(addr) {
		if s == state {
			n++
		}
	}
	return n
}

func host4At(last int) string { return fmt.Sprintf("10.2.0.%d", last) }
func host6At(last int) string { return fmt.Sprintf("2001:db8:2::%d", last) }

// living is a lab whose hosts behind swp2 the test plays, with the kernel's
// timers short. An entry is REACHABLE for half to one and a half times the base
// time, which must be longer than delay_first_probe_time: else the kernel never lets
// it go stale (neigh_add_timer takes the confirmation for a use).
func living(t *testing.T) (*lab, *neighbors, *history) {
	l := newLab(t, 2)
	// To ask for neighbours, a router needs link-local addresses.
	l.dut.Sysctl(t, "net/ipv6/conf/default/addr_gen_mode", "0")
	l.up()
	for _, family := range []string{"ipv4", "ipv6"} {
		for key, value := range map[string]string{
			"base_reachable_time_ms": "2200", "delay_first_probe_time": "1", "retrans_time_ms": "500", "gc_stale_time": "1",
		} {
			l.dut.Sysctl(t, "net/"+family+"/neigh/swp2/"+key, value)
		}
	}
	l.bare()
	l.route()
	for _, host := range []string{host4(2), host6(2)} {
		l.dut.IP(t, "neigh del "+host+" dev swp2")
	}
	l.dut.IP(t, "route add 198.51.100.0/24 via "+host4At(3))
	l.dut.IP(t, "route add 2001:db8:a::/48 via "+host6At(3))
	l.barrier()
	return l, newNeighbors(l, 2), watchNeighbors(l)
}

// TestLiveness: what the device alone forwards keeps neighbours as alive as if
// the kernel had; who is idle or silent goes the way of all neighbours.
func TestLiveness(t *testing.T) {
	l, hosts, kernelSays := living(t)
	queued(l, hosts)
	alive(l, hosts, kernelSays)
	falls(l, hosts, kernelSays)
	l.verified()
}

// queued: packets to a neighbour that is not known yet wait in the kernel, and
// leave once and in order when it answers.
func queued(l *lab, hosts *neighbors) {
	t := l.t
	in, out := l.host(1).Wire(t, "w1"), l.host(2).Wire(t, "w2")
	seen := l.dut.Wire(t, "swp1")
	out.Noise = netnstest.IsNoise
	for _, c := range []struct{ src, dst, host string }{
		{host4(1), host4At(2), host4At(2)},
		{host4(1), "198.51.100.7", host4At(3)},
		{host6(1), host6At(2), host6At(2)},
		{host6(1), "2001:db8:a::7", host6At(3)},
		// These two will not be heard of again.
		{host4(1), host4At(4), host4At(4)},
		{host6(1), host6At(4), host6At(4)},
	} {
		const many = 20
		s, host := newStream(1, 2, c.src, c.dst), netip.MustParseAddr(c.host)
		hosts.silent[host] = true
		for n := range many {
			in.Send(t, number(slices.Clone(s.before), n))
		}
		until(t, c.host+" is asked for", func() bool {
			hosts.answer()
			return hosts.asked[host] > 0
		})
		// All of them are with the kernel when what came behind them is.
		frame, arrived := netnstest.Sentinel()
		in.Send(t, frame)
		seen.Until(t, arrived)
		hosts.speak(host)
		for n := range many {
			if got, ok := is(out.Next(t), s.after); !ok || got != n {
				t.Fatalf("%s: frame %d came out as %d (one of it: %v)", s.name, n, got, ok)
			}
		}
		if more := out.Drain(t); len(more) > 0 {
			t.Errorf("%s: %d frames too many", s.name, len(more))
		}
	}
}

// alive: hosts that only the device sends to stay valid, by the kernel's own
// questions; hosts that nobody sends to are asked for no more.
func alive(l *lab, hosts *neighbors, kernelSays *history) {
	t := l.t
	tr := newTraffic(l, newStream(1, 2, host4(1), host4At(2)), newStream(1, 2, host4(1), "198.51.100.7"),
		newStream(1, 2, host6(1), host6At(2)), newStream(1, 2, host6(1), "2001:db8:a::7"))
	l.barrier()
	idle := []string{host4At(4), host6At(4)}
	for _, host := range idle {
		hosts.asked[netip.MustParseAddr(host)] = 0
	}
	end := time.Now().Add(*soak)
	tr.meanwhile(hosts, func() bool { return time.Now().After(end) })
	tr.settle()
	all := span{0, tr.next}
	for _, s := range tr.streams {
		tr.want("with short timers", s, all, forwards)
	}
	for _, host := range []string{host4At(2), host4At(3), host6At(2), host6At(3)} {
		probed, stale := kernelSays.count(host, "PROBE"), kernelSays.count(host, "STALE")
		if want := int(*soak / turn); probed < want || stale < want {
			t.Errorf("%s was probed %d times and stale %d times, want %d or more: %v", host, probed, stale, want, kernelSays.of(host))
		}
		if kernelSays.count(host, "FAILED")+kernelSays.count(host, "Deleted") > 0 {
			t.Errorf("%s was lost: %v", host, kernelSays.of(host))
		}
	}
	for _, host := range idle {
		states := kernelSays.of(host)
		if last := states[len(states)-1]; last != "STALE" && last != "Deleted" || kernelSays.count(host, "PROBE") > 0 {
			t.Errorf("idle %s: %v", host, states)
		}
		if n := hosts.asked[netip.MustParseAddr(host)]; n > 0 {
			t.Errorf("idle %s was asked for %d times", host, n)
		}
	}
}

// falls: a host that falls silent while the device sends to it is given up by
// the kernel; its packets trap, and are answered, until it speaks again.
func falls(l *lab, hosts *neighbors, kernelSays *history) {
	t := l.t
	tr := newTraffic(l, newStream(1, 2, host4(1), host4At(2)), newStream(1, 2, host6(1), host6At(2)))
	tr.errors = map[int]int{}
	lost := []string{host4At(2), host6At(2)}
	began := tr.steps(1)
	for _, host := range lost {
		hosts.silent[netip.MustParseAddr(host)] = true
	}
	deadline := time.Now().Add(patience)
	failed := func() bool {
		return !slices.ContainsFunc(lost, func(host string) bool { return kernelSays.count(host, "FAILED") == 0 })
	}
	tr.meanwhile(hosts, func() bool { return failed() || time.Now().After(deadline) })
	l.barrier()
	away := tr.steps(2)
	deadline = time.Now().Add(patience)
	tr.meanwhile(hosts, func() bool { return tr.errors[1] > 0 || time.Now().After(deadline) })
	tr.settle()
	for _, s := range tr.streams {
		tr.want("before the silence", s, began, forwards)
		tr.want("in silence", s, away, drops)
	}
	if !failed() || tr.errors[1] == 0 {
		t.Errorf("silent hosts: %v, %v, ICMP errors by port %v", kernelSays.of(lost[0]), kernelSays.of(lost[1]), tr.errors)
	}
	reachable := map[string]int{}
	for _, host := range lost {
		reachable[host] = kernelSays.count(host, "REACHABLE")
		hosts.speak(netip.MustParseAddr(host))
	}
	deadline = time.Now().Add(patience)
	tr.meanwhile(hosts, func() bool {
		back := !slices.ContainsFunc(lost, func(host string) bool { return kernelSays.count(host, "REACHABLE") == reachable[host] })
		return back || time.Now().After(deadline)
	})
	l.barrier()
	again := tr.steps(2)
	for _, s := range tr.streams {
		tr.want("after the silence", s, again, forwards)
	}
}

// meanwhile sends at a steady pace, and lets the hosts answer, until done.
func (tr *traffic) meanwhile(hosts *neighbors, done func() bool) {
	tr.t.Helper()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for !done() {
		tr.step()
		hosts.answer()
		<-tick.C
	}
}

// until waits for something that comes by itself.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !done(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

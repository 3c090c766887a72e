package e2e

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"antiphon/internal/netnstest"
)

// trapKind is a kind of packet that the host has to deal with, who comes in by swp1,
// and what must be seen of each.
type trapKind struct {
	name   string
	reason string
	frame  []byte
	// answer recognizes the host's answer, which leaves by w1; nil if there is none.
	answer func(frame []byte) bool
	// counters of the kernel that move with each packet: of the namespace (IPv4)
	// or of the port alone (IPv6).
	counters []string
}

// icmp recognizes an ICMP or ICMPv6 message from the router's port to the host
// that quotes a frame's packet.
func icmp(kind, code byte, about []byte) func([]byte) bool {
	return func(f []byte) bool {
		at, quote := 34, about[14:14+28]
		if about[12] == 0x86 {
			at, quote = 54, about[14:14+40]
		}
		to, from := hostMAC(1), portMAC(1)
		return len(f) > at+8 && bytes.HasPrefix(f, append(to[:], from[:]...)) && f[at] == kind && f[at+1] == code &&
			bytes.HasPrefix(f[at+8:], quote)
	}
}

// secondHost is another one behind swp1: the kernel counts the errors it sends to
// an address, and those about routes are few per second.
const secondHost = "10.1.0.3"

func trapKinds() []trapKind {
	hop := func(dst string, hops uint8) []byte {
		src := host4(1)
		if a := netip.MustParseAddr(dst); a.Is6() {
			src = host6(1)
		} else if dst == "192.0.2.1" {
			src = secondHost
		}
		return newStream(1, 2, src, dst).frame(hostMAC(1), portMAC(1), hops)
	}
	old4, old6, nowhere4, nowhere6 := hop(host4(2), 1), hop(host6(2), 1), hop("192.0.2.1", 64), hop("2001:db8:ffff::1", 64)
	closed4, closed6 := hop(router4(1), 64), hop(router6(1), 64)
	stranger := hop(host4(2), 64)
	stranger[5] = 0x77
	return []trapKind{
		{"TTL 1", "ttl-expired", old4, icmp(11, 0, old4), []string{"IpInHdrErrors", "IcmpOutTimeExcds"}},
		{"hop limit 1", "ttl-expired", old6, icmp(3, 0, old6), []string{"Ip6InHdrErrors", "Icmp6OutTimeExcds"}},
		{"no route", "no-route", nowhere4, icmp(3, 0, nowhere4), []string{"IpExtInNoRoutes", "IcmpOutDestUnreachs"}},
		{"no IPv6 route", "no-route", nowhere6, icmp(1, 0, nowhere6), []string{"Ip6InNoRoutes", "Icmp6OutDestUnreachs"}},
		{"for the host itself", "local", closed4, icmp(3, 3, closed4), []string{"IpInDelivers", "UdpNoPorts"}},
		{"for the host itself, IPv6", "local", closed6, icmp(1, 4, closed6), []string{"Ip6InDelivers", "Icmp6OutDestUnreachs"}},
		{"for another station", "not-our-mac", stranger, nil, nil},
	}
}

// snmp reads the kernel's counters: those of IPv4 of the namespace, those of IPv6
// of one port.
func (l *lab) snmp(port string) map[string]int {
	l.t.Helper()
	m := map[string]int{}
	set := func(name, text string) {
		n, err := strconv.Atoi(text)
		if err != nil {
			l.t.Fatalf("counter %s: %v", name, err)
		}
		m[name] = n
	}
	all := lines(l.dut.Run(l.t, "cat", "/proc/net/snmp", "/proc/net/netstat"))
	for i := 0; i+1 < len(all); i += 2 {
		names, values := strings.Fields(all[i]), strings.Fields(all[i+1])
		for j := 1; j < len(names); j++ {
			set(strings.TrimSuffix(names[0], ":")+names[j], values[j])
		}
	}
	for _, line := range lines(l.dut.Run(l.t, "cat", "/proc/net/dev_snmp6/"+port)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] != "ifIndex" {
			set(f[0], f[1])
		}
	}
	return m
}

// trappedBy reads how many packets of a port trapped for each reason.
func (l *lab) trappedBy(port string) map[string]uint64 {
	l.t.Helper()
	var doc struct {
		Ports []struct {
			Name      string
			TrappedBy []struct {
				Reason  string
				Packets uint64
			} `json:"trapped_by"`
		}
	}
	l.ask(&doc, "show", "counters", "-s")
	m := map[string]uint64{}
	for _, p := range doc.Ports {
		for _, r := range p.TrappedBy {
			if p.Name == port {
				m[r.Reason] = r.Packets
			}
		}
	}
	return m
}

// TestTraps: a packet that traps reaches the host once, byte for byte and at the
// representor of its port; the host's answer leaves by that port; the kernel
// counts as if it were the port.
func TestTraps(t *testing.T) {
	for _, pipe := range []string{"softpipe", "refpipe"} {
		t.Run(pipe, func(t *testing.T) { trapped(t, pipe) })
	}
}

func trapped(t *testing.T, pipe string) {
	const many = 4 // below the kernel's limits of answers to one host
	l := newLab(t, 3)
	l.up("--pipe", pipe)
	l.bare()
	l.route()
	l.dut.IP(t, "neigh add "+secondHost+" lladdr "+macText(hostMAC(1))+" dev swp1 nud permanent")
	l.verified()
	tr := newTraffic(l)
	for _, c := range trapKinds() {
		kernel, reasons, link := l.snmp("swp1"), l.trappedBy("swp1"), kernelCounts(t, l.dut, "swp1")
		in := tr.cables[0].Wire
		for n := range many {
			in.Send(t, number(bytes.Clone(c.frame), n))
		}
		next := 0
		for w, frames := range netnstest.Fence(t, tr.cables...) {
			for _, f := range frames {
				if w != 0 || c.answer == nil || !c.answer(f) {
					t.Errorf("%s: w%d received %x", c.name, w+1, f)
				}
				next++
			}
		}
		if want := map[bool]int{true: many}[c.answer != nil]; next != want {
			t.Errorf("%s: %d answers, want %d", c.name, next, want)
		}
		for p, w := range tr.seen {
			frames := w.Drain(t)
			if p != 0 && len(frames) > 0 || p == 0 && len(frames) != many {
				t.Errorf("%s: swp%d received %d frames", c.name, p+1, len(frames))
			}
			for n, f := range frames {
				if !bytes.Equal(f, number(bytes.Clone(c.frame), n)) {
					t.Errorf("%s: frame %d reached the host as %x, sent as %x", c.name, n, f, c.frame)
				}
			}
		}
		l.rest()
		now := l.snmp("swp1")
		for _, name := range c.counters {
			if got := now[name] - kernel[name]; got != many {
				t.Errorf("%s: the kernel's %s moved by %d, want %d", c.name, name, got, many)
			}
		}
		if got := l.trappedBy("swp1")[c.reason] - reasons[c.reason]; got != many {
			t.Errorf("%s: %d trapped as %s, want %d", c.name, got, c.reason, many)
		}
		// The fence's sentinel came by that port as well.
		if got := kernelCounts(t, l.dut, "swp1").rx.Packets - link.rx.Packets; got != many+1 {
			t.Errorf("%s: the representor received %d, want %d", c.name, got, many+1)
		}
	}
	l.rest().agrees(t, false)
}

// TestPolice: a flood that traps is cut to the rate and counted; it costs neither
// other traps nor what the device forwards.
func TestPolice(t *testing.T) {
	const burst, flood = 20, 500
	l := newLab(t, 2)
	l.up()
	l.bare()
	l.route()
	l.verified()
	l.must("sim", "kill", "device")
	line, err := os.ReadFile(l.file("device.cmd"))
	if err == nil {
		line = fmt.Appendf(bytes.TrimSpace(line), " --police no-route=1/%d\n", burst)
		err = os.WriteFile(l.file("device.cmd"), line, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.must("sim", "start", "device")
	l.barrier()
	tr := newTraffic(l, newStream(1, 2, host4(1), host4(2)))
	before := l.rest()
	lost := newStream(1, 2, host4(1), "192.0.2.1")
	for n := range flood {
		tr.cables[0].Wire.Send(t, number(bytes.Clone(lost.before), n))
	}
	sent := tr.next
	tr.send()
	frames := netnstest.Fence(t, tr.cables...)
	tr.collect(2, frames[1])
	tr.want("beside a flood", tr.streams[0], span{sent, tr.next}, forwards)
	if n := len(tr.seen[0].Drain(t)); n < burst || n > flood/2 {
		t.Errorf("of %d packets the host got %d, want %d and one a second", flood, n, burst)
	}
	after := l.rest()
	after.agrees(t, false)
	var policed amount
	for _, d := range after.ports["swp1"].Dropped {
		if d.Reason == "policed" {
			policed = d.amount
		}
	}
	trapped := after.ports["swp1"].Trapped.Packets - before.ports["swp1"].Trapped.Packets - 1 // the sentinel
	if policed.Packets+trapped != flood || policed.Bytes != policed.Packets*uint64(len(lost.before)) {
		t.Errorf("%v policed and %d trapped of %d", policed, trapped, flood)
	}
}

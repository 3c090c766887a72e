package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"testing"

	"antiphon/internal/netnstest"
)

// transfer sends random bytes over TCP from one host to another and back their
// digest.
func transfer(from, to *netnstest.NS, address string, size int64) error {
	var listener net.Listener
	if err := to.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(address, "7000"))
		return err
	}); err != nil {
		return err
	}
	defer listener.Close()
	served := make(chan error, 1)
	go func() { served <- digest(listener) }()
	var conn net.Conn
	if err := from.Do(func() (err error) {
		conn, err = (&net.Dialer{Timeout: patience, FallbackDelay: -1}).Dial("tcp", listener.Addr().String())
		return err
	}); err != nil {
		return err
	}
	defer conn.Close()
	sum := sha256.New()
	random := io.LimitReader(rand.NewChaCha8([32]byte{}), size)
	if _, err := io.Copy(io.MultiWriter(conn, sum), random); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(conn)
	if err == nil && string(got) != string(sum.Sum(nil)) {
		err = fmt.Errorf("received digest %x, sent %x", got, sum.Sum(nil))
	}
	return errors.Join(err, <-served)
}

// digest answers one connection with the digest of what it sends.
func digest(l net.Listener) error {
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, conn); err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	_, err = conn.Write(sum.Sum(nil))
	return err
}

// TestStory is a first user's: four ports, addresses, ping, and a transfer that
// the device forwards.
func TestStory(t *testing.T) {
	l := newLab(t, 4)
	// To ask for neighbours, a router needs link-local addresses.
	l.dut.Sysctl(t, "net/ipv6/conf/default/addr_gen_mode", "0")
	l.up()
	for n := 1; n <= 4; n++ {
		l.dut.IP(t, "link set "+swp(n)+" up")
		l.dut.IP(t, fmt.Sprintf("addr add %s/24 dev %s", router4(n), swp(n)))
		l.dut.IP(t, fmt.Sprintf("addr add %s/64 dev %s nodad", router6(n), swp(n)))
	}
	l.addressed()
	l.barrier()
	for _, to := range []string{host4(2), host6(2), host4(4), host6(3)} {
		l.host(1).Run(t, "ping", "-c", "1", "-W", "5", to)
	}
	l.verified()

	const size = 8 << 20
	before := l.rest()
	for _, address := range []string{host4(2), host6(2)} {
		if err := transfer(l.host(1), l.host(2), address, size); err != nil {
			t.Fatalf("transfer to %s: %v", address, err)
		}
	}
	after := l.rest()
	after.agrees(t, true)
	after.notBefore(t, before)
	there, back := after.ports["swp1"], after.ports["swp2"]
	if n := there.Forwarded.Bytes - before.ports["swp1"].Forwarded.Bytes; n < 2*size {
		t.Errorf("of 2 × %d bytes the device forwarded %d", size, n)
	}
	if back.Forwarded.Packets == before.ports["swp2"].Forwarded.Packets {
		t.Error("the device forwarded no acknowledgement")
	}
	// The kernel saw what any router sees of neighbours, and none of the transfer.
	if n := there.Trapped.Bytes - before.ports["swp1"].Trapped.Bytes; n > size/100 {
		t.Errorf("%d bytes of the transfer trapped", n)
	}

	l.carriers()
}

// carriers: each end of a cable loses its carrier when the other one goes down.
func (l *lab) carriers() {
	l.t.Helper()
	carrier := func(ns *netnstest.NS, link string, want bool) {
		l.t.Helper()
		l.barrier()
		if got := !strings.Contains(ns.IP(l.t, "link show dev "+link), "NO-CARRIER"); got != want {
			l.t.Errorf("%s has a carrier: %v, want %v", link, got, want)
		}
	}
	for _, up := range []bool{false, true} {
		state := map[bool]string{true: "up", false: "down"}[up]
		l.host(2).IP(l.t, "link set w2 "+state)
		carrier(l.dut, "swp2", up)
		l.dut.IP(l.t, "link set swp3 "+state)
		carrier(l.host(3), "w3", up)
		l.verified()
	}
}

// kernelSays asks the router's kernel where a stream goes: a port, or 0 if it
// goes nowhere.
func (l *lab) kernelSays(s *stream) int {
	l.t.Helper()
	family := "-4"
	if s.src.Is6() {
		family = "-6"
	}
	out, err := l.dut.Try("ip", family, "-j", "route", "get", s.dst.String(), "from", s.src.String(), "iif", swp(s.in))
	if err != nil {
		return 0
	}
	var doc []struct{ Type, Dev string }
	if err := json.Unmarshal([]byte(out), &doc); err != nil || len(doc) == 0 {
		l.t.Fatalf("ip route get: %v %s", err, out)
	}
	port, err := strconv.Atoi(strings.TrimPrefix(doc[0].Dev, "swp"))
	if err != nil || doc[0].Type != "" && doc[0].Type != "unicast" {
		return 0
	}
	return port
}

// TestChanges: after each change and a barrier all agree, and traffic goes where
// the kernel says.
func TestChanges(t *testing.T) {
	for _, pipe := range []string{"softpipe", "refpipe"} {
		t.Run(pipe, func(t *testing.T) { changes(t, pipe) })
	}
}

func changes(t *testing.T, pipe string) {
	l := newLab(t, 4)
	l.up("--pipe", pipe)
	l.bare()
	l.route()
	dst4, dst6 := "198.51.100.7", "2001:db8:100::7"
	l.dut.IP(t, "route add "+routed4+" via "+host4(2))
	l.dut.IP(t, "-6 route add "+routed6+" via "+host6(2))
	l.barrier()
	s4, s6 := newStream(1, 2, host4(1), dst4), newStream(1, 2, host6(1), dst6)
	tr := newTraffic(l, s4, s6, newStream(3, 4, host4(3), host4(4)))
	tr.errors = map[int]int{}
	// The kernel forgets it with the link and with the last address.
	neighbor2 := "neigh replace " + host4(2) + " lladdr " + macText(hostMAC(2)) + " dev swp2 nud permanent"

	for _, c := range []struct {
		change   []string
		out4     int  // where the kernel sends IPv4, 0 for nowhere
		out6     int  // likewise
		fate4    fate // of IPv4
		down, up int  // a port that is down from now on, or up again
	}{
		{change: []string{"route replace " + routed4 + " via " + host4(4)}, out4: 4, out6: 2},
		{change: []string{"nexthop add id 7 via " + host4(2) + " dev swp2", "route replace " + routed4 + " nhid 7"}, out4: 2, out6: 2},
		{change: []string{"nexthop replace id 7 via " + host4(4) + " dev swp4"}, out4: 4, out6: 2},
		{change: []string{"nexthop del id 7"}, out6: 2, fate4: drops},
		{change: []string{"route add blackhole " + routed4}, out6: 2, fate4: vanishes},
		{change: []string{"route replace unreachable " + routed4}, out6: 2, fate4: drops},
		{change: []string{"route replace " + routed4 + " via " + host4(2), "-6 route replace " + routed6 + " via " + host6(4)}, out4: 2, out6: 4},
		{change: []string{"link set dev swp2 down"}, out6: 4, fate4: drops, down: 2},
		{change: []string{"link set dev swp2 up", "route add " + routed4 + " via " + host4(2),
			neighbor2}, out4: 2, out6: 4, up: 2},
		{change: []string{"addr del " + router4(2) + "/24 dev swp2"}, out6: 4, fate4: drops},
		{change: []string{"addr add " + router4(2) + "/24 dev swp2", neighbor2, "route add " + routed4 + " tos 0x10 via " + host4(4),
			"route add " + routed4 + " via " + host4(2)}, out4: 2, out6: 4, fate4: kernel},
		{change: []string{"route del " + routed4 + " tos 0x10"}, out4: 2, out6: 4},
		{change: []string{"rule add from 10.1.0.0/16 lookup 100 pref 100", "route add default via " + host4(4) + " table 100"}, out4: 4, out6: 4},
		{change: []string{"rule del pref 100"}, out4: 2, out6: 4},
	} {
		t.Run(c.change[0], func(t *testing.T) {
			// What is under way while the change is made may go either way: streams
			// are captured at their new place from here on.
			l.t, tr.t = t, t
			defer func() { l.t, tr.t = tr.parent, tr.parent }()
			if c.down > 0 {
				tr.down = c.down
			}
			for _, line := range c.change {
				l.dut.IP(t, line)
			}
			if c.up > 0 {
				tr.down = 0
			}
			l.verified()
			for s, out := range map[*stream]int{s4: c.out4, s6: c.out6} {
				if got := l.kernelSays(s); got != out {
					t.Fatalf("%s: the kernel sends to port %d, the test says %d", s.name, got, out)
				}
				s.leaves(out)
			}
			p := tr.steps(steady)
			tr.want("after", s4, p, c.fate4)
			tr.want("after", s6, p, forwards)
			tr.want("after", tr.streams[beside], p, forwards)
			// The kernel limits errors to a few per host (ip_error in net/ipv4/route.c).
			if n := len(tr.errors); n > 0 && c.fate4 != drops {
				t.Errorf("ICMP errors by port: %v", tr.errors)
			}
			clear(tr.errors)
			if c.fate4 == kernel { // the one thing here that could be forwarded and is not
				if e := l.why(routed4); e[0].Reason != "route-tos" || e[0].Fate != "trapped" {
					t.Errorf("why: %+v", e)
				}
				l.wantExit(exitOK, "route-tos", "why", routed4)
			}
		})
	}
	a := l.rest()
	tr.accounted(a)
	if n := a.ports["swp1"].dropped().Packets; n != steady*burst {
		t.Errorf("dropped %d, blackholed were %d", n, steady*burst)
	}
}

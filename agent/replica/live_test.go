package replica

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"antiphon/internal/netnstest"
	"antiphon/netstate"
	"antiphon/transport"
)

// TestIntegrationSilentDeletions does to a real kernel what deletes rows without
// a word and requires that whatever died was suspect before any dump could tell,
// that nothing unrelated was, and that the settled mirror is a fresh dump.
func TestIntegrationSilentDeletions(t *testing.T) {
	base := "link add s1 type veth peer name w1; link add s2 type veth peer name w2; link set s1 up; link set w1 up; link set s2 up; link set w2 up;" +
		"addr add 10.1.0.1/24 dev s1; addr add 10.2.0.1/24 dev s2; addr add fd01::1/64 dev s1 nodad; addr add fd02::1/64 dev s2 nodad;" +
		"route add 99.0.0.0/24 via 10.2.0.9; route add blackhole 99.1.0.0/24"
	for _, tc := range []struct {
		name, setup, act string
		rule             Rule
		dead             int  // IPv4 routes that must have died without a word
		carrier          bool // s1 loses its carrier
		mayBeWrong       bool
		silent6          bool // net.ipv6.route.skip_notify_on_dev_down
	}{
		{name: "N1 link down", setup: "route add 9.0.0.0/24 via 10.1.0.2; route add 9.1.0.0/24 dev s1",
			act: "link set s1 down", rule: RuleLinkDown, dead: 2},
		{name: "N1 all legs", setup: "route add 9.0.0.0/24 nexthop via 10.1.0.2 nexthop via 10.1.0.3",
			act: "link set s1 down", rule: RuleLinkDown, dead: 1},
		{name: "N2 last address", setup: "route add 9.0.0.0/24 via 10.1.0.2; route add 9.2.0.0/24 via 10.1.0.2 table 77",
			act: "addr del 10.1.0.1/24 dev s1", rule: RuleLastAddress, dead: 2},
		{name: "N2 not the last address", setup: "addr add 10.3.0.1/24 dev s1; route add 9.0.0.0/24 via 10.3.0.2",
			act: "addr del 10.3.0.1/24 dev s1", dead: 0},
		{name: "N3 preferred source", setup: "addr add 10.3.0.1/24 dev s1; route add 9.0.0.0/24 via 10.1.0.2 src 10.3.0.1",
			act: "addr del 10.3.0.1/24 dev s1", dead: 0},
		{name: "N3 IPv6 preferred source", setup: "addr add fd03::1/64 dev s1 nodad; -6 route add fd99::/64 via fd01::2 src fd03::1",
			act: "addr del fd03::1/64 dev s1", dead: 0},
		{name: "N4 one leg of two", setup: "route add 9.0.0.0/24 nexthop via 10.1.0.2 nexthop via 10.2.0.2",
			act: "link set s1 down", rule: RuleLinkDown, dead: 0},
		{name: "N4 the other leg was down", setup: "route add 9.0.0.0/24 nexthop via 10.1.0.2 nexthop via 10.2.0.2; link set s2 down",
			act: "link set s1 down", rule: RuleLinkDown, dead: 1},
		{name: "N4 the other leg lost its address", setup: "route add 9.0.0.0/24 nexthop via 10.1.0.2 nexthop via 10.2.0.2; addr del 10.2.0.1/24 dev s2",
			act: "link set s1 down", rule: RuleLinkDown, dead: 1},
		{name: "N5 link deleted", setup: "route add 9.0.0.0/24 nexthop via 10.1.0.2 nexthop via 10.2.0.2; route add 9.1.0.0/24 via 10.1.0.7",
			act: "link del s1", rule: RuleLinkDown, dead: 2},
		{name: "N6 carrier loss", setup: "route add 9.0.0.0/24 via 10.1.0.2", carrier: true,
			act: "link set w1 down", rule: RuleLinkDown, dead: 0},
		{name: "N7 into a VRF", setup: "link add vrf7 type vrf table 700; link set vrf7 up; route add 9.0.0.0/24 via 10.1.0.2",
			act: "link set s1 master vrf7", rule: RuleMaster, dead: 1},
		{name: "N8 gateway of the other family", setup: "route add 9.0.0.0/24 via inet6 fd01::2 dev s1",
			act: "link set s1 down", rule: RuleLinkDown, dead: 1},
		{name: "N9 nexthop, link down", setup: "nexthop add id 1 via 10.1.0.2 dev s1; nexthop add id 2 via 10.2.0.2 dev s2; nexthop add id 10 group 1/2; route add 9.0.0.0/24 nhid 1; route add 9.1.0.0/24 nhid 10",
			act: "link set s1 down", rule: RuleNexthop, dead: 1},
		{name: "N9 nexthop, carrier loss", setup: "nexthop add id 1 via 10.1.0.2 dev s1; nexthop add id 10 group 1; route add 9.0.0.0/24 nhid 1; route add 9.1.0.0/24 nhid 10", carrier: true,
			act: "link set w1 down", rule: RuleNexthop, dead: 2},
		{name: "N10 N11 nexthop deleted", setup: "nexthop add id 1 via 10.1.0.2 dev s1; nexthop add id 2 via 10.2.0.2 dev s2; nexthop add id 10 group 1/2; route add 9.0.0.0/24 nhid 1; route add 9.1.0.0/24 nhid 10",
			act: "nexthop del id 1", rule: RuleNexthop, dead: 1},
		{name: "N12 nexthop replaced", setup: "nexthop add id 1 via 10.1.0.2 dev s1; route add 9.0.0.0/24 nhid 1",
			act: "nexthop replace id 1 via 10.2.0.2 dev s2", dead: 0},
		{name: "N17 aliases", setup: "route add 9.0.0.0/24 via 10.1.0.2", act: "route append 9.0.0.0/24 via 10.2.0.2", dead: 0},
		{name: "N18 one alias replaced", setup: "route add 9.0.0.0/24 via 10.1.0.2; route append 9.0.0.0/24 via 10.2.0.2",
			act: "route replace 9.0.0.0/24 via 10.1.0.3", dead: 0},
		{name: "N1 one alias dies", setup: "route add 9.0.0.0/24 via 10.1.0.2; route append 9.0.0.0/24 via 10.2.0.2",
			act: "link set s1 down", rule: RuleLinkDown, dead: 0},
		{name: "N23 IPv6 leg appended", setup: "-6 route add fd99::/64 via fd01::2", act: "-6 route append fd99::/64 via fd02::2", dead: 0},
		{name: "N24 IPv6 leg deleted", setup: "-6 route add fd99::/64 nexthop via fd01::2 nexthop via fd02::2", act: "-6 route del fd99::/64 via fd01::2", dead: 0},
		{name: "N28 IPv6 link down", setup: "-6 route add fd99::/64 via fd01::2; -6 route add fd98::/64 nexthop via fd01::2 nexthop via fd02::2",
			act: "link set s1 down", rule: RuleLinkDown, dead: 0},
		{name: "N29 silent IPv6, link down", setup: "-6 route add fd99::/64 via fd01::2; -6 route add fd98::/64 nexthop via fd01::2 nexthop via fd02::2",
			act: "link set s1 down", rule: RuleLinkDown, dead: 0, silent6: true},
		{name: "N29 silent IPv6, MTU without IPv6", setup: "-6 route add fd99::/64 via fd01::2; -6 route add fd98::/64 nexthop via fd01::2 nexthop via fd02::2",
			act: "link set s1 mtu 1000", rule: RuleMTU, dead: 0, silent6: true},
		{name: "MTU of IPv6 routes follows", setup: "-6 route add fd99::/64 via fd01::2 mtu 1400", act: "link set s1 mtu 1300", dead: 0},
		{name: "N39 proxy neighbour", setup: "neigh add proxy 10.1.0.77 dev s1; neigh add 10.1.0.5 lladdr 02:00:00:00:00:05 dev s1",
			act: "link set s1 down", rule: RuleLinkDown, dead: 0},
		{name: "N40 renamed", setup: "route add 9.0.0.0/24 via 10.1.0.2", act: "link set s1 name other1", dead: 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ns := netnstest.New(t)
			ns.Router(t)
			ns.Silent(t)
			f := newFeeder(t, ns, New(Options{Predict: true}))
			skip := "0"
			if tc.silent6 {
				skip = "1"
				ns.Sysctl(t, "net/ipv6/route/skip_notify_on_dev_down", skip)
			}
			f.r.Settings(1, &transport.Settings{Settings: []*transport.Setting{{Name: "net.ipv6.route.skip_notify_on_dev_down", Value: skip}}})
			run := func(lines string) {
				for _, line := range strings.Split(lines, ";") {
					if out, err := ns.Try("ip", strings.Fields(line)...); err != nil {
						if strings.Contains(line, "vrf") {
							t.Skipf("this kernel has no VRF: %s", out)
						}
						t.Fatal(err)
					}
				}
			}
			run(base + ";" + tc.setup)
			s1 := netstate.Key{Kind: netstate.KindLink, ID: uint32(ns.Index(t, "s1"))}
			f.settle()
			f.await("carrier", func() bool { return f.r.link(s1.ID).carrier })
			f.settle()
			compare(t, ns, f.r)
			before := f.r.Stats()

			run(tc.act)
			tellCarriers(t, ns)
			if tc.carrier {
				f.await("carrier loss", func() bool { return !f.r.link(s1.ID).carrier })
			}
			f.drain()
			truth := rowsOf(fresh(t, ns))
			dead := 0
			for k, row := range rowsOf(f.r) {
				if truth[k] == nil {
					if !row.Suspect {
						t.Errorf("%v died without a word and was not suspect", k)
					}
					if k.Kind == netstate.KindRoute && k.Family == unix.AF_INET && k.Addr[0] == 9 {
						dead++
					}
				} else if row.Suspect && k.Kind == netstate.KindRoute && k.Addr[0] == 99 {
					t.Errorf("%v is unrelated and was made suspect", k)
				}
			}
			if dead != tc.dead {
				t.Errorf("%d routes died without a word, want %d", dead, tc.dead)
			}
			f.settle()
			compare(t, ns, f.r)
			s := f.r.Stats()
			if tc.rule != 0 && tc.dead > 0 && s.Rules[tc.rule].Right == before.Rules[tc.rule].Right {
				t.Errorf("rule %s was not right once", tc.rule)
			}
			for rule, n := range s.Rules {
				if n.Wrong > before.Rules[rule].Wrong {
					t.Logf("rule %s: wrong %d times", Rule(rule), n.Wrong-before.Rules[rule].Wrong)
				}
			}
			if s.Silent != 0 || s.Stranded != 0 {
				t.Errorf("%d silent deletions no rule predicted, %d dumps for stranded suspects", s.Silent, s.Stranded)
			}
		})
	}
}

// TestIntegrationLegOrder requires the kernel's order of IPv6 legs, which decides
// over flows, after a notification that begins with the new one.
func TestIntegrationLegOrder(t *testing.T) {
	ns := netnstest.New(t)
	ns.Router(t)
	for _, l := range []string{"link add s1 type veth peer name w1", "link set s1 up", "link set w1 up", "addr add fd01::1/64 dev s1 nodad"} {
		ns.IP(t, l)
	}
	f := newFeeder(t, ns, New(Options{Predict: true}))
	f.settle()
	for i := range 4 {
		ns.IP(t, fmt.Sprintf("-6 route append fd99::/64 via fd01::%d", 2+i))
	}
	f.settle()
	legs := func(r *Replica) (legs []netip.Addr) {
		for k, row := range rowsOf(r) {
			var d netstate.Route
			if k.Kind == netstate.KindRoute && k.Addr[1] == 0x99 && d.Decode(row.Group[0]) == nil {
				for _, l := range d.Legs {
					legs = append(legs, l.Gateway)
				}
			}
		}
		return legs
	}
	if got, want := legs(f.r), legs(fresh(t, ns)); len(want) != 4 || !slices.Equal(got, want) {
		t.Errorf("legs %v, a dump says %v", got, want)
	}
}

// TestIntegrationCompatMode changes what the kernel says of routes by nexthop
// objects, without a word.
func TestIntegrationCompatMode(t *testing.T) {
	ns := netnstest.New(t)
	ns.Router(t)
	for _, l := range []string{"link add s1 type veth peer name w1", "link set s1 up", "link set w1 up", "addr add 10.1.0.1/24 dev s1",
		"nexthop add id 1 via 10.1.0.2 dev s1", "route add 9.0.0.0/24 nhid 1"} {
		ns.IP(t, l)
	}
	f := newFeeder(t, ns, New(Options{Predict: true}))
	for _, mode := range []string{"1", "0", "1"} {
		ns.Sysctl(t, "net/ipv4/nexthop_compat_mode", mode)
		f.seq++
		f.r.Settings(f.seq, &transport.Settings{Settings: []*transport.Setting{{Name: "net.ipv4.nexthop_compat_mode", Value: mode}}})
		f.settle()
		compare(t, ns, f.r)
	}
}

// fresh is a mirror of the namespace as it is now, by dumps alone.
func fresh(t *testing.T, ns *netnstest.NS) *Replica {
	t.Helper()
	f := newFeeder(t, ns, New(Options{}))
	f.settle()
	return f.r
}

func compare(t *testing.T, ns *netnstest.NS, r *Replica) {
	t.Helper()
	for _, d := range diffRows(rowsOf(r), rowsOf(fresh(t, ns))) {
		t.Error(d)
	}
}

// TestIntegrationRace deletes links under many routes while dumps run on another
// socket: the kernel announces a link's fall before it flushes its routes.
func TestIntegrationRace(t *testing.T) {
	ns := netnstest.New(t)
	ns.Router(t)
	ns.Silent(t)
	for _, l := range []string{"link add s1 type veth peer name w1", "link set s1 up", "link set w1 up"} {
		ns.IP(t, l)
	}
	f := newFeeder(t, ns, New(Options{Predict: true}))
	const routes = 20000
	for round := range 5 {
		ns.IP(t, "addr add 10.1.0.1/16 dev s1")
		addRoutes(t, f, ns, uint32(ns.Index(t, "s1")), routes)
		f.settle()
		if n := f.r.Counts()[netstate.KindRoute]; n < routes {
			t.Fatalf("round %d: %d routes mirrored, want %d", round, n, routes)
		}
		done := make(chan error, 1)
		go func() {
			_, err := ns.Try("ip", "link", "set", "s1", "down")
			done <- err
		}()
		f.await("the link to fall", func() bool { return !f.r.up(uint32(ns.Index(t, "s1"))) })
		f.settle() // at once, while the kernel may still be flushing
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		f.drain()
		compare(t, ns, f.r)
		ns.IP(t, "link set s1 up")
		ns.IP(t, "addr flush dev s1")
		f.settle()
	}
	if s := f.r.Stats(); s.Silent != 0 {
		t.Errorf("%d silent deletions no rule predicted", s.Silent)
	}
}

// addRoutes adds n /32 routes out of a link, in batches on a socket of its own.
func addRoutes(t *testing.T, f *feeder, ns *netnstest.NS, oif uint32, n int) {
	t.Helper()
	var lines strings.Builder
	for i := range n {
		a := make([]byte, 4)
		binary.BigEndian.PutUint32(a, 9<<24|uint32(i))
		lines.WriteString("route add " + dotted(a) + "/32 via 10.1.0.2\n")
	}
	if err := ns.Do(func() error { return ipBatch(lines.String()) }); err != nil {
		t.Fatal(err)
	}
}

// tellCarriers makes the kernel tell of carriers that have changed: it does so in
// its own time (linkwatch), but at once when a link is looked at (rtnl_getlink).
func tellCarriers(t *testing.T, ns *netnstest.NS) {
	t.Helper()
	var links []net.Interface
	if err := ns.Do(func() (err error) { links, err = net.Interfaces(); return err }); err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		ns.IP(t, "link show dev "+l.Name)
	}
}

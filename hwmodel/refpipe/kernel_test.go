package refpipe_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"

	"antiphon/hwmodel"
	"antiphon/hwmodel/hwtest"
	"antiphon/hwmodel/refpipe"
	"antiphon/internal/netnstest"
)

// The lab: a kernel router with the ports, hosts and addresses that
// hwtest.RandomFrame speaks to, and groups that its destinations fall into. Port 8
// is down: its legs are dead.
//
//	10.0.0.0/8       legacy multipath, weights 1 2 5 3, the last one dead
//	10.1.0.0/16      nexthop objects, weights 4 1 7, the second via inet6
//	2000::/4         legacy multipath
//	2001::/16        nexthop objects
//	10.128.0.0/9, 2080::/9   one next hop, with an MTU
const (
	labPorts = 8
	labDown  = 8
	labSeed  = 0x5eed1234
	labMTU   = 90
)

// TestAgainstKernel sends random and damaged frames through the live kernel: each
// frame that the reference forwards must leave the kernel by the same port with
// the same bytes. Frames that trap are the kernel's own business and stay away.
func TestAgainstKernel(t *testing.T) {
	netnstest.Require(t)
	dut, tester := netnstest.New(t), netnstest.New(t)
	tester.Silent(t)
	dut.Router(t)
	const seed = "net/ipv4/fib_multipath_hash_seed"
	if dut.Do(func() error { _, err := os.Stat("/proc/sys/" + seed); return err }) != nil {
		t.Skip("needs net.ipv4.fib_multipath_hash_seed (Linux 6.11)")
	}
	dut.Sysctl(t, seed, fmt.Sprint(labSeed))
	cables := buildLab(t, dut, tester)
	for _, policy := range []uint8{0, 1} {
		for _, f := range []hwmodel.Family{hwmodel.IPv4, hwmodel.IPv6} {
			dut.Sysctl(t, fmt.Sprintf("net/ipv%d/fib_multipath_hash_policy", f), fmt.Sprint(policy))
		}
		t.Run(fmt.Sprintf("policy-%d", policy), func(t *testing.T) {
			p := refpipe.New(refpipe.Options{Ports: []hwmodel.PortInfo{{ID: 1}}})
			if _, err := p.Apply(t.Context(), &hwmodel.Batch{Set: labEntries(policy)}); err != nil {
				t.Fatal(err)
			}
			compareWithKernel(t, p, cables, uint64(policy))
		})
	}
}

// frame is a frame and the port it is at.
type frame struct {
	port  int
	bytes []byte
}

func compareWithKernel(t *testing.T, p *refpipe.Pipe, cables []netnstest.Cable, seed uint64) {
	const burst, wanted = 100, 20000 // a burst is well below netdev_max_backlog
	r := rand.New(rand.NewPCG(42, seed))
	outs, sent := make([]int, labPorts+1), 0
	for sent < wanted {
		var in, want []frame
		for len(in) < burst {
			port, bytes := hwtest.RandomFrame(r)
			v := new(hwmodel.Vector)
			v.N, v.In[0], v.Frame[0] = 1, port, slices.Clone(bytes)
			p.Run(v)
			if v.Verdict[0] == hwmodel.Forward {
				in = append(in, frame{int(port), bytes})
				want = append(want, frame{int(v.Out[0]), v.Frame[0]})
				outs[v.Out[0]]++
			}
		}
		for _, f := range in {
			cables[f.port-1].Wire.Send(t, f.bytes)
		}
		sent += len(in)
		var got []frame
		for i, frames := range netnstest.Fence(t, cables...) {
			for _, b := range frames {
				got = append(got, frame{i + 1, b})
			}
		}
		if i := differ(want, got); i >= 0 {
			report(t, p, cables, in[i], want[i])
			return
		}
		if len(got) != len(want) {
			t.Fatalf("%d frames sent, %d came", len(want), len(got))
		}
	}
	for port := 2; port < labDown; port++ {
		if outs[port] < wanted/100 {
			t.Errorf("only %d frames left by port %d: %v", outs[port], port, outs)
		}
	}
}

// differ returns the index of a frame that is wanted and did not come, or -1.
func differ(want, got []frame) int {
	have := map[string]int{}
	for _, f := range got {
		have[fmt.Sprint(f.port, f.bytes)]++
	}
	for i, f := range want {
		k := fmt.Sprint(f.port, f.bytes)
		if have[k] == 0 {
			return i
		}
		have[k]--
	}
	return -1
}

// report sends the frame alone and tells what the kernel made of it.
func report(t *testing.T, p *refpipe.Pipe, cables []netnstest.Cable, in, want frame) {
	t.Helper()
	cables[in.port-1].Wire.Send(t, in.bytes)
	for i, frames := range netnstest.Fence(t, cables...) {
		for _, b := range frames {
			t.Logf("kernel: port %d: % x (bytes equal: %v)", i+1, b, bytes.Equal(b, want.bytes))
		}
	}
	r, err := p.Trace(t.Context(), hwmodel.PortID(in.port), in.bytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Fatalf("want port %d: % x\nin %d: % x\ntrace %+v", want.port, want.bytes, in.port, in.bytes, r.Steps)
}

func labMAC(kind byte, port int) hwmodel.MAC { return hwmodel.MAC{2, 0, 0, 0, kind, byte(port)} }

func buildLab(t *testing.T, dut, tester *netnstest.NS) (cables []netnstest.Cable) {
	for n := 1; n <= labPorts; n++ {
		wire, swp := fmt.Sprintf("w%d", n), fmt.Sprintf("swp%d", n)
		router, host := labMAC(1, n), labMAC(2, n)
		netnstest.Veth(t, netnstest.End{NS: tester, Name: wire, MAC: host[:], Bare: true}, netnstest.End{NS: dut, Name: swp, MAC: router[:]})
		dut.IP(t, fmt.Sprintf("addr add 10.0.%d.1/24 brd + dev %s", n, swp))
		dut.IP(t, fmt.Sprintf("addr add 2001:db8:%d::1/64 dev %s nodad", n, swp))
		dut.Run(t, "ip", "neigh", "add", fmt.Sprintf("10.0.%d.2", n), "lladdr", tMAC(host), "dev", swp, "nud", "permanent")
		dut.Run(t, "ip", "neigh", "add", fmt.Sprintf("2001:db8:%d::2", n), "lladdr", tMAC(host), "dev", swp, "nud", "permanent")
		c := netnstest.Cable{Wire: tester.Wire(t, wire), Port: dut.Wire(t, swp)}
		c.Wire.Noise = netnstest.IsNoise
		cables = append(cables, c)
	}
	dut.IP(t, "route add 10.0.0.0/8 nexthop via 10.0.2.2 weight 1 nexthop via 10.0.3.2 weight 2 nexthop via 10.0.4.2 weight 5 nexthop via 10.0.8.2 weight 3")
	dut.IP(t, "-6 route add 2000::/4 nexthop via 2001:db8:8::2 weight 3 nexthop via 2001:db8:5::2 weight 2 nexthop via 2001:db8:6::2 weight 5")
	dut.IP(t, "nexthop add id 1 via 10.0.5.2 dev swp5")
	dut.IP(t, "nexthop add id 2 via 2001:db8:6::2 dev swp6")
	dut.IP(t, "nexthop add id 3 via 10.0.7.2 dev swp7")
	dut.IP(t, "nexthop add id 10 group 1,4/2,1/3,7")
	dut.IP(t, "route add 10.1.0.0/16 nhid 10")
	dut.IP(t, "nexthop add id 4 via 2001:db8:7::2 dev swp7")
	dut.IP(t, "nexthop add id 5 via 2001:db8:2::2 dev swp2")
	dut.IP(t, "nexthop add id 11 group 4,3/5,2/2,1")
	dut.IP(t, "-6 route add 2001::/16 nhid 11")
	dut.IP(t, fmt.Sprintf("route add 10.128.0.0/9 via 10.0.3.2 mtu %d", labMTU))
	dut.IP(t, "-6 route add 2080::/9 via 2001:db8:4::2")
	dut.IP(t, fmt.Sprintf("link set dev swp%d down", labDown))
	return cables[:labDown-1]
}

func tMAC(m hwmodel.MAC) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// labEntries is the lab as device tables. Ports are next hop numbers: n via the
// IPv4 host of port n, 20+n via the IPv6 host, 40+n connected.
func labEntries(policy uint8) (e hwmodel.Entries) {
	e.Settings = &hwmodel.Settings{HashPolicy4: policy, HashPolicy6: policy, HashSeed: labSeed, SeedKnown: true}
	add := func(prefix string, action hwmodel.RouteAction, group int, mtu uint32) {
		e.Routes = append(e.Routes, hwmodel.Route{
			RouteKey: hwmodel.RouteKey{Table: 1, Prefix: netip.MustParsePrefix(prefix)},
			Action:   action, Reason: hwmodel.ReasonLocal, Group: hwmodel.GroupID(group), MTU: mtu,
		})
	}
	group := func(id int, legs ...hwmodel.Leg) {
		e.Groups = append(e.Groups, hwmodel.Group{ID: hwmodel.GroupID(id), Legs: legs})
	}
	for n := 1; n <= labPorts; n++ {
		if n == labDown {
			continue
		}
		iface := hwmodel.InterfaceID(n)
		e.Interfaces = append(e.Interfaces, hwmodel.Interface{
			ID: iface, Port: hwmodel.PortID(n), MAC: labMAC(1, n), MTU: 1500, RedirectTrap: true,
		})
		host4, host6 := netip.AddrFrom4([4]byte{10, 0, byte(n), 2}), netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::2", n))
		for _, a := range []netip.Addr{host4, host6} {
			e.Neighbors = append(e.Neighbors, hwmodel.Neighbor{
				NeighborKey: hwmodel.NeighborKey{Interface: iface, Addr: a}, MAC: labMAC(2, n),
			})
		}
		e.NextHops = append(e.NextHops,
			hwmodel.NextHop{ID: hwmodel.NextHopID(n), Interface: iface, Gateway: host4},
			hwmodel.NextHop{ID: hwmodel.NextHopID(20 + n), Interface: iface, Gateway: host6},
			hwmodel.NextHop{ID: hwmodel.NextHopID(40 + n), Interface: iface})
		for _, id := range []int{n, 20 + n, 40 + n} {
			group(id, hwmodel.Leg{NextHop: hwmodel.NextHopID(id), Weight: 1})
		}
		add(fmt.Sprintf("10.0.%d.0/24", n), hwmodel.RouteForward, 40+n, 0)
		add(fmt.Sprintf("2001:db8:%d::/64", n), hwmodel.RouteForward, 40+n, 0)
		for _, local := range []string{"10.0.%d.1/32", "10.0.%d.255/32", "2001:db8:%d::/128", "2001:db8:%d::1/128"} {
			add(fmt.Sprintf(local, n), hwmodel.RouteTrap, 0, 0)
		}
		e.Own = append(e.Own, hwmodel.OwnAddress{Addr: host4.Prev()})
	}
	// Port 8's own addresses outlive the link.
	add("10.0.8.1/32", hwmodel.RouteTrap, 0, 0)
	add("2001:db8:8::/64", hwmodel.RouteTrap, 0, 0)
	e.Own = append(e.Own, hwmodel.OwnAddress{Addr: netip.MustParseAddr("10.0.8.1")})

	leg := func(hop hwmodel.NextHopID, weight uint32) hwmodel.Leg {
		return hwmodel.Leg{NextHop: hop, Weight: weight}
	}
	dead := func(weight uint32) hwmodel.Leg { return hwmodel.Leg{NextHop: 99, Weight: weight, Dead: true} }
	group(100, leg(2, 1), leg(3, 2), leg(4, 5), dead(3))
	group(101, leg(5, 4), leg(26, 1), leg(7, 7))
	group(102, dead(3), leg(25, 2), leg(26, 5))
	group(103, leg(27, 3), leg(22, 2), leg(26, 1))
	add("10.0.0.0/8", hwmodel.RouteForward, 100, 0)
	add("10.1.0.0/16", hwmodel.RouteForward, 101, 0)
	add("2000::/4", hwmodel.RouteForward, 102, 0)
	add("2001::/16", hwmodel.RouteForward, 103, 0)
	add("10.128.0.0/9", hwmodel.RouteForward, 3, labMTU)
	add("2080::/9", hwmodel.RouteForward, 24, 0)
	for _, f := range []hwmodel.Family{hwmodel.IPv4, hwmodel.IPv6} {
		e.Rules = append(e.Rules, hwmodel.Rules{Family: f, List: []hwmodel.Rule{{Action: hwmodel.RuleLookup, Table: 1, SuppressPrefixLen: -1}}})
	}
	return e
}

package netstate_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sort"
	"testing"

	"antiphon/internal/netnstest"
	"antiphon/netstate"
	"antiphon/netstate/ipjson"

	"golang.org/x/sys/unix"
)

// The tests here ask the running kernel and iproute2.

// conn is a rtnetlink socket inside a namespace.
type conn struct {
	fd  int
	buf []byte
}

// dial opens a socket in the namespace, subscribed to the groups.
func dial(t *testing.T, ns *netnstest.NS, groups ...int) *conn {
	t.Helper()
	c := &conn{buf: make([]byte, 1<<20)}
	err := ns.Do(func() (err error) {
		c.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		return unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(c.fd) })
	if err := unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20); err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		if err := unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// dumpRequest is a dump request of one kind and family with strict checking.
func dumpRequest(kind netstate.Kind, family uint8) []byte {
	typ, size := map[netstate.Kind]uint16{
		netstate.KindLink: unix.RTM_GETLINK, netstate.KindAddr: unix.RTM_GETADDR, netstate.KindNeighbor: unix.RTM_GETNEIGH,
		netstate.KindRoute: unix.RTM_GETROUTE, netstate.KindRule: unix.RTM_GETRULE, netstate.KindNexthop: unix.RTM_GETNEXTHOP,
	}[kind], map[netstate.Kind]int{
		netstate.KindLink: 16, netstate.KindAddr: 8, netstate.KindNeighbor: 12,
		netstate.KindRoute: 12, netstate.KindRule: 12, netstate.KindNexthop: 8,
	}[kind]
	b := make([]byte, netstate.HeaderBytes+size)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], typ)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b[netstate.HeaderBytes] = family
	return b
}

// dump returns the messages of a kind, in the kernel's order.
func (c *conn) dump(t *testing.T, kind netstate.Kind, family uint8) (out []netstate.Message) {
	t.Helper()
	if err := unix.Sendto(c.fd, dumpRequest(kind, family), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buf, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range split(t, c.buf[:n]) {
			if err, ok := m.Errno(); ok {
				if err != nil {
					t.Fatalf("dump %v: %v", kind, err)
				}
				return out
			}
			out = append(out, m)
		}
	}
}

// drain returns what is queued.
func (c *conn) drain(t *testing.T) (out []netstate.Message) {
	t.Helper()
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, split(t, c.buf[:n])...)
	}
}

// split cuts a copy of a block.
func split(t *testing.T, block []byte) (out []netstate.Message) {
	t.Helper()
	for rest := append([]byte(nil), block...); len(rest) > 0; {
		m, next, err := netstate.NextMessage(rest)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
		rest = next
	}
	return out
}

// netdevs makes the links that all tests configure: a TAP without carrier, two
// veth pairs, one end down, a bridge with a port.
func netdevs(t *testing.T, ns *netnstest.NS) {
	ns.Sysctl(t, "net/ipv6/conf/default/accept_dad", "0")
	ns.Sysctl(t, "net/ipv6/conf/all/forwarding", "1")
	for _, line := range []string{
		"link add v1 address 02:00:00:00:00:01 type veth peer name v2",
		"link add v3 type veth peer name v4",
		"link add br0 type bridge", "link set v4 master br0",
		"tuntap add dev tap0 mode tap multi_queue",
		"link set v1 alias uplink", "link property add dev v1 altname port-one altname antiphon-swp1",
		"link set v1 mtu 1400 txqueuelen 17 group 5",
		"link set v1 up", "link set v2 up", "link set v3 up", "link set v4 up", "link set br0 up", "link set tap0 up",
		"link set v2 allmulticast on",
		"addr add 10.0.1.1/24 brd + dev v1", "addr add 10.0.1.2/24 dev v1 label v1:x", "addr add 10.9.0.1 peer 10.9.0.2/32 dev v1",
		"addr add 10.9.0.1 peer 10.9.0.3/32 dev v1 metric 77", "addr add 10.0.3.1/24 dev v3 valid_lft 3000 preferred_lft 2000 noprefixroute",
		"addr add 10.0.5.1/24 dev tap0",
		"addr add 2001:db8:1::1/64 dev v1 nodad", "addr add 2001:db8:9::1 peer 2001:db8:9::2/128 dev v3",
		"addr add 2001:db8:3::1/64 dev v3 preferred_lft 0", "addr add 2001:db8:5::1/64 dev br0 home", "addr add 2001:db8:6::1/64 dev tap0",
	} {
		ns.IP(t, line)
	}
}

// TestJSON compares what ipjson writes with what `ip -j` prints, kind by kind.
func TestJSON(t *testing.T) {
	ns := netnstest.New(t)
	netdevs(t, ns)
	for _, line := range configuration() {
		ns.IP(t, line)
	}
	c := dial(t, ns)
	links := decodeLinks(t, c)
	ctx := ipjson.Context{Link: func(i uint32) *netstate.Link { return links[i] }}

	var link, addr []any
	byLink := map[uint32][]*netstate.Addr{}
	for _, m := range c.dump(t, netstate.KindAddr, unix.AF_UNSPEC) {
		a := new(netstate.Addr)
		must(t, a.Decode(m.Raw))
		byLink[a.Index] = append(byLink[a.Index], a)
	}
	for _, m := range c.dump(t, netstate.KindLink, unix.AF_UNSPEC) {
		l := new(netstate.Link)
		must(t, l.Decode(m.Raw))
		link = append(link, ipjson.Link(l, ctx))
		addr = append(addr, ipjson.LinkWithAddresses(l, byLink[l.Index], ctx))
	}
	compare(t, ns, "link show", link)
	compare(t, ns, "addr show", addr)

	var neigh []any
	for _, m := range c.dump(t, netstate.KindNeighbor, unix.AF_UNSPEC) {
		var n netstate.Neighbor
		must(t, n.Decode(m.Raw))
		if ipjson.Shown(&n) {
			neigh = append(neigh, ipjson.Neighbor(&n, ctx))
		}
	}
	compare(t, ns, "neigh show", neigh)
	for _, f := range []struct {
		family uint8
		option string
	}{{unix.AF_INET, "-4"}, {unix.AF_INET6, "-6"}} {
		var routes, rules []any
		for _, m := range c.dump(t, netstate.KindRoute, f.family) {
			var r netstate.Route
			must(t, r.Decode(m.Raw))
			if r.Unknown != 0 {
				t.Errorf("route: unknown attribute %d", r.Unknown)
			}
			routes = append(routes, ipjson.Route(&r, ctx))
		}
		for _, m := range c.dump(t, netstate.KindRule, f.family) {
			var r netstate.Rule
			must(t, r.Decode(m.Raw))
			if r.Unknown != 0 {
				t.Errorf("rule: unknown attribute %d", r.Unknown)
			}
			rules = append(rules, ipjson.Rule(&r))
		}
		compare(t, ns, f.option+" route show table all", routes)
		compare(t, ns, f.option+" rule show", rules)
	}
	var nexthops []any
	for _, m := range c.dump(t, netstate.KindNexthop, unix.AF_UNSPEC) {
		var n netstate.Nexthop
		must(t, n.Decode(m.Raw))
		if n.Unknown != 0 {
			t.Errorf("nexthop: unknown attribute %d", n.Unknown)
		}
		nexthops = append(nexthops, ipjson.Nexthop(&n, ctx))
	}
	compare(t, ns, "nexthop show", nexthops)
}

// configuration is one of everything, on top of netdevs.
func configuration() []string {
	return []string{
		"neigh add 10.0.1.9 lladdr 02:00:00:00:00:09 dev v1 nud permanent", "neigh add 10.0.1.10 lladdr 02:00:00:00:00:10 dev v1 nud stale",
		"neigh add 10.0.1.11 dev v1 nud noarp lladdr 02:00:00:00:00:11", "neigh add 2001:db8:1::9 lladdr 02:00:00:00:00:09 dev v1 nud permanent router",
		"neigh add 10.0.1.12 lladdr 02:00:00:00:00:12 dev v1 nud permanent protocol zebra", "neigh add 10.0.1.13 lladdr 02:00:00:00:00:13 dev v1 extern_learn",
		"neigh add proxy 10.0.1.77 dev v1",
		"nexthop add id 1 via 10.0.1.9 dev v1", "nexthop add id 2 via 10.0.3.9 dev v3 onlink proto bgp", "nexthop add id 3 blackhole",
		"nexthop add id 4 via 2001:db8:1::9 dev v1", "nexthop add id 5 dev v3", "nexthop add id 10 group 1,3/2", "nexthop add id 11 group 4 proto zebra",
		"nexthop add id 12 group 1/2 type resilient buckets 8 idle_timer 60 unbalanced_timer 300",
		"route add 10.1.0.0/16 via 10.0.1.9", "route append 10.1.0.0/16 via 10.0.1.10", "route add 10.1.0.0/16 via 10.0.1.10 metric 5 proto bgp",
		"route add 10.2.0.0/16 via inet6 2001:db8:1::9 dev v1", "route add 10.3.0.0/16 nexthop via 10.0.1.9 weight 3 nexthop via 10.0.3.9 dev v3 onlink nexthop via inet6 2001:db8:1::9 dev v1 weight 256",
		"route add 10.4.0.0/16 nhid 1", "route add 10.5.0.0/16 nhid 10", "route add 10.6.1.1 dev v1 scope link src 10.0.1.2 table 1000",
		"route add 10.7.0.0/16 via 10.0.1.9 tos 0x10", "route add 10.8.0.0/16 via 10.0.1.9 mtu lock 1300 advmss 1200 rtt 100ms rto_min 20ms initcwnd 10 hoplimit 9 congctl cubic features ecn quickack 1",
		"route add blackhole 10.20.0.0/16", "route add unreachable 10.21.0.0/16 metric 9", "route add prohibit 10.22.0.0/16 table 300", "route add throw 10.23.0.0/16 table local",
		"route add multicast 239.0.0.0/8 dev v1", "route add 10.24.0.0/16 dev tap0 onlink via 10.99.0.1", "route add default via 10.0.1.9 proto static realms 4/5", "route add local 10.25.0.0/16 dev lo",
		"route add 10.26.0.0/16 nexthop via 10.0.5.2 dev tap0 nexthop via 10.0.1.9", "route add 10.27.0.0/16 nexthop via 10.0.5.2 dev tap0 nexthop via 10.0.5.3 dev tap0",
		"route add 10.28.0.0/16 via 10.0.1.9 tos 0x28",
		"route add 2001:db8:100::/48 via 2001:db8:1::9", "route append 2001:db8:100::/48 via 2001:db8:1::a", "route add 2001:db8:101::/48 nexthop via 2001:db8:1::9 weight 2 nexthop via 2001:db8:3::9 dev v3",
		"route add 2001:db8:102::/48 nhid 4", "route add 2001:db8:103::/48 nhid 11", "route add unreachable 2001:db8:104::/48", "route add blackhole 2001:db8:105::/48 table 1000",
		"route add 2001:db8:106::/48 via 2001:db8:1::9 pref high mtu 1400 expires 1000", "route add 2001:db8:107::/48 dev v1 metric 5", "route append 2001:db8:107::/48 dev v3 metric 5",
		"route add default via 2001:db8:1::9", "route add ::10.1.2.0/120 dev v1", "route add 10.29.0.0/16 nhid 3", "-6 nexthop add id 6 blackhole", "route add 2001:db8:108::/48 nhid 6", "route add 2001:db8:109::/48 via 2001:db8:6::2",
		"rule add pref 10 from 10.0.0.0/8 to 10.1.2.3 iif v1 table 300", "rule add pref 11 not from 10.9.9.9 oif gone fwmark 0x10/0xff tos 0x10 table 301",
		"rule add pref 12 ipproto tcp sport 80 dport 1000-2000 table 302 suppress_prefixlength 0", "rule add pref 13 uidrange 5-10 goto 20 protocol zebra",
		"rule add pref 14 goto 15000", "rule add pref 20 blackhole from 10.99.0.0/16", "rule add pref 21 unreachable fwmark 7", "rule add pref 22 prohibit ipproto 58 dport 5",
		"rule add pref 23 tun_id 77 table main suppress_ifgroup 5", "rule add pref 24 nop", "rule add pref 25 iif nowhere lookup 77777", "rule add pref 26 to 10.5.5.0/24 table 5 realms 3/4",
		"-6 rule add pref 10 from 2001:db8::/32 to 2001:db8::1 iif v3 table 300", "-6 rule add pref 11 not from all tos 0x20 table 301 fwmark 0/0xf",
	}
}

func decodeLinks(t *testing.T, c *conn) map[uint32]*netstate.Link {
	links := map[uint32]*netstate.Link{}
	for _, m := range c.dump(t, netstate.KindLink, unix.AF_UNSPEC) {
		l := new(netstate.Link)
		must(t, l.Decode(m.Raw))
		links[l.Index] = l
	}
	return links
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// compare runs `ip -j` and compares its objects with ours, in order.
func compare(t *testing.T, ns *netnstest.NS, command string, ours []any) {
	t.Helper()
	var want, got []map[string]any
	must(t, json.Unmarshal([]byte(ns.IP(t, "-j "+command)), &want))
	b, err := json.Marshal(ours)
	must(t, err)
	must(t, json.Unmarshal(b, &got))
	// What a second more or less makes different.
	for _, set := range [][]map[string]any{want, got} {
		for _, o := range set {
			delete(o, "expires")
			if a, ok := o["resilient_args"].(map[string]any); ok {
				delete(a, "unbalanced_time")
			}
			info, _ := o["addr_info"].([]any)
			for _, a := range info {
				for _, k := range []string{"valid_life_time", "preferred_life_time"} {
					if v, ok := a.(map[string]any)[k].(float64); ok && v < 4294967295 && v > 0 {
						a.(map[string]any)[k] = "some"
					}
				}
			}
		}
	}
	if len(got) != len(want) {
		t.Errorf("ip %s: %d objects, want %d", command, len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("ip %s, object %d:%s", command, i, difference(got[i], want[i]))
		}
	}
	t.Logf("ip %s: %d objects compared", command, len(want))
}

// difference says which members differ.
func difference(got, want map[string]any) (s string) {
	keys := map[string]bool{}
	for k := range got {
		keys[k] = true
	}
	for k := range want {
		keys[k] = true
	}
	var sorted []string
	for k := range keys {
		sorted = append(sorted, k)
	}
	sort.Strings(sorted)
	for _, k := range sorted {
		g, gok := got[k]
		w, wok := want[k]
		if gok != wok || !reflect.DeepEqual(g, w) {
			s += fmt.Sprintf("\n  %s: got %v (%v), want %v (%v)", k, g, gok, w, wok)
		}
	}
	return s + fmt.Sprintf("\n  of %v", want)
}

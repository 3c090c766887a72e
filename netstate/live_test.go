package netstate_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"antiphon/internal/netnstest"
	"antiphon/netstate"
	"antiphon/netstate/ipjson"

	"golang.org/x/sys/unix"
)

// mirrorGroups are the notification groups of the mirrored kinds.
func mirrorGroups() []int {
	return []int{unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_NEXTHOP, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE}
}

// state is a mirror that never dumps: it shows what notifications alone tell.
type state struct {
	rows map[netstate.Key][][]byte
	// doubt holds the route keys whose group stopped being certain.
	doubt map[netstate.Key]bool
}

func newState() *state {
	return &state{map[netstate.Key][][]byte{}, map[netstate.Key]bool{}}
}

func (s *state) take(t *testing.T, m netstate.Message) {
	t.Helper()
	key, del, err := netstate.KeyOf(m.Raw)
	if err == netstate.ErrNotMirrored {
		return
	}
	must(t, err)
	switch {
	case key.Kind == netstate.KindRoute:
		group, certain := netstate.MergeRoute(s.rows[key], m)
		if s.rows[key] = group; len(group) == 0 {
			delete(s.rows, key)
		}
		if !certain {
			s.doubt[key] = true
		} else if m.Flags&unix.NLM_F_EXCL != 0 {
			// The kernel said that there was nothing: doubts are over.
			delete(s.doubt, key)
		}
	case del:
		delete(s.rows, key)
	default:
		s.rows[key] = [][]byte{netstate.Normalize(m.Raw)}
	}
}

// dumped reads everything from the kernel into the same shape.
func dumped(t *testing.T, c *conn) map[netstate.Key][][]byte {
	t.Helper()
	rows := map[netstate.Key][][]byte{}
	for _, k := range netstate.Kinds {
		families := []uint8{unix.AF_UNSPEC}
		if k == netstate.KindRoute || k == netstate.KindRule {
			families = []uint8{unix.AF_INET, unix.AF_INET6}
		}
		for _, f := range families {
			for _, m := range c.dump(t, k, f) {
				key, del, err := netstate.KeyOf(m.Raw)
				if err == netstate.ErrNotMirrored {
					continue
				}
				must(t, err)
				if del {
					t.Fatal("a deletion in a dump")
				}
				if len(rows[key]) > 0 && k != netstate.KindRoute {
					t.Errorf("two %v rows have the key %+v", k, key)
				}
				rows[key] = append(rows[key], netstate.Normalize(m.Raw))
			}
		}
	}
	return rows
}

func equalGroups(k netstate.Kind, a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !netstate.Equal(k, a[i], b[i]) {
			return false
		}
	}
	return true
}

// TestNotificationEqualsDump makes one of everything and requires that a row as
// notified is Equal to the row as dumped, that both have the same key, and that
// deletions take everything away again.
func TestNotificationEqualsDump(t *testing.T) {
	ns := netnstest.New(t)
	live := dial(t, ns, mirrorGroups()...)
	asks := dial(t, ns)
	before := dumped(t, asks)
	netdevs(t, ns)
	for _, line := range configuration() {
		ns.IP(t, line)
	}
	rows := dumped(t, asks)
	got := newState()
	for k, g := range before {
		got.rows[k] = g
	}
	for _, m := range live.drain(t) {
		got.take(t, m)
	}
	equal := map[netstate.Kind]int{}
	for key, want := range rows {
		have := got.rows[key]
		if key.Kind == netstate.KindRoute && got.doubt[key] {
			continue
		}
		if key.Kind == netstate.KindNeighbor && key.Flag == 1 {
			continue // proxies are never notified (N39)
		}
		if !equalGroups(key.Kind, have, want) {
			t.Errorf("%v %+v:\nnotified %x\ndumped   %x", key.Kind, key, have, want)
			continue
		}
		equal[key.Kind]++
	}
	for key := range got.rows {
		if _, ok := rows[key]; !ok {
			t.Errorf("%v %+v: notified, not in the dump", key.Kind, key)
		}
	}
	t.Log("equal rows by kind:", equal, "in doubt:", len(got.doubt))
	for _, k := range netstate.Kinds {
		if equal[k] == 0 {
			t.Errorf("no %v compared", k)
		}
	}
}

// TestNewSelectors sends a rule that iproute2 6.1 cannot: DSCP and flow label.
func TestNewSelectors(t *testing.T) {
	ns := netnstest.New(t)
	c := dial(t, ns)
	for _, r := range []struct {
		family uint8
		attrs  []byte
	}{
		{unix.AF_INET, []byte{8, 0, unix.FRA_PRIORITY, 0, 9, 0, 0, 0, 5, 0, 25, 0, 46, 0, 0, 0}},
		{unix.AF_INET6, []byte{8, 0, unix.FRA_PRIORITY, 0, 9, 0, 0, 0, 8, 0, 26, 0, 0, 0, 0x12, 0x34, 8, 0, 27, 0, 0, 0, 0xff, 0xff}},
	} {
		req := dumpRequest(netstate.KindRule, r.family)
		req = append(req, r.attrs...)
		binary.NativeEndian.PutUint32(req, uint32(len(req)))
		binary.NativeEndian.PutUint16(req[4:], unix.RTM_NEWRULE)
		binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
		req[netstate.HeaderBytes+4], req[netstate.HeaderBytes+7] = unix.RT_TABLE_MAIN, netstate.RuleToTable
		must(t, unix.Sendto(c.fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
		n, _, err := unix.Recvfrom(c.fd, c.buf, 0)
		must(t, err)
		if err, ok := split(t, c.buf[:n])[0].Errno(); err != nil || !ok {
			t.Skip("kernel without DSCP or flow label rules:", err)
		}
		found := false
		for _, m := range c.dump(t, netstate.KindRule, r.family) {
			var d netstate.Rule
			must(t, d.Decode(m.Raw))
			if d.Unknown != 0 {
				t.Errorf("unknown attribute %d", d.Unknown)
			}
			if d.Priority != 9 {
				continue
			}
			found = true
			if r.family == unix.AF_INET && (!d.HasDSCP || d.DSCP != 46 || d.DSCPMask != 0x3f) {
				t.Errorf("dscp: %+v", d)
			}
			if r.family == unix.AF_INET6 && (!d.HasFlowlabel || d.Flowlabel != 0x1234 || d.FlowlabelMask != 0xffff) {
				t.Errorf("flow label: %+v", d)
			}
		}
		if !found {
			t.Error("rule not dumped")
		}
	}
}

// TestLegFlags compares DEAD and LINKDOWN as computed from old route messages and
// new link flags with what the kernel dumps (N4, N6): legs die and revive in silence.
func TestLegFlags(t *testing.T) {
	for _, ignore := range []string{"0", "1"} {
		ns := netnstest.New(t)
		netdevs(t, ns)
		for _, line := range []string{
			"route add 10.3.0.0/16 nexthop via 10.0.1.9 nexthop via 10.0.3.9 dev v3 onlink",
			"route add 2001:db8:101::/48 nexthop via 2001:db8:1::9 nexthop via 2001:db8:3::9 dev v3",
			"route add 10.4.0.0/16 via 10.0.1.9",
		} {
			ns.IP(t, line)
		}
		for _, f := range []string{"ipv4", "ipv6"} {
			for _, l := range []string{"all", "v1", "v3"} {
				ns.Sysctl(t, "net/"+f+"/conf/"+l+"/ignore_routes_with_linkdown", ignore)
			}
		}
		c := dial(t, ns)
		old := c.dump(t, netstate.KindRoute, unix.AF_INET)
		old = append(old, c.dump(t, netstate.KindRoute, unix.AF_INET6)...)
		for _, change := range []string{"link set v2 down", "link set v3 down", "link set v2 up", "link set v3 up"} {
			ns.IP(t, change)
			links, now := settledRoutes(t, ns, c)
			ctx := ipjson.Context{
				Link:           func(i uint32) *netstate.Link { return links[i] },
				IgnoreLinkdown: func(uint32, uint8) bool { return ignore == "1" },
			}
			n := 0
			for _, m := range old {
				var r netstate.Route
				must(t, r.Decode(m.Raw))
				dst := r.Dst.String()
				if want, ok := now[dst]; ok && r.Table == unix.RT_TABLE_MAIN && strings.Contains("10.3.0.0/16 10.4.0.0/16 2001:db8:101::/48", dst) {
					b, err := json.Marshal(ipjson.Route(&r, ctx))
					must(t, err)
					var got any
					must(t, json.Unmarshal(b, &got))
					if !reflect.DeepEqual(got, want) {
						t.Errorf("ignore=%s, after %s:\ngot  %v\nwant %v", ignore, change, got, want)
					}
					n++
				}
			}
			if n < 2 {
				t.Errorf("after %s: only %d routes compared", change, n)
			}
		}
	}
}

// settledRoutes reads links, then what `ip -j route` says by destination, until no
// link changed meanwhile: carrier changes come some time after their cause.
func settledRoutes(t *testing.T, ns *netnstest.NS, c *conn) (links map[uint32]*netstate.Link, now map[string]any) {
	for {
		for _, l := range []string{"v1", "v2", "v3", "v4"} {
			ns.IP(t, "link show dev "+l) // brings the carrier up to date
		}
		links, now = decodeLinks(t, c), map[string]any{}
		for _, option := range []string{"-4", "-6"} {
			var list []map[string]any
			must(t, json.Unmarshal([]byte(ns.IP(t, option+" -j route show")), &list))
			for _, o := range list {
				now[o["dst"].(string)] = o
			}
		}
		if reflect.DeepEqual(links, decodeLinks(t, c)) {
			return links, now
		}
	}
}

// TestMergeRoute does random things to a few routes and requires that what
// MergeRoute is certain of is what the kernel has; and that it is certain often.
func TestMergeRoute(t *testing.T) {
	ns := netnstest.New(t)
	netdevs(t, ns)
	live := dial(t, ns, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	asks := dial(t, ns)
	rng := rand.New(rand.NewPCG(1, 2))
	known := dumpRoutes(t, asks)
	count := map[string][2]int{}
	for i := range 400 {
		line := randomRoute(rng)
		before := maps.Clone(known)
		_, err := ns.Try("ip", strings.Fields(line)...)
		now := dumpRoutes(t, asks)
		for _, m := range live.drain(t) {
			key, _, kerr := netstate.KeyOf(m.Raw)
			must(t, kerr)
			group, certain := netstate.MergeRoute(known[key], m)
			verb := fmt.Sprintf("v%d %s flags %#x type %d", len(netip.Addr{}.AsSlice())+int(key.Family), strings.Fields(line)[1], m.Flags, m.Type)
			n := count[verb]
			n[0]++
			if certain {
				n[1]++
			}
			count[verb] = n
			if len(group) == 0 {
				delete(known, key)
			} else {
				known[key] = group
			}
			if !certain {
				// As the replica does: a dump settles it.
				if len(now[key]) == 0 {
					delete(known, key)
				} else {
					known[key] = now[key]
				}
			}
		}
		for _, key := range keysOf(known, now) {
			if !equalGroups(netstate.KindRoute, known[key], now[key]) {
				t.Fatalf("step %d, ip %s (%v): %+v\nbefore %x\nmerged %x\nkernel %x", i, line, err, key, before[key], known[key], now[key])
			}
		}
	}
	certain, all := 0, 0
	for verb, n := range count {
		t.Logf("%-40s certain %d of %d", verb, n[1], n[0])
		all, certain = all+n[0], certain+n[1]
	}
	if all < 100 || certain*2 < all {
		t.Errorf("certain of %d of %d messages", certain, all)
	}
}

func keysOf(maps ...map[netstate.Key][][]byte) (keys []netstate.Key) {
	for _, m := range maps {
		for k := range m {
			keys = append(keys, k)
		}
	}
	return keys
}

func dumpRoutes(t *testing.T, c *conn) map[netstate.Key][][]byte {
	rows := map[netstate.Key][][]byte{}
	for _, f := range []uint8{unix.AF_INET, unix.AF_INET6} {
		for _, m := range c.dump(t, netstate.KindRoute, f) {
			key, _, err := netstate.KeyOf(m.Raw)
			must(t, err)
			rows[key] = append(rows[key], netstate.Normalize(m.Raw))
		}
	}
	return rows
}

// randomRoute is a change to one of four IPv4 and four IPv6 keys; some fail.
func randomRoute(rng *rand.Rand) string {
	verb := []string{"add", "append", "prepend", "replace", "change", "del", "del"}[rng.IntN(7)]
	pick := func(s ...string) string { return s[rng.IntN(len(s))] }
	if rng.IntN(2) == 0 {
		dst := pick("10.50.0.0/16", "10.51.0.0/16", "10.50.0.0/16 metric 7", "10.50.0.0/16 tos 0x10")
		way := pick("via 10.0.1.9", "via 10.0.1.10", "via 10.0.1.11", "dev v1", "via 10.0.1.9 proto bgp",
			"nexthop via 10.0.1.9 nexthop via 10.0.1.10", "nexthop via 10.0.1.10 weight 3 nexthop via 10.0.1.9")
		if rng.IntN(8) == 0 {
			return "route " + verb + " " + pick("blackhole", "throw", "unreachable") + " " + dst
		}
		if verb == "del" && rng.IntN(2) == 0 {
			way = ""
		}
		return "route " + verb + " " + dst + " " + way
	}
	dst := pick("2001:db8:50::/48", "2001:db8:51::/48", "2001:db8:50::/48 metric 7", "2001:db8:52::/48 metric 9")
	way := pick("via 2001:db8:1::9", "via 2001:db8:1::a", "via 2001:db8:1::b", "dev v1", "dev v3",
		"nexthop via 2001:db8:1::9 nexthop via 2001:db8:1::a", "nexthop via 2001:db8:1::a weight 3 nexthop via 2001:db8:1::b")
	if rng.IntN(8) == 0 {
		return "-6 route " + verb + " " + pick("blackhole", "unreachable") + " " + dst
	}
	if verb == "del" && rng.IntN(2) == 0 {
		way = ""
	}
	return "-6 route " + verb + " " + dst + " " + way
}

// TestHiddenEntry pins the kernel's behaviour that MergeRoute's caution is for:
// an IPv6 entry between two legs of a multipath is not dumped, and is there
// again when the multipath is gone, without a message.
func TestHiddenEntry(t *testing.T) {
	ns := netnstest.New(t)
	netdevs(t, ns)
	c := dial(t, ns)
	for _, line := range []string{
		"-6 route append 2001:db8:51::/48 via 2001:db8:1::9", "-6 route append 2001:db8:51::/48 dev v3",
		"-6 route append 2001:db8:51::/48 via 2001:db8:1::a",
	} {
		ns.IP(t, line)
	}
	entries := func() (n int) {
		for key, group := range dumpRoutes(t, c) {
			if key.Addr[5] == 0x51 {
				n += len(group)
			}
		}
		return n
	}
	if n := entries(); n != 1 {
		t.Skipf("this kernel dumps %d entries: it hides nothing", n)
	}
	ns.IP(t, "-6 route del 2001:db8:51::/48 via 2001:db8:1::9")
	ns.IP(t, "-6 route del 2001:db8:51::/48 via 2001:db8:1::a")
	if n := entries(); n != 1 {
		t.Errorf("%d entries left, want the hidden one", n)
	}
}

package feedback_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"antiphon/hostshim/feedback"
	"antiphon/hostshim/netns"
	"antiphon/internal/netnstest"
	"antiphon/netstate"
)

// TestUse wakes stale neighbours, makes none and changes no other.
func TestUse(t *testing.T) {
	n := netnstest.New(t)
	netnstest.Veth(t, netnstest.End{NS: n, Name: "swp1", MAC: netnstest.MAC(1)}, netnstest.End{NS: n, Name: "w1", MAC: netnstest.MAC(2), Bare: true})
	n.IP(t, "addr add 10.0.1.1/24 dev swp1")
	n.IP(t, "addr add 2001:db8::1/64 dev swp1 nodad")
	n.IP(t, "neigh add 10.0.1.2 lladdr 02:00:00:00:00:02 dev swp1 nud stale")
	n.IP(t, "neigh add 2001:db8::2 lladdr 02:00:00:00:00:02 dev swp1 nud stale")
	n.IP(t, "neigh add 10.0.1.3 lladdr 02:00:00:00:00:02 dev swp1 nud permanent")
	n.IP(t, "neigh add 10.0.1.4 lladdr 02:00:00:00:00:02 dev swp1 nud stale extern_learn")
	n.IP(t, "neigh add 10.0.1.5 lladdr 02:00:00:00:00:02 dev swp1 nud noarp")
	ns, err := netns.Open(n.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	f, err := feedback.Open(ns.Fd())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	index := uint32(n.Index(t, "swp1"))
	v4 := func(last byte) []byte {
		return netstate.Key{Kind: netstate.KindNeighbor, Family: unix.AF_INET, ID: index, Addr: [16]byte{10, 0, 1, last}}.AppendCanonical(nil)
	}
	v6 := netstate.Key{Kind: netstate.KindNeighbor, Family: unix.AF_INET6, ID: index, Addr: [16]byte{0x20, 1, 0x0d, 0xb8, 15: 2}}.AppendCanonical(nil)
	route := netstate.Key{Kind: netstate.KindRoute, Family: unix.AF_INET}.AppendCanonical(nil)
	keys := [][]byte{v6}
	for last := byte(2); last < 200; last++ { // more than a burst
		keys = append(keys, v4(last))
	}
	if err := f.Use(keys); err != nil {
		t.Fatal(err)
	}
	out := n.IP(t, "neigh show dev swp1 nud all")
	for addr, want := range map[string]string{"10.0.1.2": "DELAY", "2001:db8::2": "DELAY", "10.0.1.3": "PERMANENT",
		"10.0.1.4": "extern_learn DELAY", "10.0.1.5": "NOARP"} {
		if !strings.Contains(out, addr+" lladdr 02:00:00:00:00:02 "+want) {
			t.Errorf("%s is not %s", addr, want)
		}
	}
	if strings.Contains(out, "10.0.1.6 ") || strings.Contains(out, "10.0.1.77 ") || t.Failed() {
		t.Errorf("neighbours:\n%s", out)
	}
	if err := f.Use([][]byte{route, {1, 2, 3}, v4(2)}); err == nil || !strings.Contains(err.Error(), "kind route") || !strings.Contains(err.Error(), "key of 3 bytes") {
		t.Errorf("error %v", err)
	}
}

func FuzzUse(f *testing.F) {
	f.Add([]byte{3, 2})
	f.Add(netstate.Key{Kind: netstate.KindNeighbor, Family: unix.AF_INET6}.AppendCanonical(nil))
	f.Fuzz(func(t *testing.T, key []byte) { feedback.CheckKey(key) })
}

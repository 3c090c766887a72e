package sysctl_test

import (
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"antiphon/hostshim/netdev"
	"antiphon/hostshim/netns"
	"antiphon/hostshim/sysctl"
	"antiphon/internal/netnstest"
	"antiphon/transport"
)

// TestRead compares every setting with its file, after changing what can be
// changed, and looks at the doubts.
func TestRead(t *testing.T) {
	n := netnstest.New(t)
	netnstest.Veth(t, netnstest.End{NS: n, Name: "swp1", MAC: netnstest.MAC(1)}, netnstest.End{NS: n, Name: "w.1", MAC: netnstest.MAC(2)})
	n.IP(t, "link property add dev w.1 altname antiphon-swp2")
	n.IP(t, "link property add dev swp1 altname antiphon-swp1")
	ns, err := netns.Open(n.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	route, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: ns.Fd(), Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	defer route.Close()
	read := func() (values []*transport.Setting, doubts []*transport.Presence) {
		t.Helper()
		if err := ns.Do(func() error {
			r, err := sysctl.NewReader()
			if err != nil {
				return err
			}
			links, err := netdev.List(route)
			if err != nil {
				return err
			}
			values, doubts, err = r.Read(links)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return values, doubts
	}
	values, doubts := read()
	if len(doubts) != 0 {
		t.Errorf("doubts about defaults: %v", doubts)
	}
	// Every setting of a port differs from its default once.
	ports := 0
	for _, v := range values {
		for _, dev := range []string{"swp1", "w.1"} {
			for _, family := range []string{"net.ipv4.conf.", "net.ipv6.conf."} {
				name, ok := strings.CutPrefix(v.GetName(), family+dev+".")
				if !ok {
					continue
				}
				ports++
				if name == "mc_forwarding" {
					continue // read only
				}
				file := strings.ReplaceAll(family, ".", "/") + dev + "/" + name
				value := "1"
				switch {
				case name == "mtu":
					value = "1300"
				case v.GetValue() == "1":
					value = "0"
				}
				n.Sysctl(t, file, value)
			}
		}
	}
	if ports < 2*(15+11) {
		t.Fatalf("only %d settings of ports", ports)
	}
	n.Sysctl(t, "net/ipv4/fib_multipath_use_neigh", "1")
	n.Sysctl(t, "net/ipv4/conf/all/bc_forwarding", "1")
	n.Sysctl(t, "net/ipv6/conf/all/proxy_ndp", "1")
	values, doubts = read()
	for _, v := range values {
		file := strings.ReplaceAll(v.GetName(), ".", "/")
		file = strings.Replace(file, "/w/1/", "/w.1/", 1)
		if want := n.ReadSysctl(t, file); v.GetValue() != want {
			t.Errorf("%s is %q, the file says %q", v.GetName(), v.GetValue(), want)
		}
	}
	for _, want := range []string{"net.ipv4.fib_multipath_use_neigh=1", "net.ipv6.conf.all.proxy_ndp=1", "net.ipv4.conf.swp1.route_localnet=1", "net.ipv4.conf.w.1.src_valid_mark=1",
		"net.ipv4.conf.swp1.bc_forwarding=1", "net.ipv6.conf.swp1.seg6_enabled=1"} {
		found, everywhere := false, !strings.Contains(want, ".conf.swp1.") && !strings.Contains(want, ".conf.w.1.")
		for _, p := range doubts {
			found = found || p.GetDetail() == want && p.GetWhat() == "sysctl" && p.GetFamily() != 0 && (p.GetIfindex() == 0) == everywhere
		}
		if !found {
			t.Errorf("no doubt about %s in %v", want, doubts)
		}
	}
}

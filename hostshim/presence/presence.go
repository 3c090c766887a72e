package presence

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"antiphon/bpf"
	"antiphon/hostshim/netdev"
	"antiphon/transport"
)

// Reader looks at one namespace.
type Reader struct {
	route     *netlink.Conn
	netfilter *netlink.Conn // nil: this kernel has none
	xfrm      *netlink.Conn // nil: this kernel has none
}

// Open opens the sockets that a Reader asks, in a namespace (netns.NS.Fd). route
// is a NETLINK_ROUTE connection there, which stays the caller's.
func Open(ns int, route *netlink.Conn) (*Reader, error) {
	r := &Reader{route: route}
	for _, s := range []struct {
		conn     **netlink.Conn
		protocol int
		name     string
	}{{&r.netfilter, unix.NETLINK_NETFILTER, "nfnetlink"}, {&r.xfrm, unix.NETLINK_XFRM, "xfrm netlink"}} {
		c, err := netlink.Dial(s.protocol, &netlink.Config{NetNS: ns})
		switch {
		case errors.Is(err, unix.EPROTONOSUPPORT):
		case err != nil:
			r.Close()
			return nil, fmt.Errorf("open %s: %w", s.name, err)
		default:
			*s.conn = c
		}
	}
	return r, nil
}

// Close closes what Open opened.
func (r *Reader) Close() {
	for _, c := range []*netlink.Conn{r.netfilter, r.xfrm} {
		if c != nil {
			c.Close()
		}
	}
}

// Read returns everything that is there, in a stable order. It must run inside
// the namespace.
func (r *Reader) Read(links []netdev.Link) []*transport.Presence {
	var list []*transport.Presence
	for _, look := range []struct {
		what string
		find func([]netdev.Link) ([]*transport.Presence, error)
	}{
		{"nftables", r.nftables},
		{"iptables", iptables},
		{"tc", r.tc},
		{"xdp", xdp},
		{"tcx", tcx},
		{"netfilter bpf", netfilterBPF},
		{"xfrm", r.xfrmPolicies},
		{"multicast routing", mroute},
		{"ipvs", ipvs},
		{"bridge-nf", bridgeNF},
	} {
		found, err := look.find(links)
		if err != nil {
			found = append(found, &transport.Presence{What: "unknown", Ingress: true, Egress: true,
				Detail: fmt.Sprintf("cannot tell whether there is %s: %v", look.what, err)})
		}
		list = append(list, found...)
	}
	return list
}

// global is a presence for a whole family (0: every).
func global(what string, family uint32, detail string) *transport.Presence {
	return &transport.Presence{What: what, Family: family, Ingress: true, Egress: true, Detail: detail}
}

// procNet reads a file of /proc/net. A file that does not exist is empty.
func procNet(name string) ([]string, error) {
	b, err := os.ReadFile("/proc/thread-self/net/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(b), func(c rune) bool { return c == '\n' }), nil
}

// iptables finds tables of the legacy interface. Whoever lists such a table makes
// it, with rules that accept everything; it counts all the same.
func iptables([]netdev.Link) (list []*transport.Presence, _ error) {
	for _, f := range []struct {
		file, command string
		family        uint32
	}{{"ip_tables_names", "iptables", unix.AF_INET}, {"ip6_tables_names", "ip6tables", unix.AF_INET6}} {
		names, err := procNet(f.file)
		if err != nil {
			return list, err
		}
		slices.Sort(names)
		for _, name := range names {
			list = append(list, global("iptables", f.family, f.command+" (legacy) table "+name))
		}
	}
	return list, nil
}

func xdp(links []netdev.Link) (list []*transport.Presence, _ error) {
	for _, l := range links {
		if l.XDP {
			list = append(list, &transport.Presence{What: "xdp", Ifindex: l.Index, Ingress: true, Detail: "XDP program on " + l.Name})
		}
	}
	return list, nil
}

// tcx finds programs that hang on a port without any qdisc.
func tcx(links []netdev.Link) (list []*transport.Presence, _ error) {
	for _, l := range links {
		if !l.Port {
			continue
		}
		in, out, err := bpf.TCX(l.Index)
		if mayNotAsk(err) {
			return nil, nil
		}
		if err != nil {
			return list, fmt.Errorf("%s: %w", l.Name, err)
		}
		if in+out > 0 {
			list = append(list, &transport.Presence{What: "tc", Ifindex: l.Index, Ingress: in > 0, Egress: out > 0,
				Detail: fmt.Sprintf("TCX programs on %s: %d ingress, %d egress", l.Name, in, out)})
		}
	}
	return list, nil
}

// netfilterBPF finds BPF programs on netfilter hooks. The kernel does not say in
// which namespace a link acts, so one anywhere counts.
func netfilterBPF([]netdev.Link) ([]*transport.Presence, error) {
	n, err := bpf.NetfilterLinks()
	if mayNotAsk(err) {
		return nil, nil
	}
	if err != nil || n == 0 {
		return nil, err
	}
	return []*transport.Presence{global("nftables", 0, fmt.Sprintf("%d BPF programs on netfilter hooks", n))}, nil
}

// mayNotAsk reports whether err is the refusal that root of a user namespace gets.
// Nobody inside of it can load the programs in question; that an administrator
// outside attaches one to a namespace within is the one thing not seen.
func mayNotAsk(err error) bool {
	if !errors.Is(err, unix.EPERM) {
		return false
	}
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && !slices.Equal(strings.Fields(string(b)), []string{"0", "0", "4294967295"})
}

// mroute finds virtual interfaces of multicast routing; the first line is a title.
func mroute([]netdev.Link) (list []*transport.Presence, _ error) {
	for _, f := range []struct {
		file   string
		family uint32
	}{{"ip_mr_vif", unix.AF_INET}, {"ip6_mr_vif", unix.AF_INET6}} {
		lines, err := procNet(f.file)
		if err != nil {
			return list, err
		}
		if n := len(lines) - 1; n > 0 {
			list = append(list, global("mroute", f.family, fmt.Sprintf("multicast routing on %d interfaces", n)))
		}
	}
	return list, nil
}

// ipvs finds virtual services; the first three lines are titles.
func ipvs([]netdev.Link) (list []*transport.Presence, _ error) {
	lines, err := procNet("ip_vs")
	if n := len(lines) - 3; n > 0 {
		list = append(list, global("ipvs", 0, fmt.Sprintf("%d lines of virtual services", n)))
	}
	return list, err
}

// bridgeNF finds bridges whose frames pass through iptables.
func bridgeNF(links []netdev.Link) (list []*transport.Presence, _ error) {
	on := false
	for _, name := range []string{"iptables", "ip6tables"} {
		b, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-" + name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		on = on || err == nil && strings.TrimSpace(string(b)) != "0"
	}
	if !on {
		return nil, nil
	}
	bridges := map[uint32]bool{}
	for _, l := range links {
		bridges[l.Index] = l.Kind == "bridge"
	}
	for _, l := range links {
		if bridges[l.Index] || bridges[l.Master] {
			list = append(list, &transport.Presence{What: "bridge-nf", Ifindex: l.Index, Ingress: true, Egress: true,
				Detail: "bridge-nf-call-iptables or -ip6tables is on, and " + l.Name + " is bridged"})
		}
	}
	return list, nil
}

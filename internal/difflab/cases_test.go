package difflab

import (
	"fmt"

	"antiphon/hwmodel"

	"github.com/google/gopacket/layers"
)

// step is one frame and what the device must do with it.
type step struct {
	packet
	want hwmodel.Verdict
}

// lab is one case. Lines are run in the router's namespace: "ip …", "sysctl
// path=value". Every case starts from base: three ports with 10.0.N.1/24 and
// 2001:db8:N::1/64, permanent neighbours .2 and ::2 on each.
type lab struct {
	name  string
	item  string // line of the kernel behaviours page, section 2
	lines []string
	steps []step
}

const (
	fwd  = hwmodel.Forward
	trap = hwmodel.Trap
	drop = hwmodel.Drop
)

const ports = 3

// base is the configuration every case starts from.
func base() []string {
	var lines []string
	for n := 1; n <= ports; n++ {
		lines = append(lines,
			fmt.Sprintf("ip addr add 10.0.%d.1/24 brd + dev swp%d", n, n),
			fmt.Sprintf("ip addr add 2001:db8:%d::1/64 dev swp%d nodad", n, n),
			fmt.Sprintf("ip neigh replace 10.0.%d.2 lladdr 02:00:00:00:01:%02x dev swp%d nud permanent", n, n, n),
			fmt.Sprintf("ip neigh replace 2001:db8:%d::2 lladdr 02:00:00:00:01:%02x dev swp%d nud permanent", n, n, n))
	}
	return lines
}

func v4(in int, src, dst string, want hwmodel.Verdict, change ...func(*packet)) step {
	p := packet{in: in, src: src, dst: dst}
	for _, c := range change {
		c(&p)
	}
	return step{p, want}
}

// v6 is v4 for the eye: the family follows from the addresses.
var v6 = v4

func mangle(f func(ip []byte)) func(*packet) { return func(p *packet) { p.mangle = f } }

var labs = []lab{
	{name: "connected", item: "base", steps: []step{
		v4(1, "10.0.1.2", "10.0.2.2", fwd),
		v4(2, "10.0.2.2", "10.0.3.2", fwd),
		v6(1, "2001:db8:1::2", "2001:db8:2::2", fwd),
		v6(3, "2001:db8:3::2", "2001:db8:1::2", fwd),
		v4(1, "10.0.1.2", "10.0.2.2", fwd, func(p *packet) { p.size = 1400 }),
		v4(1, "10.0.1.2", "10.0.2.2", fwd, func(p *packet) { p.tos = 0xff; p.id = 0xbeef; p.df = true }),
		v6(1, "2001:db8:1::2", "2001:db8:2::2", fwd, func(p *packet) { p.tos = 0xab; p.flow = 0xfedcb }),
	}},
	{name: "to the router", item: "local", steps: []step{
		v4(1, "10.0.1.2", "10.0.1.1", trap, func(p *packet) { p.dport = 9 }),
		v4(1, "10.0.1.2", "10.0.2.1", trap, func(p *packet) { p.dport = 9; p.src = "10.0.1.3" }),
		v6(1, "2001:db8:1::2", "2001:db8:2::1", trap),
	}},
	{name: "destination MAC", item: "1", steps: []step{
		v4(1, "10.0.1.2", "10.0.2.2", trap, func(p *packet) { p.dmac = portMAC(2) }),
		v4(1, "10.0.1.2", "10.0.2.2", trap, func(p *packet) { p.dmac = []byte{255, 255, 255, 255, 255, 255} }),
		v4(1, "10.0.1.2", "10.0.2.2", trap, func(p *packet) { p.dmac = []byte{1, 0, 0x5e, 0, 0, 9} }),
		v6(1, "2001:db8:1::2", "2001:db8:2::2", trap, func(p *packet) { p.dmac = []byte{0x33, 0x33, 0, 0, 0, 1} }),
	}},
	{name: "header errors", item: "2", steps: []step{
		v4(1, "10.0.1.2", "10.0.2.2", trap, mangle(func(ip []byte) { ip[0] = 0x65; resum(ip) })),
		v4(1, "10.0.1.2", "10.0.2.2", trap, mangle(func(ip []byte) { ip[0] = 0x44; resum(ip) })),
		v4(1, "10.0.1.2", "10.0.2.2", trap, mangle(func(ip []byte) { ip[3] += 1; resum(ip) })),
		v4(1, "10.0.1.2", "10.0.2.2", trap, mangle(func(ip []byte) { ip[2], ip[3] = 0, 19; resum(ip) })),
		v4(1, "10.0.1.2", "10.0.2.2", trap, mangle(func(ip []byte) { ip[10] ^= 1 })),
		v4(1, "10.0.1.2", "10.0.2.2", fwd, mangle(func(ip []byte) { ip[26] ^= 0xff })), // L4 checksum is not looked at
		v6(1, "2001:db8:1::2", "2001:db8:2::2", trap, mangle(func(ip []byte) { ip[0] = 0x40 })),
		v6(1, "2001:db8:1::2", "2001:db8:2::2", trap, mangle(func(ip []byte) { ip[5] += 1 })),
	}},
	{name: "padding is trimmed", item: "2", steps: []step{
		v4(1, "10.0.1.2", "10.0.2.2", fwd, func(p *packet) { p.size = 1; p.pad = 17 }),
		v4(1, "10.0.1.2", "10.0.2.2", fwd, func(p *packet) { p.pad = 100 }),
		v6(1, "2001:db8:1::2", "2001:db8:2::2", fwd, func(p *packet) { p.pad = 9 }),
		v4(1, "10.0.1.2", "10.0.2.2", fwd, mangle(func(ip []byte) { ip[3] -= 4; resum(ip) })),
	}},
	{name: "port without address", item: "3", lines: []string{
		"ip addr flush dev swp1", "ip route add 10.9.0.0/16 via 10.0.2.2",
	}, steps: []step{
		v4(1, "10.77.1.2", "10.0.2.2", fwd),
		v4(1, "10.77.1.2", "10.9.1.1", fwd),
	}},
	{name: "martian sources", item: "4", lines: []string{"ip route add default via 10.0.2.2"}, steps: []step{
		v4(1, "0.0.0.0", "10.0.2.2", trap),
		v4(1, "0.1.2.3", "10.0.2.2", fwd),
		v4(1, "127.0.0.1", "10.0.2.2", trap),
		v4(1, "224.0.0.5", "10.0.2.2", trap),
		v4(1, "255.255.255.255", "10.0.2.2", trap),
		v4(1, "240.1.2.3", "10.0.2.2", fwd),
		v4(1, "10.0.3.77", "10.0.2.2", fwd), // another port's subnet, rp_filter off
	}},
	{name: "own and broadcast sources", item: "5", steps: []step{
		v4(1, "10.0.1.1", "10.0.2.2", trap),
		v4(1, "10.0.3.1", "10.0.2.2", trap),
		v4(1, "10.0.1.255", "10.0.2.2", trap), // forwarded only while no rule was ever made
	}},
	{name: "strict reverse path", item: "6", lines: []string{
		"sysctl net/ipv4/conf/swp1/rp_filter=1", "ip route add 10.8.0.0/16 via 10.0.1.2", "ip route add 10.9.0.0/16 via 10.0.3.2",
	}, steps: []step{
		v4(1, "10.0.1.2", "10.0.2.2", fwd),
		v4(1, "10.8.1.1", "10.0.2.2", fwd),
		v4(1, "10.9.1.1", "10.0.2.2", trap),
		v4(1, "10.66.1.1", "10.0.2.2", trap),
		v4(2, "10.9.1.1", "10.0.1.2", fwd), // only swp1 checks
	}},
	{name: "loose reverse path", item: "6", lines: []string{
		"sysctl net/ipv4/conf/all/rp_filter=2", "ip route add 10.9.0.0/16 via 10.0.3.2",
	}, steps: []step{
		v4(1, "10.9.1.1", "10.0.2.2", fwd),
		v4(1, "10.66.1.1", "10.0.2.2", trap),
	}},
	{name: "loose reverse path on a port without address", item: "6", lines: []string{
		"sysctl net/ipv4/conf/all/rp_filter=2", "ip addr flush dev swp1", "ip route add 10.9.0.0/16 via 10.0.3.2", "ip route add 10.8.0.0/16 dev swp1",
	}, steps: []step{
		v4(1, "10.9.1.1", "10.0.2.2", trap),
		v4(1, "10.8.1.1", "10.0.2.2", fwd),
	}},
	{name: "destinations", item: "7", lines: []string{
		"ip route add default via 10.0.3.2",
	}, steps: []step{
		v4(1, "10.0.1.2", "255.255.255.255", trap),
		v4(1, "10.0.1.2", "10.0.1.255", trap),
		v4(1, "10.0.1.2", "127.0.0.1", trap),
		v4(1, "10.0.1.2", "0.0.0.0", trap),
		v4(1, "10.0.1.2", "224.0.0.9", trap),
		v4(1, "10.0.1.2", "0.1.2.3", fwd),
		v4(1, "10.0.1.2", "169.254.1.1", fwd),
		v4(1, "10.0.1.2", "240.1.2.3", fwd),
		v4(1, "10.0.1.2", "8.8.8.8", fwd),
	}},
	{name: "network address is a host", item: "7", lines: []string{
		"ip neigh add 10.0.2.0 lladdr 02:00:00:00:01:99 dev swp2 nud permanent",
	}, steps: []step{v4(1, "10.0.1.2", "10.0.2.0", fwd)}},
	{name: "forwarding is an ingress matter", item: "9", lines: []string{"sysctl net/ipv4/conf/swp1/forwarding=0"}, steps: []step{
		v4(1, "10.0.1.2", "10.0.2.2", trap),
		v4(2, "10.0.2.2", "10.0.1.2", fwd),
	}},
	{name: "tags", item: "10", steps: []step{
		v4(1, "10.0.1.2", "10.0.2.2", trap, func(p *packet) { p.frame = tag(0) }),
		v4(1, "10.0.1.2", "10.0.2.2", trap, func(p *packet) { p.frame = tag(5) }),
	}},
	{name: "options", item: "11", steps: []step{
		v4(1, "10.0.1.2", "10.0.2.2", trap, func(p *packet) {
			p.options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 0}}
		}),
	}},
	{name: "route types", item: "12", lines: []string{
		"ip route add blackhole 10.10.1.0/24", "ip route add unreachable 10.10.2.0/24", "ip route add prohibit 10.10.3.0/24",
		"ip -6 route add blackhole 2001:db8:a1::/48", "ip -6 route add unreachable 2001:db8:a2::/48", "ip -6 route add prohibit 2001:db8:a3::/48",
	}, steps: []step{
		v4(1, "10.0.1.11", "10.10.1.1", drop),
		v4(1, "10.0.1.12", "10.10.2.1", trap),
		v4(1, "10.0.1.13", "10.10.3.1", trap),
		v4(1, "10.0.1.14", "10.99.3.1", trap), // no route
		v6(1, "2001:db8:1::11", "2001:db8:a1::1", drop),
		v6(1, "2001:db8:1::2", "2001:db8:a2::1", trap),
		v6(1, "2001:db8:1::2", "2001:db8:a3::1", trap),
		v6(1, "2001:db8:1::2", "2001:db9::1", trap),
	}},
	{name: "second table", item: "12", lines: []string{
		"ip rule add from 10.0.1.0/25 lookup 100 pref 1000", "ip route add default via 10.0.3.2 table 100",
		"ip route add throw 10.50.0.0/16 table 100", "ip route add 10.50.0.0/16 via 10.0.2.2",
		"ip -6 rule add from 2001:db8:1::/64 lookup 100 pref 1000", "ip -6 route add default via 2001:db8:3::2 table 100",
	}, steps: []step{
		v4(1, "10.0.1.2", "10.0.2.2", fwd), // by table 100 to swp3
		v4(1, "10.0.1.200", "10.0.2.2", fwd),
		v4(1, "10.0.1.2", "10.50.1.1", fwd), // throw: back to main
		v4(1, "10.0.1.2", "10.0.2.1", trap), // local comes first
		v6(1, "2001:db8:1::2", "2001:db8:2::2", fwd),
	}},
	{name: "rule actions", item: "12", lines: []string{
		"ip rule add to 10.0.2.2 blackhole pref 900", "ip rule add to 10.0.3.2 prohibit pref 901",
	}, steps: []step{
		v4(1, "10.0.1.21", "10.0.2.2", drop),
		v4(1, "10.0.1.22", "10.0.3.2", trap),
		v4(2, "10.0.2.2", "10.0.1.2", fwd), // the source looks up to a blackhole: no route to the check
		v4(3, "10.0.3.2", "10.0.1.2", fwd), // to prohibit: likewise
	}},
	{name: "not negates the whole selector", item: "13", lines: []string{
		"ip rule add not from 10.0.1.2 to 10.0.2.2 lookup 100 pref 1000", "ip route add default via 10.0.3.2 table 100",
	}, steps: []step{
		v4(1, "10.0.1.2", "10.0.2.2", fwd),
		v4(1, "10.0.1.3", "10.0.2.2", fwd),
		v4(2, "10.0.2.2", "10.0.1.2", fwd),
	}},
	{name: "iif rule", item: "13", lines: []string{
		"ip rule add iif swp1 lookup 100 pref 1000", "ip route add default via 10.0.3.2 table 100",
	}, steps: []step{
		v6(1, "2001:db8:1::2", "2001:db8:2::2", fwd),
		v6(2, "2001:db8:2::2", "2001:db8:1::2", fwd),
		v4(1, "10.0.1.2", "10.0.2.2", fwd),
		v4(2, "10.0.2.2", "10.0.1.2", fwd),
		v4(3, "10.0.3.2", "10.0.1.2", fwd),
	}},
	{name: "iif rule by an alternative name", item: "13", lines: []string{
		"ip rule add iif antiphon-swp1 lookup 100 pref 1000", "ip route add default via 10.0.3.2 table 100",
	}, steps: []step{
		v4(1, "10.0.1.2", "10.0.2.2", trap),
		v4(2, "10.0.2.2", "10.0.3.2", fwd),
	}},
	{name: "iif rule and the source check", item: "6, 13", lines: []string{
		"sysctl net/ipv4/conf/swp1/rp_filter=1", "ip rule add iif swp3 lookup 100 pref 1000", "ip route add 10.0.1.0/24 dev swp2 table 100",
	}, steps: []step{
		v4(1, "10.0.1.2", "10.0.2.2", fwd),
		v4(1, "10.0.1.2", "10.0.3.2", trap), // the answer would come in by swp3 and leave by swp2
	}},
	{name: "suppress_prefixlength spares errors", item: "13", lines: []string{
		"ip rule add lookup main suppress_prefixlength 0 pref 1000", "ip rule add lookup 100 pref 1001",
		"ip route add blackhole default", "ip route add default via 10.0.3.2 table 100",
		"ip -6 rule add lookup main suppress_prefixlength 0 pref 1000", "ip -6 rule add lookup 100 pref 1001",
		"ip -6 route add unreachable default", "ip -6 route add default via 2001:db8:3::2 table 100",
	}, steps: []step{
		v4(1, "10.0.1.2", "9.9.9.9", drop),
		v6(1, "2001:db8:1::2", "2600::1", trap),
	}},
	{name: "suppress_prefixlength", item: "13", lines: []string{
		"ip rule add lookup main suppress_prefixlength 0 pref 1000", "ip rule add lookup 100 pref 1001",
		"ip route add default via 10.0.2.2", "ip route add default via 10.0.3.2 table 100",
	}, steps: []step{
		v4(1, "10.0.1.2", "10.0.2.2", fwd),
		v4(1, "10.0.1.2", "9.9.9.9", fwd), // not by main's default
	}},
	{name: "TOS routes trap", item: "14", lines: []string{
		"ip route add 10.20.0.0/16 via 10.0.2.2", "ip route add 10.20.0.0/16 tos 0x10 via 10.0.3.2",
	}, steps: []step{
		v4(1, "10.0.1.2", "10.20.1.1", trap),
		v4(1, "10.0.1.2", "10.20.1.1", trap, func(p *packet) { p.tos = 0x30 }),
	}},
	{name: "rules on ports trap", item: "15", lines: []string{
		"ip rule add ipproto udp dport 53 lookup 100 pref 1000", "ip route add default via 10.0.3.2 table 100",
	}, steps: []step{
		v4(1, "10.0.1.2", "10.0.2.2", trap, func(p *packet) { p.dport = 53 }),
		v4(1, "10.0.1.2", "10.0.2.2", trap),
	}},
	{name: "route error beats TTL", item: "16", lines: []string{
		"ip route add blackhole 10.10.1.0/24", "ip route add unreachable 10.10.2.0/24",
	}, steps: []step{
		v4(1, "10.0.1.31", "10.10.1.1", trap, func(p *packet) { p.ttl = 1 }),
		v4(1, "10.0.1.32", "10.10.2.1", trap, func(p *packet) { p.ttl = 1 }),
	}},
	{name: "local and main overlap", item: "18a", lines: []string{
		"ip route add local 10.30.0.0/16 dev lo table local", "ip route add 10.30.1.0/24 via 10.0.2.2",
	}, steps: []step{v4(1, "10.0.1.2", "10.30.1.1", trap)}},
	{name: "metrics", item: "aliases", lines: []string{
		"ip route add 10.40.0.0/16 via 10.0.2.2 metric 20", "ip route add 10.40.0.0/16 via 10.0.3.2 metric 10",
		"ip -6 route add 2001:db8:40::/48 via 2001:db8:2::2 metric 20", "ip -6 route add 2001:db8:40::/48 via 2001:db8:3::2 metric 10",
		"ip route append 10.40.0.0/16 via 10.0.1.2 metric 10",
	}, steps: []step{
		v4(1, "10.0.1.2", "10.40.1.1", fwd),
		v6(1, "2001:db8:1::2", "2001:db8:40::1", fwd),
	}},
	{name: "TTL", item: "19, 27", steps: []step{
		v4(1, "10.0.1.41", "10.0.2.2", trap, func(p *packet) { p.ttl = 1 }),
		v4(1, "10.0.1.2", "10.0.2.2", fwd, func(p *packet) { p.ttl = 2 }),
		v4(1, "10.0.1.2", "10.0.2.2", fwd, func(p *packet) { p.ttl = 255 }),
		v6(1, "2001:db8:1::2", "2001:db8:2::2", trap, func(p *packet) { p.ttl = 1 }),
		v6(1, "2001:db8:1::2", "2001:db8:2::2", fwd, func(p *packet) { p.ttl = 2 }),
	}},
	{name: "MTU", item: "20, 27", lines: []string{
		"ip link set swp2 mtu 1300", "ip route add 10.60.0.0/16 via 10.0.3.2 mtu 1000", "ip route add 10.61.0.0/16 via 10.0.3.2 mtu lock 1000",
	}, steps: []step{
		v4(1, "10.0.1.2", "10.0.2.2", fwd, func(p *packet) { p.size = 1300 - 28 }),
		v4(1, "10.0.1.51", "10.0.2.2", trap, func(p *packet) { p.size = 1301 - 28; p.df = true }),
		v4(1, "10.0.1.52", "10.0.2.2", trap, func(p *packet) { p.size = 1301 - 28 }),
		v4(1, "10.0.1.2", "10.60.1.1", fwd, func(p *packet) { p.size = 1000 - 28 }),
		v4(1, "10.0.1.53", "10.60.1.1", trap, func(p *packet) { p.size = 1001 - 28; p.df = true }),
		v4(1, "10.0.1.54", "10.61.1.1", trap, func(p *packet) { p.size = 1001 - 28; p.df = true }),
		v6(1, "2001:db8:1::2", "2001:db8:2::2", fwd, func(p *packet) { p.size = 1300 - 48 }),
		v6(1, "2001:db8:1::2", "2001:db8:2::2", trap, func(p *packet) { p.size = 1301 - 48 }),
	}},
	{name: "MTU of IPv6 alone", item: "27", lines: []string{"sysctl net/ipv6/conf/swp2/mtu=1280"}, steps: []step{
		v6(1, "2001:db8:1::2", "2001:db8:2::2", trap, func(p *packet) { p.size = 1281 - 48 }),
		v6(2, "2001:db8:2::2", "2001:db8:1::2", fwd, func(p *packet) { p.size = 1400 }),
		v4(1, "10.0.1.2", "10.0.2.2", fwd, func(p *packet) { p.size = 1400 }),
	}},
	{name: "IPv6 routes that expire trap", item: "27", lines: []string{
		"ip -6 route add 2001:db8:41::/48 via 2001:db8:2::2", "ip -6 route add 2001:db8:41:1::/64 via 2001:db8:3::2 expires 600",
	}, steps: []step{
		v6(1, "2001:db8:1::2", "2001:db8:41::1", fwd),
		v6(1, "2001:db8:1::2", "2001:db8:41:1::1", trap),
	}},
	{name: "out where it came in", item: "21, 30", steps: []step{
		v4(1, "10.0.1.61", "10.0.1.2", trap),
		v6(1, "2001:db8:1::61", "2001:db8:1::2", trap),
	}},
	{name: "out where it came in, no redirects", item: "21", lines: []string{
		"sysctl net/ipv4/conf/all/send_redirects=0", "sysctl net/ipv4/conf/swp1/send_redirects=0",
	}, steps: []step{v4(1, "10.0.1.61", "10.0.1.2", fwd)}},
	{name: "via inet6", item: "22", lines: []string{
		"ip route add 10.70.0.0/16 via inet6 2001:db8:2::2 dev swp2",
	}, steps: []step{v4(1, "10.0.1.2", "10.70.1.1", fwd)}},
	{name: "neighbour states", item: "22", lines: []string{
		"ip neigh replace 10.0.2.3 lladdr 02:00:00:00:01:33 dev swp2 nud noarp",
		"ip neigh replace 2001:db8:2::3 lladdr 02:00:00:00:01:34 dev swp2 nud permanent",
	}, steps: []step{
		v4(1, "10.0.1.2", "10.0.2.3", fwd),
		v6(1, "2001:db8:1::2", "2001:db8:2::3", fwd),
	}},
	{name: "onlink", item: "22", lines: []string{
		"ip route add 10.71.0.0/16 via 10.99.0.2 dev swp2 onlink", "ip neigh replace 10.99.0.2 lladdr 02:00:00:00:01:35 dev swp2 nud permanent",
	}, steps: []step{v4(1, "10.0.1.2", "10.71.1.1", fwd)}},
	{name: "checksums", item: "24", steps: []step{
		v4(1, "10.0.1.2", "10.0.2.2", fwd, checksumTo(0x0000)),
		v4(1, "10.0.1.2", "10.0.2.2", fwd, checksumTo(0xfeff)),
		v4(1, "10.0.1.2", "10.0.2.2", fwd, checksumTo(0xff00)),
		v4(1, "10.0.1.2", "10.0.2.2", fwd, checksumTo(0xfffe)),
		v4(1, "10.0.1.2", "10.0.2.2", fwd, mangle(func(ip []byte) { ip[26], ip[27] = 0, 0 })), // UDP checksum 0 stays
	}},
	{name: "fragments", item: "20", steps: []step{
		v4(1, "10.0.1.2", "10.0.2.2", fwd, func(p *packet) { p.more = true; p.id = 7 }),
		v4(1, "10.0.1.2", "10.0.2.2", fwd, func(p *packet) { p.fragment = 5; p.id = 7 }),
	}},
	{name: "IPv6 sources", item: "25", steps: []step{
		v6(1, "2001:db8:2::1", "2001:db8:3::2", fwd), // own address of another port: no check
		v6(1, "fd00::1", "2001:db8:2::2", fwd),
		v6(1, "::ffff:1.2.3.4", "2001:db8:2::2", fwd),
		v6(1, "::1", "2001:db8:2::2", trap),
		v6(1, "::", "2001:db8:2::2", trap),
		v6(1, "ff02::1", "2001:db8:2::2", trap),
		v6(1, "fe80::1", "2001:db8:2::2", trap),
	}},
	{name: "IPv6 destinations", item: "26", lines: []string{
		"ip -6 route add default via 2001:db8:3::2",
	}, steps: []step{
		v6(1, "2001:db8:1::2", "fec0::1", fwd),
		v6(1, "2001:db8:1::2", "fe80::77", trap),
		v6(1, "2001:db8:1::2", "2001:db8:2::", trap), // subnet-router anycast
		v6(1, "2001:db8:1::2", "ff02::1", trap),
		v6(1, "2001:db8:1::2", "2600::1", fwd),
	}},
	{name: "IPv6 forwarding is a matter of all", item: "28", lines: []string{
		"sysctl net/ipv6/conf/swp1/forwarding=0",
	}, steps: []step{v6(1, "2001:db8:1::2", "2001:db8:2::2", fwd)}},
	{name: "IPv6 extension headers", item: "29", steps: []step{
		v6(1, "2001:db8:1::2", "2001:db8:2::2", trap, extension(0, []byte{1, 4, 0, 0, 0, 0})),
		v6(1, "2001:db8:1::2", "2001:db8:2::2", fwd, extension(60, []byte{1, 4, 0, 0, 0, 0})),
		v6(1, "2001:db8:1::2", "2001:db8:2::2", fwd, extension(43, []byte{0, 0, 0, 0, 0, 0})),
		v6(1, "2001:db8:1::2", "2001:db8:2::2", fwd, extension(44, []byte{0, 0, 0, 0, 0, 1})),
		v6(1, "2001:db8:1::2", "2001:db8:2::2", fwd, mangle(func(ip []byte) { ip[6] = 59 })),
	}},
	{name: "nexthop objects", item: "nexthop", lines: []string{
		"ip nexthop add id 1 via 10.0.2.2 dev swp2", "ip nexthop add id 2 blackhole",
		"ip nexthop add id 6 via 2001:db8:3::2 dev swp3",
		"ip route add 10.80.0.0/16 nhid 1", "ip route add 10.81.0.0/16 nhid 2", "ip -6 route add 2001:db8:80::/48 nhid 6", "ip route add 10.82.0.0/16 nhid 6",
	}, steps: []step{
		v4(1, "10.0.1.2", "10.80.1.1", fwd),
		v4(1, "10.0.1.2", "10.81.1.1", drop),
		v6(1, "2001:db8:1::2", "2001:db8:80::1", fwd),
		v4(1, "10.0.1.2", "10.82.1.1", fwd),
	}},
	ecmp("ECMP by addresses, legs of a route", 0, "ip route add 10.90.0.0/16 nexthop via 10.0.2.2 weight 3 nexthop via 10.0.3.2", ""),
	ecmp("ECMP by ports, legs of a route", 1, "ip route add 10.90.0.0/16 nexthop via 10.0.2.2 nexthop via 10.0.3.2 weight 2", ""),
	ecmp("ECMP by addresses, nexthop group", 0, "ip nexthop add id 1 via 10.0.2.2 dev swp2;ip nexthop add id 2 via 10.0.3.2 dev swp3;ip nexthop add id 9 group 1,3/2,1;ip route add 10.90.0.0/16 nhid 9", ""),
	ecmp("ECMP IPv6 by addresses", 0, "", "ip -6 route add 2001:db8:90::/48 nexthop via 2001:db8:2::2 weight 2 nexthop via 2001:db8:3::2"),
	ecmp("ECMP IPv6 by ports", 1, "", "ip -6 route add 2001:db8:90::/48 nexthop via 2001:db8:2::2 nexthop via 2001:db8:3::2"),
	{name: "resilient groups trap", item: "18b", lines: []string{
		"ip nexthop add id 1 via 10.0.2.2 dev swp2", "ip nexthop add id 2 via 10.0.3.2 dev swp3",
		"ip nexthop add id 9 group 1/2 type resilient buckets 8", "ip route add 10.91.0.0/16 nhid 9",
	}, steps: []step{v4(1, "10.0.1.2", "10.91.1.1", trap)}},
}

// ecmp is a case of many flows through a group, with the seed set.
func ecmp(name string, policy int, line4, line6 string) lab {
	l := lab{name: name, item: "18", lines: []string{
		"sysctl net/ipv4/fib_multipath_hash_seed=4711",
		fmt.Sprintf("sysctl net/ipv4/fib_multipath_hash_policy=%d", policy),
		fmt.Sprintf("sysctl net/ipv6/fib_multipath_hash_policy=%d", policy),
	}}
	for _, s := range []string{line4, line6} {
		if s != "" {
			l.lines = append(l.lines, split(s)...)
		}
	}
	for i := range 48 {
		ports := func(p *packet) { p.sport, p.dport = uint16(1000+i*37), uint16(80+i) }
		if line4 != "" {
			l.steps = append(l.steps, v4(1, fmt.Sprintf("10.0.1.%d", 2+i), fmt.Sprintf("10.90.%d.1", i*5), fwd, ports))
		} else {
			l.steps = append(l.steps, v6(1, fmt.Sprintf("2001:db8:1::%x", 2+i), fmt.Sprintf("2001:db8:90::%x", i*5), fwd, ports,
				func(p *packet) { p.flow = uint32(i * 1021) }))
		}
	}
	if line4 != "" {
		l.steps = append(l.steps, v4(1, "10.0.1.9", "10.90.9.1", fwd, func(p *packet) { p.more = true }),
			v4(1, "10.0.1.9", "10.90.9.1", fwd, func(p *packet) { p.fragment = 9 }))
	}
	return l
}

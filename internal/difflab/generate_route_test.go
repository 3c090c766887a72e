package difflab

import (
	"fmt"
	"strings"
)

// prefix is the destination of a route; the pools nest.
func (g *generator) prefix(family int) string {
	if family == four {
		return pick(g, "0.0.0.0/0", "10.0.0.0/8", "10.16.0.0/12", fmt.Sprintf("10.%d.0.0/16", 20+g.IntN(4)), fmt.Sprintf("10.%d.0.0/16", 20+g.IntN(4)),
			fmt.Sprintf("10.%d.%d.0/20", 20+g.IntN(4), 16*g.IntN(3)), fmt.Sprintf("10.%d.%d.0/24", 20+g.IntN(4), g.IntN(3)), fmt.Sprintf("10.%d.0.%d/30", 20+g.IntN(4), 4*g.IntN(2)),
			fmt.Sprintf("10.20.0.%d/31", 2*g.IntN(2)), fmt.Sprintf("10.20.0.%d/32", g.IntN(4)), "128.0.0.0/1", fmt.Sprintf("10.0.%d.%d/32", g.port(), 2+g.IntN(6)))
	}
	return pick(g, "::/0", "2001:db8::/32", "2001:db8:20::/44", fmt.Sprintf("2001:db8:%d::/48", 20+g.IntN(4)), fmt.Sprintf("2001:db8:%d::/48", 20+g.IntN(4)),
		fmt.Sprintf("2001:db8:%d:%d::/64", 20+g.IntN(4), g.IntN(3)), fmt.Sprintf("2001:db8:%d::/96", 20+g.IntN(4)), fmt.Sprintf("2001:db8:20::%x/127", 2*g.IntN(2)),
		fmt.Sprintf("2001:db8:20::%x/128", g.IntN(4)), "8000::/1", "fc00::/7", fmt.Sprintf("2001:db8:%d::%x/128", g.port(), 2+g.IntN(6)))
}

// route adds, replaces, appends or prepends one.
func (g *generator) route(family int) string {
	p := g.prefix(family)
	g.prefixes[family] = append(g.prefixes[family], p)
	dest := p + g.often(6, "tos %#x", pick(g, 0x04, 0x08, 0x10, 0x1c))
	if family == six {
		dest = p + g.often(2, "from 2001:db8:%d::/64", g.port())
	}
	dest += g.often(25, "metric %d", pick(g, 10, 20, 2000)) + g.often(18, "table %s", pick(g, "100", "101", "102"))
	verb := pick(g, "add", "add", "add", "append", "replace", "prepend")
	line := "ip " + opt(family) + " route " + verb + " "
	mtu := func(percent int, list ...string) string {
		// Dumps show the first IPv6 leg's MTU only: further legs get none.
		if family == six && (verb == "append" || verb == "prepend") {
			return ""
		}
		return g.often(percent, "mtu %s", pick(g, list...))
	}
	k := g.IntN(100)
	if family == six && k < 36 && verb != "replace" {
		// Dumps leave out an IPv6 route that is no leg between two that are (see
		// docs/limits.md): only legs join others.
		line = "ip -6 route add "
	}
	switch {
	case k < 14:
		line += pick(g, "blackhole", "unreachable", "prohibit", "throw") + " " + dest
	case k < 15:
		line += "local " + dest + " dev lo table local"
	case k < 16:
		line += dest + " " + g.via(family) + " table local"
	case k < 36 && g.hops:
		line += dest + fmt.Sprintf(" nhid %d", g.someObject(family))
	case k < 58:
		line += dest + mtu(10, "1280", "1300", "1400")
		for range 2 + g.IntN(3) {
			line += " nexthop " + g.via(family) + g.often(50, "weight %d", pick(g, 1, 2, 3, 7, 100, 256))
		}
	case k < 61 && family == six:
		line = "ip -6 route add " + dest + " dev " + swp(g.port())
	default:
		line += dest + " " + g.via(family) + mtu(12, "600", "1280", "1300", "lock 1300", "1400", "lock 1400", "1600")
	}
	g.routes = append(g.routes, strings.NewReplacer("append", "add", "replace", "add", "prepend", "add").Replace(line))
	return line
}

// via is a next hop.
func (g *generator) via(family int) string {
	n := g.port()
	switch k := g.IntN(100); {
	case k < 8 && family == four:
		return "dev " + swp(n)
	case k < 16:
		return fmt.Sprintf("via %s dev %s onlink", far(family, n), swp(n))
	case k < 26 && family == four:
		return fmt.Sprintf("via inet6 %s dev %s", host(six, n, g.anyHost()), swp(n))
	case k < 50:
		return "via " + host(family, n, g.anyHost())
	}
	return fmt.Sprintf("via %s dev %s", host(family, n, g.anyHost()), swp(n))
}

// someObject is the id of a nexthop object: 1 to 4 are IPv4, 5 to 8 IPv6, 9 is
// a blackhole; groups 20 to 22 are of the IPv4 ones, 26 and 27 of the IPv6
// ones, 23 is resilient.
func (g *generator) someObject(family int) int {
	if g.chance(4) {
		return pick(g, 9, 23)
	}
	if family == six || g.chance(10) {
		return pick(g, 5, 6, 7, 8, 26, 27)
	}
	return pick(g, 1, 2, 3, 4, 20, 21, 22)
}

func (g *generator) objects() (lines []string) {
	for id := 1; id <= 9; id++ {
		lines = append(lines, g.object(id, "add"))
	}
	for _, id := range []int{20, 21, 22, 26, 27} {
		lines = append(lines, g.object(id, "add"))
	}
	if g.chance(30) {
		lines = append(lines, g.object(23, "add"))
	}
	return lines
}

func (g *generator) object(id int, verb string) string {
	line := fmt.Sprintf("ip nexthop %s id %d ", verb, id)
	n := g.port()
	switch {
	case id == 9 || id < 9 && g.chance(2):
		return line + "blackhole"
	case id < 5:
		return line + g.objectVia(four, n)
	case id < 9:
		return line + g.objectVia(six, n)
	}
	first := 1
	if id > 25 {
		first = 5
	}
	var members []string
	for _, i := range g.Perm(4)[:1+g.IntN(4)] {
		m := fmt.Sprint(first + i)
		if g.chance(50) {
			m += fmt.Sprintf(",%d", pick(g, 1, 2, 3, 9, 254))
		}
		members = append(members, m)
	}
	line += "group " + strings.Join(members, "/")
	if id == 23 {
		line += " type resilient buckets 8"
	}
	return line
}

func (g *generator) objectVia(family, n int) string {
	switch k := g.IntN(100); {
	case k < 6:
		return "dev " + swp(n)
	case k < 14:
		return fmt.Sprintf("via %s dev %s onlink", far(family, n), swp(n))
	}
	return fmt.Sprintf("via %s dev %s", host(family, n, g.anyHost()), swp(n))
}

// rule adds one; those with an error for an action are narrow, or little would
// be forwarded.
func (g *generator) rule(family int) []string {
	var b strings.Builder
	fmt.Fprintf(&b, "ip %s rule add pref %d", opt(family), pick(g, 90, 100, 110, 120, 130, 140, 150, 200, 32765, 32780))
	narrow := 0
	sel := func(percent int, format string, args ...any) {
		if g.chance(percent) {
			fmt.Fprintf(&b, " "+format, args...)
			narrow++
		}
	}
	if g.chance(15) {
		b.WriteString(" not")
		narrow--
	}
	n := g.port()
	if family == four {
		sel(40, "from %s", pick(g, fmt.Sprintf("10.0.%d.0/24", n), fmt.Sprintf("10.0.%d.%d", n, g.anyHost()), "10.0.0.0/15", fmt.Sprintf("10.0.%d.0/30", n)))
	} else {
		sel(40, "from %s", pick(g, fmt.Sprintf("2001:db8:%d::/64", n), fmt.Sprintf("2001:db8:%d::%x", n, g.anyHost()), "2001:db8::/33"))
	}
	if g.chance(30) {
		p := g.prefix(family)
		sel(100, "to %s", p)
		g.prefixes[family] = append(g.prefixes[family], p)
	}
	sel(25, "iif %s", swp(g.port()))
	sel(3, "iif lo")
	sel(4, "oif %s", swp(g.port()))
	sel(5, "fwmark %#x/%#x", pick(g, 0, 1, 3), pick(g, 1, 3, 0xff))
	sel(6, "tos %#x", pick(g, 0x04, 0x08, 0x10, 0x1c))
	sel(4, "dsfield %#x", pick(g, 0x08, 0x10))
	sel(4, "ipproto %s", pick(g, "udp", "tcp", "icmp", "ipv6-icmp"))
	sel(3, "ipproto udp dport %s", pick(g, "53", "1000-3000", "2000"))
	sel(2, "ipproto udp sport %s", pick(g, "1000", "1-1024"))
	switch k := g.IntN(100); {
	case k < 60 || narrow < 2 && k < 72:
		fmt.Fprintf(&b, " lookup %s", pick(g, "100", "101", "102", "main"))
		// IPv6 routes of one nexthop object share what the first packet's route was
		// (see docs/limits.md), and suppression goes by that.
		if family == four || !g.hops {
			b.WriteString(g.often(25, "suppress_prefixlength %d", pick(g, 0, 0, 12, 16, 24)))
		}
		b.WriteString(g.often(3, "suppress_ifgroup 0"))
	case k < 80:
		fmt.Fprintf(&b, " goto %d", pick(g, 120, 150, 200, 32766, 32780, 9999))
	case k < 86:
		b.WriteString(" nop")
	case narrow > 0:
		b.WriteString(" " + pick(g, "blackhole", "unreachable", "prohibit"))
	default:
		b.WriteString(" lookup 100")
	}
	g.rules = append(g.rules, b.String())
	lines := []string{b.String()}
	if g.chance(4) { // local looked up late, as VRF set-ups do
		lines = append(lines, "ip "+opt(family)+" rule add pref 32764 lookup local", "ip "+opt(family)+" rule del pref 0")
	}
	return lines
}

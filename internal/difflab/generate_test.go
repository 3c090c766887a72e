package difflab

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// generator makes a scenario out of small pools of names, so that lines, changes
// and frames meet. It knows what it wrote, not what the kernel made of it; some
// lines must fail.
type generator struct {
	*rand.Rand
	// What frames are aimed at.
	prefixes [2][]string // destinations of routes and rules, by family
	down     [genPorts + 1]bool
	mtu      [genPorts + 1]int
	bare     [2][genPorts + 1]bool // ports without address
	rules    []string              // rules that stand, to be deleted again
	routes   []string
	hops     bool // nexthop objects are in use
}

// families: index of the pools and the option of `ip`.
const (
	four = 0
	six  = 1
)

func newGenerator(seed uint64) *generator {
	return &generator{Rand: rand.New(rand.NewPCG(seed, 0))}
}

func pick[T any](g *generator, list ...T) T { return list[g.IntN(len(list))] }

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

// often writes s with a chance of p percent.
func (g *generator) often(p int, format string, args ...any) string {
	if g.chance(p) {
		return " " + fmt.Sprintf(format, args...)
	}
	return ""
}

func (g *generator) port() int { return 1 + g.IntN(genPorts) }

func (g *generator) family() int { return pick(g, four, four, six) }

// opt is the option of `ip` for a family.
func opt(family int) string { return [2]string{"-4", "-6"}[family] }

// host is an address on a port's subnet. Hosts 2 to 4 have permanent
// neighbours, 5 has a NOARP one, 6 a stale one, 7 none.
func host(family, port, n int) string {
	if family == four {
		return fmt.Sprintf("10.0.%d.%d", port, n)
	}
	return fmt.Sprintf("2001:db8:%d::%x", port, n)
}

// anyHost is mostly one that can be reached.
func (g *generator) anyHost() int {
	if g.chance(95) {
		return 2 + g.IntN(4)
	}
	return pick(g, 6, 6, 7)
}

// scenario makes a configuration, and changes with frames after each.
func (g *generator) scenario(name string, rounds, frames int) *scenario {
	s := &scenario{name: name}
	for i := range rounds {
		r := round{lines: g.configuration(i)}
		for range frames / rounds {
			r.shots = append(r.shots, g.shot())
		}
		s.rounds = append(s.rounds, r)
	}
	return s
}

func (g *generator) configuration(i int) []string {
	if i > 0 {
		var lines []string
		for range 1 + g.IntN(3) {
			lines = append(lines, g.mutation()...)
		}
		return lines
	}
	lines := g.links()
	lines = append(lines, g.settings()...)
	for n := 1; n <= genPorts; n++ {
		lines = append(lines, g.addresses(n)...)
		lines = append(lines, g.neighbors(n)...)
	}
	if g.hops = g.chance(60); g.hops {
		lines = append(lines, g.objects()...)
	}
	for _, family := range []int{four, six} {
		for range 4 + g.IntN(10) {
			lines = append(lines, g.route(family))
		}
		if g.chance(35) {
			for range 1 + g.IntN(4) {
				lines = append(lines, g.rule(family)...)
			}
		}
	}
	if g.chance(6) {
		lines = append(lines, g.carrier(g.port(), "down"))
	}
	if g.chance(5) {
		lines = append(lines, g.admin(g.port(), "down")...)
	}
	return lines
}

func (g *generator) links() (lines []string) {
	for n := 1; n <= genPorts; n++ {
		g.mtu[n] = 1500
		if g.chance(20) {
			lines = append(lines, g.setMTU(n))
			if g.chance(5) { // IPv6 is not there
				g.mtu[n] = pick(g, 576, 1000, 1279)
				lines = append(lines, fmt.Sprintf("ip link set %s mtu %d", swp(n), g.mtu[n]))
			}
		}
	}
	return lines
}

// setMTU never takes IPv6 off the link, which it does below 1280: its legs are dead
// from then on, for ever, and nothing says so (see docs/limits.md).
func (g *generator) setMTU(n int) string {
	g.mtu[n] = pick(g, 1280, 1300, 1400, 1400, 1499, 1501, 2000)
	return fmt.Sprintf("ip link set %s mtu %d", swp(n), g.mtu[n])
}

func (g *generator) settings() []string {
	lines := []string{fmt.Sprintf("sysctl net/ipv4/fib_multipath_hash_seed=%d", 1+g.Uint32()>>1)}
	for _, family := range []string{"ipv4", "ipv6"} {
		policy := g.IntN(2)
		if g.chance(4) {
			policy += 2
		}
		lines = append(lines, fmt.Sprintf("sysctl net/%s/fib_multipath_hash_policy=%d", family, policy))
	}
	if g.chance(40) {
		for range 1 + g.IntN(4) {
			lines = append(lines, g.setting()...)
		}
	}
	return lines
}

// setting changes one or a few settings that belong together.
func (g *generator) setting() []string {
	dev := swp(g.port())
	one := func(format string, args ...any) []string { return []string{"sysctl " + fmt.Sprintf(format, args...)} }
	conf := func(family string, all int, name string, value int) []string {
		d := dev
		if g.chance(all) {
			d = "all"
		}
		return one("net/%s/conf/%s/%s=%d", family, d, name, value)
	}
	switch g.IntN(24) {
	case 0, 1, 2, 3:
		return conf("ipv4", 20, "rp_filter", pick(g, 0, 1, 1, 2))
	case 4:
		return conf("ipv4", 3, "forwarding", pick(g, 0, 1))
	case 5, 6, 7, 8:
		lines := []string{"sysctl net/ipv4/conf/all/send_redirects=0"}
		for n := 1; n <= genPorts; n++ {
			lines = append(lines, fmt.Sprintf("sysctl net/ipv4/conf/%s/send_redirects=%d", swp(n), g.IntN(5)/4))
		}
		return lines
	case 9, 10:
		// Legs without carrier keep the shares of the setting they lost it under
		// (see docs/limits.md).
		if !slices.Contains(g.down[:], true) {
			return conf("ipv4", 30, "ignore_routes_with_linkdown", g.IntN(2))
		}
	case 11, 12:
		return conf("ipv6", 30, "ignore_routes_with_linkdown", g.IntN(2))
	case 13, 14:
		return conf("ipv4", 40, "accept_local", g.IntN(2))
	case 15:
		return []string{"sysctl net/ipv4/conf/all/bc_forwarding=1", fmt.Sprintf("sysctl net/ipv4/conf/%s/bc_forwarding=1", dev)}
	case 16, 17, 18:
		return conf("ipv6", 0, "forwarding", g.IntN(2))
	case 19:
		return conf("ipv6", 10, "disable_ipv6", g.IntN(2))
	case 20:
		return one("net/ipv%d/fib_multipath_hash_policy=%d", 4+2*g.IntN(2), g.IntN(2))
	case 21:
		return one("net/ipv4/fib_multipath_hash_seed=%d", 1+g.Uint32()>>1)
	case 22:
		if g.chance(20) {
			return one("net/ipv6/conf/all/forwarding=%d", g.IntN(2))
		}
		return one("net/ipv6/route/skip_notify_on_dev_down=%d", g.IntN(2))
	}
	return one("net/ipv4/nexthop_compat_mode=%d", g.IntN(2))
}

func (g *generator) addresses(n int) (lines []string) {
	for _, family := range []int{four, six} {
		if g.bare[family][n] = g.chance(8); g.bare[family][n] {
			continue
		}
		lines = append(lines, address(family, n))
		if g.chance(12) {
			lines = append(lines, fmt.Sprintf("ip addr add %s dev %s nodad", pick(g, extra(family, n)...), swp(n)))
		}
	}
	return lines
}

func address(family, n int) string {
	if family == four {
		return fmt.Sprintf("ip addr add 10.0.%d.1/24 brd + dev %s", n, swp(n))
	}
	return fmt.Sprintf("ip addr add 2001:db8:%d::1/64 dev %s nodad", n, swp(n))
}

// extra are further addresses of a port.
func extra(family, n int) []string {
	if family == four {
		return []string{fmt.Sprintf("10.0.%d.129/25", n), fmt.Sprintf("10.1.%d.1/30 brd +", n), fmt.Sprintf("10.1.%d.4/31", n),
			fmt.Sprintf("10.1.%d.9/32", n), fmt.Sprintf("10.0.%d.1/16", n), fmt.Sprintf("10.0.%d.9/24", n)}
	}
	return []string{fmt.Sprintf("2001:db8:%d::81/121", n), fmt.Sprintf("2001:db8:1%d::1/127", n), fmt.Sprintf("2001:db8:1%d::9/128", n),
		fmt.Sprintf("2001:db8:%d::9/64", n), fmt.Sprintf("fe80::%d/64", n)}
}

func (g *generator) neighbors(n int) (lines []string) {
	for _, family := range []int{four, six} {
		for h := 2; h <= 6; h++ {
			nud := "permanent"
			switch h {
			case 5:
				nud = "noarp"
			case 6:
				nud = pick(g, "stale", "reachable", "permanent")
			}
			lines = append(lines, neighbor(family, n, h, n, nud))
		}
		lines = append(lines, fmt.Sprintf("ip neigh replace %s lladdr 02:00:00:00:99:%02x dev %s nud permanent", far(family, n), n, swp(n)))
	}
	return lines
}

// far is a gateway on no subnet of the router, for onlink routes.
func far(family, n int) string {
	if family == four {
		return fmt.Sprintf("10.99.%d.2", n)
	}
	return fmt.Sprintf("2001:db8:99:%d::2", n)
}

func neighbor(family, n, h, mac int, nud string) string {
	return fmt.Sprintf("ip neigh replace %s lladdr 02:00:00:00:%02x:%02x dev %s nud %s", host(family, n, h), 0x10+mac, h, swp(n), nud)
}

// carrier changes the other end of a port's cable.
func (g *generator) carrier(n int, to string) string {
	g.down[n] = to == "down"
	return fmt.Sprintf("wire link set w%d %s", n, to)
}

// admin takes a port down, or up with the IPv6 addresses and neighbours it lost.
func (g *generator) admin(n int, to string) []string {
	lines := []string{fmt.Sprintf("ip link set %s %s", swp(n), to)}
	if g.down[n] = to == "down"; !g.down[n] && g.chance(80) {
		if !g.bare[six][n] {
			lines = append(lines, address(six, n))
		}
		lines = append(lines, g.neighbors(n)...)
	}
	return lines
}

// mutation is one change.
func (g *generator) mutation() []string {
	if n := slices.Index(g.down[:], true); n > 0 && g.chance(40) {
		return append([]string{g.carrier(n, "up")}, g.admin(n, "up")...)
	}
	n, family := g.port(), g.family()
	switch k := g.IntN(100); {
	case k < 26:
		return []string{g.route(family)}
	case k < 40 && len(g.routes) > 0:
		return []string{strings.Replace(pick(g, g.routes...), " route add ", " route del ", 1)}
	case k < 50:
		return []string{g.changeNeighbor(family, n)}
	case k < 56:
		return g.rule(family)
	case k < 62 && len(g.rules) > 0:
		i := g.IntN(len(g.rules))
		line := strings.Replace(g.rules[i], " rule add ", " rule del ", 1)
		g.rules = slices.Delete(g.rules, i, i+1)
		return []string{line}
	case k < 74 && g.hops:
		if g.chance(25) {
			return []string{fmt.Sprintf("ip nexthop del id %d", pick(g, 1, 2, 3, 4, 5, 6, 7, 8, 20, 21, 22, 26, 27))}
		}
		return []string{g.object(pick(g, 1, 2, 3, 4, 5, 6, 7, 8, 20, 21, 22, 26, 27), "replace")}
	case k < 79:
		return g.admin(n, pick(g, "down", "down", "up"))
	case k < 83:
		return []string{g.carrier(n, "down")}
	case k < 87:
		return []string{strings.Replace(strings.Replace(address(family, n), "add", pick(g, "del", "add"), 1), " brd +", "", 1)}
	case k < 89:
		return []string{fmt.Sprintf("ip addr %s %s dev %s", pick(g, "add", "add", "del"), strings.TrimSuffix(pick(g, extra(family, n)...), " brd +"), swp(n))}
	case k < 92:
		return []string{g.setMTU(n)}
	}
	return g.setting()
}

func (g *generator) changeNeighbor(family, n int) string {
	h := 2 + g.IntN(6)
	switch g.IntN(4) {
	case 0:
		return fmt.Sprintf("ip neigh del %s dev %s", host(family, n, h), swp(n))
	case 1:
		return neighbor(family, n, h, n, pick(g, "stale", "noarp", "reachable", "failed", "permanent"))
	}
	return neighbor(family, n, h, 8+g.IntN(8), "permanent")
}

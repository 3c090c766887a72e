package truth

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// op is one operation. Lines are for `ip` in the namespace, unless other does
// something else; then they only describe it.
type op struct {
	kind  string
	lines []string
	other func(*world) error
}

func (o op) String() string { return o.kind + ": " + strings.Join(o.lines, "; ") }

// generator makes operations out of small pools of names, so that they meet each
// other; some must fail. It knows nothing of the kernel's state.
type generator struct {
	*rand.Rand
	w *world
}

func newGenerator(w *world, seed uint64) *generator {
	return &generator{Rand: rand.New(rand.NewPCG(seed, 0)), w: w}
}

// deviceNames are all that a link of the namespace may be called.
func deviceNames() []string {
	names := []string{"lo", "va", "vap", "vb", "vbp", "br0", "ren0", "ren1"}
	for i := range ports {
		names = append(names, fmt.Sprintf("swp%d", i+1))
	}
	return names
}

func pick[T any](g *generator, list ...T) T { return list[g.IntN(len(list))] }

// often writes s with a chance of p percent.
func (g *generator) often(p int, s string) string {
	if g.IntN(100) < p {
		return " " + s
	}
	return ""
}

func (g *generator) port() int { return 1 + g.IntN(control-1) }

// dev is a link that tests may touch, mostly a port.
func (g *generator) dev() string {
	if g.IntN(4) > 0 {
		return fmt.Sprintf("swp%d", g.port())
	}
	return pick(g, "va", "vap", "vb", "vbp", "br0", "ren0", "ren1")
}

func (g *generator) addr(family int) string {
	if family == 4 {
		return fmt.Sprintf("10.%d.%d.%d", g.port(), g.IntN(2), 1+g.IntN(5))
	}
	return fmt.Sprintf("fd0%d::%x", g.port(), 1+g.IntN(5))
}

func (g *generator) gateway(family int) string {
	if family == 4 {
		return fmt.Sprintf("10.%d.%d.%d", g.port(), g.IntN(8)/7, 9+g.IntN(3))
	}
	return fmt.Sprintf("fd0%d::%x", g.port(), 9+g.IntN(3))
}

func (g *generator) prefix(family int) string {
	if family == 4 {
		return pick(g, fmt.Sprintf("20.0.%d.0/24", g.IntN(6)), "20.0.0.0/16", fmt.Sprintf("20.0.0.%d", g.IntN(3)), fmt.Sprintf("20.%d.0.0/16", g.IntN(4)), "21.0.0.0/8")
	}
	return pick(g, fmt.Sprintf("fd99:%x::/48", g.IntN(6)), "fd99::/32", fmt.Sprintf("fd99::%x", g.IntN(3)), fmt.Sprintf("fd99:1:%x::/64", g.IntN(4)))
}

func (g *generator) family() int { return pick(g, 4, 4, 6) }

func (g *generator) table() string {
	return g.often(25, "table "+pick(g, "100", "1000", "70000", "local"))
}

func (g *generator) nhid() int { return 1 + g.IntN(8) }

func (g *generator) groupID() int { return 20 + g.IntN(4) }

// next makes an operation.
func (g *generator) next() op {
	line := func(kind, format string, args ...any) op {
		return op{kind: kind, lines: []string{fmt.Sprintf(format, args...)}}
	}
	switch n := g.IntN(100); {
	case n < 20:
		return g.link()
	case n < 32:
		return g.address()
	case n < 62:
		return line("route", "%s", g.route())
	case n < 69:
		return line("neighbor", "%s", g.neighbor())
	case n < 82:
		return line("nexthop", "%s", g.nexthop())
	case n < 90:
		return line("rule", "%s", g.rule())
	case n < 94:
		return g.namespace()
	}
	return g.setting()
}

func (g *generator) link() op {
	o := op{kind: "link"}
	dev := g.dev()
	switch g.IntN(14) {
	case 0, 1, 2:
		o.lines = []string{"link set " + dev + " up"}
	case 3, 4:
		o.lines = []string{"link set " + dev + " down"}
	case 5:
		o.kind = "carrier"
		line := fmt.Sprintf("link set w%d %s", g.port(), pick(g, "up", "down"))
		o.other = func(w *world) error { _, _, _, err := ipBatch(w.wire, []string{line}); return err }
		o.lines = []string{"# wire: " + line}
	case 6:
		o.lines = []string{fmt.Sprintf("link set %s mtu %d", dev, pick(g, 1500, 1400, 1300, 1280, 1000))}
	case 7:
		o.lines = []string{fmt.Sprintf("link set %s address 02:00:00:00:02:%02x", dev, g.IntN(16))}
	case 8:
		v := pick(g, "va", "vb")
		o.lines = []string{"link add " + v + " type veth peer name " + v + "p", "link set " + v + " up", "link set " + v + "p up"}
	case 9:
		o.lines = []string{"link del " + pick(g, "va", "vb", "br0", dev)}
	case 10:
		o.lines = []string{"link set " + dev + " name " + pick(g, "ren0", "ren1", fmt.Sprintf("swp%d", g.port()))}
	case 11:
		o.lines = []string{"link add br0 type bridge", "link set br0 up"}
	case 12:
		o.lines = []string{"link set " + dev + " " + pick(g, "master br0", "nomaster")}
	case 13:
		o.kind = "port"
		o.lines = g.w.portLines(g.port())
	}
	return o
}

func (g *generator) address() op {
	f := g.family()
	bits := map[int]string{4: "/24", 6: "/64"}[f]
	do := pick(g, "add", "add", "add", "del", "replace")
	switch g.IntN(6) {
	case 0:
		return op{kind: "address", lines: []string{fmt.Sprintf("addr %s %s peer %s%s dev %s", do, g.addr(f), g.gateway(f), pick(g, "", bits), g.dev())}}
	case 1:
		return op{kind: "address", lines: []string{"addr flush dev " + g.dev()}}
	}
	extra := ""
	if do != "del" {
		extra = g.often(10, "metric 50") + g.often(10, "noprefixroute") + g.often(5, "valid_lft 4000 preferred_lft 3000")
		if f == 6 {
			extra += g.often(70, "nodad")
		}
	}
	return op{kind: "address", lines: []string{fmt.Sprintf("addr %s %s%s dev %s%s", do, g.addr(f), bits, g.dev(), extra)}}
}

func (g *generator) route() string {
	f := g.family()
	verb := pick(g, "add", "add", "add", "replace", "replace", "append", "prepend", "del", "del")
	if verb == "del" && g.IntN(3) == 0 {
		return "route del " + g.prefix(f) + g.table()
	}
	head := fmt.Sprintf("route %s ", verb)
	tail := g.table() + g.often(25, fmt.Sprintf("metric %d", pick(g, 5, 10, 1024))) + g.often(10, "proto "+pick(g, "bgp", "zebra", "static"))
	if f == 4 {
		tail += g.often(6, "tos 0x10")
	}
	via := func() string {
		switch {
		case f == 4 && g.IntN(8) == 0:
			return fmt.Sprintf("via inet6 %s dev swp%d", g.gateway(6), g.port())
		case g.IntN(8) == 0:
			return "dev " + g.dev()
		case g.IntN(8) == 0:
			return "via " + g.gateway(f) + " dev " + g.dev() + g.often(50, "onlink")
		}
		return "via " + g.gateway(f)
	}
	switch g.IntN(10) {
	case 0, 1, 2:
		legs := ""
		for range 2 + g.IntN(2) {
			legs += " nexthop " + via() + g.often(30, fmt.Sprintf("weight %d", 1+g.IntN(4)))
		}
		return head + g.prefix(f) + tail + legs
	case 3, 4:
		return head + g.prefix(f) + fmt.Sprintf(" nhid %d", pick(g, g.nhid(), g.groupID())) + tail
	case 5:
		return head + pick(g, "blackhole", "unreachable", "prohibit", "throw") + " " + g.prefix(f) + tail
	}
	tail += g.often(8, "src "+g.addr(f)) + g.often(8, fmt.Sprintf("mtu %d", pick(g, 1400, 1300)))
	dst := g.prefix(f)
	if g.IntN(12) == 0 && f == 6 {
		dst = "default"
	}
	return head + dst + " " + via() + tail
}

func (g *generator) neighbor() string {
	f := g.family()
	if g.IntN(6) == 0 {
		return fmt.Sprintf("neigh %s proxy %s dev %s", pick(g, "add", "del"), g.gateway(f), g.dev())
	}
	if g.IntN(4) == 0 {
		return fmt.Sprintf("neigh del %s dev %s", g.gateway(f), g.dev())
	}
	state := pick(g, "permanent", "permanent", "reachable", "stale", "noarp", "delay", "probe", "failed", "incomplete", "none")
	return fmt.Sprintf("neigh %s %s dev %s lladdr 02:00:00:00:03:%02x nud %s%s", pick(g, "add", "replace", "change"), g.gateway(f), g.dev(),
		g.IntN(8), state, g.often(10, "extern_learn")+g.often(10, "router"))
}

func (g *generator) nexthop() string {
	verb := pick(g, "add", "add", "replace", "replace")
	f := g.family()
	switch g.IntN(9) {
	case 0, 1:
		return fmt.Sprintf("nexthop del id %d", pick(g, g.nhid(), g.nhid(), g.groupID()))
	case 2, 3:
		members := fmt.Sprint(g.nhid(), g.often(30, ",2"))
		members = strings.ReplaceAll(members, " ", "")
		for range g.IntN(3) {
			members += fmt.Sprintf("/%d", g.nhid())
		}
		kind := ""
		if g.IntN(5) == 0 {
			kind = " type resilient buckets 8 idle_timer 60"
		}
		return fmt.Sprintf("nexthop %s id %d group %s%s", verb, g.groupID(), members, kind)
	case 4:
		return fmt.Sprintf("nexthop %s id %d blackhole", verb, g.nhid())
	case 5:
		return fmt.Sprintf("nexthop %s id %d dev %s", verb, g.nhid(), g.dev())
	}
	port := g.port()
	gw := fmt.Sprintf("10.%d.0.%d", port, 9+g.IntN(3))
	if f == 6 {
		gw = fmt.Sprintf("fd0%d::%x", port, 9+g.IntN(3))
	}
	return fmt.Sprintf("nexthop %s id %d via %s dev swp%d%s", verb, g.nhid(), gw, port, g.often(20, "proto bgp")+g.often(10, "onlink"))
}

func (g *generator) rule() string {
	f := g.family()
	pref := 100 + g.IntN(6)
	if g.IntN(3) == 0 {
		return fmt.Sprintf("rule del pref %d", pref)
	}
	if f == 6 {
		return fmt.Sprintf("rule add pref %d%s%s%s%s lookup %s", pref, g.often(10, "not"), " from "+g.prefix(6), g.often(40, "to "+g.prefix(6)),
			g.often(30, "iif "+g.dev()), pick(g, "100", "1000", "70000", "main"))
	}
	action := pick(g, "lookup 100", "lookup 1000", "lookup 70000", "lookup main suppress_prefixlength 0", "blackhole", "prohibit", "unreachable", "goto 32766", "goto 105", "nop")
	return fmt.Sprintf("rule add pref %d%s%s%s%s%s%s%s%s%s %s", pref, g.often(10, "not"), " from "+pick(g, "all", g.prefix(4)), g.often(40, "to "+g.prefix(4)),
		g.often(30, "iif "+g.dev()), g.often(15, "oif "+g.dev()), g.often(15, "fwmark 0x10/0xff"), g.often(15, "tos 0x10"),
		g.often(15, "ipproto "+pick(g, "tcp sport 80", "udp dport 1000-2000", "icmp")), g.often(10, "uidrange 5-10"), action)
}

// namespace makes, fills, empties and deletes other namespaces.
func (g *generator) namespace() op {
	name := fmt.Sprintf("%s-%c", g.w.ns.Name(), 'a'+g.IntN(2))
	dev := g.dev()
	switch g.IntN(5) {
	case 0:
		return g.outside("netns", "netns", "add", name)
	case 1:
		return g.outside("netns", "netns", "del", name)
	case 2:
		return g.outside("netns", "-n", name, "link", "set", dev, "netns", g.w.ns.Name())
	}
	return op{kind: "netns", lines: []string{fmt.Sprintf("link set %s netns %s", dev, name)}}
}

// outside is one `ip` command that is no line of a batch. It may fail.
func (g *generator) outside(kind string, args ...string) op {
	return op{kind: kind, lines: []string{"# ip " + strings.Join(args, " ")}, other: func(w *world) error {
		w.ns.Try("ip", args...) // failing is part of the game
		return nil
	}}
}

// setting writes a sysctl; the link may be missing.
func (g *generator) setting() op {
	onOff := fmt.Sprint(g.IntN(2))
	where := pick(g, "all", "default", g.dev())
	s := pick(g,
		[2]string{"net/ipv4/conf/" + where + "/forwarding", onOff},
		[2]string{"net/ipv6/conf/" + where + "/forwarding", onOff},
		[2]string{"net/ipv4/conf/" + where + "/rp_filter", fmt.Sprint(g.IntN(3))},
		[2]string{"net/ipv4/conf/" + where + "/ignore_routes_with_linkdown", onOff},
		[2]string{"net/ipv6/conf/" + where + "/ignore_routes_with_linkdown", onOff},
		[2]string{"net/ipv6/conf/" + where + "/keep_addr_on_down", onOff},
		[2]string{"net/ipv4/nexthop_compat_mode", onOff},
		[2]string{"net/ipv6/route/skip_notify_on_dev_down", onOff},
	)
	return op{kind: "sysctl", lines: []string{"# " + s[0] + "=" + s[1]}, other: func(w *world) error {
		w.sysctl(s[0], s[1]) // no such link: nothing to set
		return nil
	}}
}

// perform does operations in order and counts the lines that the kernel refused.
// Each is a process of its own: `ip -batch` ends at a name that does not exist.
func (w *world) perform(ops []op) (failed int, err error) {
	for _, o := range ops {
		if o.other != nil {
			if err := o.other(w); err != nil {
				return failed, err
			}
			continue
		}
		for _, line := range o.lines {
			if _, err := w.ns.Try("ip", strings.Fields(line)...); err != nil {
				failed++
			}
		}
	}
	return failed, nil
}

package truth

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"antiphon/agent"
	"antiphon/hwmodel"
)

// held reads the device back.
func (w *world) held() (*hwmodel.Entries, error) {
	return agent.ReadBack(context.Background(), w.pipe)
}

// way is what a forwarding route of the device comes to: the live legs' gateways,
// "direct" for none.
type way struct {
	table  uint32
	prefix netip.Prefix
	legs   []string
}

func (w way) String() string {
	return fmt.Sprintf("table %d %s by %s", w.table, w.prefix, strings.Join(w.legs, ", "))
}

// ways are the device's forwarding routes.
func ways(e *hwmodel.Entries) []way {
	hops := map[hwmodel.NextHopID]hwmodel.NextHop{}
	for _, h := range e.NextHops {
		hops[h.ID] = h
	}
	groups := map[hwmodel.GroupID]hwmodel.Group{}
	for _, g := range e.Groups {
		groups[g.ID] = g
	}
	var all []way
	for _, r := range e.Routes {
		if r.Action != hwmodel.RouteForward {
			continue
		}
		x := way{table: uint32(r.Table), prefix: r.Prefix}
		for _, l := range groups[r.Group].Legs {
			h, ok := hops[l.NextHop]
			if !ok || l.Dead || h.Trap != hwmodel.ReasonNone {
				continue
			}
			leg := "direct"
			if h.Gateway.IsValid() {
				leg = h.Gateway.String()
			}
			x.legs = append(x.legs, leg)
		}
		if len(x.legs) > 0 {
			all = append(all, x)
		}
	}
	return all
}

// ghosts are the device's forwarding routes that the kernel does not have, or not
// by these legs.
func ghosts(e *hwmodel.Entries, kernel snapshot) (found []string) {
	best := map[string][]string{}
	for _, kind := range []string{routes4, routes6} {
		metric := map[string]float64{}
		for _, o := range kernel[kind] {
			if o["tos"] != nil {
				continue
			}
			k := routeName(kind, o)
			m, _ := o["metric"].(float64)
			if old, ok := metric[k]; ok && (m > old || m == old && kind == routes4) {
				continue // a worse one, or an alias that is not the first
			} else if ok && m == old {
				best[k] = append(best[k], kernel.legs(o)...) // an IPv6 sibling
				continue
			}
			metric[k], best[k] = m, kernel.legs(o)
		}
	}
	for _, x := range ways(e) {
		legs, ok := best[fmt.Sprint(x.table, " ", x.prefix)]
		if !ok && x.table == 254 && kernel.localFirst(x.prefix) {
			// The device's main table carries the local table's prefixes too.
			legs, ok = best[fmt.Sprint(255, " ", x.prefix)]
		}
		switch {
		case !ok:
			found = append(found, fmt.Sprintf("the device forwards by a route that the kernel does not have: %s; it has %s", x, kernel.named(x)))
		case slices.ContainsFunc(x.legs, func(l string) bool { return !slices.Contains(legs, l) }):
			found = append(found, fmt.Sprintf("the device forwards by other legs than the kernel's %q: %s; it has %s", legs, x, kernel.named(x)))
		}
	}
	return found
}

// localFirst says whether every lookup begins in the local table.
func (s snapshot) localFirst(p netip.Prefix) bool {
	kind := rules6
	if p.Addr().Is4() {
		kind = rules4
	}
	return slices.ContainsFunc(s[kind], func(o object) bool {
		return o["priority"] == float64(0) && o["table"] == "local" && o["src"] == "all" && len(o) == 3
	})
}

// named are the kernel's routes of a device route's table and prefix.
func (s snapshot) named(x way) string {
	var all []any
	for _, kind := range []string{routes4, routes6} {
		for _, o := range s[kind] {
			if routeName(kind, o) == fmt.Sprint(x.table, " ", x.prefix) {
				all = append(all, o)
			}
		}
	}
	return text(all)
}

// routeName is "table prefix" of a route as iproute2 prints it.
func routeName(kind string, o object) string {
	table := o["table"]
	switch table {
	case nil, "main":
		table = 254
	case "local":
		table = 255
	case "default":
		table = 253
	}
	dst, _ := o["dst"].(string)
	if dst == "default" {
		dst = map[string]string{routes4: "0.0.0.0/0", routes6: "::/0"}[kind]
	}
	p, err := netip.ParsePrefix(dst)
	if err != nil {
		a, err := netip.ParseAddr(dst)
		if err != nil {
			return fmt.Sprint(table, " ", dst)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	return fmt.Sprint(table, " ", p)
}

// legs are the live gateways of a route; none if it is no unicast route.
func (s snapshot) legs(o object) (legs []string) {
	if o["type"] != nil || hasFlag(o, "dead") {
		return nil
	}
	if list, ok := o["nexthops"].([]any); ok {
		for _, l := range list {
			if !hasFlag(l.(object), "dead") {
				legs = append(legs, gateway(l.(object)))
			}
		}
		return legs
	}
	if o["nhid"] != nil && o["gateway"] == nil && o["via"] == nil {
		return s.members(o["nhid"])
	}
	return []string{gateway(o)}
}

// members are the gateways of a nexthop object or group.
func (s snapshot) members(id any) (legs []string) {
	for _, o := range s[nexthops] {
		if o["id"] != id {
			continue
		}
		if group, ok := o["group"].([]any); ok {
			for _, m := range group {
				legs = append(legs, s.members(m.(object)["id"])...)
			}
		} else if _, dead := o["blackhole"]; !dead {
			legs = append(legs, gateway(o))
		}
	}
	return legs
}

func gateway(o object) string {
	if g, ok := o["gateway"].(string); ok {
		return g
	}
	if via, ok := o["via"].(object); ok {
		if h, ok := via["host"].(string); ok {
			return h
		}
	}
	return "direct"
}

func hasFlag(o object, flag string) bool {
	flags, _ := o["flags"].([]any)
	return slices.Contains(flags, any(flag))
}

// ipv4Frame is a UDP packet without payload.
func ipv4Frame(dmac [6]byte, src, dst string) []byte {
	f := append(dmac[:], 2, 0, 0, 0, 9, 9, 0x08, 0x00)
	ip := []byte{0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0}
	s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	ip = append(append(ip, s[:]...), d[:]...)
	var sum uint32
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
	f = append(f, ip...)
	return append(f, 0, 9, 0, 9, 0, 8, 0, 0)
}

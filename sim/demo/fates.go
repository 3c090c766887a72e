package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// kernelRoute is a route as `ip -j route show table all` prints it.
type kernelRoute struct {
	Type    string `json:"type"`
	Dst     string `json:"dst"`
	Table   string `json:"table"`
	TOS     string `json:"tos"`
	Dev     string `json:"dev"`
	Gateway string `json:"gateway"`
	Via     *struct {
		Host string `json:"host"`
	} `json:"via"`
	NHID     int         `json:"nhid"`
	Metric   int         `json:"metric"`
	Nexthops []kernelHop `json:"nexthops"`
	Flags    []string    `json:"flags"`
	Fate     string      `json:"fate"`   // the product's answer only
	Reason   string      `json:"reason"` // likewise
}

type kernelHop struct {
	Dev     string `json:"dev"`
	Gateway string `json:"gateway"`
}

// name identifies the route among all routes of its family.
func (r *kernelRoute) name() string {
	table := r.Table
	if table == "" {
		table = "main"
	}
	return strings.TrimSpace(fmt.Sprintf("%s table %s metric %d tos %s dev %s", r.Dst, table, r.Metric, r.TOS, r.singleDev()))
}

// singleDev tells same-metric IPv6 routes of several devices apart.
func (r *kernelRoute) singleDev() string {
	if strings.Contains(r.Dst, ":") {
		return r.Dev
	}
	return ""
}

type kernelNeighbor struct {
	Dst   string   `json:"dst"`
	Dev   string   `json:"dev"`
	State []string `json:"state"`
}

type kernelNexthop struct {
	ID      int    `json:"id"`
	Gateway string `json:"gateway"`
	Dev     string `json:"dev"`
	Group   []struct {
		ID int `json:"id"`
	} `json:"group"`
}

// oracle is the router's state as iproute2 tells it.
type oracle struct {
	ports     map[string]bool
	routes    []kernelRoute
	neighbors map[string]bool // "ADDR dev D" that can be sent to
	objects   map[int]kernelNexthop
}

func (n *network) oracle(ctx context.Context) (*oracle, error) {
	o := &oracle{ports: map[string]bool{}, neighbors: map[string]bool{}, objects: map[int]kernelNexthop{}}
	for i := 1; i <= hosts; i++ {
		o.ports[swp(i)] = true
	}
	for _, family := range []string{"-4", "-6"} {
		var rs []kernelRoute
		if err := n.query(ctx, &rs, family, "route", "show", "table", "all"); err != nil {
			return nil, err
		}
		o.routes = append(o.routes, rs...)
		var ns []kernelNeighbor
		if err := n.query(ctx, &ns, family, "neigh", "show"); err != nil {
			return nil, err
		}
		for _, x := range ns {
			for _, s := range x.State {
				if s != "INCOMPLETE" && s != "FAILED" && s != "NONE" {
					o.neighbors[x.Dst+" dev "+x.Dev] = true
				}
			}
		}
	}
	var hs []kernelNexthop
	if err := n.query(ctx, &hs, "nexthop", "show"); err != nil {
		return nil, err
	}
	for _, h := range hs {
		o.objects[h.ID] = h
	}
	return o, nil
}

// offloaded says, by the case table alone, whether the device carries the route.
func (o *oracle) offloaded(r *kernelRoute) bool {
	if r.Type == "blackhole" {
		return r.TOS == "" && !o.shadowed(r)
	}
	if r.Type != "" && r.Type != "unicast" && r.Type != "throw" || o.tosSibling(r) || o.shadowed(r) {
		return false
	}
	if r.Type == "throw" {
		return true
	}
	for _, h := range o.hops(r) {
		if !o.ports[h.Dev] {
			continue
		}
		if h.Gateway == "" || o.neighbors[h.Gateway+" dev "+h.Dev] {
			return true
		}
	}
	return false
}

func (o *oracle) hops(r *kernelRoute) []kernelHop {
	if r.NHID != 0 {
		var out []kernelHop
		object := o.objects[r.NHID]
		for _, m := range object.Group {
			out = append(out, kernelHop{o.objects[m.ID].Dev, o.objects[m.ID].Gateway})
		}
		if len(object.Group) == 0 {
			out = append(out, kernelHop{object.Dev, object.Gateway})
		}
		return out
	}
	if len(r.Nexthops) > 0 {
		return r.Nexthops
	}
	gw := r.Gateway
	if r.Via != nil {
		gw = r.Via.Host
	}
	return []kernelHop{{r.Dev, gw}}
}

// tosSibling: routes with a TOS make every route of their prefix trap.
func (o *oracle) tosSibling(r *kernelRoute) bool {
	for i := range o.routes {
		if s := &o.routes[i]; s.Dst == r.Dst && s.Table == r.Table && s.TOS != "" {
			return true
		}
	}
	return false
}

// shadowed: a route of lower metric is in use.
func (o *oracle) shadowed(r *kernelRoute) bool {
	for i := range o.routes {
		if s := &o.routes[i]; s.Dst == r.Dst && s.Table == r.Table && s.Metric < r.Metric {
			return true
		}
	}
	return false
}

// checkFates compares what the product says of every route with the oracle.
func (n *network) checkFates(ctx context.Context) (checked int, wrong []string, err error) {
	o, err := n.oracle(ctx)
	if err != nil {
		return 0, nil, err
	}
	out, err := n.cli(ctx, "show", "route", "-j")
	if err != nil {
		return 0, nil, err
	}
	var mine []kernelRoute
	if err := json.Unmarshal(out, &mine); err != nil {
		return 0, nil, fmt.Errorf("antiphon show route -j: %w", err)
	}
	said := map[string]*kernelRoute{}
	for i := range mine {
		said[mine[i].name()] = &mine[i]
	}
	for i := range o.routes {
		r := &o.routes[i]
		got := said[r.name()]
		want := "trapped"
		if o.offloaded(r) {
			want = "offloaded"
		}
		checked++
		switch {
		case got == nil:
			wrong = append(wrong, fmt.Sprintf("the kernel has %s, antiphon does not show it", r.name()))
		case got.Fate != want:
			wrong = append(wrong, fmt.Sprintf("%s: antiphon says %s (%s), the case table says %s", r.name(), got.Fate, got.Reason, want))
		}
		delete(said, r.name())
	}
	for name := range said {
		wrong = append(wrong, "antiphon shows "+name+", which the kernel does not have")
	}
	return checked, wrong, nil
}

// tableText is iproute2's word for a table.
func tableText(id uint32) string {
	if id == 254 {
		return "main"
	}
	return strconv.Itoa(int(id))
}

func prefixText(p netip.Prefix) string {
	if p.Bits() == 0 {
		return "default"
	}
	return p.String()
}

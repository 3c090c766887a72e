package api

import (
	"fmt"
	"slices"

	"antiphon/agent"
	"antiphon/agent/resolve"
	"antiphon/hwmodel"
	"antiphon/netstate"
	"antiphon/netstate/ipjson"
)

// item is one message of a mirrored row with what the agent knows about it.
type item struct {
	row   *netstate.Row
	index int // in row.Group
	fate  resolve.Fate
	count resolve.ObjectCount
}

// names resolves interfaces, outside of the agent's loop.
type names struct {
	rows    map[uint32]*netstate.Row
	decoded map[uint32]*netstate.Link
	dead    func(index uint32, family uint8) bool
	rules   map[rulePref]bool
}

// rulePref is a preference at which a rule stands.
type rulePref struct {
	family uint8
	pref   uint32
}

// snapshotNames remembers the links of a view.
func snapshotNames(w agent.View) *names {
	n := &names{rows: map[uint32]*netstate.Row{}, decoded: map[uint32]*netstate.Link{}, rules: map[rulePref]bool{}}
	for row := range w.Rows(netstate.KindLink) {
		n.rows[row.Key.ID] = row
	}
	for row := range w.Rows(netstate.KindRule) {
		n.rules[rulePref{row.Key.Family, row.Key.Prio}] = true
	}
	settings := w.Settings()
	n.dead = func(index uint32, family uint8) bool { return ignoreLinkdown(settings, n.name(index), family) }
	return n
}

func (n *names) link(index uint32) *netstate.Link {
	if l, ok := n.decoded[index]; ok {
		return l
	}
	var l *netstate.Link
	if row := n.rows[index]; row != nil {
		l = new(netstate.Link)
		if l.Decode(row.Group[0]) != nil {
			l = nil
		}
	}
	n.decoded[index] = l
	return l
}

func (n *names) name(index uint32) string {
	if l := n.link(index); l != nil {
		return l.Name
	}
	return fmt.Sprintf("if%d", index)
}

// find returns the link of a name or alternative name; "antiphon-swp1" and the
// port's own name "swp1" are names of the representor too.
func (n *names) find(name string) (*netstate.Link, bool) {
	var alt *netstate.Link
	for index := range n.rows {
		l := n.link(index)
		switch {
		case l == nil:
		case l.Name == name:
			return l, true
		case slices.Contains(l.AltNames, name), slices.Contains(l.AltNames, netstate.PortAltName+name):
			alt = l
		}
	}
	return alt, alt != nil
}

func (n *names) context() ipjson.Context {
	return ipjson.Context{Link: n.link, IgnoreLinkdown: n.dead}
}

// ignoreLinkdown is ignore_routes_with_linkdown as the kernel combines it.
func ignoreLinkdown(s *netstate.Settings, dev string, family uint8) bool {
	const name = ".ignore_routes_with_linkdown"
	if family == familyIPv6 {
		return settingOn(s, "net.ipv6.conf."+dev+name)
	}
	return settingOn(s, "net.ipv4.conf.all"+name) || settingOn(s, "net.ipv4.conf."+dev+name)
}

// setting returns a sysctl's value.
func setting(s *netstate.Settings, name string) (string, bool) {
	if s != nil {
		for _, x := range s.Settings {
			if x.Name == name {
				return x.Value, true
			}
		}
	}
	return "", false
}

func settingOn(s *netstate.Settings, name string) bool {
	v, ok := setting(s, name)
	return ok && v != "0"
}

// Address families, include/linux/socket.h.
const (
	familyIPv4 = 2
	familyIPv6 = 10
)

// object writes a message as iproute2 does, with what the agent knows.
func (n *names) object(it item) (ipjson.Object, error) {
	o, err := n.kernelObject(it.row.Key.Kind, it.row.Group[it.index])
	if err != nil {
		return nil, err
	}
	o.Set("fate", it.fate.Standing.String())
	o.Set("reason", reasonText(it.fate.Reason))
	if it.fate.Detail != "" {
		o.Set("detail", it.fate.Detail)
	}
	o.Set("packets", it.count.Packets)
	o.Set("bytes", it.count.Bytes)
	o.Set("seq", it.row.Seq)
	return o, nil
}

// reasonText is a reason for JSON: empty when there is none.
func reasonText(r hwmodel.Reason) string {
	if r == hwmodel.ReasonNone {
		return ""
	}
	return r.String()
}

// kernelObject writes a message as iproute2 does.
func (n *names) kernelObject(kind netstate.Kind, raw []byte) (ipjson.Object, error) {
	c := n.context()
	switch kind {
	case netstate.KindLink:
		var d netstate.Link
		if err := d.Decode(raw); err != nil {
			return nil, err
		}
		return ipjson.Link(&d, c), nil
	case netstate.KindAddr:
		var d netstate.Addr
		if err := d.Decode(raw); err != nil {
			return nil, err
		}
		return append(ipjson.Object{{Key: "ifindex", Value: d.Index}, {Key: "ifname", Value: n.name(d.Index)}}, ipjson.Address(&d)...), nil
	case netstate.KindNeighbor:
		var d netstate.Neighbor
		if err := d.Decode(raw); err != nil {
			return nil, err
		}
		return ipjson.Neighbor(&d, c), nil
	case netstate.KindRoute:
		var d netstate.Route
		if err := d.Decode(raw); err != nil {
			return nil, err
		}
		return ipjson.Route(&d, c), nil
	case netstate.KindRule:
		var d netstate.Rule
		if err := d.Decode(raw); err != nil {
			return nil, err
		}
		n.transient(&d)
		return ipjson.Rule(&d), nil
	case netstate.KindNexthop:
		var d netstate.Nexthop
		if err := d.Decode(raw); err != nil {
			return nil, err
		}
		return ipjson.Nexthop(&d, c), nil
	}
	return nil, fmt.Errorf("kind %v cannot be shown", kind)
}

// transient sets a rule's flags that change without a notification: whether its
// links are there, and the rule that it goes to.
func (n *names) transient(d *netstate.Rule) {
	flag := func(bit uint32, on bool) {
		if d.Flags &^= bit; on {
			d.Flags |= bit
		}
	}
	flag(netstate.RuleIIFDetached, d.IIF != "" && !n.exists(d.IIF))
	flag(netstate.RuleOIFDetached, d.OIF != "" && !n.exists(d.OIF))
	flag(netstate.RuleUnresolved, d.Action == netstate.RuleGoto && !n.rules[rulePref{d.Family, d.Goto}])
}

// exists says whether a link has the name.
func (n *names) exists(name string) bool {
	for index := range n.rows {
		if l := n.link(index); l != nil && l.Name == name {
			return true
		}
	}
	return false
}

// items takes a row apart: one item per message. Of IPv4 aliases only the first
// forwards.
func items(w agent.View, row *netstate.Row) []item {
	out := make([]item, len(row.Group))
	fate := w.Fate(row.Key)
	count := w.Count(row.Key)
	for i := range row.Group {
		out[i] = item{row, i, fate, count}
		if i > 0 && row.Key.Kind == netstate.KindRoute && row.Key.Family == familyIPv4 {
			out[i].fate = resolve.Fate{Standing: resolve.Trapped, Reason: hwmodel.ReasonShadowed, Detail: "an earlier route of the same prefix is in use"}
			out[i].count = resolve.ObjectCount{Key: row.Key}
		}
	}
	return out
}

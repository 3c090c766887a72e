package api

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"antiphon/agent"
	"antiphon/agent/resolve"
	"antiphon/hwmodel"
	"antiphon/netstate"
	"antiphon/netstate/ipjson"
	"antiphon/transport"
)

// WhyAnswer is what why answers: one explanation per row that the object is, or
// one that says that there is none.
type WhyAnswer struct {
	Object  string        `json:"object"`
	Objects []Explanation `json:"objects"`
}

// Explanation tells one row's story.
type Explanation struct {
	Object string `json:"object"`
	Kind   string `json:"kind"`
	// Says is the answer in a sentence.
	Says   string        `json:"says"`
	Fate   string        `json:"fate"`
	Reason string        `json:"reason"`
	Detail string        `json:"detail,omitempty"`
	Kernel ipjson.Object `json:"kernel"`
	Seq    uint64        `json:"seq"`
	// Suspect: in doubt until a dump settles it.
	Suspect bool   `json:"suspect"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	// Traps are kernel states that send (some of) its packets to the host, even
	// if the row itself is in the device.
	Traps []Trap `json:"traps"`
	Fix   string `json:"fix,omitempty"`
}

func (v *Verbs) why(ctx context.Context, args transport.WhyArgs) (any, error) {
	if args.Refused == (len(args.Object) > 0) {
		return nil, usage("why: name one object, or ask for what was refused")
	}
	var want *target
	if !args.Refused {
		var err error
		if want, err = parseTarget(args.Object); err != nil {
			return nil, err
		}
	}
	var found []item
	var n *names
	var s agent.Status
	var settings *netstate.Settings
	if err := v.fresh(ctx, func(w agent.View) {
		n, s, settings = snapshotNames(w), w.Status(), w.Settings()
		if args.Refused {
			found = refusedItems(w)
		} else {
			found = want.find(w, n)
		}
	}); err != nil {
		return nil, err
	}
	a := WhyAnswer{Object: strings.Join(args.Object, " "), Objects: make([]Explanation, 0, len(found))}
	for _, it := range found {
		e, err := n.explain(it, s, settings)
		if err != nil {
			return nil, fmt.Errorf("why: row of sequence %d: %w", it.row.Seq, err)
		}
		a.Objects = append(a.Objects, e)
	}
	if len(found) > 0 || args.Refused {
		return a, nil
	}
	if s.Session == nil {
		return a, fmt.Errorf("why: %s is not mirrored, and no shim is connected", a.Object)
	}
	return a, fmt.Errorf("why: the kernel has no %s (as of sequence number %d)", a.Object, s.Seq)
}

func refusedItems(w agent.View) []item {
	var found []item
	for _, kind := range netstate.Kinds {
		for row := range w.Rows(kind) {
			if isRefused(w.Fate(row.Key)) {
				found = append(found, items(w, row)...)
			}
		}
	}
	return found
}

// target is the object that a person names.
type target struct {
	kinds  []netstate.Kind // what it can be, the likeliest first
	prefix netip.Prefix    // of routes; invalid is the default of both families
	addr   netip.Addr
	length int // of an address, -1 if not given
	dev    string
	table  uint32
	hasTab bool
	number uint32
	name   string
}

// parseTarget reads the words of one object.
func parseTarget(words []string) (*target, error) {
	t := &target{length: -1, table: tableMain}
	if kind, err := netstate.ParseKind(words[0]); err == nil && len(words) > 1 {
		t.kinds, words = []netstate.Kind{kind}, words[1:]
	}
	object := words[0]
	if (object == "dev" || object == "port") && len(words) == 2 {
		t.kinds, words = []netstate.Kind{netstate.KindLink}, words[1:]
		object = words[0]
	} else if (object == "id" || object == "nhid") && len(words) == 2 {
		t.kinds, words = []netstate.Kind{netstate.KindNexthop}, words[1:]
		object = words[0]
	}
	rest := words[1:]
	for ; len(rest) > 1; rest = rest[2:] {
		switch rest[0] {
		case "dev":
			t.dev = rest[1]
		case "table":
			var err error
			if t.table, err = parseTable(rest[1]); err != nil {
				return nil, err
			}
			t.hasTab = true
		default:
			return nil, usage("why: %.32q is not understood: want dev NAME or table TABLE", rest[0])
		}
	}
	if len(rest) > 0 {
		return nil, usage("why: %.32q is one word too many, or lacks its value", rest[0])
	}
	return t, t.identify(object)
}

// identify says what the word itself is, and so which kinds it can be.
func (t *target) identify(object string) error {
	only := func(k netstate.Kind) bool { return len(t.kinds) == 1 && t.kinds[0] == k }
	switch {
	case only(netstate.KindNexthop), only(netstate.KindRule):
		n, err := strconv.ParseUint(object, 0, 32)
		if err != nil {
			return usage("why: %.32q is no number", object)
		}
		t.number = uint32(n)
		return nil
	case only(netstate.KindLink):
		t.name = object
		return nil
	}
	host, length, hasLength := strings.Cut(object, "/")
	addr, err := netip.ParseAddr(host)
	switch {
	case object == "default":
		t.setKinds(netstate.KindRoute)
		return nil
	case err != nil && t.kinds != nil:
		return usage("why: %.64q is no address or prefix", object)
	case err != nil:
		t.name = object
		t.setKinds(netstate.KindLink)
		return nil
	}
	t.addr = addr
	t.prefix = netip.PrefixFrom(addr, addr.BitLen())
	if hasLength {
		bits, err := strconv.ParseUint(length, 10, 8)
		if err != nil || int(bits) > addr.BitLen() {
			return usage("why: %.64q has no valid prefix length", object)
		}
		t.length = int(bits)
		t.prefix = netip.PrefixFrom(addr, t.length)
	}
	switch {
	case t.dev != "":
		t.setKinds(netstate.KindNeighbor, netstate.KindAddr)
	case t.hasTab:
		t.setKinds(netstate.KindRoute)
	case hasLength && t.prefix == t.prefix.Masked():
		t.setKinds(netstate.KindRoute, netstate.KindAddr)
	case hasLength:
		t.setKinds(netstate.KindAddr)
	default:
		t.setKinds(netstate.KindAddr, netstate.KindNeighbor, netstate.KindRoute)
	}
	if only(netstate.KindRoute) && t.prefix != t.prefix.Masked() {
		return usage("why: %s has bits beyond its length: did you mean %s?", t.prefix, t.prefix.Masked())
	}
	return nil
}

func (t *target) setKinds(k ...netstate.Kind) {
	if t.kinds == nil {
		t.kinds = k
	}
}

// find returns the rows that the target names: those of the first kind that has
// any. A bare address that is no row itself is its longest route.
func (t *target) find(w agent.View, n *names) []item {
	for _, kind := range t.kinds {
		var found []item
		for row := range w.Rows(kind) {
			if t.matches(row, n) {
				found = append(found, items(w, row)...)
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	if t.addr.IsValid() && t.length < 0 && slices.Contains(t.kinds, netstate.KindRoute) {
		return t.longest(w)
	}
	return nil
}

// longest finds the routes that an address is sent by.
func (t *target) longest(w agent.View) []item {
	best := -1
	var rows []*netstate.Row
	for row := range w.Rows(netstate.KindRoute) {
		p := keyPrefix(row.Key)
		if (t.table != 0 && row.Key.ID != t.table) || !p.Contains(t.addr) || p.Bits() < best {
			continue
		}
		if p.Bits() > best {
			best, rows = p.Bits(), nil
		}
		rows = append(rows, row)
	}
	var found []item
	for _, row := range rows {
		found = append(found, items(w, row)...)
	}
	return found
}

func (t *target) matches(row *netstate.Row, n *names) bool {
	k := row.Key
	if t.dev != "" && (k.Kind == netstate.KindAddr || k.Kind == netstate.KindNeighbor) {
		if l, ok := n.find(t.dev); !ok || l.Index != k.ID {
			return false
		}
	}
	switch k.Kind {
	case netstate.KindLink:
		l, ok := n.find(t.name)
		return ok && l.Index == k.ID
	case netstate.KindAddr:
		return keyAddr(k) == t.addr && (t.length < 0 || int(k.Len) == t.length)
	case netstate.KindNeighbor:
		return keyAddr(k) == t.addr && t.length < 0
	case netstate.KindNexthop:
		return k.ID == t.number
	case netstate.KindRule:
		return k.Prio == t.number
	case netstate.KindRoute:
		if t.table != 0 && k.ID != t.table {
			return false
		}
		if !t.prefix.IsValid() {
			return k.Len == 0
		}
		return keyPrefix(k) == t.prefix
	}
	return false
}

// explain tells the story of one row.
func (n *names) explain(it item, s agent.Status, settings *netstate.Settings) (Explanation, error) {
	o, err := n.kernelObject(it.row.Key.Kind, it.row.Group[it.index])
	if err != nil {
		return Explanation{}, err
	}
	e := Explanation{
		Object: n.title(it.row.Key), Kind: it.row.Key.Kind.String(),
		Fate: it.fate.Standing.String(), Reason: reasonText(it.fate.Reason), Detail: it.fate.Detail,
		Kernel: o, Seq: it.row.Seq, Suspect: it.row.Suspect,
		Packets: it.count.Packets, Bytes: it.count.Bytes,
		Traps: n.trapsOf(it, o, s, settings), Fix: fixOf(it.fate.Reason),
	}
	e.Says = e.Object + " " + saying(it, e.Traps)
	if e.Fix == "" && len(e.Traps) > 0 {
		if r, err := hwmodel.ParseReason(e.Traps[0].Reason); err == nil {
			e.Fix = fixOf(r)
		}
	}
	return e, nil
}

// saying is the answer in words.
func saying(it item, traps []Trap) string {
	everything := slices.ContainsFunc(traps, func(t Trap) bool {
		return t.Scope == "everything" || t.Scope == "ipv4" && it.row.Key.Family == familyIPv4 || t.Scope == "ipv6" && it.row.Key.Family == familyIPv6
	})
	reason := it.fate.Reason
	switch {
	case it.fate.Standing == resolve.Failed:
		return "was refused by the device; the host deals with its packets."
	case everything:
		return "is dealt with by the host, as is every packet of its family."
	case it.fate.Standing == resolve.Offloaded && len(traps) > 0:
		return "is in the device, but some of its packets go to the host."
	case it.fate.Standing == resolve.Offloaded:
		return "is in the device."
	case reason == hwmodel.ReasonLocal:
		return "is the host's own: its packets go to the host."
	case reason == hwmodel.ReasonShadowed:
		return "takes no packets: a better row of the same prefix is in use."
	case it.row.Key.Kind == netstate.KindRoute:
		return "is forwarded by the host."
	}
	return "is left to the host."
}

// title is how people call a row.
func (n *names) title(k netstate.Key) string {
	switch k.Kind {
	case netstate.KindLink:
		return n.name(k.ID)
	case netstate.KindAddr:
		return fmt.Sprintf("%s/%d dev %s", keyAddr(k), k.Len, n.name(k.ID))
	case netstate.KindNeighbor:
		return fmt.Sprintf("%s dev %s", keyAddr(k), n.name(k.ID))
	case netstate.KindNexthop:
		return fmt.Sprintf("nexthop id %d", k.ID)
	case netstate.KindRule:
		return fmt.Sprintf("rule %d", k.Prio)
	}
	title := keyPrefix(k).String()
	if k.Len == 0 {
		title = "default"
	}
	if k.ID != tableMain {
		title += " table " + netstate.TableName(k.ID)
	}
	return title
}

// trapsOf lists the kernel states that can send the row's packets to the host.
func (n *names) trapsOf(it item, o ipjson.Object, s agent.Status, settings *netstate.Settings) []Trap {
	out := []Trap{}
	if s.Doubt != "" || settings == nil {
		out = append(out, traps(s, nil, n)...)
	}
	if settings == nil {
		return out
	}
	family := it.row.Key.Family
	if it.row.Key.Kind == netstate.KindAddr {
		return out // its packets go to the host anyway
	}
	for _, p := range settings.Presences {
		if p.Family != 0 && family != 0 && p.Family != family {
			continue
		}
		// A packet may come in by any port: what sits at an ingress concerns
		// every row, what sits at an egress only those that leave there.
		concerns := p.Ifindex == 0 || p.Ingress || !p.Egress ||
			it.row.Key.ID == p.Ifindex && it.row.Key.Kind != netstate.KindRoute || hasMember(o, "dev", n.name(p.Ifindex))
		if it.row.Key.Kind == netstate.KindLink && p.Ifindex != 0 {
			concerns = p.Ifindex == it.row.Key.ID
		}
		if concerns {
			out = append(out, Trap{presenceReason(p.What), presenceScope(p, n), p.Detail})
		}
	}
	return out
}

package api

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"antiphon/agent"
	"antiphon/netstate"
	"antiphon/netstate/ipjson"
	"antiphon/transport"
)

func (v *Verbs) show(ctx context.Context, args transport.ShowArgs) (any, error) {
	kind, err := netstate.ParseKind(args.Kind)
	if err != nil {
		return nil, usageError{err}
	}
	f, err := parseFilter(kind, args.Filter)
	if err != nil {
		return nil, err
	}
	if args.Family != 0 && args.Family != familyIPv4 && args.Family != familyIPv6 {
		return nil, usage("family %d: want 2 (IPv4), 10 (IPv6) or 0", args.Family)
	}
	f.family = args.Family
	var found []item
	var n *names
	if err := v.fresh(ctx, func(w agent.View) {
		n = snapshotNames(w)
		for row := range w.Rows(kind) {
			if f.wantsRow(row.Key) {
				found = append(found, items(w, row)...)
			}
		}
	}); err != nil {
		return nil, err
	}
	out := make([]ipjson.Object, 0, len(found))
	for _, it := range found {
		if kind == netstate.KindNeighbor && !f.wantsNeighbor(it.row.Group[it.index]) {
			continue
		}
		o, err := n.object(it)
		if err != nil {
			return nil, fmt.Errorf("show %v: row of sequence %d: %w", kind, it.row.Seq, err)
		}
		if f.wants(o, n) {
			out = append(out, o)
		}
	}
	return out, nil
}

// filter is what iproute2's words after the kind ask for.
type filter struct {
	kind   netstate.Kind
	family uint8
	table  uint32 // of routes; 0 is every table
	proxy  bool   // neighbours: the proxy entries instead
	all    bool   // neighbours: those that iproute2 hides as well
	// range of routes: exact, root (inside it) or match (around it)
	mode   string
	prefix netip.Prefix
	object string // bare word: what the object itself is called
	words  []filterWord
}

// filterWord wants a member of an object to have a value.
type filterWord struct{ word, value string }

// filterMembers are the members that a word is compared with.
var filterMembers = map[string][]string{
	"dev": {"dev", "ifname"}, "proto": {"protocol"}, "protocol": {"protocol"}, "via": {"gateway", "host"},
	"metric": {"metric"}, "nhid": {"nhid"}, "id": {"id"}, "type": {"type"}, "scope": {"scope"},
	"src": {"prefsrc", "src"}, "nud": {"state"}, "state": {"state"}, "master": {"master"},
	"lladdr": {"lladdr"}, "fate": {"fate"}, "reason": {"reason"}, "pref": {"priority"},
	"priority": {"priority"}, "iif": {"iif"}, "oif": {"oif"}, "lookup": {"table"}, "from": {"src"},
}

// parseFilter reads iproute2's words. Without any, everything is shown, routes of
// all tables and both families: what is mirrored, not what one usually looks at.
func parseFilter(kind netstate.Kind, words []string) (*filter, error) {
	f := &filter{kind: kind}
	seen := map[string]bool{}
	next := func(word string) (string, error) {
		if len(words) == 0 {
			return "", usage("show %v: %q needs a value", kind, word)
		}
		value := words[0]
		words = words[1:]
		return value, nil
	}
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		if seen[word] {
			return nil, usage("show %v: %q is given twice", kind, word)
		}
		seen[word] = true
		switch {
		case word == "table" && kind == netstate.KindRoute:
			value, err := next(word)
			if err != nil {
				return nil, err
			}
			if f.table, err = parseTable(value); err != nil {
				return nil, err
			}
		case word == "proxy" && kind == netstate.KindNeighbor:
			f.proxy = true
		case word == "all" && kind == netstate.KindNeighbor:
			f.all = true
		case slices.Contains([]string{"root", "match", "exact", "to"}, word) && kind == netstate.KindRoute:
			value, err := next(word)
			if err != nil {
				return nil, err
			}
			if err := f.setPrefix(strings.Replace(word, "to", "exact", 1), value); err != nil {
				return nil, err
			}
		case word == "table" && kind == netstate.KindRule:
			word = "lookup"
			fallthrough
		case filterMembers[word] != nil:
			value, err := next(word)
			if err != nil {
				return nil, err
			}
			f.words = append(f.words, filterWord{word, value})
		case kind == netstate.KindRoute:
			if err := f.setPrefix("exact", word); err != nil {
				return nil, err
			}
		case f.object == "":
			f.object = word
		default:
			return nil, usage("show %v: %q is one word too many after %q", kind, word, f.object)
		}
	}
	return f, nil
}

func (f *filter) setPrefix(mode, value string) error {
	if f.mode != "" {
		return usage("show route: more than one prefix")
	}
	p, err := parsePrefix(value)
	if err != nil {
		return usage("show route: %w", err)
	}
	f.mode, f.prefix = mode, p
	return nil
}

// Tables, include/uapi/linux/rtnetlink.h.
const (
	tableDefault = 253
	tableMain    = 254
	tableLocal   = 255
)

func parseTable(s string) (uint32, error) {
	switch s {
	case "all":
		return 0, nil
	case "default":
		return tableDefault, nil
	case "main":
		return tableMain, nil
	case "local":
		return tableLocal, nil
	}
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		return 0, usage("table %.32q: want a number, main, local, default or all", s)
	}
	return uint32(n), nil
}

// parsePrefix reads a prefix, a host address, or "default", which is of both
// families and comes back invalid.
func parsePrefix(s string) (netip.Prefix, error) {
	if s == "default" || s == "all" || s == "any" {
		return netip.Prefix{}, nil
	}
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%.64q is neither a word of iproute2 nor a prefix or address", s)
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%.64q is no prefix: want address/length", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has bits beyond its length: did you mean %s?", s, p.Masked())
	}
	return p, nil
}

// keyPrefix is the destination of a route key.
func keyPrefix(k netstate.Key) netip.Prefix {
	return netip.PrefixFrom(keyAddr(k), int(k.Len))
}

// keyAddr is the address of a key.
func keyAddr(k netstate.Key) netip.Addr {
	if k.Family == familyIPv4 {
		return netip.AddrFrom4([4]byte(k.Addr[:4]))
	}
	return netip.AddrFrom16(k.Addr)
}

// wantsRow decides by the key alone, before anything is decoded.
func (f *filter) wantsRow(k netstate.Key) bool {
	if f.family != 0 && k.Family != 0 && k.Family != f.family {
		return false
	}
	if f.kind != netstate.KindRoute {
		return true
	}
	if f.table != 0 && k.ID != f.table {
		return false
	}
	p := keyPrefix(k)
	if f.mode == "" {
		return true
	}
	if !f.prefix.IsValid() { // default
		return f.mode == "root" || p.Bits() == 0
	}
	if p.Addr().Is4() != f.prefix.Addr().Is4() {
		return false
	}
	switch f.mode {
	case "root":
		return p.Bits() >= f.prefix.Bits() && p.Overlaps(f.prefix)
	case "match":
		return p.Bits() <= f.prefix.Bits() && p.Overlaps(f.prefix)
	}
	return p == f.prefix
}

// wantsNeighbor leaves out what iproute2 leaves out.
func (f *filter) wantsNeighbor(raw []byte) bool {
	var d netstate.Neighbor
	if d.Decode(raw) != nil {
		return true // the error is told where it is shown
	}
	if f.proxy || d.Proxy {
		return f.proxy == d.Proxy
	}
	return f.all || ipjson.Shown(&d) || slices.ContainsFunc(f.words, func(w filterWord) bool { return w.word == "nud" || w.word == "state" })
}

// wants decides by the written object.
func (f *filter) wants(o ipjson.Object, n *names) bool {
	for _, w := range f.words {
		value := w.value
		if w.word == "dev" {
			if l, ok := n.find(value); ok {
				value = l.Name
			}
		}
		if (w.word == "nud" || w.word == "state") && value == "all" {
			continue
		}
		if !slices.ContainsFunc(filterMembers[w.word], func(m string) bool { return hasMember(o, m, value) }) {
			return false
		}
	}
	return f.object == "" || f.named(o, n)
}

// hasMember looks for a member of a value, in the object and the objects in it.
func hasMember(o ipjson.Object, member, value string) bool {
	for _, m := range o {
		switch x := m.Value.(type) {
		case ipjson.Object:
			if hasMember(x, member, value) {
				return true
			}
		case []ipjson.Object:
			if slices.ContainsFunc(x, func(o ipjson.Object) bool { return hasMember(o, member, value) }) {
				return true
			}
		case []string:
			if m.Key == member && slices.ContainsFunc(x, func(s string) bool { return strings.EqualFold(s, value) }) {
				return true
			}
		default:
			if m.Key == member && fmt.Sprint(x) == value {
				return true
			}
		}
	}
	return false
}

// named says whether a bare word names the object.
func (f *filter) named(o ipjson.Object, n *names) bool {
	switch f.kind {
	case netstate.KindLink:
		l, ok := n.find(f.object)
		return ok && hasMember(o, "ifname", l.Name)
	case netstate.KindAddr:
		local, length, _ := strings.Cut(f.object, "/")
		if a, err := netip.ParseAddr(local); err == nil {
			local = a.String()
		} else if l, ok := n.find(f.object); ok {
			return hasMember(o, "ifname", l.Name)
		}
		return hasMember(o, "local", local) && (length == "" || hasMember(o, "prefixlen", length))
	case netstate.KindNeighbor:
		dst := f.object
		if a, err := netip.ParseAddr(dst); err == nil {
			dst = a.String()
		}
		return hasMember(o, "dst", dst)
	case netstate.KindNexthop:
		return hasMember(o[:1], "id", f.object)
	case netstate.KindRule:
		return hasMember(o[:1], "priority", f.object)
	}
	return false
}

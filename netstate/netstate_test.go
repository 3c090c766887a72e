package netstate

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// message builds a netlink message: type, fixed header, attributes.
func message(typ uint16, head []byte, attributes ...[]byte) []byte {
	b := make([]byte, HeaderBytes)
	binary.NativeEndian.PutUint16(b[4:], typ)
	b = append(b, head...)
	for _, a := range attributes {
		b = append(b, a...)
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return b
}

// attr builds an attribute, padded.
func attr(typ uint16, value ...byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, typ), value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func u32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func ip(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

// rtmsg is struct rtmsg of a unicast route in table main.
func rtmsg(family, dst uint8) []byte {
	return []byte{family, dst, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, 0, unix.RTN_UNICAST, 0, 0, 0, 0}
}

// route4 is 10.0.0.0/8 via a gateway on interface 3.
func route4(gateway string, extra ...[]byte) []byte {
	a := [][]byte{attr(unix.RTA_DST, ip("10.0.0.0")...), attr(unix.RTA_GATEWAY, ip(gateway)...), attr(unix.RTA_OIF, u32(3)...)}
	return message(unix.RTM_NEWROUTE, rtmsg(unix.AF_INET, 8), append(a, extra...)...)
}

// leg is a struct rtnexthop with a gateway.
func leg(oif uint32, hops, flags uint8, gateway string) []byte {
	b := append([]byte{0, 0, flags, hops}, u32(oif)...)
	b = append(b, attr(unix.RTA_GATEWAY, ip(gateway)...)...)
	binary.NativeEndian.PutUint16(b, uint16(len(b)))
	return b
}

func route6(legs ...[]byte) []byte {
	var all []byte
	for _, l := range legs {
		all = append(all, l...)
	}
	return message(unix.RTM_NEWROUTE, rtmsg(unix.AF_INET6, 48), attr(unix.RTA_DST, ip("2001:db8::")...), attr(unix.RTA_MULTIPATH, all...))
}

func as(typ, flags uint16, raw []byte) Message {
	raw = append([]byte(nil), raw...)
	binary.NativeEndian.PutUint16(raw[4:], typ)
	binary.NativeEndian.PutUint16(raw[6:], flags)
	return Message{Type: typ, Flags: flags, Raw: raw, Payload: raw[HeaderBytes:]}
}

func TestNextMessage(t *testing.T) {
	one := message(99, []byte{1})
	for _, c := range []struct {
		name  string
		block []byte
		rest  int
		bad   bool
	}{
		{"empty", nil, 0, true},
		{"short header", one[:15], 0, true},
		{"length below the header", append(u32(15), make([]byte, 20)...), 0, true},
		{"length beyond the block", one[:16], 0, true},
		{"huge length", append(u32(1<<32-1), make([]byte, 20)...), 0, true},
		{"no padding at the end", one, 0, false},
		{"padding at the end", append(append([]byte(nil), one...), 0, 0, 0), 0, false},
		{"another one behind", append(append(append([]byte(nil), one...), 0, 0, 0), one...), 17, false},
	} {
		m, rest, err := NextMessage(c.block)
		var de *DecodeError
		if (err != nil) != c.bad || err != nil && !errors.As(err, &de) || len(rest) != c.rest {
			t.Errorf("%s: %d left, %v", c.name, len(rest), err)
		}
		if err == nil && (m.Type != 99 || len(m.Payload) != 1) {
			t.Errorf("%s: %+v", c.name, m)
		}
	}
}

func TestErrno(t *testing.T) {
	for _, c := range []struct {
		typ     uint16
		payload []byte
		err     error
		ok      bool
	}{
		{unix.NLMSG_ERROR, u32(0), nil, true},
		{unix.NLMSG_ERROR, u32(^uint32(unix.ENOENT) + 1), unix.ENOENT, true},
		{unix.NLMSG_DONE, nil, nil, true},
		{unix.NLMSG_DONE, u32(^uint32(unix.EINTR) + 1), unix.EINTR, true},
		{unix.RTM_NEWLINK, u32(1), nil, false},
	} {
		err, ok := Message{Type: c.typ, Payload: c.payload}.Errno()
		if err != c.err || ok != c.ok {
			t.Errorf("type %d, % x: %v %v", c.typ, c.payload, err, ok)
		}
	}
	if err, ok := (Message{Type: unix.NLMSG_ERROR, Payload: []byte{1}}).Errno(); err == nil || !ok {
		t.Error("a short error passes")
	}
}

func TestNotMirrored(t *testing.T) {
	cloned := rtmsg(unix.AF_INET6, 0)
	binary.NativeEndian.PutUint32(cloned[8:], unix.RTM_F_CLONED)
	for name, raw := range map[string][]byte{
		"bridge port link (N31)":    message(unix.RTM_DELLINK, append([]byte{unix.AF_BRIDGE}, make([]byte, 15)...)),
		"IPv6 link":                 message(unix.RTM_NEWLINK, append([]byte{unix.AF_INET6}, make([]byte, 15)...)),
		"wireless event":            message(unix.RTM_NEWLINK, make([]byte, 16), attr(unix.IFLA_WIRELESS, 1)),
		"FDB entry (N33)":           message(unix.RTM_NEWNEIGH, append([]byte{unix.AF_BRIDGE}, make([]byte, 11)...)),
		"multicast neighbour (N39)": message(unix.RTM_NEWNEIGH, []byte{unix.AF_INET, 0, 0, 0, 1, 0, 0, 0, unix.NUD_NOARP, 0, 0, unix.RTN_MULTICAST}),
		"cached route":              message(unix.RTM_NEWROUTE, cloned),
		"multicast route":           message(unix.RTM_NEWROUTE, rtmsg(128, 0)),
		"MPLS route":                message(unix.RTM_NEWROUTE, rtmsg(unix.AF_MPLS, 20)),
		"qdisc":                     message(unix.RTM_NEWQDISC, make([]byte, 20)),
	} {
		if key, _, err := KeyOf(raw); !errors.Is(err, ErrNotMirrored) || key != (Key{}) {
			t.Errorf("%s: %+v, %v", name, key, err)
		}
	}
}

func TestKeys(t *testing.T) {
	key := func(raw []byte) Key {
		t.Helper()
		k, _, err := KeyOf(raw)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	want := Key{Kind: KindRoute, Family: unix.AF_INET, Len: 8, ID: 1000, Prio: 7, Addr: [16]byte{10}}
	if k := key(route4("10.0.0.1", attr(unix.RTA_TABLE, u32(1000)...), attr(unix.RTA_PRIORITY, u32(7)...))); k != want {
		t.Errorf("%+v", k)
	}
	head := []byte{unix.AF_INET, 32, 0, 0, 5, 0, 0, 0}
	peer := func(p string) Key {
		return key(message(unix.RTM_NEWADDR, head, attr(unix.IFA_LOCAL, ip("10.0.0.1")...), attr(unix.IFA_ADDRESS, ip(p)...)))
	}
	if peer("10.0.0.2") == peer("10.0.0.3") || peer("10.0.0.1").Flag != 0 {
		t.Error("peers of one local address share a key")
	}
	rule := func(flags uint32, prio uint32, from string) Key {
		h := append([]byte{unix.AF_INET, 0, 32, 0, 254, 0, 0, 1}, u32(flags)...)
		return key(message(unix.RTM_NEWRULE, h, attr(unix.FRA_PRIORITY, u32(prio)...), attr(unix.FRA_SRC, ip(from)...)))
	}
	a := rule(0, 5, "10.0.0.1")
	if a != rule(RuleIIFDetached|RuleUnresolved, 5, "10.0.0.1") {
		t.Error("a detached rule has another key")
	}
	if b := rule(0, 6, "10.0.0.1"); a == b || a.Addr != b.Addr || b.Prio != 6 {
		t.Error("preference")
	}
	if a == rule(RuleInvert, 5, "10.0.0.1") || a == rule(0, 5, "10.0.0.2") {
		t.Error("different rules share a key")
	}
	src := func(s string) Key {
		h := rtmsg(unix.AF_INET6, 0)
		h[2] = 64
		return key(message(unix.RTM_NEWROUTE, h, attr(unix.RTA_SRC, ip(s)...)))
	}
	if src("2001:db8::") == src("2001:db8:1::") || src("2001:db8::").Flag != 1 {
		t.Error("source routes share a key")
	}
	if _, del, err := KeyOf(as(unix.RTM_DELROUTE, 0, route4("10.0.0.1")).Raw); !del || err != nil {
		t.Error("deletion not seen", err)
	}
}

func TestRouteDecode(t *testing.T) {
	var r Route
	metrics := append(attr(unix.RTAX_LOCK, u32(1<<unix.RTAX_MTU)...), attr(unix.RTAX_MTU, u32(1300)...)...)
	via := append([]byte{unix.AF_INET6, 0}, ip("fe80::1")...)
	raw := message(unix.RTM_NEWROUTE, rtmsg(unix.AF_INET, 8), attr(unix.RTA_DST, ip("10.0.0.0")...), attr(unix.RTA_VIA, via...),
		attr(unix.RTA_OIF, u32(4)...), attr(unix.RTA_METRICS, metrics...), attr(900, 1))
	if err := r.Decode(raw); err != nil {
		t.Fatal(err)
	}
	mtu, locked := r.MTU()
	if r.Dst.String() != "10.0.0.0/8" || mtu != 1300 || !locked || r.Unknown != 900 || r.Multipath || len(r.Legs) != 1 {
		t.Errorf("%+v", r)
	}
	if l := r.Legs[0]; l.OIF != 4 || !l.Via || l.Gateway.String() != "fe80::1" || l.Weight != 1 {
		t.Errorf("%+v", l)
	}
	if err := r.Decode(route6(leg(3, 0, 0, "fe80::1"), leg(4, 255, unix.RTNH_F_DEAD, "fe80::2"))); err != nil {
		t.Fatal(err)
	}
	if !r.Multipath || len(r.Legs) != 2 || r.Legs[1].Weight != 256 || r.Legs[1].Flags != unix.RTNH_F_DEAD || r.Unknown != 0 {
		t.Errorf("%+v", r)
	}
	for name, raw := range map[string][]byte{
		"address of the wrong family": message(unix.RTM_NEWROUTE, rtmsg(unix.AF_INET, 8), attr(unix.RTA_DST, ip("::")...)),
		"length beyond the address":   message(unix.RTM_NEWROUTE, rtmsg(unix.AF_INET, 33), attr(unix.RTA_DST, ip("10.0.0.0")...)),
		"length without address":      message(unix.RTM_NEWROUTE, rtmsg(unix.AF_INET, 8)),
		"cut leg":                     message(unix.RTM_NEWROUTE, rtmsg(unix.AF_INET, 0), attr(unix.RTA_MULTIPATH, 16, 0, 0, 0, 1, 0, 0, 0)),
		"leg of length 0":             message(unix.RTM_NEWROUTE, rtmsg(unix.AF_INET, 0), attr(unix.RTA_MULTIPATH, 0, 0, 0, 0, 1, 0, 0, 0)),
		"short via":                   message(unix.RTM_NEWROUTE, rtmsg(unix.AF_INET, 0), attr(unix.RTA_VIA, 10)),
		"attribute beyond the end":    message(unix.RTM_NEWROUTE, rtmsg(unix.AF_INET, 0), []byte{9, 0, 4, 0, 1, 0, 0, 0}),
		"attribute of length 3":       message(unix.RTM_NEWROUTE, rtmsg(unix.AF_INET, 0), []byte{3, 0, 4, 0}),
		"another type":                message(unix.RTM_NEWRULE, rtmsg(unix.AF_INET, 0)),
		"no header":                   message(unix.RTM_NEWROUTE, nil),
	} {
		var de *DecodeError
		if err := r.Decode(raw); !errors.As(err, &de) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEqual(t *testing.T) {
	a, b := leg(3, 0, 0, "fe80::1"), leg(4, 1, 0, "fe80::2")
	dead := leg(3, 0, unix.RTNH_F_DEAD|unix.RTNH_F_LINKDOWN, "fe80::1")
	info := attr(unix.RTA_CACHEINFO, make([]byte, 32)...)
	expires := func(ticks byte) []byte {
		return attr(unix.RTA_CACHEINFO, append([]byte{8: ticks}, make([]byte, 23)...)...)
	}
	for _, c := range []struct {
		name string
		a, b []byte
		want bool
	}{
		{"legs in another order (N23)", route6(a, b), route6(b, a), true},
		{"legs dying in silence (N4)", route6(a, b), route6(b, dead), true},
		{"another weight", route6(a, b), route6(a, leg(4, 2, 0, "fe80::2")), false},
		{"multisets", route6(a, a, b), route6(a, b, b), false},
		{"fewer legs", route6(a, b), route6(a), false},
		{"cacheinfo only once", route4("10.0.0.1", info), route4("10.0.0.1"), true},
		{"getting older", route4("10.0.0.1", expires(9)), route4("10.0.0.1", expires(3)), true},
		{"temporary from now on", route4("10.0.0.1", expires(9)), route4("10.0.0.1", info), false},
		{"temporary from now on, without a word", route4("10.0.0.1", expires(9)), route4("10.0.0.1"), false},
		{"another gateway", route4("10.0.0.1"), route4("10.0.0.2"), false},
		{"unknown attribute", route4("10.0.0.1", attr(900, 1)), route4("10.0.0.1"), false},
		{"malformed", route4("10.0.0.1", []byte{3, 0, 4, 0}), route4("10.0.0.1", []byte{3, 0, 4, 0}), false},
	} {
		if got := Equal(KindRoute, c.a, c.b); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
		if got := Equal(KindRoute, c.b, c.a); got != c.want {
			t.Errorf("%s, the other way: %v", c.name, got)
		}
	}
}

func TestMergeRouteTable(t *testing.T) {
	const create, excl, app, repl = unix.NLM_F_CREATE, unix.NLM_F_EXCL, unix.NLM_F_APPEND, unix.NLM_F_REPLACE
	g1, g2, g3 := route4("10.0.0.1"), route4("10.0.0.2"), route4("10.0.0.3")
	ecmp := route6(leg(3, 0, 0, "fe80::1"), leg(4, 0, 0, "fe80::2"))
	group := func(rows ...[]byte) [][]byte { return rows }
	for _, c := range []struct {
		name    string
		before  [][]byte
		msg     Message
		after   [][]byte
		certain bool
	}{
		{"first", nil, as(unix.RTM_NEWROUTE, create|excl, g1), group(g1), true},
		{"the kernel lost the old ones silently", group(g2, g3), as(unix.RTM_NEWROUTE, create|excl, g1), group(g1), true},
		{"append (N17)", group(g1), as(unix.RTM_NEWROUTE, create|app, g2), group(g1, g2), true},
		{"prepend (N17)", group(g1), as(unix.RTM_NEWROUTE, create, g2), group(g2, g1), true},
		{"append to what we do not know", nil, as(unix.RTM_NEWROUTE, create|app, g2), group(g2), false},
		{"replace the only one", group(g1), as(unix.RTM_NEWROUTE, repl, g2), group(g2), true},
		{"replace the first of two (N18)", group(g1, g2), as(unix.RTM_NEWROUTE, repl, g3), group(g3, g2), false},
		{"delete (N20)", group(g1, g2), as(unix.RTM_DELROUTE, 0, g1), group(g2), true},
		{"delete the last", group(g1), as(unix.RTM_DELROUTE, 0, g1), nil, true},
		{"delete one of two alike", group(g1, g1), as(unix.RTM_DELROUTE, 0, g1), group(g1, g1), false},
		{"delete what we do not know", group(g1), as(unix.RTM_DELROUTE, 0, g3), group(g1), false},
		{"flags (N42)", group(g1, g2), as(unix.RTM_NEWROUTE, 0, g2), group(g1, g2), true},
		{"flags before the route itself (N44)", nil, as(unix.RTM_NEWROUTE, 0, g2), group(g2), false},
		{"IPv6 multipath, new", nil, as(unix.RTM_NEWROUTE, create, ecmp), group(ecmp), true},
		{"IPv6 append (N23)", group(ecmp), as(unix.RTM_NEWROUTE, create|app, ecmp), group(ecmp), false},
		{"IPv6 multipath deleted: may have hidden one", group(ecmp), as(unix.RTM_DELROUTE, 0, ecmp), nil, false},
	} {
		after, certain := MergeRoute(c.before, c.msg)
		same := len(after) == len(c.after)
		for i := range after {
			same = same && string(after[i]) == string(c.after[i])
		}
		if !same || certain != c.certain {
			t.Errorf("%s: %x, certain %v", c.name, after, certain)
		}
	}
}

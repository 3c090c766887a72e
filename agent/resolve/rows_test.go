package resolve

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"antiphon/hwmodel"
	"antiphon/netstate"

	"github.com/mdlayher/netlink"
)

// The builders below write rows as the kernel does (include/uapi/linux/rtnetlink.h,
// if_link.h, neighbour.h, fib_rules.h, nexthop.h), so that the tests need no root.

func message(t *testing.T, typ uint16, fixed []byte, attrs func(*netlink.AttributeEncoder)) []byte {
	t.Helper()
	ae := netlink.NewAttributeEncoder()
	attrs(ae)
	body, err := ae.Encode()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16, 16+len(fixed)+len(body))
	binary.NativeEndian.PutUint32(b, uint32(cap(b)))
	binary.NativeEndian.PutUint16(b[4:], typ)
	return append(append(b, fixed...), body...)
}

// world is a resolver with the sysctls of a router and its rows.
type world struct {
	*testing.T
	*Resolver
	seq uint64
	set map[string]string
}

func newWorld(t *testing.T, ports ...string) *world {
	caps := hwmodel.Capabilities{Name: "test", MaxLegs: 16, HashPolicies4: 3, HashPolicies6: 3}
	for i := range caps.Sizes {
		caps.Sizes[i] = 1000
	}
	for i, p := range ports {
		caps.Ports = append(caps.Ports, hwmodel.PortInfo{ID: hwmodel.PortID(i + 1), Name: p})
	}
	w := &world{T: t, Resolver: New(caps), set: map[string]string{
		"net.ipv4.fib_multipath_hash_policy": "0", "net.ipv6.fib_multipath_hash_policy": "0",
		"net.ipv4.fib_multipath_hash_seed": "7", "net.ipv6.conf.all.forwarding": "1",
	}}
	for _, d := range append([]string{"all"}, ports...) {
		for name, v := range map[string]string{"forwarding": "1", "rp_filter": "0", "accept_local": "0", "send_redirects": "1", "ignore_routes_with_linkdown": "0"} {
			w.set["net.ipv4.conf."+d+"."+name] = v
		}
		w.set["net.ipv6.conf."+d+".disable_ipv6"] = "0"
		w.set["net.ipv6.conf."+d+".ignore_routes_with_linkdown"] = "0"
	}
	w.settings()
	for _, f := range []uint8{afInet, afInet6} {
		w.rule(f, 0, tableLocal, nil)
		w.rule(f, 32766, tableMain, nil)
	}
	w.rule(afInet, 32767, tableDefault, nil)
	for i, p := range ports {
		w.link(uint32(i+1), p, iffUp|iffLowerUp, nil)
	}
	return w
}

func (w *world) settings(p ...netstate.Presence) {
	s := &netstate.Settings{Presences: p}
	for n, v := range w.set {
		s.Settings = append(s.Settings, netstate.Setting{Name: n, Value: v})
	}
	w.Settings(s)
}

// row hands a row to the resolver and returns its key.
func (w *world) row(raw ...[]byte) netstate.Key {
	w.Helper()
	return w.put(&netstate.Row{Group: raw})
}

func (w *world) put(row *netstate.Row) netstate.Key {
	w.Helper()
	k, _, err := netstate.KeyOf(row.Group[0])
	if err != nil {
		w.Fatal(err)
	}
	w.seq++
	row.Key, row.Seq = k, w.seq
	if err := w.Change(netstate.Change{Key: k, Row: row}); err != nil {
		w.Fatal(err)
	}
	return k
}

func (w *world) gone(k netstate.Key) {
	w.Helper()
	if err := w.Change(netstate.Change{Key: k}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) link(index uint32, name string, flags uint32, more func(*netlink.AttributeEncoder)) netstate.Key {
	w.Helper()
	fixed := make([]byte, 16)
	binary.NativeEndian.PutUint16(fixed[2:], arphrdEther)
	binary.NativeEndian.PutUint32(fixed[4:], index)
	binary.NativeEndian.PutUint32(fixed[8:], flags)
	return w.row(message(w.T, 16, fixed, func(ae *netlink.AttributeEncoder) {
		ae.String(3, name)                                      // IFLA_IFNAME
		ae.Uint32(4, 1500)                                      // IFLA_MTU
		ae.Bytes(1, []byte{2, 0, 0, 0, 0, byte(index)})         // IFLA_ADDRESS
		ae.Nested(52, func(n *netlink.AttributeEncoder) error { // IFLA_PROP_LIST
			n.String(53, netstate.PortAltName+name) // IFLA_ALT_IFNAME
			return nil
		})
		if more != nil {
			more(ae)
		}
	}))
}

func (w *world) neighbor(index uint32, addr string, state uint16) netstate.Key {
	w.Helper()
	a := netip.MustParseAddr(addr)
	fixed := make([]byte, 12)
	fixed[0] = af(a)
	binary.NativeEndian.PutUint32(fixed[4:], index)
	binary.NativeEndian.PutUint16(fixed[8:], state)
	fixed[11] = 1 // RTN_UNICAST
	return w.row(message(w.T, 28, fixed, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(1, a.AsSlice())                                        // NDA_DST
		ae.Bytes(2, []byte{2, 0, 0, 1, 0, a.AsSlice()[a.BitLen()/8-1]}) // NDA_LLADDR
	}))
}

func (w *world) address(index uint32, prefix string) netstate.Key {
	w.Helper()
	p := netip.MustParsePrefix(prefix)
	fixed := []byte{af(p.Addr()), byte(p.Bits()), 0x80, 0, 0, 0, 0, 0}
	binary.NativeEndian.PutUint32(fixed[4:], index)
	return w.row(message(w.T, 20, fixed, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(1, p.Addr().AsSlice()) // IFA_ADDRESS
		ae.Bytes(2, p.Addr().AsSlice()) // IFA_LOCAL
	}))
}

func af(a netip.Addr) uint8 {
	if a.Is4() {
		return afInet
	}
	return afInet6
}

// routeSpec is a route in a test's words.
type routeSpec struct {
	dst     string
	table   uint32
	typ     uint8 // 0: unicast
	scope   uint8
	tos     uint8
	metric  uint32
	nhid    uint32
	legs    []legSpec
	mtu     uint32
	suspect bool
}

type legSpec struct {
	dev    uint32
	gw     string
	weight uint8 // 0: 1
}

func (w *world) message(s routeSpec) []byte {
	w.Helper()
	p := netip.MustParsePrefix(s.dst)
	if s.table == 0 {
		s.table = tableMain
	}
	if s.typ == 0 {
		s.typ = rtnUnicast
	}
	fixed := []byte{af(p.Addr()), byte(p.Bits()), 0, s.tos, byte(min(s.table, 252)), 3, s.scope, s.typ, 0, 0, 0, 0}
	if s.table < 256 {
		fixed[4] = byte(s.table)
	}
	gateway := func(ae *netlink.AttributeEncoder, gw string) {
		a := netip.MustParseAddr(gw)
		if af(a) == af(p.Addr()) {
			ae.Bytes(5, a.AsSlice()) // RTA_GATEWAY
		} else {
			ae.Bytes(18, append(binary.NativeEndian.AppendUint16(nil, uint16(af(a))), a.AsSlice()...)) // RTA_VIA
		}
	}
	return message(w.T, 24, fixed, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(15, s.table) // RTA_TABLE
		if p.Bits() > 0 {
			ae.Bytes(1, p.Addr().AsSlice()) // RTA_DST
		}
		if s.metric != 0 {
			ae.Uint32(6, s.metric) // RTA_PRIORITY
		}
		if s.nhid != 0 {
			ae.Uint32(30, s.nhid) // RTA_NH_ID
		}
		if s.mtu != 0 {
			ae.Nested(8, func(n *netlink.AttributeEncoder) error { n.Uint32(2, s.mtu); return nil }) // RTA_METRICS
		}
		if len(s.legs) == 1 {
			ae.Uint32(4, s.legs[0].dev) // RTA_OIF
			if s.legs[0].gw != "" {
				gateway(ae, s.legs[0].gw)
			}
		}
		if len(s.legs) > 1 {
			var all []byte
			for _, l := range s.legs {
				sub := netlink.NewAttributeEncoder()
				if l.gw != "" {
					gateway(sub, l.gw)
				}
				body, err := sub.Encode()
				if err != nil {
					w.Fatal(err)
				}
				hop := make([]byte, 8)
				binary.NativeEndian.PutUint16(hop, uint16(8+len(body)))
				hop[3] = max(l.weight, 1) - 1
				binary.NativeEndian.PutUint32(hop[4:], l.dev)
				all = append(append(all, hop...), body...)
			}
			ae.Bytes(9, all) // RTA_MULTIPATH
		}
	})
}

func (w *world) route(s routeSpec) netstate.Key {
	w.Helper()
	return w.put(&netstate.Row{Group: [][]byte{w.message(s)}, Suspect: s.suspect})
}

func (w *world) rule(family uint8, prio, table uint32, more func(*netlink.AttributeEncoder)) netstate.Key {
	w.Helper()
	fixed := []byte{family, 0, 0, 0, byte(min(table, 252)), 0, 0, netstate.RuleToTable, 0, 0, 0, 0}
	return w.row(message(w.T, 32, fixed, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(15, table)      // FRA_TABLE
		ae.Uint32(14, 0xffffffff) // FRA_SUPPRESS_PREFIXLEN: off
		ae.Uint32(6, prio)        // FRA_PRIORITY
		ae.Uint8(21, 2)           // FRA_PROTOCOL
		if more != nil {
			more(ae)
		}
	}))
}

func (w *world) nexthop(id uint32, more func(*netlink.AttributeEncoder)) netstate.Key {
	w.Helper()
	fixed := []byte{afInet, 0, 0, 0, 0, 0, 0, 0}
	return w.row(message(w.T, 104, fixed, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(1, id) // NHA_ID
		more(ae)
	}))
}

func via(dev uint32, gw string) func(*netlink.AttributeEncoder) {
	return func(ae *netlink.AttributeEncoder) {
		ae.Uint32(5, dev)                              // NHA_OIF
		ae.Bytes(6, netip.MustParseAddr(gw).AsSlice()) // NHA_GATEWAY
	}
}

func groupOf(ids ...uint32) func(*netlink.AttributeEncoder) {
	return func(ae *netlink.AttributeEncoder) {
		var b []byte
		for _, id := range ids {
			b = binary.NativeEndian.AppendUint32(b, id)
			b = append(b, 0, 0, 0, 0)
		}
		ae.Bytes(2, b)  // NHA_GROUP
		ae.Uint16(3, 0) // NHA_GROUP_TYPE
	}
}

// held flushes all batches and returns what the device shall hold.
func (w *world) routes() map[string]hwmodel.Route {
	m := map[string]hwmodel.Route{}
	for _, x := range w.Plan().Routes {
		if x.Table == tableMain {
			m[x.Prefix.String()] = x
		}
	}
	return m
}

package agenttest

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"antiphon/netstate"
	"antiphon/transport"
)

// message writes one netlink message as the kernel does.
func message(typ uint16, fixed []byte, attrs func(*netlink.AttributeEncoder)) []byte {
	ae := netlink.NewAttributeEncoder()
	attrs(ae)
	body, err := ae.Encode()
	if err != nil {
		panic(err) // of constants of ours
	}
	b := make([]byte, netstate.HeaderBytes, netstate.HeaderBytes+len(fixed)+len(body))
	binary.NativeEndian.PutUint32(b, uint32(cap(b)))
	binary.NativeEndian.PutUint16(b[4:], typ)
	return append(append(b, fixed...), body...)
}

// Link is a port's representor: up, with carrier, MAC 02:00:00:00:00:index and
// the alternative name "antiphon-" + name.
func Link(index uint32, name string) []byte {
	fixed := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint16(fixed[2:], unix.ARPHRD_ETHER)
	binary.NativeEndian.PutUint32(fixed[4:], index)
	binary.NativeEndian.PutUint32(fixed[8:], unix.IFF_UP|unix.IFF_LOWER_UP|unix.IFF_RUNNING|unix.IFF_BROADCAST)
	return message(unix.RTM_NEWLINK, fixed, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.IFLA_IFNAME, name)
		ae.Uint32(unix.IFLA_MTU, 1500)
		ae.Uint8(unix.IFLA_OPERSTATE, 6)
		ae.Bytes(unix.IFLA_ADDRESS, []byte{2, 0, 0, 0, 0, byte(index)})
		ae.Nested(unix.IFLA_PROP_LIST, func(n *netlink.AttributeEncoder) error {
			n.String(unix.IFLA_ALT_IFNAME, netstate.PortAltName+name)
			return nil
		})
	})
}

// Addr is an IPv4 address of a link.
func Addr(index uint32, p netip.Prefix) []byte {
	fixed := make([]byte, unix.SizeofIfAddrmsg)
	fixed[0], fixed[1] = unix.AF_INET, byte(p.Bits())
	binary.NativeEndian.PutUint32(fixed[4:], index)
	return message(unix.RTM_NEWADDR, fixed, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.IFA_ADDRESS, p.Addr().AsSlice())
		ae.Bytes(unix.IFA_LOCAL, p.Addr().AsSlice())
		ae.Uint32(unix.IFA_FLAGS, unix.IFA_F_PERMANENT)
	})
}

// Neighbor is an IPv4 neighbour in a NUD_* state.
func Neighbor(index uint32, addr netip.Addr, mac [6]byte, state uint16) []byte {
	fixed := make([]byte, unix.SizeofNdMsg)
	fixed[0] = unix.AF_INET
	binary.NativeEndian.PutUint32(fixed[4:], index)
	binary.NativeEndian.PutUint16(fixed[8:], state)
	fixed[11] = unix.RTN_UNICAST
	return message(unix.RTM_NEWNEIGH, fixed, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.NDA_DST, addr.AsSlice())
		ae.Bytes(unix.NDA_LLADDR, mac[:])
	})
}

// RouteOf is an IPv4 route. An invalid Via means a connected one.
type RouteOf struct {
	Table uint32
	Type  uint8
	Scope uint8
	Dst   netip.Prefix
	Via   netip.Addr
	OIF   uint32
}

// Route writes an IPv4 route.
func Route(r RouteOf) []byte {
	fixed := make([]byte, unix.SizeofRtMsg)
	fixed[0], fixed[1] = unix.AF_INET, byte(r.Dst.Bits())
	fixed[4] = byte(r.Table)
	fixed[5], fixed[6], fixed[7] = unix.RTPROT_STATIC, r.Scope, r.Type
	return message(unix.RTM_NEWROUTE, fixed, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.RTA_TABLE, r.Table)
		if r.Dst.Bits() > 0 {
			ae.Bytes(unix.RTA_DST, r.Dst.Addr().AsSlice())
		}
		if r.Via.IsValid() {
			ae.Bytes(unix.RTA_GATEWAY, r.Via.AsSlice())
		}
		if r.OIF != 0 {
			ae.Uint32(unix.RTA_OIF, r.OIF)
		}
	})
}

// Lookup is the policy rule "from all lookup TABLE".
func Lookup(family uint8, pref, table uint32) []byte {
	fixed := make([]byte, unix.SizeofRtMsg) // struct fib_rule_hdr is laid out alike
	fixed[0], fixed[4], fixed[7] = family, byte(table), 1
	return message(unix.RTM_NEWRULE, fixed, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.FRA_TABLE, table)
		ae.Uint32(unix.FRA_SUPPRESS_PREFIXLEN, ^uint32(0))
		if pref != 0 {
			ae.Uint32(unix.FRA_PRIORITY, pref)
		}
	})
}

// Addresses of Router.
var (
	hostNet   = netip.MustParsePrefix("10.0.1.0/24")
	otherNet  = netip.MustParsePrefix("10.0.2.0/24")
	routedNet = netip.MustParsePrefix("10.9.0.0/16")
	gateway   = netip.MustParseAddr("10.0.2.2")
)

// Gateway is the neighbour that Router's via route goes through.
func Gateway() netip.Addr { return gateway }

// Router is a router with the ports swp1 (10.0.1.1/24) and swp2 (10.0.2.1/24), a
// neighbour 10.0.2.2 in state STALE and the route 10.9.0.0/16 via it.
func Router() [][]byte {
	own := func(p netip.Prefix) netip.Addr { return p.Addr().Next() }
	rows := [][]byte{
		Link(2, "swp1"), Link(3, "swp2"),
		Lookup(unix.AF_INET, 0, unix.RT_TABLE_LOCAL), Lookup(unix.AF_INET, 32766, unix.RT_TABLE_MAIN), Lookup(unix.AF_INET, 32767, unix.RT_TABLE_DEFAULT),
		Lookup(unix.AF_INET6, 0, unix.RT_TABLE_LOCAL), Lookup(unix.AF_INET6, 32766, unix.RT_TABLE_MAIN),
		Neighbor(3, gateway, [6]byte{2, 0, 0, 0, 2, 2}, unix.NUD_STALE),
		Route(RouteOf{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Dst: routedNet, Via: gateway, OIF: 3}),
	}
	for i, p := range []netip.Prefix{hostNet, otherNet} {
		index := uint32(2 + i)
		rows = append(rows,
			Addr(index, netip.PrefixFrom(own(p), p.Bits())),
			Route(RouteOf{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Scope: unix.RT_SCOPE_LINK, Dst: p, OIF: index}),
			Route(RouteOf{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Dst: netip.PrefixFrom(own(p), 32), OIF: index}))
	}
	return rows
}

// RouterSettings are the sysctls of Router: it forwards, without filters.
func RouterSettings() *transport.Settings {
	s := &transport.Settings{}
	set := func(name, value string) {
		s.Settings = append(s.Settings, &transport.Setting{Name: name, Value: value})
	}
	for _, dev := range []string{"all", "swp1", "swp2"} {
		for _, name := range []string{"rp_filter", "accept_local", "send_redirects", "ignore_routes_with_linkdown"} {
			set("net.ipv4.conf."+dev+"."+name, "0")
		}
		set("net.ipv4.conf."+dev+".forwarding", "1")
		set("net.ipv6.conf."+dev+".forwarding", "1")
		set("net.ipv6.conf."+dev+".disable_ipv6", "0")
		set("net.ipv6.conf."+dev+".ignore_routes_with_linkdown", "0")
	}
	set("net.ipv4.fib_multipath_hash_policy", "0")
	set("net.ipv6.fib_multipath_hash_policy", "0")
	set("net.ipv4.fib_multipath_hash_seed", "7")
	return s
}

// Frame is a UDP packet from 10.0.1.9 to dst as it arrives at swp1.
func Frame(dst netip.Addr) []byte {
	f := make([]byte, 14+28)
	copy(f, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 9, 9, 8, 0})
	ip := f[14:]
	ip[0], ip[3], ip[8], ip[9] = 0x45, 28, 64, unix.IPPROTO_UDP
	copy(ip[12:], []byte{10, 0, 1, 9})
	copy(ip[16:], dst.AsSlice())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum>>16+sum&0xffff))
	ip[25] = 8 // UDP length
	return f
}

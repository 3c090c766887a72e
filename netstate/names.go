package netstate

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// The names that iproute2 6.1 prints, built in or in the files it installs under
// /etc/iproute2. A number without a name is printed as a number. Local additions
// to those files are not read.

// ProtocolName is a route, rule or nexthop protocol (RTPROT_*).
func ProtocolName(p uint8) string {
	switch p {
	case 0:
		return "unspec"
	case 1:
		return "redirect"
	case 2:
		return "kernel"
	case 3:
		return "boot"
	case 4:
		return "static"
	case 8:
		return "gated"
	case 9:
		return "ra"
	case 10:
		return "mrt"
	case 11:
		return "zebra"
	case 12:
		return "bird"
	case 13:
		return "dnrouted"
	case 14:
		return "xorp"
	case 15:
		return "ntk"
	case 16:
		return "dhcp"
	case 18:
		return "keepalived"
	case 42:
		return "babel"
	case 99:
		return "openr"
	case 186:
		return "bgp"
	case 187:
		return "isis"
	case 188:
		return "ospf"
	case 189:
		return "rip"
	case 192:
		return "eigrp"
	}
	return strconv.Itoa(int(p))
}

// TableName is a routing table.
func TableName(t uint32) string {
	switch t {
	case unix.RT_TABLE_UNSPEC:
		return "unspec"
	case unix.RT_TABLE_DEFAULT:
		return "default"
	case unix.RT_TABLE_MAIN:
		return "main"
	case unix.RT_TABLE_LOCAL:
		return "local"
	}
	return strconv.FormatUint(uint64(t), 10)
}

// ScopeName is a route or address scope (RT_SCOPE_*).
func ScopeName(s uint8) string {
	switch s {
	case unix.RT_SCOPE_UNIVERSE:
		return "global"
	case unix.RT_SCOPE_SITE:
		return "site"
	case unix.RT_SCOPE_LINK:
		return "link"
	case unix.RT_SCOPE_HOST:
		return "host"
	case unix.RT_SCOPE_NOWHERE:
		return "nowhere"
	}
	return strconv.Itoa(int(s))
}

// RouteTypeName is a route's type (RTN_*) or a rule's action.
func RouteTypeName(t uint8) string {
	names := [...]string{"none", "unicast", "local", "broadcast", "anycast", "multicast",
		"blackhole", "unreachable", "prohibit", "throw", "nat", "xresolve"}
	if int(t) < len(names) {
		return names[t]
	}
	return strconv.Itoa(int(t))
}

// NeighborStates lists the names of the set bits of an NUD_* mask; none for 0.
func NeighborStates(state uint16) []string {
	names := [...]string{"INCOMPLETE", "REACHABLE", "STALE", "DELAY", "PROBE", "FAILED", "NOARP", "PERMANENT"}
	var out []string
	for i, n := range names {
		if state&(1<<i) != 0 {
			out = append(out, n)
		}
	}
	return out
}

// FamilyName is inet or inet6.
func FamilyName(f uint8) string {
	switch f {
	case unix.AF_UNSPEC:
		return "none"
	case unix.AF_INET:
		return "inet"
	case unix.AF_INET6:
		return "inet6"
	case unix.AF_BRIDGE:
		return "bridge"
	}
	return "???"
}

// TOSName is a differentiated services field of 8 bits.
func TOSName(tos uint8) string {
	switch tos {
	case 0:
		return "default"
	case 0x20, 0x40, 0x60, 0x80, 0xa0, 0xc0, 0xe0:
		return fmt.Sprintf("CS%d", tos>>5)
	case 0x28, 0x30, 0x38, 0x48, 0x50, 0x58, 0x68, 0x70, 0x78, 0x88, 0x90, 0x98:
		return fmt.Sprintf("AF%d%d", tos>>5, tos>>3&3)
	case 0xb8:
		return "EF"
	}
	return fmt.Sprintf("0x%02x", tos)
}

// IPProtoName is a protocol number as /etc/protocols names the usual ones.
func IPProtoName(p uint8) string {
	switch p {
	case 1:
		return "icmp"
	case 2:
		return "igmp"
	case 4:
		return "ipencap"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 33:
		return "dccp"
	case 41:
		return "ipv6"
	case 47:
		return "gre"
	case 50:
		return "esp"
	case 51:
		return "ah"
	case 58:
		return "ipv6-icmp"
	case 89:
		return "ospf"
	case 103:
		return "pim"
	case 112:
		return "vrrp"
	case 115:
		return "l2tp"
	case 132:
		return "sctp"
	case 136:
		return "udplite"
	}
	return fmt.Sprintf("ipproto-%d", p)
}

// LinkTypeName is an ARPHRD_*.
func LinkTypeName(t uint16) string {
	switch t {
	case unix.ARPHRD_ETHER:
		return "ether"
	case unix.ARPHRD_LOOPBACK:
		return "loopback"
	case unix.ARPHRD_TUNNEL:
		return "ipip"
	case unix.ARPHRD_TUNNEL6:
		return "tunnel6"
	case unix.ARPHRD_SIT:
		return "sit"
	case unix.ARPHRD_IPGRE:
		return "gre"
	case unix.ARPHRD_IP6GRE:
		return "gre6"
	case unix.ARPHRD_INFINIBAND:
		return "infiniband"
	case unix.ARPHRD_PPP:
		return "ppp"
	case unix.ARPHRD_CAN:
		return "can"
	case unix.ARPHRD_NETLINK:
		return "netlink"
	case unix.ARPHRD_IEEE80211:
		return "ieee802.11"
	case unix.ARPHRD_IEEE80211_RADIOTAP:
		return "ieee802.11/radiotap"
	case unix.ARPHRD_PIMREG:
		return "pimreg"
	case unix.ARPHRD_NONE:
		return "none"
	case unix.ARPHRD_VOID:
		return "void"
	}
	return fmt.Sprintf("[%d]", t)
}

// LinkFlagNames lists IFF_* as iproute2 does: NO-CARRIER for a link that is up
// and not running, RUNNING never, unknown bits as one hexadecimal number.
func LinkFlagNames(flags uint32) []string {
	names := [...]struct {
		bit  uint32
		name string
	}{
		{unix.IFF_LOOPBACK, "LOOPBACK"}, {unix.IFF_BROADCAST, "BROADCAST"}, {unix.IFF_POINTOPOINT, "POINTOPOINT"},
		{unix.IFF_MULTICAST, "MULTICAST"}, {unix.IFF_NOARP, "NOARP"}, {unix.IFF_ALLMULTI, "ALLMULTI"},
		{unix.IFF_PROMISC, "PROMISC"}, {unix.IFF_MASTER, "MASTER"}, {unix.IFF_SLAVE, "SLAVE"},
		{unix.IFF_DEBUG, "DEBUG"}, {unix.IFF_DYNAMIC, "DYNAMIC"}, {unix.IFF_AUTOMEDIA, "AUTOMEDIA"},
		{unix.IFF_PORTSEL, "PORTSEL"}, {unix.IFF_NOTRAILERS, "NOTRAILERS"}, {unix.IFF_UP, "UP"},
		{unix.IFF_LOWER_UP, "LOWER_UP"}, {unix.IFF_DORMANT, "DORMANT"}, {unix.IFF_ECHO, "ECHO"},
	}
	out := []string{}
	if flags&unix.IFF_UP != 0 && flags&unix.IFF_RUNNING == 0 {
		out = append(out, "NO-CARRIER")
	}
	flags &^= unix.IFF_RUNNING
	for _, f := range names {
		if flags&f.bit != 0 {
			out = append(out, f.name)
			flags &^= f.bit
		}
	}
	if flags != 0 {
		out = append(out, strconv.FormatUint(uint64(flags), 16))
	}
	return out
}

// OperStateName is an IF_OPER_* state; ok is false where it has no name.
func OperStateName(s uint8) (name string, ok bool) {
	names := [...]string{"UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP"}
	if int(s) < len(names) {
		return names[s], true
	}
	return "", false
}

// RouteFlagNames lists RTNH_F_* and RTM_F_* in iproute2's order.
func RouteFlagNames(flags uint32) []string {
	names := [...]struct {
		bit  uint32
		name string
	}{
		{unix.RTNH_F_DEAD, "dead"}, {unix.RTNH_F_ONLINK, "onlink"}, {unix.RTNH_F_PERVASIVE, "pervasive"},
		{unix.RTNH_F_OFFLOAD, "offload"}, {unix.RTNH_F_TRAP, "trap"}, {unix.RTM_F_NOTIFY, "notify"},
		{unix.RTNH_F_LINKDOWN, "linkdown"}, {unix.RTNH_F_UNRESOLVED, "unresolved"},
		{unix.RTM_F_OFFLOAD, "rt_offload"}, {unix.RTM_F_TRAP, "rt_trap"},
		{unix.RTM_F_OFFLOAD_FAILED, "rt_offload_failed"},
	}
	out := []string{}
	for _, f := range names {
		if flags&f.bit != 0 {
			out = append(out, f.name)
		}
	}
	return out
}

// LegFlags gives a leg's RTNH_F_* as the kernel would dump them now: DEAD and
// LINKDOWN follow the link's IFF_* in silence (N4, N6; fib_sync_down_dev,
// fib_nexthop_info). ignoreLinkdown is the link's ignore_routes_with_linkdown.
func LegFlags(flags uint8, link uint32, ignoreLinkdown bool) uint8 {
	flags &^= unix.RTNH_F_DEAD | unix.RTNH_F_LINKDOWN
	if link&(unix.IFF_RUNNING|unix.IFF_LOWER_UP) == 0 {
		flags |= unix.RTNH_F_LINKDOWN
		if ignoreLinkdown {
			flags |= unix.RTNH_F_DEAD
		}
	}
	if link&unix.IFF_UP == 0 {
		flags |= unix.RTNH_F_DEAD
	}
	return flags
}

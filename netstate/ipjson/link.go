package ipjson

import (
	"fmt"

	"antiphon/netstate"

	"golang.org/x/sys/unix"
)

// Link types whose addresses are IP addresses (linux/if_arp.h).
const (
	arphrdTunnel  = unix.ARPHRD_TUNNEL
	arphrdTunnel6 = unix.ARPHRD_TUNNEL6
	arphrdSIT     = unix.ARPHRD_SIT
	arphrdIPGRE   = unix.ARPHRD_IPGRE
	arphrdIP6GRE  = unix.ARPHRD_IP6GRE
)

// Link is an element of `ip -j link show`.
func Link(l *netstate.Link, c Context) Object { return link(l, c, true) }

// LinkWithAddresses is an element of `ip -j addr show`: a link, less some of what
// `link show` has, with its addresses in the kernel's order under addr_info.
func LinkWithAddresses(l *netstate.Link, addresses []*netstate.Addr, c Context) Object {
	o := link(l, c, false)
	info := make([]Object, 0, len(addresses))
	for _, a := range addresses {
		info = append(info, Address(a))
	}
	o.add("addr_info", info)
	return o
}

// link is print_linkinfo of iproute2; full is do_link there.
func link(l *netstate.Link, c Context, full bool) Object {
	o := Object{{"ifindex", l.Index}}
	flags := netstate.LinkFlagNames(l.Flags)
	switch {
	case l.HasParent && l.Parent == 0:
		o.add("link", nil)
	case l.HasParent && l.HasNSID:
		o.add("link_index", l.Parent)
	case l.HasParent:
		o.add("link", c.name(l.Parent))
		if p := c.link(l.Parent); p == nil || p.Flags&unix.IFF_UP == 0 {
			flags = append(flags, "M-DOWN")
		}
	}
	o.add("ifname", l.Name)
	o.add("flags", flags)
	o.add("mtu", l.MTU)
	if l.XDPMode != 0 {
		o.add("xdp", xdp(l))
	}
	if l.Qdisc != "" {
		o.add("qdisc", l.Qdisc)
	}
	if l.Master != 0 {
		o.add("master", c.name(l.Master))
	}
	if s, ok := netstate.OperStateName(l.OperState); ok {
		o.add("operstate", s)
	} else {
		o.add("operstate_index", l.OperState)
	}
	if full {
		switch l.LinkMode {
		case 0:
			o.add("linkmode", "DEFAULT")
		case 1:
			o.add("linkmode", "DORMANT")
		default:
			o.add("linkmode_index", l.LinkMode)
		}
	}
	o.add("group", groupName(l.Group))
	if l.TxQLen != 0 {
		o.add("txqlen", l.TxQLen)
	}
	o.add("link_type", netstate.LinkTypeName(l.Type))
	if l.HasAddr {
		o.add("address", hardware(l.Addr, l.Type))
	}
	if l.HasBroadcast {
		if l.Flags&unix.IFF_POINTOPOINT != 0 {
			o.add("link_pointtopoint", true)
		}
		o.add("broadcast", hardware(l.Broadcast, l.Type))
	}
	if l.PermAddr.Len != 0 && l.PermAddr != l.Addr {
		o.add("permaddr", hardware(l.PermAddr, l.Type))
	}
	if l.HasNSID {
		o.add("link_netnsid", l.LinkNSID)
	}
	if l.ProtoDown {
		o.add("proto_down", true)
	}
	if full && l.Alias != "" {
		o.add("ifalias", l.Alias)
	}
	if len(l.AltNames) > 0 {
		o.add("altnames", append([]string(nil), l.AltNames...))
	}
	return o
}

func xdp(l *netstate.Link) Object {
	o := Object{{"mode", l.XDPMode}}
	if l.XDPProg != 0 {
		prog := Object{{"id", l.XDPProg}}
		o.add("prog", prog)
		o.add("attached", []Object{{{"mode", l.XDPMode}, {"prog", prog}}})
	}
	return o
}

func groupName(group uint32) string {
	if group == 0 {
		return "default"
	}
	return fmt.Sprint(int32(group))
}

// Address is an element of addr_info.
func Address(a *netstate.Addr) Object {
	o := Object{{"family", netstate.FamilyName(a.Family)}, {"local", address(a.Local)}}
	if a.Peer != a.Local {
		o.add("address", address(a.Peer))
	}
	o.add("prefixlen", a.PrefixLen)
	if a.Metric != 0 {
		o.add("metric", a.Metric)
	}
	if a.Broadcast.IsValid() {
		o.add("broadcast", address(a.Broadcast))
	}
	if a.Anycast.IsValid() {
		o.add("anycast", address(a.Anycast))
	}
	o.add("scope", netstate.ScopeName(a.Scope))
	addressFlags(&o, a)
	if a.Label != "" {
		o.add("label", a.Label)
	}
	if a.HasLifetimes {
		o.add("valid_life_time", a.ValidLft)
		if a.Flags&unix.IFA_F_DEPRECATED != 0 && a.PreferLft != ^uint32(0) {
			o.add("preferred_life_time", int32(a.PreferLft))
		} else {
			o.add("preferred_life_time", a.PreferLft)
		}
	}
	return o
}

func addressFlags(o *Object, a *netstate.Addr) {
	flags := a.Flags
	secondary := "secondary"
	if a.Family == unix.AF_INET6 {
		secondary = "temporary"
	}
	for _, f := range [...]struct {
		bit  uint32
		name string
	}{
		{unix.IFA_F_SECONDARY, secondary}, {unix.IFA_F_NODAD, "nodad"}, {unix.IFA_F_OPTIMISTIC, "optimistic"},
		{unix.IFA_F_DADFAILED, "dadfailed"}, {unix.IFA_F_HOMEADDRESS, "home"}, {unix.IFA_F_DEPRECATED, "deprecated"},
		{unix.IFA_F_TENTATIVE, "tentative"}, {unix.IFA_F_PERMANENT, ""}, {unix.IFA_F_MANAGETEMPADDR, "mngtmpaddr"},
		{unix.IFA_F_NOPREFIXROUTE, "noprefixroute"}, {unix.IFA_F_MCAUTOJOIN, "autojoin"},
		{unix.IFA_F_STABLE_PRIVACY, "stable-privacy"},
	} {
		set := flags&f.bit != 0
		flags &^= f.bit
		switch {
		case f.name == "" && !set:
			o.add("dynamic", true)
		case f.name != "" && set:
			o.add(f.name, true)
		}
	}
	if flags != 0 {
		o.add("ifa_flags", fmt.Sprintf("%02x", flags))
	}
}

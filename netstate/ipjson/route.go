package ipjson

import (
	"fmt"

	"antiphon/netstate"

	"golang.org/x/sys/unix"
)

// Route is an element of `ip -j -4|-6 route show table all`: one entry of a
// key's group. DEAD and LINKDOWN are those of now, if c knows the links.
func Route(r *netstate.Route, c Context) Object {
	var o Object
	if r.Type != unix.RTN_UNICAST {
		o.add("type", netstate.RouteTypeName(r.Type))
	}
	if r.Dst.Bits() == 0 {
		o.add("dst", "default")
	} else {
		o.add("dst", prefix(r.Dst))
	}
	if r.Src.Bits() > 0 {
		o.add("from", prefix(r.Src))
	}
	if r.NexthopID != 0 {
		o.add("nhid", r.NexthopID)
	}
	var one *netstate.Leg
	flags := r.Flags
	if !r.Multipath && len(r.Legs) == 1 {
		one = &r.Legs[0]
		if one.OIF != 0 && followsLink(r) {
			flags = flags&^0xff | uint32(c.legFlags(uint8(flags), one.OIF, r.Family))
		}
		encap(&o, one)
	}
	if r.TOS != 0 {
		o.add("tos", netstate.TOSName(r.TOS))
	}
	if one != nil {
		gateway(&o, one)
		if one.OIF != 0 {
			o.add("dev", c.name(one.OIF))
		}
	}
	if r.Table != 0 && r.Table != unix.RT_TABLE_MAIN {
		o.add("table", netstate.TableName(r.Table))
	}
	if r.Protocol != unix.RTPROT_BOOT {
		o.add("protocol", netstate.ProtocolName(r.Protocol))
	}
	if r.Scope != unix.RT_SCOPE_UNIVERSE {
		o.add("scope", netstate.ScopeName(r.Scope))
	}
	if r.PrefSrc.IsValid() {
		o.add("prefsrc", address(r.PrefSrc))
	}
	if r.HasPriority {
		o.add("metric", r.Priority)
	}
	legs := nexthops(r, c)
	if r.Multipath && r.Family == unix.AF_INET {
		flags = multipathFlags(r, c)
	}
	o.add("flags", netstate.RouteFlagNames(flags))
	if r.Mark != 0 {
		o.add("mark", r.Mark)
	}
	if one != nil {
		realm(&o, one.Realm)
	}
	if r.HasUID {
		o.add("uid", r.UID)
	}
	if r.HasExpires {
		o.add("expires", r.Expires)
	}
	if r.Error != 0 {
		o.add("error", r.Error)
	}
	if r.MetricsRaw != nil {
		o.add("metrics", []Object{metrics(r)})
	}
	if r.IIF != 0 {
		o.add("iif", c.name(r.IIF))
	}
	if r.HasPref {
		o.add("pref", preference(r.Pref))
	}
	if r.Multipath {
		o.add("nexthops", legs)
	}
	return o
}

// followsLink reports whether a route's only leg gets LINKDOWN and DEAD from its
// link. The host's own routes do not: IPv4 of host scope (fib_sync_down_dev: their
// fib_nh_scope is NOWHERE), IPv6 local and anycast (fib6_ifdown).
func followsLink(r *netstate.Route) bool {
	if r.Family == unix.AF_INET {
		return r.Scope < unix.RT_SCOPE_HOST
	}
	return r.Type != unix.RTN_LOCAL && r.Type != unix.RTN_ANYCAST
}

// multipathFlags are the flags of an IPv4 multipath as a whole. The kernel sets
// LINKDOWN there when one event takes the last leg, and clears it with the first
// leg that revives. Legs on several links that went down one after the other may
// have it or not: then the message's word stands.
func multipathFlags(r *netstate.Route, c Context) uint32 {
	allDown, oneLink := len(r.Legs) > 0, true
	for i := range r.Legs {
		leg := &r.Legs[i]
		allDown = allDown && c.legFlags(leg.Flags, leg.OIF, r.Family)&unix.RTNH_F_LINKDOWN != 0
		oneLink = oneLink && leg.OIF == r.Legs[0].OIF
	}
	switch {
	case !allDown:
		return r.Flags &^ unix.RTNH_F_LINKDOWN
	case oneLink:
		return r.Flags | unix.RTNH_F_LINKDOWN
	}
	return r.Flags
}

// nexthops are the legs of a multipath.
func nexthops(r *netstate.Route, c Context) []Object {
	if !r.Multipath {
		return nil
	}
	legs := make([]Object, 0, len(r.Legs))
	for i := range r.Legs {
		leg := &r.Legs[i]
		var o Object
		encap(&o, leg)
		gateway(&o, leg)
		realm(&o, leg.Realm)
		o.add("dev", c.name(leg.OIF))
		o.add("weight", leg.Weight)
		o.add("flags", netstate.RouteFlagNames(uint32(c.legFlags(leg.Flags, leg.OIF, r.Family))))
		legs = append(legs, o)
	}
	return legs
}

func gateway(o *Object, leg *netstate.Leg) {
	switch {
	case !leg.Gateway.IsValid():
	case leg.Via:
		family := uint8(unix.AF_INET)
		if leg.Gateway.Is6() {
			family = unix.AF_INET6
		}
		o.add("via", Object{{"family", netstate.FamilyName(family)}, {"host", address(leg.Gateway)}})
	default:
		o.add("gateway", address(leg.Gateway))
	}
}

// encap names the kind of a lightweight tunnel; its parameters are not decoded.
func encap(o *Object, leg *netstate.Leg) {
	if !leg.Encap {
		return
	}
	o.add("encap", encapName(leg.EncapType))
}

func encapName(t uint16) string {
	names := [...]string{"none", "mpls", "ip", "ila", "ip6", "seg6", "bpf", "seg6local", "rpl", "ioam6", "xfrm"}
	if int(t) < len(names) {
		return names[t]
	}
	return fmt.Sprint(t)
}

func realm(o *Object, realm uint32) {
	if realm == 0 {
		return
	}
	var f Object
	if from := realm >> 16; from != 0 {
		f.add("from", realmName(from))
	}
	f.add("to", realmName(realm&0xffff))
	o.add("flow", f)
}

func realmName(r uint32) string {
	if r == 0 {
		return "cosmos"
	}
	return fmt.Sprint(r)
}

func preference(p uint8) any {
	switch p {
	case 0:
		return "medium"
	case 1:
		return "high"
	case 3:
		return "low"
	}
	return p
}

// metrics is print_rta_metrics: locked metrics show even without a value.
func metrics(r *netstate.Route) Object {
	names := [...]string{unix.RTAX_MTU: "mtu", unix.RTAX_WINDOW: "window", unix.RTAX_RTT: "rtt",
		unix.RTAX_RTTVAR: "rttvar", unix.RTAX_SSTHRESH: "ssthresh", unix.RTAX_CWND: "cwnd",
		unix.RTAX_ADVMSS: "advmss", unix.RTAX_REORDERING: "reordering", unix.RTAX_HOPLIMIT: "hoplimit",
		unix.RTAX_INITCWND: "initcwnd", unix.RTAX_FEATURES: "features", unix.RTAX_RTO_MIN: "rto_min",
		unix.RTAX_INITRWND: "initrwnd", unix.RTAX_QUICKACK: "quickack", unix.RTAX_CC_ALGO: "congestion",
		unix.RTAX_FASTOPEN_NO_COOKIE: "fastopen_no_cookie"}
	o := Object{}
	locked := r.Metrics[unix.RTAX_LOCK]
	for i := unix.RTAX_MTU; i < len(names); i++ {
		if (r.MetricMask|locked)&(1<<i) == 0 {
			continue
		}
		v := r.Metrics[i]
		switch i {
		case unix.RTAX_HOPLIMIT:
			if v == ^uint32(0) {
				continue
			}
		case unix.RTAX_FEATURES:
			features(&o, v)
			continue
		case unix.RTAX_CC_ALGO:
			o.add(names[i], r.CongestionControl())
			continue
		case unix.RTAX_RTT:
			v /= 8
		case unix.RTAX_RTTVAR:
			v /= 4
		}
		o.add(names[i], v)
	}
	return o
}

func features(o *Object, v uint32) {
	if v&unix.RTAX_FEATURE_ECN != 0 {
		o.add("ecn", nil)
	}
	if v&^unix.RTAX_FEATURE_ECN != 0 {
		o.add("features", fmt.Sprintf("%#x", v))
	}
}

// Nexthop is an element of `ip -j nexthop show`.
func Nexthop(n *netstate.Nexthop, c Context) Object {
	o := Object{{"id", n.ID}}
	if n.IsGroup {
		group := make([]Object, 0, len(n.Group))
		for _, m := range n.Group {
			e := Object{{"id", m.ID}}
			if m.Weight > 1 {
				e.add("weight", m.Weight)
			}
			group = append(group, e)
		}
		o.add("group", group)
		if n.GroupType == netstate.GroupResilient {
			o.add("type", "resilient")
			const tick = 100.0 // clock_t per second
			o.add("resilient_args", Object{
				{"buckets", n.Buckets},
				{"idle_timer", float64(n.IdleTimer) / tick},
				{"unbalanced_timer", float64(n.UnbalancedTimer) / tick},
				{"unbalanced_time", float64(n.UnbalancedTime) / tick},
			})
		}
	}
	encap(&o, &netstate.Leg{Encap: n.Encap, EncapType: n.EncapType})
	if n.Gateway.IsValid() {
		o.add("gateway", address(n.Gateway))
	}
	if n.OIF != 0 {
		o.add("dev", c.name(n.OIF))
	}
	if n.Scope != unix.RT_SCOPE_UNIVERSE {
		o.add("scope", netstate.ScopeName(n.Scope))
	}
	if n.Blackhole {
		o.add("blackhole", nil)
	}
	if n.Protocol != unix.RTPROT_UNSPEC {
		o.add("protocol", netstate.ProtocolName(n.Protocol))
	}
	o.add("flags", netstate.RouteFlagNames(n.Flags))
	if n.FDB {
		o.add("fdb", nil)
	}
	return o
}

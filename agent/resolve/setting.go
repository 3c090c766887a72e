package resolve

import (
	"strconv"
	"strings"

	"antiphon/hwmodel"
	"antiphon/netstate"
)

const (
	afInet  = 2
	afInet6 = 10
)

// settings is the decoded view of sysctls and unmirrored state.
type settings struct {
	known     bool
	values    map[string]string
	presences []netstate.Presence
}

func (s *settings) replace(n *netstate.Settings) {
	s.known = true
	s.values = make(map[string]string, len(n.Settings))
	for _, v := range n.Settings {
		s.values[v.Name] = strings.TrimSpace(v.Value)
	}
	s.presences = n.Presences
}

// number returns a sysctl's value; ok is false if it was not read or is no number.
func (s *settings) number(name string) (uint64, bool) {
	v, ok := s.values[name]
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(v, 0, 32)
	return n, err == nil
}

func (s *settings) conf4(dev, name string) (uint64, bool) {
	return s.number("net.ipv4.conf." + dev + "." + name)
}

func (s *settings) conf6(dev, name string) (uint64, bool) {
	return s.number("net.ipv6.conf." + dev + "." + name)
}

// or4 is IN_DEV_ORCONF (include/linux/inetdevice.h): all or interface. What is
// not known counts as on.
func (s *settings) or4(dev, name string) bool {
	all, ok1 := s.conf4("all", name)
	own, ok2 := s.conf4(dev, name)
	return !ok1 || !ok2 || all != 0 || own != 0
}

// rpFilter is IN_DEV_RPFILTER: the maximum of all and interface, strict(1) and
// loose(2) alike compared as numbers.
func (s *settings) rpFilter(dev string) hwmodel.RPMode {
	all, ok1 := s.conf4("all", "rp_filter")
	own, ok2 := s.conf4(dev, "rp_filter")
	if !ok1 || !ok2 {
		return hwmodel.RPStrict
	}
	switch max(all, own) {
	case 0:
		return hwmodel.RPOff
	case 2:
		return hwmodel.RPLoose
	}
	return hwmodel.RPStrict
}

// forwarding4 is IN_DEV_FORWARD: the ingress interface alone decides.
func (s *settings) forwarding4(dev string) hwmodel.Reason {
	v, ok := s.conf4(dev, "forwarding")
	switch {
	case !ok:
		return hwmodel.ReasonResync
	case v == 0:
		return hwmodel.ReasonForwardingOff
	}
	return hwmodel.ReasonNone
}

// forwarding6: conf.all.forwarding decides (net/ipv6/ip6_output.c ip6_forward);
// an interface with IPv6 disabled takes nothing in.
func (s *settings) forwarding6(dev string) hwmodel.Reason {
	v, ok := s.conf6("all", "forwarding")
	switch {
	case !ok:
		return hwmodel.ReasonResync
	case v == 0:
		return hwmodel.ReasonForwardingOff
	}
	return s.disabled6(dev)
}

func (s *settings) disabled6(dev string) hwmodel.Reason {
	v, ok := s.conf6(dev, "disable_ipv6")
	switch {
	case !ok:
		return hwmodel.ReasonResync
	case v != 0:
		return hwmodel.ReasonInterfaceDown
	}
	return hwmodel.ReasonNone
}

// mtu6: IPv6 packets are measured by a setting that follows the link's MTU, but
// can be lowered (include/net/ip6_route.h ip6_dst_mtu_maybe_forward).
func (s *settings) mtu6(l *link) hwmodel.Reason {
	if v, ok := s.conf6(l.name, "mtu"); ok && v < uint64(l.mtu) {
		return hwmodel.ReasonUnmirroredSysctl
	}
	return hwmodel.ReasonNone
}

// ignoreLinkdown is ip_ignore_linkdown / ip6_ignore_linkdown: whether a route's
// leg on a device without carrier counts as dead. known is false for devices
// whose sysctls are not mirrored.
func (s *settings) ignoreLinkdown(dev string, family uint8) (ignore, known bool) {
	const name = "ignore_routes_with_linkdown"
	if family == afInet6 {
		own, ok := s.conf6(dev, name)
		return own != 0, ok
	}
	all, ok1 := s.conf4("all", name)
	own, ok2 := s.conf4(dev, name)
	return all != 0 || own != 0, ok1 && ok2
}

// presenceReasons maps netstate.Presence.What to a reason.
var presenceReasons = map[string]hwmodel.Reason{
	"nftables":  hwmodel.ReasonUnmirroredNftables,
	"iptables":  hwmodel.ReasonUnmirroredIptables,
	"tc":        hwmodel.ReasonUnmirroredTC,
	"xdp":       hwmodel.ReasonUnmirroredXDP,
	"xfrm":      hwmodel.ReasonUnmirroredXfrm,
	"ipvs":      hwmodel.ReasonUnmirroredIPVS,
	"mroute":    hwmodel.ReasonUnmirroredMroute,
	"bridge-nf": hwmodel.ReasonUnmirroredBridgeNF,
	"sysctl":    hwmodel.ReasonUnmirroredSysctl,
}

func presenceReason(what string) hwmodel.Reason {
	if r, ok := presenceReasons[what]; ok {
		return r
	}
	return hwmodel.ReasonUnmirroredUnknown
}

// find returns the first presence that touches packets of the family at the
// interface (0: everywhere) in the direction.
func (s *settings) find(ifindex uint32, family uint8, match func(netstate.Presence) bool) *netstate.Presence {
	for i, p := range s.presences {
		if p.Ifindex == ifindex && (p.Family == 0 || p.Family == family) && match(p) {
			return &s.presences[i]
		}
	}
	return nil
}

func (s *settings) ingress(ifindex uint32, family uint8) hwmodel.Reason {
	return reasonOf(s.find(ifindex, family, func(p netstate.Presence) bool { return p.Ingress || !p.Egress }))
}

func (s *settings) egress(ifindex uint32, family uint8) hwmodel.Reason {
	return reasonOf(s.find(ifindex, family, func(p netstate.Presence) bool { return p.Egress || !p.Ingress }))
}

// global is the presence that touches every packet of the family, nil if none.
func (s *settings) global(family uint8) *netstate.Presence {
	return s.find(0, family, func(netstate.Presence) bool { return true })
}

func reasonOf(p *netstate.Presence) hwmodel.Reason {
	if p == nil {
		return hwmodel.ReasonNone
	}
	return presenceReason(p.What)
}

// globalTrap is why every packet of the family traps.
func (r *Resolver) globalTrap(family uint8) hwmodel.Reason {
	if r.resync || !r.settings.known {
		return hwmodel.ReasonResync
	}
	return reasonOf(r.settings.global(family))
}

func (r *Resolver) wantSettings(struct{}) (hwmodel.Settings, bool) {
	s := &r.settings
	policy4, ok4 := s.number("net.ipv4.fib_multipath_hash_policy")
	policy6, ok6 := s.number("net.ipv6.fib_multipath_hash_policy")
	if !ok4 {
		policy4 = unknownPolicy
	}
	if !ok6 || policy6 == 0 && r.dissects6() {
		policy6 = unknownPolicy
	}
	seed, _ := s.number("net.ipv4.fib_multipath_hash_seed")
	return hwmodel.Settings{
		Trap4:       r.globalTrap(afInet),
		Trap6:       r.globalTrap(afInet6),
		HashPolicy4: uint8(policy4),
		HashPolicy6: uint8(policy6),
		HashSeed:    uint32(seed),
		SeedKnown:   seed != 0,
	}, true
}

// unknownPolicy is a hash policy no device computes: groups with several live
// legs then trap.
const unknownPolicy = 255

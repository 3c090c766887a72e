package hwmodel

import "fmt"

// Reason is the closed enumeration of why something is not forwarded by the
// device: why a packet trapped or was dropped, why an object was refused, why a
// row is in doubt. The names returned by String are stable: they are CLI output,
// metric labels and test expectations. New reasons are added at the end only.
type Reason uint8

const (
	// ReasonNone means "no objection".
	ReasonNone Reason = iota

	// Packet reasons: found by the device in the frame itself.
	ReasonNotIP         // ethertype is neither IPv4 nor IPv6 (ARP, LLDP, ...)
	ReasonNotOurMAC     // unicast to another station
	ReasonBroadcast     // link-layer broadcast or multicast
	ReasonVLANTag       // 802.1Q or 802.1ad tag
	ReasonMalformed     // truncated, bad version, length or header checksum
	ReasonIPOptions     // IPv4 options
	ReasonHopByHop      // IPv6 hop-by-hop header
	ReasonTTLExpired    // TTL or hop limit would reach zero
	ReasonMartianSource // source address the kernel refuses
	ReasonMartianDest   // destination the kernel treats specially
	ReasonOwnSource     // source is an address of this router
	ReasonReversePath   // reverse path filter does not pass it
	ReasonTooBig        // longer than the egress MTU or the route's MTU
	ReasonRedirectDue   // leaves by the port it came in: kernel may send a redirect

	// Lookup reasons: what the tables say.
	ReasonNotProgrammed      // the device holds no settings or rules yet
	ReasonNoInterface        // port has no router interface
	ReasonInterfaceDown      // interface is administratively down or without carrier
	ReasonForwardingOff      // forwarding sysctl is 0 on the ingress interface
	ReasonNoRoute            // no route matched
	ReasonLocal              // for the host itself
	ReasonBlackhole          // route or rule type blackhole (dropped)
	ReasonUnreachable        // route or rule type unreachable
	ReasonProhibit           // route or rule type prohibit
	ReasonNotForwardable     // route type the device does not forward (broadcast, multicast, anycast, nat, ...)
	ReasonNeighborUnresolved // no valid neighbour entry
	ReasonNextHopDead        // no live next hop
	ReasonNotAPort           // next hop leaves by a netdev that is no device port
	ReasonSuspect            // row in doubt until a re-dump settles it
	ReasonLocalMainOverlap   // 03 item 18a: local and main overlap, order unknowable
	ReasonRouteTOS           // routes with a TOS value
	ReasonRouteAlias         // several aliases or same-metric entries whose choice is not understood
	ReasonRouteEncap         // lightweight tunnel encapsulation
	ReasonRouteAttribute     // route attribute that is not understood
	ReasonSourceRouting      // IPv6 source-specific route
	ReasonRuleSelector       // rule selector the device does not match on
	ReasonRuleAction         // rule action the device does not perform
	ReasonResilientGroup     // resilient next hop group
	ReasonMissingNexthop     // route names a nexthop object that is not mirrored
	ReasonMultipathPolicy    // hash policy the device does not compute
	ReasonTooWide            // group wider than the device supports
	ReasonTableFull          // device table is full
	ReasonCoversRefused      // a more specific route is not in the device (LPM safety)
	ReasonResync             // not caught up with the kernel
	ReasonTxFailed           // egress refused the frame
	ReasonTrapUndeliverable  // representor refused the frame
	ReasonPortDown           // egress or ingress port is down

	// Unmirrored state (01 "What is not mirrored must trap").
	ReasonUnmirroredNftables
	ReasonUnmirroredIptables
	ReasonUnmirroredTC
	ReasonUnmirroredXDP
	ReasonUnmirroredXfrm
	ReasonUnmirroredIPVS
	ReasonUnmirroredMroute
	ReasonUnmirroredBridgeNF
	ReasonUnmirroredSysctl
	ReasonUnmirroredMaster // port is enslaved (bridge, bond, VRF, ...)
	ReasonUnmirroredUpper  // an upper netdev takes frames of the port (VLAN, macvlan, MACsec, ...)
	ReasonUnmirroredUnknown

	ReasonShadowed // a better row of the same prefix is the one in use
	ReasonPoliced  // more traps of one reason than the host is to take: dropped

	reasonCount
)

// ReasonCount is the number of reasons; arrays indexed by Reason have this size.
const ReasonCount = int(reasonCount)

var reasonNames = [ReasonCount]string{
	"none", "not-ip", "not-our-mac", "broadcast", "vlan-tag", "malformed",
	"ip-options", "hop-by-hop", "ttl-expired", "martian-source",
	"martian-destination", "own-source", "reverse-path", "too-big",
	"redirect-due", "not-programmed", "no-interface", "interface-down",
	"forwarding-off", "no-route", "local", "blackhole", "unreachable",
	"prohibit", "not-forwardable", "neighbor-unresolved", "nexthop-dead",
	"not-a-port", "suspect", "local-main-overlap", "route-tos", "route-alias",
	"route-encap", "route-attribute", "source-routing", "rule-selector",
	"rule-action", "resilient-group", "missing-nexthop", "multipath-policy",
	"nexthop-group-too-wide", "table-full", "covers-refused", "resync",
	"tx-failed", "trap-undeliverable", "port-down",
	"unmirrored-nftables", "unmirrored-iptables", "unmirrored-tc",
	"unmirrored-xdp", "unmirrored-xfrm", "unmirrored-ipvs",
	"unmirrored-mroute", "unmirrored-bridge-nf", "unmirrored-sysctl",
	"unmirrored-master", "unmirrored-upper", "unmirrored-unknown",
	"shadowed", "policed",
}

// String returns the stable name.
func (r Reason) String() string {
	if int(r) < ReasonCount {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}

// ParseReason is the inverse of String.
func ParseReason(s string) (Reason, error) {
	for i, n := range reasonNames {
		if n == s {
			return Reason(i), nil
		}
	}
	return 0, fmt.Errorf("unknown reason %q", s)
}

// LookupError reports whether a route or rule with this reason makes the kernel's
// lookup fail (fib_props in net/ipv4/fib_semantics.c): to the source check that
// is the same as no route.
func (r Reason) LookupError() bool {
	return r == ReasonBlackhole || r == ReasonUnreachable || r == ReasonProhibit
}

// Verdict is what happens to a frame.
type Verdict uint8

const (
	// Trap hands the frame, unchanged, to the host through the ingress port's
	// representor. It is the zero value: what nobody decided, traps.
	Trap Verdict = iota
	// Forward sends the rewritten frame out of a port.
	Forward
	// Drop discards the frame where the kernel would discard it silently.
	Drop
)

// String returns "trap", "forward" or "drop".
func (v Verdict) String() string {
	switch v {
	case Trap:
		return "trap"
	case Forward:
		return "forward"
	case Drop:
		return "drop"
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

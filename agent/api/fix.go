package api

import "antiphon/hwmodel"

// fixOf says what a person can do about a reason; empty when nothing need be done.
func fixOf(r hwmodel.Reason) string {
	switch r {
	case hwmodel.ReasonNeighborUnresolved:
		return "nothing: the kernel resolves the neighbour with the first packet; if it cannot, see ip neigh"
	case hwmodel.ReasonNotAPort:
		return "send it out of a device port (antiphon show counters lists them); other netdevs are the host's"
	case hwmodel.ReasonInterfaceDown:
		return "ip link set the interface up, and plug its cable in"
	case hwmodel.ReasonForwardingOff:
		return "switch the forwarding sysctl on, if this host shall forward"
	case hwmodel.ReasonNextHopDead:
		return "bring the interface of a next hop up"
	case hwmodel.ReasonNotProgrammed, hwmodel.ReasonResync, hwmodel.ReasonSuspect:
		return "wait: antiphon barrier returns when it is settled, or says what is pending"
	case hwmodel.ReasonLocalMainOverlap:
		return "keep prefixes of the tables local and main apart"
	case hwmodel.ReasonRouteTOS:
		return "route by a rule instead of by TOS"
	case hwmodel.ReasonRouteAlias:
		return "make it one multipath route, or give the routes different metrics"
	case hwmodel.ReasonRouteEncap:
		return "none: lightweight tunnels are the host's"
	case hwmodel.ReasonSourceRouting:
		return "use ip -6 rule from PREFIX lookup TABLE instead of a source-specific route"
	case hwmodel.ReasonRuleSelector:
		return "use selectors from, to, iif only"
	case hwmodel.ReasonRuleAction:
		return "use lookup or blackhole rules"
	case hwmodel.ReasonResilientGroup:
		return "replace it by a group without type resilient (ip nexthop replace id N group A/B)"
	case hwmodel.ReasonMissingNexthop:
		return "add the nexthop object that it names"
	case hwmodel.ReasonMultipathPolicy:
		return "sysctl -w net.ipv4.fib_multipath_hash_policy=1 (and net.ipv6...), or 0"
	case hwmodel.ReasonTooWide:
		return "make the group smaller"
	case hwmodel.ReasonTableFull, hwmodel.ReasonCoversRefused:
		return "remove or aggregate routes, or use a device with a larger table (antiphon status shows them)"
	case hwmodel.ReasonUnmirroredNftables, hwmodel.ReasonUnmirroredIptables:
		return "remove the chain, or accept that the host filters: these packets must pass it"
	case hwmodel.ReasonUnmirroredTC, hwmodel.ReasonUnmirroredXDP, hwmodel.ReasonUnmirroredXfrm,
		hwmodel.ReasonUnmirroredIPVS, hwmodel.ReasonUnmirroredMroute, hwmodel.ReasonUnmirroredBridgeNF,
		hwmodel.ReasonUnmirroredSysctl, hwmodel.ReasonUnmirroredUnknown:
		return "remove what the detail names, or accept that the host forwards"
	case hwmodel.ReasonUnmirroredMaster:
		return "take the port out of its master: only plain routed ports are offloaded"
	case hwmodel.ReasonUnmirroredUpper:
		return "remove the netdev stacked on the port"
	}
	return ""
}

package netstate

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Attributes of linux/if_link.h that x/sys does not name.
const (
	iflaCarrierUpCount   = 47
	iflaCarrierDownCount = 48

	iflaBrMcastQuerierState = 47
	iflaBrFdbNLearned       = 48
)

// maxSetLegs bounds the comparison of IPv6 multipath legs as sets, which is
// quadratic. Wider sets count as different, which costs a dump.
const maxSetLegs = 512

// volatileLeg are the leg flags that come and go without a message (N4, N42).
const volatileLeg = unix.RTNH_F_DEAD | unix.RTNH_F_LINKDOWN | unix.RTNH_F_OFFLOAD | unix.RTNH_F_TRAP

// volatileRoute are the flags of struct rtmsg that do.
const volatileRoute = volatileLeg | unix.RTM_F_OFFLOAD | unix.RTM_F_TRAP | unix.RTM_F_OFFLOAD_FAILED | unix.RTM_F_NOTIFY

// Equal reports whether two messages say the same about a row of this kind,
// so that a notification and a dump of one state are equal. It ignores the
// netlink header, statistics, ages, timers and probes, the attributes that only
// notifications carry (IFLA_EVENT), and the flags that change in silence: DEAD,
// LINKDOWN, OFFLOAD and TRAP of routes and nexthops. It ignores IFLA_AF_SPEC
// too: that holds settings, which travel apart. Of a route's lifetime only counts
// whether it has one. IPv6 legs are compared
// as sets (N23). Malformed messages are equal to nothing. It does not allocate.
func Equal(kind Kind, a, b []byte) bool {
	n := fixedBytes(kind)
	if n == 0 || len(a) < HeaderBytes+n || len(b) < HeaderBytes+n {
		return false
	}
	ha, hb := a[HeaderBytes:HeaderBytes+n], b[HeaderBytes:HeaderBytes+n]
	if !equalHeader(kind, ha, hb) {
		return false
	}
	ia := attrs{b: a[HeaderBytes+n:]}
	ib := attrs{b: b[HeaderBytes+n:]}
	c := comparison{kind: kind, family: ha[0]}
	return c.equal(&ia, &ib)
}

// fixedBytes is the length of a kind's header after nlmsghdr.
func fixedBytes(kind Kind) int {
	switch kind {
	case KindLink:
		return unix.SizeofIfInfomsg
	case KindAddr:
		return unix.SizeofIfAddrmsg
	case KindNeighbor:
		return sizeofNdmsg
	case KindRoute, KindRule:
		return unix.SizeofRtMsg
	case KindNexthop:
		return sizeofNhmsg
	}
	return 0
}

func equalHeader(kind Kind, a, b []byte) bool {
	u32 := binary.NativeEndian.Uint32
	switch kind {
	case KindLink:
		// ifi_change, the last word, says what the notification is about.
		return bytes.Equal(a[:12], b[:12])
	case KindRoute:
		return bytes.Equal(a[:8], b[:8]) && (u32(a[8:])^u32(b[8:]))&^volatileRoute == 0
	case KindRule:
		return bytes.Equal(a[:8], b[:8]) && (u32(a[8:])^u32(b[8:]))&^ruleTransient == 0
	case KindNexthop:
		return bytes.Equal(a[:4], b[:4]) && (u32(a[4:])^u32(b[4:]))&^volatileLeg == 0
	}
	return bytes.Equal(a, b)
}

// comparison is where in a message two attribute lists are.
type comparison struct {
	kind   Kind
	family uint8
	// nest is 0 at the top, IFLA_LINKINFO in it, IFLA_INFO_DATA below that.
	nest uint16
	// bridge says that the data that follow are a bridge's or a bridge port's.
	bridge bool
}

// equal compares two lists in their order, leaving out what is volatile.
func (c comparison) equal(a, b *attrs) bool {
	for {
		oka, okb := c.step(a), c.step(b)
		if a.err != nil || b.err != nil || oka != okb {
			return false
		}
		if !oka {
			return true
		}
		if a.typ != b.typ || !c.value(a, b) {
			return false
		}
	}
}

// step goes to the next attribute that counts.
func (c *comparison) step(a *attrs) bool {
	for a.next() {
		if c.nest == unix.IFLA_LINKINFO && (a.typ == unix.IFLA_INFO_KIND || a.typ == unix.IFLA_INFO_SLAVE_KIND) {
			c.bridge = string(cstring(a.val)) == "bridge"
		}
		if !c.volatile(a.typ) && (c.kind != KindRoute || a.typ != unix.RTA_CACHEINFO || temporary(a.val)) {
			return true
		}
	}
	return false
}

func (c *comparison) value(a, b *attrs) bool {
	switch {
	case c.kind == KindLink && c.nest == 0 && a.typ == unix.IFLA_LINKINFO,
		c.nest == unix.IFLA_LINKINFO && a.typ == unix.IFLA_INFO_DATA:
		na, nb := attrs{b: a.val}, attrs{b: b.val}
		return comparison{kind: c.kind, nest: a.typ, bridge: c.bridge}.equal(&na, &nb)
	case c.kind == KindRoute && a.typ == unix.RTA_CACHEINFO:
		return true // see step
	case c.kind == KindRoute && a.typ == unix.RTA_MULTIPATH:
		return equalLegs(a.val, b.val, c.family == unix.AF_INET6)
	case c.kind == KindNexthop && a.typ == nhaResGroup:
		na, nb := attrs{b: a.val}, attrs{b: b.val}
		return comparison{kind: c.kind, nest: nhaResGroup}.equal(&na, &nb)
	}
	return bytes.Equal(a.val, b.val)
}

// temporary reports whether a struct rta_cacheinfo says that its route expires:
// that counts, the rest of it ages.
func temporary(cacheinfo []byte) bool {
	return len(cacheinfo) >= 12 && binary.NativeEndian.Uint32(cacheinfo[8:]) != 0
}

// volatile says whether an attribute does not count.
func (c *comparison) volatile(typ uint16) bool {
	switch c.kind {
	case KindLink:
		return c.volatileLink(typ)
	case KindAddr:
		return typ == unix.IFA_CACHEINFO
	case KindNeighbor:
		return typ == unix.NDA_CACHEINFO || typ == unix.NDA_PROBES
	case KindRoute:
		return typ == unix.RTA_EXPIRES || typ == unix.RTA_PAD
	case KindRule:
		return typ == unix.FRA_PAD
	case KindNexthop:
		if c.nest == nhaResGroup {
			return typ == nhaResGroupUnbalancedTime || typ == 0
		}
		return typ == nhaOpFlags || typ == nhaGroupStats || typ == nhaHWStatsUsed
	}
	return false
}

func (c *comparison) volatileLink(typ uint16) bool {
	switch c.nest {
	case 0:
		switch typ {
		case unix.IFLA_STATS, unix.IFLA_STATS64, unix.IFLA_AF_SPEC, unix.IFLA_EVENT, unix.IFLA_EXT_MASK,
			unix.IFLA_CARRIER_CHANGES, iflaCarrierUpCount, iflaCarrierDownCount,
			unix.IFLA_NUM_VF, unix.IFLA_VFINFO_LIST, unix.IFLA_VF_PORTS, unix.IFLA_PORT_SELF,
			unix.IFLA_NEW_NETNSID, unix.IFLA_NEW_IFINDEX, unix.IFLA_PAD, unix.IFLA_UNSPEC:
			return true
		}
	case unix.IFLA_LINKINFO:
		// A bridge port's state changes with an AF_BRIDGE message only (N31).
		return typ == unix.IFLA_INFO_XSTATS || typ == unix.IFLA_INFO_SLAVE_DATA && c.bridge
	case unix.IFLA_INFO_DATA:
		return c.bridge && volatileBridge(typ)
	}
	return false
}

// volatileBridge are a bridge's timers, election results and counts.
func volatileBridge(typ uint16) bool {
	switch typ {
	case unix.IFLA_BR_HELLO_TIMER, unix.IFLA_BR_TCN_TIMER, unix.IFLA_BR_TOPOLOGY_CHANGE_TIMER, unix.IFLA_BR_GC_TIMER,
		unix.IFLA_BR_ROOT_ID, unix.IFLA_BR_ROOT_PORT, unix.IFLA_BR_ROOT_PATH_COST,
		unix.IFLA_BR_TOPOLOGY_CHANGE, unix.IFLA_BR_TOPOLOGY_CHANGE_DETECTED,
		iflaBrMcastQuerierState, iflaBrFdbNLearned:
		return true
	}
	return false
}

// nextLeg cuts one rtnexthop off a multipath; ok is false at the end and where
// the bytes make no sense (bad).
func nextLeg(b []byte) (leg, rest []byte, ok, bad bool) {
	if len(b) == 0 {
		return nil, nil, false, false
	}
	if len(b) < unix.SizeofRtNexthop {
		return nil, nil, false, true
	}
	n := int(binary.NativeEndian.Uint16(b))
	if n < unix.SizeofRtNexthop || n > len(b) {
		return nil, nil, false, true
	}
	return b[:n], b[min(align4(n), len(b)):], true, false
}

// equalLeg compares two legs but for their volatile flags.
func equalLeg(a, b []byte) bool {
	return len(a) == len(b) && bytes.Equal(a[3:], b[3:]) && (a[2]^b[2])&^volatileLeg == 0
}

// equalLegs compares two multipaths, in order or as multisets.
func equalLegs(a, b []byte, set bool) bool {
	n, same := 0, true
	for ra, rb := a, b; ; n++ {
		la, na, oka, bada := nextLeg(ra)
		lb, nb, okb, badb := nextLeg(rb)
		if bada || badb || oka != okb {
			return false
		}
		if !oka {
			break
		}
		same = same && equalLeg(la, lb)
		ra, rb = na, nb
	}
	if same || !set || n > maxSetLegs {
		return same
	}
	for r := a; ; {
		leg, next, ok, _ := nextLeg(r)
		if !ok {
			return true
		}
		if countLeg(a, leg) != countLeg(b, leg) {
			return false
		}
		r = next
	}
}

// countLeg counts how often a leg occurs in a multipath.
func countLeg(b, leg []byte) (n int) {
	for {
		l, next, ok, _ := nextLeg(b)
		if !ok {
			return n
		}
		if equalLeg(l, leg) {
			n++
		}
		b = next
	}
}

package netstate

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Attributes of linux/rtnetlink.h that x/sys does not name.
const (
	rtaNhID      = 30
	rtaFlowlabel = 31
)

// Metric numbers are RTAX_*: Route.Metrics has a slot for each.
const metricCount = 18

// Leg is one way out of a route.
type Leg struct {
	// OIF is the interface index; 0 if the leg names none.
	OIF uint32
	// Gateway is the next hop's address, possibly of the other family
	// (RTA_VIA); invalid if the destination is on the link.
	Gateway netip.Addr
	// Weight is rtnh_hops + 1, 1 to 256; 1 for a route's only leg.
	Weight uint16
	// Flags are RTNH_F_*, as when the message was made: DEAD and LINKDOWN
	// change without a message (N4).
	Flags uint8
	// Encap says that a lightweight tunnel applies; EncapType is LWTUNNEL_ENCAP_*.
	Encap     bool
	EncapType uint16
	// Via says that the gateway came as RTA_VIA.
	Via bool
	// Realm is RTA_FLOW, IPv4 only.
	Realm uint32
}

// Route is an IPv4 or IPv6 route: RTM_NEWROUTE, struct rtmsg. A Route is reused:
// Decode keeps the memory of Legs.
type Route struct {
	Family uint8
	// Table is RTA_TABLE, else rtm_table (N21).
	Table uint32
	Dst   netip.Prefix
	// Src is the source of an IPv6 subtree; length 0 for all others.
	Src      netip.Prefix
	TOS      uint8
	Protocol uint8 // RTPROT_*
	Scope    uint8 // RT_SCOPE_*
	Type     uint8 // RTN_*
	// Flags are RTM_F_* and, for a single leg, RTNH_F_*.
	Flags    uint32
	Priority uint32
	// HasPriority says that RTA_PRIORITY was there.
	HasPriority bool
	PrefSrc     netip.Addr
	// MetricMask has bit n set when RTAX n was there; Metrics[n] is its value.
	MetricMask uint32
	Metrics    [metricCount]uint32
	// MetricsRaw is RTA_METRICS as it came; it aliases the message.
	MetricsRaw []byte
	NexthopID  uint32 // RTA_NH_ID, 0 if none
	IIF        uint32
	// Pref is ICMPV6_ROUTER_PREF_*, IPv6 only; HasPref says it was there.
	Pref    uint8
	HasPref bool
	// Expires is in seconds when the message was made; HasExpires says that the
	// route is temporary. Error is the errno of routes that are no way out.
	Expires    int32
	HasExpires bool
	Error      uint32
	Mark       uint32
	UID        uint32
	HasUID     bool
	// Multipath says that the legs came as RTA_MULTIPATH. A route with a single
	// gateway or interface has one leg; one with neither (blackhole) none.
	Multipath bool
	Legs      []Leg
	// Unknown is the first attribute type that this decoder does not know, in
	// the message, its legs or metrics (those | 0x4000); 0 if none.
	Unknown uint16
}

// MTU returns RTAX_MTU, 0 if there is none, and whether it is locked.
func (d *Route) MTU() (mtu uint32, locked bool) {
	return d.Metrics[unix.RTAX_MTU], d.Metrics[unix.RTAX_LOCK]&(1<<unix.RTAX_MTU) != 0
}

// Encap reports whether any leg is a lightweight tunnel.
func (d *Route) Encap() bool {
	for i := range d.Legs {
		if d.Legs[i].Encap {
			return true
		}
	}
	return false
}

// Decode reads an RTM_NEWROUTE or RTM_DELROUTE message of IPv4 or IPv6. It does
// not allocate unless it fails or has more legs than ever before.
func (d *Route) Decode(raw []byte) error {
	*d = Route{Legs: d.Legs[:0]}
	_, head, it, err := body(raw, unix.RTM_NEWROUTE, unix.RTM_DELROUTE, unix.SizeofRtMsg, "route")
	if err != nil {
		return err
	}
	d.Family, d.TOS, d.Table = head[0], head[3], uint32(head[4])
	d.Protocol, d.Scope, d.Type = head[5], head[6], head[7]
	d.Flags = binary.NativeEndian.Uint32(head[8:])
	if familyBytes(d.Family) == 0 {
		return &DecodeError{"route family", HeaderBytes, "AF_INET or AF_INET6"}
	}
	var dst, src netip.Addr
	one := Leg{Weight: 1, Flags: uint8(d.Flags)}
	single := false
	for it.next() {
		switch it.typ {
		case unix.RTA_DST:
			dst = it.addr(d.Family)
		case unix.RTA_SRC:
			src = it.addr(d.Family)
		case unix.RTA_IIF:
			d.IIF = it.u32()
		case unix.RTA_OIF, unix.RTA_GATEWAY, unix.RTA_VIA, unix.RTA_ENCAP, unix.RTA_ENCAP_TYPE, unix.RTA_FLOW:
			one.attr(&it, d.Family)
			single = true
		case unix.RTA_PRIORITY:
			d.Priority, d.HasPriority = it.u32(), true
		case unix.RTA_PREFSRC:
			d.PrefSrc = it.addr(d.Family)
		case unix.RTA_METRICS:
			d.metrics(&it)
		case unix.RTA_MULTIPATH:
			d.Multipath = true
			d.multipath(&it)
		case unix.RTA_CACHEINFO:
			d.cacheinfo(&it)
		case unix.RTA_TABLE:
			d.Table = it.u32()
		case unix.RTA_PREF:
			d.Pref, d.HasPref = it.u8(), true
		case unix.RTA_MARK:
			d.Mark = it.u32()
		case unix.RTA_UID:
			d.UID, d.HasUID = it.u32(), true
		case rtaNhID:
			d.NexthopID = it.u32()
		case unix.RTA_EXPIRES, unix.RTA_PAD:
		default:
			noteUnknown(&d.Unknown, it.typ)
		}
	}
	if it.err != nil {
		return it.err
	}
	if single && !d.Multipath {
		d.Legs = append(d.Legs, one)
	}
	var ok bool
	if d.Dst, ok = prefix(d.Family, dst, head[1]); !ok {
		return &DecodeError{"route destination length", HeaderBytes + 1, "no more than the address has"}
	}
	if d.Src, ok = prefix(d.Family, src, head[2]); !ok {
		return &DecodeError{"route source length", HeaderBytes + 2, "no more than the address has"}
	}
	return nil
}

// attr reads one attribute of a leg, whether on its own or inside a multipath.
func (l *Leg) attr(it *attrs, family uint8) {
	switch it.typ {
	case unix.RTA_OIF:
		l.OIF = it.u32()
	case unix.RTA_GATEWAY:
		l.Gateway = it.addr(family)
	case unix.RTA_VIA:
		// struct rtvia: u16 family, then the address.
		if len(it.val) < 2 {
			it.fail("an address family")
			return
		}
		f := binary.NativeEndian.Uint16(it.val)
		ip, ok := netip.AddrFromSlice(it.val[2:])
		if !ok || f > 255 || len(it.val)-2 != familyBytes(uint8(f)) {
			it.fail("an IPv4 or IPv6 address")
			return
		}
		l.Gateway, l.Via = ip, true
	case unix.RTA_ENCAP:
		l.Encap = true
	case unix.RTA_ENCAP_TYPE:
		l.EncapType, l.Encap = it.u16(), true
	case unix.RTA_FLOW:
		l.Realm = it.u32()
	}
}

// multipath reads RTA_MULTIPATH: struct rtnexthop {u16 len; u8 flags, hops; i32
// ifindex} with attributes, each at a multiple of four.
func (d *Route) multipath(it *attrs) {
	const size = unix.SizeofRtNexthop
	for off := 0; off < len(it.val); {
		rest := it.val[off:]
		if len(rest) < size {
			it.fail("a whole rtnexthop")
			return
		}
		n := int(binary.NativeEndian.Uint16(rest))
		if n < size || n > len(rest) {
			it.fail(fmt.Sprintf("rtnh_len of 8 to %d, have %d", len(rest), n))
			return
		}
		leg := Leg{
			OIF:    binary.NativeEndian.Uint32(rest[4:]),
			Weight: uint16(rest[3]) + 1,
			Flags:  rest[2],
		}
		sub := attrs{b: rest[size:n], base: it.base + it.at + off + size, what: "route leg"}
		for sub.next() {
			switch sub.typ {
			case unix.RTA_GATEWAY, unix.RTA_VIA, unix.RTA_ENCAP, unix.RTA_ENCAP_TYPE, unix.RTA_FLOW:
				leg.attr(&sub, d.Family)
			default:
				noteUnknown(&d.Unknown, sub.typ|0x4000)
			}
		}
		if sub.err != nil {
			it.err = sub.err
			return
		}
		d.Legs = append(d.Legs, leg)
		off += align4(n)
	}
}

// metrics reads RTA_METRICS: RTAX_* attributes, all u32 but the name of a
// congestion control.
func (d *Route) metrics(it *attrs) {
	d.MetricsRaw = it.val
	for sub := it.nested("route metric"); ; {
		if !sub.next() {
			it.err = sub.err
			return
		}
		switch {
		case sub.typ == unix.RTAX_CC_ALGO:
			d.MetricMask |= 1 << unix.RTAX_CC_ALGO
		case sub.typ > 0 && sub.typ < metricCount:
			d.Metrics[sub.typ] = sub.u32()
			d.MetricMask |= 1 << sub.typ
		default:
			noteUnknown(&d.Unknown, sub.typ|0x4000)
		}
	}
}

// cacheinfo reads struct rta_cacheinfo: rta_expires is in clock ticks (USER_HZ,
// 100 everywhere).
func (d *Route) cacheinfo(it *attrs) {
	if len(it.val) < 16 {
		it.fail("a struct rta_cacheinfo")
		return
	}
	if ticks := int32(binary.NativeEndian.Uint32(it.val[8:])); ticks != 0 {
		d.Expires, d.HasExpires = ticks/100, true
	}
	d.Error = binary.NativeEndian.Uint32(it.val[12:])
}

// CongestionControl returns the name in RTAX_CC_ALGO, "" if there is none.
func (d *Route) CongestionControl() string {
	for it := (attrs{b: d.MetricsRaw}); it.next(); {
		if it.typ == unix.RTAX_CC_ALGO {
			return it.str()
		}
	}
	return ""
}

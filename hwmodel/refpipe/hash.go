package refpipe

import (
	"bytes"
	"encoding/binary"

	"github.com/dchest/siphash"

	"antiphon/hwmodel"
)

// flowKeys is what the kernel hashes of struct flow_keys
// (include/net/flow_dissector.h), from its member basic on. Members that no
// supported policy sets are zero: VLAN tags, key id, ICMP.
type flowKeys struct {
	proto     byte    // basic.ip_proto, offset 2
	flowLabel [4]byte // tags.flow_label, offset 4, wire order as stored by IPv6 policy 0
	ports     [4]byte // ports, offset 28: source, destination
	src, dst  []byte  // addrs, offset 36: 4 or 16 bytes each
}

// Offsets in struct flow_keys counted from basic, on every 64-bit machine.
const (
	offsetProto     = 2
	offsetFlowLabel = 4
	offsetPorts     = 28
	offsetAddrs     = 36
	// tailPadding follows the addresses: the struct is aligned to 8 bytes, and
	// flow_keys_hash_length counts its whole size less the unused addresses.
	tailPadding = 4
)

// multipathHash is fib_multipath_hash_from_keys (include/net/ip_fib.h) shifted as
// its callers do: 31 bits. (The kernel makes a hash of 0 a 1 first, which the shift
// hides.) Addresses and ports are each put in order first, so
// that both directions hash alike (__flow_hash_consistentify,
// net/core/flow_dissector.c).
func multipathHash(k flowKeys, seed uint32) uint32 {
	low, high := k.src, k.dst
	if addrLess(high, low) {
		low, high = high, low
	}
	port1, port2 := k.ports[:2], k.ports[2:]
	if binary.LittleEndian.Uint16(port2) < binary.LittleEndian.Uint16(port1) {
		port1, port2 = port2, port1
	}
	b := make([]byte, offsetAddrs+2*len(k.src)+tailPadding)
	b[offsetProto] = k.proto
	copy(b[offsetFlowLabel:], k.flowLabel[:])
	copy(b[offsetPorts:], port1)
	copy(b[offsetPorts+2:], port2)
	copy(b[offsetAddrs:], low)
	copy(b[offsetAddrs+len(low):], high)

	half := uint64(seed)<<32 | uint64(seed)
	return uint32(siphash.Hash(half, half, b)) >> 1
}

// addrLess orders addresses as a little-endian kernel does: IPv4 as the integer
// in memory, IPv6 as a string of bytes.
func addrLess(a, b []byte) bool {
	if len(a) == 4 {
		return binary.LittleEndian.Uint32(a) < binary.LittleEndian.Uint32(b)
	}
	return bytes.Compare(a, b) < 0
}

// Transport protocols and IPv6 next headers (IANA).
const (
	protoHopByHop = 0
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoDCCP     = 33
	protoRouting  = 43
	protoFragment = 44
	protoESP      = 50
	protoAH       = 51
	protoICMPv6   = 58
	protoNone     = 59
	protoDestOpts = 60
	protoSCTP     = 132
	protoUDPLite  = 136
)

// keys4 builds the keys of an IPv4 packet (header without options) for a hash
// policy: fib_multipath_hash, net/ipv4/route.c. ip ends where the packet ends.
func keys4(ip []byte, policy uint8) flowKeys {
	if policy == 0 {
		from := ip
		if inner, ok := icmpQuote(ip); ok {
			from = inner
		}
		return flowKeys{src: from[12:16], dst: from[16:20]}
	}
	k := flowKeys{proto: ip[9], src: ip[12:16], dst: ip[16:20]}
	const fragment = 0x3fff // more fragments, or an offset
	if binary.BigEndian.Uint16(ip[6:])&fragment == 0 {
		k.ports = portsOf(ip, 20, k.proto)
	}
	return k
}

// icmpQuote returns the header quoted by an ICMP error: such packets go the way
// of the flow they speak of (ip_multipath_l3_keys, net/ipv4/route.c).
func icmpQuote(ip []byte) ([]byte, bool) {
	const offset = 0x1fff
	if ip[9] != protoICMP || binary.BigEndian.Uint16(ip[6:])&offset != 0 || len(ip) < 20+8+20 {
		return nil, false
	}
	switch ip[20] {
	case 3, 4, 5, 11, 12: // unreachable, quench, redirect, time, parameter
		return ip[28:], true
	}
	return nil, false
}

// keys6 builds the keys of an IPv6 packet: rt6_multipath_hash, net/ipv6/route.c.
func keys6(ip []byte, policy uint8) flowKeys {
	if policy == 0 {
		from := ip
		if inner, ok := icmp6Quote(ip); ok {
			from = inner
		}
		return flowKeys{
			proto:     from[6],
			flowLabel: [4]byte{0, from[1] & 0x0f, from[2], from[3]},
			src:       from[8:24], dst: from[24:40],
		}
	}
	k := flowKeys{src: ip[8:24], dst: ip[24:40]}
	k.proto, k.ports = transport6(ip)
	return k
}

// icmp6Quote is icmpQuote for ICMPv6 (ip6_multipath_l3_keys, net/ipv6/route.c);
// the kernel does not look behind extension headers here.
func icmp6Quote(ip []byte) ([]byte, bool) {
	if ip[6] != protoICMPv6 || len(ip) < 40+8+40 {
		return nil, false
	}
	switch ip[40] {
	case 1, 2, 3, 4: // unreachable, too big, time, parameter
		return ip[48:], true
	}
	return nil, false
}

// maxDissectedHeaders is MAX_FLOW_DISSECT_HDRS of net/core/flow_dissector.c.
const maxDissectedHeaders = 15

// transport6 walks the extension headers as __skb_flow_dissect does (stopping at
// encapsulations) and returns the protocol it ends at and that one's ports.
func transport6(ip []byte) (proto byte, ports [4]byte) {
	proto, at := ip[6], 40
	for seen := 0; ; {
		switch proto {
		case protoHopByHop, protoRouting, protoDestOpts:
			if len(ip) < at+2 {
				return proto, ports
			}
			proto, at = ip[at], at+(int(ip[at+1])+1)*8
		case protoFragment:
			if len(ip) < at+8 {
				return proto, ports
			}
			return ip[at], [4]byte{}
		default:
			return proto, portsOf(ip, at, proto)
		}
		if seen++; seen > maxDissectedHeaders {
			return proto, portsOf(ip, at, proto)
		}
	}
}

// portsOf returns the four bytes the kernel takes for ports: skb_flow_get_ports
// and proto_ports_offset (include/linux/in.h); zero if there are none.
func portsOf(ip []byte, at int, proto byte) (ports [4]byte) {
	switch proto {
	case protoTCP, protoUDP, protoDCCP, protoESP, protoSCTP, protoUDPLite:
	case protoAH:
		at += 4
	default:
		return ports
	}
	if len(ip) >= at+4 {
		copy(ports[:], ip[at:])
	}
	return ports
}

// chooseLeg returns the leg of a group for a 31-bit hash: upper bounds over the
// live legs as in fib_rebalance (net/ipv4/fib_semantics.c), dead ones skipped.
func chooseLeg(legs []hwmodel.Leg, hash uint32) (hwmodel.Leg, bool) {
	var total uint64
	for _, l := range legs {
		if !l.Dead {
			total += uint64(l.Weight)
		}
	}
	var sum uint64
	for _, l := range legs {
		if l.Dead {
			continue
		}
		sum += uint64(l.Weight)
		bound := int64((sum<<31+total/2)/max(total, 1)) - 1
		if int64(hash) <= bound {
			return l, true
		}
	}
	return hwmodel.Leg{}, false
}

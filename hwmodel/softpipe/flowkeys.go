package softpipe

import "encoding/binary"

// Protocols that the flow keys know (net/core/flow_dissector.c).
const (
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoDCCP     = 33
	protoRouting  = 43
	protoFragment = 44
	protoESP      = 50
	protoAH       = 51
	protoICMP6    = 58
	protoDestOpts = 60
	protoSCTP     = 132
	protoUDPLite  = 136

	// maxExtensions bounds the headers that the dissector walks: the first and
	// MAX_FLOW_DISSECT_HDRS repetitions.
	maxExtensions = 1 + 15
)

// l3keys4 is policy 0 for IPv4: the addresses, of an ICMP error the ones of the
// packet it is about (ip_multipath_l3_keys).
func l3keys4(k keys, ip []byte) keys {
	const icmp, inner = ip4Len, ip4Len + 8
	if ip[9] != protoICMP || fragment4(ip)&0x1fff != 0 || len(ip) < inner+ip4Len {
		return k
	}
	switch ip[icmp] {
	case 3, 4, 5, 11, 12: // icmp_is_err
		k.src.lo = uint64(binary.BigEndian.Uint32(ip[inner+12:]))
		k.dst.lo = uint64(binary.BigEndian.Uint32(ip[inner+16:]))
	}
	return k
}

// l3keys6 is policy 0 for IPv6: addresses, flow label and next header, of an
// ICMPv6 error those of the packet it is about (ip6_multipath_l3_keys).
func l3keys6(k keys, ip []byte) keys {
	const icmp, inner = ip6Len, ip6Len + 8
	if ip[6] == protoICMP6 && len(ip) >= inner+ip6Len && ip[icmp] >= 1 && ip[icmp] <= 4 { // icmpv6_is_err
		ip = ip[inner:]
		k.src = addr{binary.BigEndian.Uint64(ip[8:]), binary.BigEndian.Uint64(ip[16:])}
		k.dst = addr{binary.BigEndian.Uint64(ip[24:]), binary.BigEndian.Uint64(ip[32:])}
	}
	k.proto = ip[6]
	k.label = binary.BigEndian.Uint32(ip) & 0xfffff
	return k
}

// fragment4 returns the flags and offset word.
func fragment4(ip []byte) uint16 { return binary.BigEndian.Uint16(ip[6:]) }

// l4keys4 is policy 1 for IPv4: addresses, protocol and, unless it is a fragment,
// ports.
func l4keys4(k keys, ip []byte) keys {
	k.proto = ip[9]
	if fragment4(ip)&0x3fff == 0 {
		k.setPorts(ip[ip4Len:])
	}
	return k
}

// l4keys6 is policy 1 for IPv6: addresses, and protocol and ports behind the
// extension headers that the dissector walks.
func l4keys6(k keys, ip []byte) keys {
	k.proto = ip[6]
	rest := ip[ip6Len:]
	for range maxExtensions {
		switch k.proto {
		case hopOpts, protoRouting, protoDestOpts:
			if len(rest) < 2 {
				return k
			}
			n := 8 * (int(rest[1]) + 1)
			k.proto = rest[0]
			rest = rest[min(n, len(rest)):]
		case protoFragment:
			if len(rest) >= 8 {
				k.proto = rest[0]
			}
			return k
		default:
			k.setPorts(rest)
			return k
		}
	}
	k.setPorts(rest)
	return k
}

// setPorts reads the ports of protocols that have them (proto_ports_offset);
// a security association's index counts as ports.
func (k *keys) setPorts(l4 []byte) {
	switch k.proto {
	case protoTCP, protoUDP, protoDCCP, protoESP, protoSCTP, protoUDPLite:
	case protoAH:
		l4 = l4[min(4, len(l4)):]
	default:
		return
	}
	if len(l4) >= 4 {
		k.sport, k.dport = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	}
}

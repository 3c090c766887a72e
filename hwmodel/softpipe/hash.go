package softpipe

import (
	"math/bits"

	"antiphon/hwmodel"
)

// hasher computes the kernel's multipath flow hash: SipHash-2-4 over struct
// flow_keys (include/net/flow_dissector.h) from its member basic on, padding
// included, in the byte order of a little-endian machine:
//
//	 0 n_proto 2, ip_proto 1, 0      20 rest of cvlan 4
//	 4 flow label 4                  24 key id 4
//	 8 vlan 8                        28 source port 2, destination port 2
//	16 cvlan 4                       32 icmp 4
//	36 addresses: 2x4 or 2x16, then 4 of padding
//
// of which multipath sets ip_proto, flow label, ports and addresses
// (net/ipv4/route.c fib_multipath_hash, net/ipv6/route.c rt6_multipath_hash).
type hasher struct {
	k      uint64 // both halves of the key: the seed four times
	policy [2]uint8
}

// newHasher takes seed 0 where the kernel's is not known: any choice is right then.
func newHasher(s *hwmodel.Settings) hasher {
	var seed uint64
	if s.SeedKnown {
		seed = uint64(s.HashSeed)
	}
	return hasher{k: seed<<32 | seed, policy: [2]uint8{s.HashPolicy4, s.HashPolicy6}}
}

// keys are the members of flow_keys that multipath sets.
type keys struct {
	proto    uint8
	label    uint32 // the IPv6 header's first word, masked, big-endian as it lies
	src, dst addr
	sport    uint16
	dport    uint16
}

// flow returns the hash of a packet, 31 bits, and whether the policy in force is
// one of ours. ip is the packet from its IP header on, cut to its length.
func (h *hasher) flow(f int, src, dst addr, ip []byte) (uint32, bool) {
	k := keys{src: src, dst: dst}
	switch policy := h.policy[f]; {
	case policy == 0 && f == 0:
		k = l3keys4(k, ip)
	case policy == 0:
		k = l3keys6(k, ip)
	case policy == 1 && f == 0:
		k = l4keys4(k, ip)
	case policy == 1:
		k = l4keys6(k, ip)
	default:
		return 0, false
	}
	if f == 0 {
		return h.sum4(&k) >> 1, true
	}
	return h.sum6(&k) >> 1, true
}

// sum4 orders the ends of the flow as __flow_hash_consistentify does (by the
// addresses and the ports as little-endian numbers, each for itself) and hashes.
func (h *hasher) sum4(k *keys) uint32 {
	src, dst := bits.ReverseBytes32(uint32(k.src.lo)), bits.ReverseBytes32(uint32(k.dst.lo))
	if dst < src {
		src, dst = dst, src
	}
	var m [6]uint64
	m[0] = uint64(k.proto) << 16
	m[3] = uint64(k.ports()) << 32
	m[4] = uint64(src) << 32
	m[5] = uint64(dst)
	return siphash(h.k, m[:])
}

// sum6 is sum4 for IPv6, whose addresses are ordered as bytes.
func (h *hasher) sum6(k *keys) uint32 {
	src, dst := k.src, k.dst
	if dst.hi < src.hi || dst.hi == src.hi && dst.lo < src.lo {
		src, dst = dst, src
	}
	a, b := bits.ReverseBytes64(src.hi), bits.ReverseBytes64(src.lo)
	c, d := bits.ReverseBytes64(dst.hi), bits.ReverseBytes64(dst.lo)
	var m [9]uint64
	m[0] = uint64(k.proto)<<16 | uint64(bits.ReverseBytes32(k.label))<<32
	m[3] = uint64(k.ports()) << 32
	m[4] = a << 32
	m[5] = a>>32 | b<<32
	m[6] = b>>32 | c<<32
	m[7] = c>>32 | d<<32
	m[8] = d >> 32
	return siphash(h.k, m[:])
}

// ports returns both ports as a little-endian word, the smaller first.
func (k *keys) ports() uint32 {
	s, d := uint32(bits.ReverseBytes16(k.sport)), uint32(bits.ReverseBytes16(k.dport))
	if d < s {
		s, d = d, s
	}
	return s | d<<16
}

// siphash is SipHash-2-4 over whole words with both key halves equal, cut to 32
// bits; never 0.
func siphash(k uint64, m []uint64) uint32 {
	s := sip{k ^ 0x736f6d6570736575, k ^ 0x646f72616e646f6d, k ^ 0x6c7967656e657261, k ^ 0x7465646279746573}
	for _, w := range m {
		s.word(w)
	}
	s.word(uint64(len(m)*8) << 56)
	s.c ^= 0xff
	s.round()
	s.round()
	s.round()
	s.round()
	if h := uint32(s.a ^ s.b ^ s.c ^ s.d); h != 0 {
		return h
	}
	return 1
}

type sip struct{ a, b, c, d uint64 }

func (s *sip) word(w uint64) {
	s.d ^= w
	s.round()
	s.round()
	s.a ^= w
}

func (s *sip) round() {
	s.a += s.b
	s.b = bits.RotateLeft64(s.b, 13) ^ s.a
	s.a = bits.RotateLeft64(s.a, 32)
	s.c += s.d
	s.d = bits.RotateLeft64(s.d, 16) ^ s.c
	s.a += s.d
	s.d = bits.RotateLeft64(s.d, 21) ^ s.a
	s.c += s.b
	s.b = bits.RotateLeft64(s.b, 17) ^ s.c
	s.c = bits.RotateLeft64(s.c, 32)
}

// bounds returns the live legs with their upper bounds, as fib_rebalance sets
// them (net/ipv4/fib_semantics.c): cumulated weight << 31 / total, rounded to the
// closest, less one.
func bounds(legs []hwmodel.Leg, hop func(hwmodel.NextHopID) uint32) []leg {
	var total, sum uint64
	for _, l := range legs {
		if !l.Dead {
			total += uint64(l.Weight)
		}
	}
	var live []leg
	for _, l := range legs {
		if l.Dead {
			continue
		}
		sum += uint64(l.Weight)
		live = append(live, leg{bound: uint32((sum<<31+total/2)/total - 1), hop: hop(l.NextHop)})
	}
	return live
}

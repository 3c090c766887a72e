package softpipe

import (
	"encoding/binary"
	"math/bits"

	"antiphon/hwmodel"
)

// Ethernet and IP as they lie in a frame.
const (
	ethLen  = 14
	ip4Len  = 20
	ip6Len  = 40
	mac48   = 1<<48 - 1
	noNext  = 59 // IPv6 "no next header", RFC 8200 4.7
	hopOpts = 0

	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	tagC      = 0x8100 // 802.1Q
	tagS      = 0x88a8 // 802.1ad
)

// receive does the stages parse to ttl, and lists what lives on by family.
func (w *worker) receive() {
	t, v := w.t, w.v
	w.live[0].n, w.live[1].n = 0, 0
	for k := range min(v.N, hwmodel.VectorSize) {
		i := uint8(k)
		v.Verdict[i], v.Reason[i], v.Out[i] = hwmodel.Trap, hwmodel.ReasonNone, 0
		f, p := v.Frame[i], &w.pkt[i]
		if len(f) < ethLen {
			w.trap(i, stageParse, hwmodel.ReasonMalformed)
			continue
		}
		p.length = uint32(len(f))
		family := 0
		switch binary.BigEndian.Uint16(f[12:14]) {
		case etherIPv4:
		case etherIPv6:
			family = 1
		case tagC, tagS:
			w.trap(i, stageParse, hwmodel.ReasonVLANTag)
			continue
		default:
			w.trap(i, stageParse, hwmodel.ReasonNotIP)
			continue
		}
		p.in = 0
		if in := int(v.In[i]); in < len(t.portIface) {
			p.in = t.portIface[in]
		}
		in := &t.iface[p.in]
		switch dst := binary.LittleEndian.Uint64(f) & mac48; {
		case p.in == 0:
			w.trap(i, stageInterface, hwmodel.ReasonNoInterface)
		case !t.programmed:
			w.trap(i, stageInterface, hwmodel.ReasonNotProgrammed)
		case dst&1 != 0:
			w.trap(i, stageMAC, hwmodel.ReasonBroadcast)
		case dst != in.mac:
			w.trap(i, stageMAC, hwmodel.ReasonNotOurMAC)
		case t.trap[family] != hwmodel.ReasonNone:
			w.trap(i, stageFamily, t.trap[family])
		case in.in[family] != hwmodel.ReasonNone:
			w.trap(i, stageFamily, in.in[family])
		case family == 0:
			w.header4(i, f[ethLen:], in)
		default:
			w.header6(i, f[ethLen:])
		}
	}
}

// header4 does the stages header to ttl for IPv4. h is the frame from its IP
// header on.
func (w *worker) header4(i uint8, h []byte, in *iface) {
	if len(h) < ip4Len {
		w.trap(i, stageHeader, hwmodel.ReasonMalformed)
		return
	}
	a, b, c := binary.LittleEndian.Uint64(h), binary.LittleEndian.Uint64(h[8:]), binary.LittleEndian.Uint32(h[16:])
	p := &w.pkt[i]
	p.ipLen = uint32(bits.ReverseBytes16(uint16(a >> 16)))
	if uint8(a) != 0x45 {
		r := hwmodel.ReasonIPOptions
		if uint8(a)>>4 != 4 {
			r = hwmodel.ReasonMalformed
		}
		w.trap(i, stageHeader, r)
		return
	}
	if p.ipLen < ip4Len || int(p.ipLen) > len(h) || !sum20(a, b, c) {
		w.trap(i, stageHeader, hwmodel.ReasonMalformed)
		return
	}
	src, dst := bits.ReverseBytes32(uint32(b>>32)), bits.ReverseBytes32(c)
	w.src4[i], w.dst4[i] = src, dst
	switch {
	case special4(src):
		w.trap(i, stageSource, hwmodel.ReasonMartianSource)
	case !in.acceptLocal && w.t.ownSet.has(src):
		w.trap(i, stageSource, hwmodel.ReasonOwnSource)
	case special4(dst):
		w.trap(i, stageDest, hwmodel.ReasonMartianDest)
	case uint8(b) <= 1:
		w.trap(i, stageTTL, hwmodel.ReasonTTLExpired)
	default:
		w.live[0].add(i)
	}
}

// sum20 reports whether the ones' complement sum (RFC 1071) of a 20-byte header,
// given as its little-endian words, is zero. Either zero will do (03, item 24).
func sum20(a, b uint64, c uint32) bool {
	s := a&0xffffffff + a>>32 + b&0xffffffff + b>>32 + uint64(c) // < 5 << 32
	s = s&0xffff + s>>16&0xffff + s>>32                          // < 3 << 16
	s = s&0xffff + s>>16
	s = s&0xffff + s>>16
	return s == 0xffff
}

// special4 reports 0.0.0.0, 127/8, multicast and 255.255.255.255. Not 0/8 and
// not 240/4: the kernel forwards those (net/ipv4/route.c ip_route_input_slow).
func special4(a uint32) bool {
	return a == 0 || a>>24 == 127 || a>>28 == 14 || a == 1<<32-1
}

// header6 does the stages header to ttl for IPv6.
func (w *worker) header6(i uint8, h []byte) {
	if len(h) < ip6Len {
		w.trap(i, stageHeader, hwmodel.ReasonMalformed)
		return
	}
	h40 := (*[ip6Len]byte)(h)
	p := &w.pkt[i]
	payload := uint32(binary.BigEndian.Uint16(h40[4:]))
	p.ipLen = ip6Len + payload
	next := h40[6]
	switch {
	case h40[0]>>4 != 6 || int(p.ipLen) > len(h):
		w.trap(i, stageHeader, hwmodel.ReasonMalformed)
		return
	case next == hopOpts:
		w.trap(i, stageHeader, hwmodel.ReasonHopByHop)
		return
	case payload == 0 && next != noNext:
		w.trap(i, stageHeader, hwmodel.ReasonMalformed)
		return
	}
	src := addr{binary.BigEndian.Uint64(h40[8:]), binary.BigEndian.Uint64(h40[16:])}
	dst := addr{binary.BigEndian.Uint64(h40[24:]), binary.BigEndian.Uint64(h40[32:])}
	w.src6[i], w.dst6[i] = src, dst
	switch {
	case special6(src) || src == addr{}:
		w.trap(i, stageSource, hwmodel.ReasonMartianSource)
	case special6(dst):
		w.trap(i, stageDest, hwmodel.ReasonMartianDest)
	case h40[7] <= 1:
		w.trap(i, stageTTL, hwmodel.ReasonTTLExpired)
	default:
		w.live[1].add(i)
	}
}

// special6 reports ::1, multicast and fe80::/10.
func special6(a addr) bool {
	return a.hi>>56 == 0xff || a.hi>>54 == 0xfe80>>6 || a == addr{0, 1}
}

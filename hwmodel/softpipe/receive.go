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

// receive does the stages parse to family, and lists what lives on by family.
func (w *worker) receive() {
	t, v := w.t, w.v
	n := uint(max(0, min(v.N, hwmodel.VectorSize)))
	clear(v.Verdict[:n]) // Trap
	clear(v.Reason[:n])
	clear(v.Out[:n])
	portIface, ifaces := t.portIface, t.iface
	var live [2]int
	for k := range n {
		i := uint8(k)
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
		slot := uint32(0)
		if port := int(v.In[i]); port < len(portIface) {
			slot = portIface[port]
		}
		p.in = slot
		in := &ifaces[slot]
		dst := binary.LittleEndian.Uint64(f) & mac48
		if slot != 0 && dst == in.mac && dst&1 == 0 && in.in[family]|t.trap[family] == hwmodel.ReasonNone && t.programmed {
			w.live[family].at[live[family]&0xff] = i
			live[family]++
			continue
		}
		switch {
		case slot == 0:
			w.trap(i, stageInterface, hwmodel.ReasonNoInterface)
		case !t.programmed:
			w.trap(i, stageInterface, hwmodel.ReasonNotProgrammed)
		case dst&1 != 0:
			w.trap(i, stageMAC, hwmodel.ReasonBroadcast)
		case dst != in.mac:
			w.trap(i, stageMAC, hwmodel.ReasonNotOurMAC)
		case t.trap[family] != hwmodel.ReasonNone:
			w.trap(i, stageFamily, t.trap[family])
		default:
			w.trap(i, stageFamily, in.in[family])
		}
	}
	w.live[0].n, w.live[1].n = live[0], live[1]
}

// headers4 does the stages header to ttl for IPv4.
func (w *worker) headers4() {
	t, v, live := w.t, w.v, &w.live[0]
	n := 0
	for _, i := range live.each() {
		h := v.Frame[i][ethLen:]
		if len(h) < ip4Len {
			w.trap(i, stageHeader, hwmodel.ReasonMalformed)
			continue
		}
		a, b, c := binary.LittleEndian.Uint64(h), binary.LittleEndian.Uint64(h[8:]), binary.LittleEndian.Uint32(h[16:])
		total := uint32(bits.ReverseBytes16(uint16(a >> 16)))
		if uint8(a) != 0x45 {
			r := hwmodel.ReasonIPOptions
			if uint8(a)>>4 != 4 {
				r = hwmodel.ReasonMalformed
			}
			w.trap(i, stageHeader, r)
			continue
		}
		if total < ip4Len || int(total) > len(h) || !sum20(a, b, c) {
			w.trap(i, stageHeader, hwmodel.ReasonMalformed)
			continue
		}
		src, dst := bits.ReverseBytes32(uint32(b>>32)), bits.ReverseBytes32(c)
		w.src4[i], w.dst4[i] = src, dst
		p := &w.pkt[i]
		p.ipLen = total
		switch {
		case special4(src):
			w.trap(i, stageSource, hwmodel.ReasonMartianSource)
			continue
		case t.ownSet.has(src) && !t.iface[p.in].acceptLocal:
			w.trap(i, stageSource, hwmodel.ReasonOwnSource)
			continue
		case special4(dst):
			w.trap(i, stageDest, hwmodel.ReasonMartianDest)
			continue
		case uint8(b) <= 1:
			w.trap(i, stageTTL, hwmodel.ReasonTTLExpired)
			continue
		}
		live.at[n&0xff] = i
		n++
	}
	live.n = n
}

// sum20 reports whether the ones' complement sum (RFC 1071) of a 20-byte header,
// given as its little-endian words, is zero. Either zero will do (03, item 24).
func sum20(a, b uint64, c uint32) bool {
	s, carry := bits.Add64(a, b, 0)
	s, carry = bits.Add64(s, uint64(c), carry)
	// Folding keeps the remainder by 0xffff, and the version nibble keeps the
	// sum from being plain 0.
	s = s&0xffffffff + s>>32 + carry
	return s%0xffff == 0
}

// special4 reports 0.0.0.0, 127/8, multicast and 255.255.255.255. Not 0/8 and
// not 240/4: the kernel forwards those (net/ipv4/route.c ip_route_input_slow).
func special4(a uint32) bool {
	return a == 0 || a>>24 == 127 || a>>28 == 14 || a == 1<<32-1
}

// headers6 does the stages header to ttl for IPv6.
func (w *worker) headers6() {
	live := &w.live[1]
	n := 0
	for _, i := range live.each() {
		if s, r := w.header6(i, w.v.Frame[i][ethLen:]); r != hwmodel.ReasonNone {
			w.trap(i, s, r)
			continue
		}
		live.at[n&0xff] = i
		n++
	}
	live.n = n
}

// header6 returns the first objection to an IPv6 header. h is the frame from the
// header on.
func (w *worker) header6(i uint8, h []byte) (stage, hwmodel.Reason) {
	if len(h) < ip6Len {
		return stageHeader, hwmodel.ReasonMalformed
	}
	h40 := (*[ip6Len]byte)(h)
	p := &w.pkt[i]
	payload := uint32(binary.BigEndian.Uint16(h40[4:]))
	p.ipLen = ip6Len + payload
	next := h40[6]
	switch {
	case h40[0]>>4 != 6 || int(p.ipLen) > len(h):
		return stageHeader, hwmodel.ReasonMalformed
	case next == hopOpts:
		return stageHeader, hwmodel.ReasonHopByHop
	case payload == 0 && next != noNext:
		return stageHeader, hwmodel.ReasonMalformed
	}
	src := addr{binary.BigEndian.Uint64(h40[8:]), binary.BigEndian.Uint64(h40[16:])}
	dst := addr{binary.BigEndian.Uint64(h40[24:]), binary.BigEndian.Uint64(h40[32:])}
	w.src6[i], w.dst6[i] = src, dst
	switch {
	case special6(src) || src == addr{}:
		return stageSource, hwmodel.ReasonMartianSource
	case special6(dst):
		return stageDest, hwmodel.ReasonMartianDest
	case h40[7] <= 1:
		return stageTTL, hwmodel.ReasonTTLExpired
	}
	return stageRules, hwmodel.ReasonNone
}

// special6 reports ::1, multicast and fe80::/10.
func special6(a addr) bool {
	return a.hi>>56 == 0xff || a.hi>>54 == 0xfe80>>6 || a == addr{0, 1}
}

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
	n := uint(max(0, min(v.N, hwmodel.VectorSize)))
	clear(v.Verdict[:n]) // Trap
	clear(v.Reason[:n])
	clear(v.Out[:n])
	var port hwmodel.PortID
	slot, station, station6 := w.station(port)
	own, live := &t.ownSet, 0
	w.live[1].n = 0
	for k := range n {
		i := uint8(k)
		if v.In[i] != port {
			port = v.In[i]
			slot, station, station6 = w.station(port)
		}
		if f := v.Frame[i]; len(f) >= ethLen+ip4Len {
			h := (*[ethLen + ip4Len]byte)(f)
			mac, ether := binary.LittleEndian.Uint64(h[:])&mac48, uint64(binary.LittleEndian.Uint16(h[12:]))
			a, b, c := binary.LittleEndian.Uint64(h[14:]), binary.LittleEndian.Uint64(h[22:]), binary.LittleEndian.Uint32(h[30:])
			total := uint32(bits.ReverseBytes16(uint16(a >> 16)))
			src := bits.ReverseBytes32(uint32(b >> 32))
			// One branch for all that is no plain IPv4 packet to this station.
			odd := (mac ^ station) | (ether ^ 0x0008) | uint64(uint8(a)^0x45)
			if odd == 0 && total >= ip4Len && int(total) <= len(f)-ethLen && sum20(a, b, c) &&
				ordinary(uint8(b>>32)) && ordinary(uint8(c)) && uint8(b) > 1 && !own.may(src) {
				w.in[i], w.ipLen[i], w.dst4[i] = slot, total, bits.ReverseBytes32(c)
				w.live[0].at[live&0xff] = i
				live++
				continue
			}
			if (mac^station6)|(ether^0xdd86) == 0 && w.plain6(i, f) {
				w.in[i] = slot
				w.live[1].add(i)
				continue
			}
		}
		family, s, r := w.examine(i)
		switch {
		case r != hwmodel.ReasonNone:
			w.trap(i, s, r)
		case family == 0:
			w.live[0].at[live&0xff] = i
			live++
		default:
			w.live[1].add(i)
		}
	}
	w.live[0].n = live
}

// station returns a port's interface and the destination address, by family, of the
// packets that it takes in, as in macBits; no address if there is any objection.
func (w *worker) station(port hwmodel.PortID) (slot uint32, mac4, mac6 uint64) {
	const none = 1 << 63
	t := w.t
	if int(port) < len(t.portIface) {
		slot = t.portIface[port]
	}
	in := &t.iface[slot]
	if w.tracing || slot == 0 || !t.programmed || in.mac&1 != 0 {
		return slot, none, none
	}
	mac4, mac6 = in.mac, in.mac
	if in.in[0]|t.trap[0] != hwmodel.ReasonNone {
		mac4 = none
	}
	if in.in[1]|t.trap[1] != hwmodel.ReasonNone {
		mac6 = none
	}
	return slot, mac4, mac6
}

// plain6 reports whether a frame holds an IPv6 packet that header6 certainly has no
// objection to, and notes what it would.
func (w *worker) plain6(i uint8, f []byte) bool {
	if len(f) < ethLen+ip6Len {
		return false
	}
	h := (*[ip6Len]byte)(f[ethLen:])
	a := binary.LittleEndian.Uint64(h[:])
	payload := uint32(bits.ReverseBytes16(uint16(a >> 32)))
	// Special addresses begin with 0, 0xfe or 0xff; whatever else does is left to
	// header6.
	const first = 0xfd
	if uint8(a)>>4 != 6 || payload-1 >= uint32(len(f)-ethLen-ip6Len) || uint8(a>>48) == hopOpts || a>>56 <= 1 ||
		h[8]-1 >= first || h[24]-1 >= first {
		return false
	}
	w.ipLen[i] = ip6Len + payload
	w.dst6[i] = addr{binary.BigEndian.Uint64(h[24:]), binary.BigEndian.Uint64(h[32:])}
	return true
}

// ordinary reports that no address with this first byte is special4.
func ordinary(first uint8) bool { return first-1 < 223 && first != 127 }

// examine does the stages parse to ttl for one packet, and returns the first
// objection.
func (w *worker) examine(i uint8) (family int, s stage, r hwmodel.Reason) {
	t, f := w.t, w.v.Frame[i]
	if len(f) < ethLen {
		return 0, stageParse, hwmodel.ReasonMalformed
	}
	switch binary.BigEndian.Uint16(f[12:]) {
	case etherIPv4:
	case etherIPv6:
		family = 1
	case tagC, tagS:
		return 0, stageParse, hwmodel.ReasonVLANTag
	default:
		return 0, stageParse, hwmodel.ReasonNotIP
	}
	slot, _, _ := w.station(w.v.In[i])
	w.in[i], w.trail.in = slot, slot
	in := &t.iface[slot]
	dst := binary.LittleEndian.Uint64(f) & mac48
	switch {
	case slot == 0:
		return family, stageInterface, hwmodel.ReasonNoInterface
	case !t.programmed:
		return family, stageInterface, hwmodel.ReasonNotProgrammed
	case dst&1 != 0:
		return family, stageMAC, hwmodel.ReasonBroadcast
	case dst != in.mac:
		return family, stageMAC, hwmodel.ReasonNotOurMAC
	case t.trap[family] != hwmodel.ReasonNone:
		return family, stageFamily, t.trap[family]
	case in.in[family] != hwmodel.ReasonNone:
		return family, stageFamily, in.in[family]
	}
	if family == 0 {
		s, r = w.header4(i, f[ethLen:], in)
	} else {
		s, r = w.header6(i, f[ethLen:])
	}
	return family, s, r
}

// header4 returns the first objection to an IPv4 header. h is the frame from the
// header on.
func (w *worker) header4(i uint8, h []byte, in *iface) (stage, hwmodel.Reason) {
	if len(h) < ip4Len {
		return stageHeader, hwmodel.ReasonMalformed
	}
	a, b, c := binary.LittleEndian.Uint64(h), binary.LittleEndian.Uint64(h[8:]), binary.LittleEndian.Uint32(h[16:])
	total := uint32(bits.ReverseBytes16(uint16(a >> 16)))
	src, dst := bits.ReverseBytes32(uint32(b>>32)), bits.ReverseBytes32(c)
	w.ipLen[i], w.dst4[i] = total, dst
	switch {
	case uint8(a)>>4 != 4:
		return stageHeader, hwmodel.ReasonMalformed
	case uint8(a) != 0x45:
		return stageHeader, hwmodel.ReasonIPOptions
	case total < ip4Len || int(total) > len(h) || !sum20(a, b, c):
		return stageHeader, hwmodel.ReasonMalformed
	case special4(src):
		return stageSource, hwmodel.ReasonMartianSource
	case w.t.ownSet.has(src) && !in.acceptLocal:
		return stageSource, hwmodel.ReasonOwnSource
	case special4(dst):
		return stageDest, hwmodel.ReasonMartianDest
	case uint8(b) <= 1:
		return stageTTL, hwmodel.ReasonTTLExpired
	}
	return stageRules, hwmodel.ReasonNone
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

// header6 returns the first objection to an IPv6 header. h is the frame from the
// header on.
func (w *worker) header6(i uint8, h []byte) (stage, hwmodel.Reason) {
	if len(h) < ip6Len {
		return stageHeader, hwmodel.ReasonMalformed
	}
	h40 := (*[ip6Len]byte)(h)
	payload := uint32(binary.BigEndian.Uint16(h40[4:]))
	w.ipLen[i] = ip6Len + payload
	next := h40[6]
	switch {
	case h40[0]>>4 != 6 || int(w.ipLen[i]) > len(h):
		return stageHeader, hwmodel.ReasonMalformed
	case next == hopOpts:
		return stageHeader, hwmodel.ReasonHopByHop
	case payload == 0 && next != noNext:
		return stageHeader, hwmodel.ReasonMalformed
	}
	src := addr{binary.BigEndian.Uint64(h40[8:]), binary.BigEndian.Uint64(h40[16:])}
	dst := addr{binary.BigEndian.Uint64(h40[24:]), binary.BigEndian.Uint64(h40[32:])}
	w.dst6[i] = dst
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

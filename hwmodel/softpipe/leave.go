package softpipe

import (
	"encoding/binary"

	"antiphon/hwmodel"
)

// leave does the stages group to rewrite: who passes through in loops that each
// need few variables, so that they stay in registers.
func (w *worker) leave(f int) {
	live := &w.live[f]
	// A source that is to be looked up needs the stages one by one.
	if w.tracing || f == 0 && w.t.reverse {
		for _, i := range live.each() {
			rt := &w.found[i]
			if hop := w.leg(i, f, rt.group); hop != 0 {
				w.depart(i, f, hop)
			}
		}
		return
	}
	w.ways(f, live)
	w.send(f, live)
}

// ways chooses each packet's next hop and leaves those in the list that
// no stage before the rewrite objects to.
func (w *worker) ways(f int, live *list) {
	groups, ways := w.t.group, w.t.way
	n := 0
	for _, i := range live.each() {
		rt := &w.found[i]
		g := &groups[rt.group]
		hop := g.hop
		if g.live != 1 {
			if hop = w.leg(i, f, rt.group); hop == 0 {
				continue
			}
		}
		to, ipLen := &ways[hop], w.ipLen[i]
		if ipLen > to.limit[f] || rt.tooLong(ipLen) || to.iface == w.in[i] {
			w.depart(i, f, hop)
			continue
		}
		w.hop[i], w.counted[1][i], w.counted[2][i] = hop, g.counter, to.counter
		live.at[n&0xff] = i
		n++
	}
	live.n = n
}

// send makes packets Forward and counts them on all they went through.
func (w *worker) send(f int, live *list) {
	ways, v := w.t.way, w.v
	for _, i := range live.each() {
		to := &ways[w.hop[i]]
		v.Verdict[i], v.Out[i] = hwmodel.Forward, to.port
		h, length := cut(&v.Frame[i], w.ipLen[i])
		rewrite(h, f, to)
		w.length[i] = uint32(length)
	}
	counts, now := w.count, w.now
	for _, i := range live.each() {
		length := int(w.length[i])
		counts[w.counted[0][i]].add(length, now)
		if c := w.counted[1][i]; c != 0 {
			counts[c].add(length, now)
		}
		if c := w.counted[2][i]; c != 0 {
			counts[c].add(length, now)
		}
	}
}

// depart does the stages nexthop to rewrite for one packet.
func (w *worker) depart(i uint8, f int, hop uint32) {
	t, rt := w.t, &w.found[i]
	h := &t.hop[hop]
	out, in := &t.iface[h.iface], &t.iface[w.in[i]]
	w.trail.hop, w.trail.out, w.trail.neigh = hop, h.iface, h.neigh
	ipLen := w.ipLen[i]
	switch {
	case !h.present:
		w.trap(i, stageNextHop, hwmodel.ReasonNextHopDead)
		return
	case h.trap != hwmodel.ReasonNone:
		w.trap(i, stageNextHop, h.trap)
		return
	case !out.present:
		w.trap(i, stageEgress, hwmodel.ReasonNoInterface)
		return
	case out.out[f] != hwmodel.ReasonNone:
		w.trap(i, stageEgress, out.out[f])
		return
	case ipLen > out.mtu || rt.tooLong(ipLen):
		w.trap(i, stageMTU, hwmodel.ReasonTooBig)
		return
	case h.iface == w.in[i] && (f == 1 || out.redirectTrap):
		w.trap(i, stageRedirect, hwmodel.ReasonRedirectDue)
		return
	}
	src, dst := w.addrs(f, i)
	if f == 0 && (in.rp != hwmodel.RPOff || in.sourceCheck) &&
		!t.sourceFits(uint32(src.lo), uint32(dst.lo), w.in[i], h.iface, in) {
		w.trap(i, stageRPF, hwmodel.ReasonReversePath)
		return
	}
	slot := h.neigh
	if slot == 0 {
		slot = t.onlink(f, h.iface, dst)
	}
	w.trail.neigh = slot
	neighbor := &t.neigh[slot]
	if !neighbor.present {
		w.trap(i, stageNeighbor, hwmodel.ReasonNeighborUnresolved)
		return
	}
	w.trail.stage = stageRewrite
	w.v.Verdict[i], w.v.Out[i] = hwmodel.Forward, out.port
	to := newWay(out, neighbor)
	frame, length := cut(&w.v.Frame[i], ipLen)
	rewrite(frame, f, &to)
	if w.tracing {
		return
	}
	for _, c := range [...]uint32{rt.counter, t.group[rt.group].counter, neighbor.counter} {
		if c != 0 {
			w.count[c].add(length, w.now)
		}
	}
}

// leg picks a group's leg for a packet; 0 if the packet was taken out.
func (w *worker) leg(i uint8, f int, slot uint32) (hop uint32) {
	switch g := &w.t.group[slot]; g.live {
	case 0:
		w.trap(i, stageGroup, hwmodel.ReasonNextHopDead)
		return 0
	case 1:
		return g.hop
	}
	src, dst := w.addrs(f, i)
	hash, ok := w.t.hash.flow(f, src, dst, w.v.Frame[i][ethLen:][:w.ipLen[i]])
	if !ok {
		w.trap(i, stageGroup, hwmodel.ReasonMultipathPolicy)
		return 0
	}
	for _, l := range w.t.shares[slot] {
		if hash <= l.bound {
			return l.hop
		}
	}
	panic("softpipe: hash above the last leg's bound") // which is 1<<31 - 1
}

// cut shortens a frame to its IP packet. It returns what rewrite needs of it (no IP
// header is shorter than IPv4's) and the length that the frame had.
func cut(frame *[]byte, ipLen uint32) (h *[ethLen + ip4Len]byte, length int) {
	b := *frame
	if n := ethLen + int(ipLen); n < len(b) {
		*frame = b[:n]
	}
	return (*[ethLen + ip4Len]byte)(b), len(b)
}

// rewrite writes link-layer addresses and TTL or hop limit.
func rewrite(h *[ethLen + ip4Len]byte, f int, to *way) {
	binary.LittleEndian.PutUint64(h[:], to.head)
	binary.LittleEndian.PutUint32(h[8:], to.tail)
	if f == 1 {
		h[ethLen+7]--
		return
	}
	// TTL, protocol and checksum are one word. TTL - 1, and the checksum with it as
	// ip_decrease_ttl does (include/net/ip.h; RFC 1624): never 0xffff. In a
	// little-endian word the TTL's column is the low byte, so 0x0100 is 1.
	word := binary.LittleEndian.Uint32(h[ethLen+8:])
	sum := word>>16 + 1
	sum += (sum + 1) >> 16
	binary.LittleEndian.PutUint32(h[ethLen+8:], (word&0xffff-1)|sum<<16)
}

// onlink returns the slot of the neighbour with this address, 0 if unresolved.
func (t *tables) onlink(f int, iface uint32, a addr) uint32 {
	if f == 0 {
		return t.onlink4[uint64(iface)<<32|a.lo]
	}
	k := onlink6{iface: iface}
	binary.BigEndian.PutUint64(k.addr[:8], a.hi)
	binary.BigEndian.PutUint64(k.addr[8:], a.lo)
	return t.onlink6[k]
}

package softpipe

import (
	"encoding/binary"

	"antiphon/hwmodel"
)

// leave does the stages group to redirect.
func (w *worker) leave(f int) {
	groups, hops, ifaces := w.t.group, w.t.hop, w.t.iface
	live := &w.live[f]
	n := 0
	for _, i := range live.each() {
		p := &w.pkt[i]
		rt := &w.found[i]
		g := &groups[rt.group]
		p.hop = g.hop
		if g.live != 1 && !w.choose(i, f, g) {
			continue
		}
		h := &hops[p.hop]
		if !h.present {
			w.trap(i, stageNextHop, hwmodel.ReasonNextHopDead)
			continue
		}
		if h.trap != hwmodel.ReasonNone {
			w.trap(i, stageNextHop, h.trap)
			continue
		}
		p.out, p.neigh = h.iface, h.neigh
		out := &ifaces[h.iface]
		switch {
		case !out.present:
			w.trap(i, stageEgress, hwmodel.ReasonNoInterface)
			continue
		case out.out[f] != hwmodel.ReasonNone:
			w.trap(i, stageEgress, out.out[f])
			continue
		case p.ipLen > out.mtu || rt.mtu != 0 && p.ipLen > rt.mtu:
			w.trap(i, stageMTU, hwmodel.ReasonTooBig)
			continue
		case h.iface == p.in && (f == 1 || out.redirectTrap):
			w.trap(i, stageRedirect, hwmodel.ReasonRedirectDue)
			continue
		}
		live.at[n&0xff] = i
		n++
	}
	live.n = n
}

// choose picks the leg of a group that has none or several live ones.
func (w *worker) choose(i uint8, f int, g *group) bool {
	if g.live == 0 {
		w.trap(i, stageGroup, hwmodel.ReasonNextHopDead)
		return false
	}
	p := &w.pkt[i]
	src, dst := w.addrs(f, i)
	hash, ok := w.t.hash.flow(f, src, dst, w.v.Frame[i][ethLen:][:p.ipLen])
	if !ok {
		w.trap(i, stageGroup, hwmodel.ReasonMultipathPolicy)
		return false
	}
	for k := range g.legs {
		if hash <= g.legs[k].bound {
			p.hop = g.legs[k].hop
			return true
		}
	}
	panic("softpipe: hash above the last leg's bound") // which is 1<<31 - 1
}

// send does the stages neighbor and rewrite: it makes a packet Forward, cuts its
// frame to the IP length, writes link-layer addresses and TTL or hop limit, and
// counts it on all it went through.
func (w *worker) send(f int) {
	t, v := w.t, w.v
	neighs, ifaces, counts, now := t.neigh, t.iface, w.count, w.now
	for _, i := range w.live[f].each() {
		p := &w.pkt[i]
		if p.neigh == 0 {
			_, dst := w.addrs(f, i)
			p.neigh = t.onlink(f, p.out, dst)
		}
		to := &neighs[p.neigh]
		if !to.present {
			w.trap(i, stageNeighbor, hwmodel.ReasonNeighborUnresolved)
			continue
		}
		p.stage = stageRewrite
		out := &ifaces[p.out]
		v.Verdict[i], v.Out[i] = hwmodel.Forward, out.port
		frame := v.Frame[i]
		if n := ethLen + int(p.ipLen); n < len(frame) {
			frame = frame[:n]
			v.Frame[i] = frame
		}
		h := (*[ethLen + ip4Len]byte)(frame) // no IP header is shorter
		binary.LittleEndian.PutUint64(h[:], to.mac|out.mac<<48)
		binary.LittleEndian.PutUint32(h[8:], uint32(out.mac>>16))
		if f == 1 {
			h[ethLen+7]--
		} else {
			// TTL - 1, and the checksum with it as ip_decrease_ttl does
			// (include/net/ip.h; RFC 1624): never 0xffff.
			sum := uint32(binary.BigEndian.Uint16(h[ethLen+10:])) + 0x100
			if sum >= 0xffff {
				sum++
			}
			h[ethLen+8]--
			binary.BigEndian.PutUint16(h[ethLen+10:], uint16(sum))
		}
		if counts == nil {
			continue
		}
		rt := &w.found[i]
		counts[rt.counter].add(p.length, now)
		if c := t.group[rt.group].counter; c != 0 {
			counts[c].add(p.length, now)
		}
		if to.counter != 0 {
			counts[to.counter].add(p.length, now)
		}
	}
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

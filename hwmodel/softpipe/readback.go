package softpipe

import (
	"context"
	"net/netip"

	"antiphon/hwmodel"
)

// entriesChunk is how many entries Entries yields at a time.
const entriesChunk = 4096

// counterChunk is how many counters Counters reads while packets wait: well below
// a millisecond.
const counterChunk = 1 << 15

// Entries implements hwmodel.Device. Packets flow on meanwhile, Apply waits:
// yield must not call it.
func (p *Pipe) Entries(ctx context.Context, yield func(*hwmodel.Entries) bool) error {
	p.ctl.Lock()
	defer p.ctl.Unlock()
	r := reader{t: &p.t, yield: func(e *hwmodel.Entries) bool { return ctx.Err() == nil && yield(e) }}
	r.all()
	return ctx.Err()
}

// reader reads tables back in chunks.
type reader struct {
	t     *tables
	yield func(*hwmodel.Entries) bool
	chunk hwmodel.Entries
	n     int
	done  bool
}

// full is called after an entry was added to the chunk; it reports whether to stop.
func (r *reader) full() bool {
	if r.n++; r.n >= entriesChunk {
		r.flush()
	}
	return r.done
}

func (r *reader) flush() {
	if r.n > 0 && !r.done {
		r.done = !r.yield(&r.chunk)
		r.chunk, r.n = hwmodel.Entries{}, 0
	}
}

func (r *reader) all() {
	t := r.t
	for s, i := range t.iface {
		if !i.present {
			continue
		}
		r.chunk.Interfaces = append(r.chunk.Interfaces, hwmodel.Interface{
			ID: t.ifaces.key[s], Port: i.port, MAC: macOf(i.mac), MTU: i.mtu,
			In4: i.in[0], In6: i.in[1], Out4: i.out[0], Out6: i.out[1],
			RPFilter: i.rp, AcceptLocal: i.acceptLocal, SourceCheck: i.sourceCheck, RedirectTrap: i.redirectTrap,
		})
		if r.full() {
			return
		}
	}
	for s, n := range t.neigh {
		if !n.present {
			continue
		}
		r.chunk.Neighbors = append(r.chunk.Neighbors, hwmodel.Neighbor{
			NeighborKey: t.neighs.key[s], MAC: macOf(n.mac), Counter: t.counters.key[n.counter]})
		if r.full() {
			return
		}
	}
	for s, h := range t.hop {
		if !h.present {
			continue
		}
		r.chunk.NextHops = append(r.chunk.NextHops, hwmodel.NextHop{
			ID: t.hops.key[s], Trap: h.trap, Interface: t.ifaces.key[h.iface], Gateway: t.neighs.key[h.neigh].Addr})
		if r.full() {
			return
		}
	}
	for s, g := range t.group {
		if !g.present {
			continue
		}
		r.chunk.Groups = append(r.chunk.Groups, hwmodel.Group{
			ID: t.groups.key[s], Legs: append([]hwmodel.Leg(nil), t.legs[s]...), Counter: t.counters.key[g.counter]})
		if r.full() {
			return
		}
	}
	for id, tab := range t.lpm {
		for k, s := range tab.v4.slot.all() {
			a, bits := unkey4(k)
			if r.route(id, netip.PrefixFrom(netip4(a), int(bits)), s) {
				return
			}
		}
		for p, s := range tab.v6.routes.All6() {
			if r.route(id, p, s) {
				return
			}
		}
	}
	for i, f := range []hwmodel.Family{hwmodel.IPv4, hwmodel.IPv6} {
		if set := t.rules[i]; set != nil {
			r.chunk.Rules = append(r.chunk.Rules, hwmodel.Rules{Family: f, List: append([]hwmodel.Rule(nil), set.set...)})
			if r.full() {
				return
			}
		}
	}
	for a := range t.own {
		r.chunk.Own = append(r.chunk.Own, hwmodel.OwnAddress{Addr: a})
		if r.full() {
			return
		}
	}
	if t.programmed {
		s := t.settings
		r.chunk.Settings = &s
		r.full()
	}
	r.flush()
}

func (r *reader) route(id hwmodel.TableID, p netip.Prefix, slot uint32) bool {
	rt := &r.t.route[slot]
	r.chunk.Routes = append(r.chunk.Routes, hwmodel.Route{
		RouteKey: hwmodel.RouteKey{Table: id, Prefix: p}, Action: rt.action, Reason: rt.reason,
		Group: r.t.groups.key[rt.group], MTU: rt.bound + 1, Counter: r.t.counters.key[rt.counter]})
	return r.full()
}

// Counters implements hwmodel.Device, except for Ports: who sends and receives
// counts those.
//
// A vector stamps what it counts with the time read under the lock, and Now is
// read before any counter under the same lock: so a count that this report lacks
// carries a later time than Now.
func (p *Pipe) Counters(ctx context.Context, since uint64) (hwmodel.CounterReport, error) {
	report := hwmodel.CounterReport{Now: p.clock.now()}
	for from, more := 1, true; more; from += counterChunk {
		if err := ctx.Err(); err != nil {
			return hwmodel.CounterReport{}, err
		}
		report.Counters, more = p.readCounters(report.Counters, from, since)
	}
	return report, nil
}

// readCounters appends the counters of a chunk of slots; more says that there are
// others behind it.
func (p *Pipe) readCounters(to []hwmodel.Counter, from int, since uint64) (_ []hwmodel.Counter, more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	keys := p.t.counters.key
	end := min(from+counterChunk, len(keys))
	workers := p.workers()
	for slot := from; slot < end; slot++ {
		if keys[slot] == 0 {
			continue
		}
		if c := p.read(workers, uint32(slot)); c.Packets != 0 && c.LastUsed >= since {
			to = append(to, c)
		}
	}
	return to, end < len(keys)
}

// read sums a counter over the workers. The caller holds mu, so nobody counts.
func (p *Pipe) read(workers []*worker, slot uint32) hwmodel.Counter {
	c := hwmodel.Counter{ID: p.t.counters.key[slot]}
	for _, w := range workers {
		if int(slot) < len(w.count) {
			n := &w.count[slot]
			c.Packets += n.packets
			c.Bytes += n.bytes
			c.LastUsed = max(c.LastUsed, n.last)
		}
	}
	return c
}

// retire gives the last readings of those counters that no entry has any more,
// and frees them.
func (p *Pipe) retire(slots []uint32) []hwmodel.Counter {
	var final []hwmodel.Counter
	t, workers := &p.t.counters, p.workers()
	for _, slot := range slots {
		if t.refs[slot] != 0 || t.key[slot] == 0 { // taken again, or freed already
			continue
		}
		final = append(final, p.read(workers, slot))
		for _, w := range workers {
			if int(slot) < len(w.count) {
				w.count[slot] = count{}
			}
		}
		t.recycle(slot)
	}
	return final
}

package resolve

import (
	"antiphon/hwmodel"
	"antiphon/netstate"
)

// ObjectCount is what went through the device on behalf of a mirrored row:
// cumulative since the row appeared, over restarts of the device.
type ObjectCount struct {
	Key netstate.Key
	// Generation tells lives of the same key apart.
	Generation uint32
	Packets    uint64
	Bytes      uint64
	LastUsed   uint64 // device time, nanoseconds; 0 if never
	// Gone: the row does not exist any more; this is its last count.
	Gone bool
}

// counters turns readings of device counters into counts of rows. A device
// counter starts at zero whenever its entry is set anew (the row was in doubt
// for a while, the device restarted): what it had counted until then is in base.
type counters struct {
	next  hwmodel.CounterID
	owner map[hwmodel.CounterID]netstate.Key
	base  map[hwmodel.CounterID]hwmodel.Counter
	last  map[hwmodel.CounterID]hwmodel.Counter
	byKey map[netstate.Key]hwmodel.CounterID
	moved map[hwmodel.CounterID]struct{}
	gone  []ObjectCount
}

func (c *counters) init() {
	c.owner = map[hwmodel.CounterID]netstate.Key{}
	c.base = map[hwmodel.CounterID]hwmodel.Counter{}
	c.last = map[hwmodel.CounterID]hwmodel.Counter{}
	c.byKey = map[netstate.Key]hwmodel.CounterID{}
	c.moved = map[hwmodel.CounterID]struct{}{}
}

// allocate gives a new row a counter that was never used before.
func (c *counters) allocate(k netstate.Key) hwmodel.CounterID {
	c.next++
	return c.own(c.next, k)
}

// take gives a row a counter found in an adopted device instead of the one just
// allocated for it, which nobody has seen. A counter that another row has taken,
// or none, leaves the row its own.
func (c *counters) take(found hwmodel.CounterID, k netstate.Key) hwmodel.CounterID {
	mine := c.byKey[k]
	if _, used := c.owner[found]; used || found == 0 {
		return mine
	}
	delete(c.owner, mine)
	return c.own(found, k)
}

func (c *counters) own(id hwmodel.CounterID, k netstate.Key) hwmodel.CounterID {
	c.owner[id] = k
	c.byKey[k] = id
	return id
}

// release ends a row's counter.
func (c *counters) release(id hwmodel.CounterID) {
	k, ok := c.owner[id]
	if !ok {
		return
	}
	if n := c.count(id); n.Packets != 0 {
		n.Gone = true
		c.gone = append(c.gone, n)
	}
	delete(c.owner, id)
	delete(c.byKey, k)
	delete(c.base, id)
	delete(c.last, id)
	delete(c.moved, id)
}

// final takes the last reading of a counter whose entry left the device.
func (c *counters) final(n hwmodel.Counter) {
	if _, ok := c.owner[n.ID]; !ok {
		return
	}
	c.last[n.ID] = n
	c.rebase(n.ID)
	c.moved[n.ID] = struct{}{}
}

// rebase moves the last reading into the base: the device starts from zero.
func (c *counters) rebase(id hwmodel.CounterID) {
	l, ok := c.last[id]
	if !ok {
		return
	}
	b := c.base[id]
	b.Packets += l.Packets
	b.Bytes += l.Bytes
	b.LastUsed = max(b.LastUsed, l.LastUsed)
	c.base[id] = b
	delete(c.last, id)
}

// adopt keeps the readings of counters the device still has; the others start
// from zero there. New counters get identifiers the device has not seen.
func (c *counters) adopt(live map[hwmodel.CounterID]struct{}) {
	for id := range c.last {
		if _, ok := live[id]; !ok {
			c.rebase(id)
		}
	}
	for id := range live {
		c.next = max(c.next, id)
	}
}

func (c *counters) count(id hwmodel.CounterID) ObjectCount {
	b, l := c.base[id], c.last[id]
	return ObjectCount{
		Key:        c.owner[id],
		Generation: uint32(id),
		Packets:    b.Packets + l.Packets,
		Bytes:      b.Bytes + l.Bytes,
		LastUsed:   max(b.LastUsed, l.LastUsed),
	}
}

// Counters takes in a report of the device and returns the rows whose counts
// moved since the last call, and those that ended. Reports must be read and
// taken in between batches, never across one.
func (r *Resolver) Counters(rep hwmodel.CounterReport) []ObjectCount {
	c := &r.counters
	for _, n := range rep.Counters {
		if _, ok := c.owner[n.ID]; ok && c.last[n.ID] != n {
			c.last[n.ID] = n
			c.moved[n.ID] = struct{}{}
		}
	}
	out := c.gone
	c.gone = nil
	for id := range c.moved {
		out = append(out, c.count(id))
	}
	clear(c.moved)
	return out
}

// Recount makes the next Counters return every row that ever counted: a new
// reader knows nothing, and what moved while there was none was told to nobody.
func (r *Resolver) Recount() {
	c := &r.counters
	for _, seen := range []map[hwmodel.CounterID]hwmodel.Counter{c.base, c.last} {
		for id := range seen {
			if _, ok := c.owner[id]; ok {
				c.moved[id] = struct{}{}
			}
		}
	}
}

// Count returns the count of a row, zero if nothing went through it.
func (r *Resolver) Count(k netstate.Key) ObjectCount {
	id, ok := r.counters.byKey[k]
	if !ok {
		return ObjectCount{Key: k}
	}
	return r.counters.count(id)
}

// CounterRow returns the row that a device counter counts for.
func (r *Resolver) CounterRow(id hwmodel.CounterID) (netstate.Key, bool) {
	k, ok := r.counters.owner[id]
	return k, ok
}

package resolve

import (
	"maps"

	"antiphon/hwmodel"
)

// capacity keeps a full route table safe (02 I13): a prefix that is not in the
// device must not be forwarded by a less specific one. What does not fit is left
// out here, before the device would have to refuse it, and the nearest less
// specific prefix that is in becomes a trap in the same batch.
type capacity struct {
	// out holds the prefixes left out, with the reason.
	out map[hwmodel.RouteKey]hwmodel.Reason
	// covers holds the prefixes that trap because they cover one left out.
	covers map[hwmodel.RouteKey]struct{}
	// bare holds the tables with a prefix left out that nothing covers: their
	// rules trap, or the next rule's table would take over.
	bare map[tableFamily]struct{}
}

func (c *capacity) init() {
	c.out = map[hwmodel.RouteKey]hwmodel.Reason{}
	c.covers = map[hwmodel.RouteKey]struct{}{}
	c.bare = map[tableFamily]struct{}{}
}

// refused takes in that the device itself did not take a prefix.
func (c *capacity) refused(r *Resolver, k hwmodel.RouteKey, why hwmodel.Reason) {
	c.out[k] = why
	r.tRoute.touch(k)
}

// admit decides, before a batch is made, which touched prefixes fit: sets are
// performed before deletes, so room that the batch frees is for the next one.
func (c *capacity) admit(r *Resolver) {
	size := int(r.caps.Sizes[hwmodel.TableRoute])
	held := len(r.tRoute.installed)
	for k := range r.tRoute.dirty {
		if _, in := r.tRoute.installed[k]; in {
			continue
		}
		if !r.wanted(k) {
			delete(c.out, k)
			continue
		}
		if why, was := c.out[k]; was && why != hwmodel.ReasonTableFull {
			continue // refused by the device: stays out until the row goes
		}
		if held >= size {
			c.out[k] = hwmodel.ReasonTableFull
			continue
		}
		delete(c.out, k)
		held++
	}
	c.cover(r)
}

// retry marks prefixes left out when a batch has made room.
func (c *capacity) retry(r *Resolver) {
	room := int(r.caps.Sizes[hwmodel.TableRoute]) - len(r.tRoute.installed)
	for k, why := range c.out {
		if room <= 0 {
			return
		}
		if why == hwmodel.ReasonTableFull {
			r.tRoute.touch(k)
			room--
		}
	}
}

// wanted reports whether the mirrored state asks for an entry under the key.
func (r *Resolver) wanted(k hwmodel.RouteKey) bool {
	if r.dests[k] != nil {
		return true
	}
	return k.Table == tableMain && r.local[familyOf(k.Prefix)] != localApart && r.dests[hwmodel.RouteKey{Table: tableLocal, Prefix: k.Prefix}] != nil
}

// cover recomputes which prefixes must trap.
func (c *capacity) cover(r *Resolver) {
	if len(c.out) == 0 && len(c.covers) == 0 && len(c.bare) == 0 {
		return
	}
	now := make(map[hwmodel.RouteKey]struct{}, len(c.covers))
	bare := map[tableFamily]struct{}{}
	for k := range c.out {
		if up, ok := c.nearest(r, k); ok {
			now[up] = struct{}{}
		} else {
			bare[tableFamily{k.Table, familyOf(k.Prefix)}] = struct{}{}
		}
	}
	if !maps.Equal(bare, c.bare) {
		c.bare = bare
		r.touchRules()
	}
	for k := range now {
		if _, was := c.covers[k]; !was {
			r.tRoute.touch(k)
		}
	}
	for k := range c.covers {
		if _, still := now[k]; !still {
			r.tRoute.touch(k)
		}
	}
	c.covers = now
}

// nearest returns the longest prefix shorter than k that the device shall hold.
func (c *capacity) nearest(r *Resolver, k hwmodel.RouteKey) (hwmodel.RouteKey, bool) {
	for bits := k.Prefix.Bits() - 1; bits >= 0; bits-- {
		p, err := k.Prefix.Addr().Prefix(bits)
		if err != nil {
			panic(err) // bits are in range: a broken invariant of ours
		}
		up := hwmodel.RouteKey{Table: k.Table, Prefix: p}
		if _, out := c.out[up]; !out && r.wanted(up) {
			return up, true
		}
	}
	return hwmodel.RouteKey{}, false
}

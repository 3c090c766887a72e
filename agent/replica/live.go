package replica

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"antiphon/netstate"
	"antiphon/transport"
)

// Block takes one block of live notifications or of a dump. An error says which
// message of it is malformed; the session should end then, and Resync follow.
func (r *Replica) Block(seq uint64, b *transport.Block) error {
	r.tick(seq)
	take := r.notification
	if id := b.GetDump(); id != 0 {
		f := r.flight
		if f == nil || f.id != id {
			r.stats.DumpsForeign++
			return nil
		}
		if b.GetFirst() {
			r.begin(f)
		}
		if !f.begun {
			return fmt.Errorf("block %d: dump %d goes on without a first block", seq, id)
		}
		take = r.dumped
	}
	for rest := b.GetBytes(); len(rest) > 0; {
		at := len(b.GetBytes()) - len(rest)
		m, next, err := netstate.NextMessage(rest)
		if err == nil {
			err = take(m)
		}
		if err != nil {
			if r.flight != nil {
				r.flight.spoil("a malformed block")
			}
			return fmt.Errorf("block %d, message at offset %d: %w", seq, at, err)
		}
		rest = next
	}
	return nil
}

// notification takes one live message.
func (r *Replica) notification(m netstate.Message) error {
	k, del, err := netstate.KeyOf(m.Raw)
	if errors.Is(err, netstate.ErrNotMirrored) {
		r.stats.Ignored++
		return nil
	}
	if err != nil {
		return err
	}
	e := r.rows[k]
	if e == nil {
		if del && !r.owing() && r.flight == nil {
			r.consequences(k, nil, nil)
			return nil
		}
		e = r.entry(k)
	}
	e.touched = r.clock
	switch {
	case k.Kind == netstate.KindRoute:
		r.routeNotified(e, m)
	case del && e.present():
		r.told(e)
		r.put(e, nil)
	case del:
		r.consequences(k, nil, nil)
	case e.present() && netstate.Equal(k.Kind, e.row.Group[0], m.Raw):
		r.told(e)
	default:
		r.told(e)
		r.put(e, [][]byte{netstate.Normalize(m.Raw)})
	}
	if !e.present() {
		r.buried(e)
	}
	return nil
}

// told ends a doubt because a notification says all there is to know.
func (r *Replica) told(e *entry) {
	if why := r.trust(e); why != 0 {
		r.stats.Rules[why].Told++
	}
}

// buried notes a tombstone that a notification made.
func (r *Replica) buried(e *entry) {
	r.rest(e)
	if r.tombs++; r.tombs > maxTombstones {
		r.forget("too many keys deleted meanwhile")
	}
}

// routeNotified merges a notification into a route's group.
func (r *Replica) routeNotified(e *entry, m netstate.Message) {
	const change = unix.NLM_F_CREATE | unix.NLM_F_EXCL | unix.NLM_F_REPLACE | unix.NLM_F_APPEND
	flags := m.Flags & change
	del := m.Type == unix.RTM_DELROUTE
	group := e.row.Group
	fresh := !del && flags == unix.NLM_F_CREATE|unix.NLM_F_EXCL
	if len(group) == 1 && !del && (fresh || flags == 0 || flags == unix.NLM_F_REPLACE|unix.NLM_F_CREATE) &&
		netstate.Equal(netstate.KindRoute, group[0], m.Raw) && (e.rule != RuleGroup || fresh) {
		r.told(e)
		return
	}
	if del && len(group) == 0 {
		return
	}
	defer r.oweOrder(e)
	next, certain := netstate.MergeRoute(group, m)
	switch {
	case fresh:
		// The kernel found no other entry of the key: no doubt is left.
		r.told(e)
		r.put(e, next)
	case certain && e.rule == RuleGroup && len(next) == 0:
		// The group was a guess: others may stand, so the key stays and traps.
		r.suspect(e, RuleGroup)
		r.oweGroup(e)
	case certain:
		if e.row.Suspect && e.rule != RuleGroup && len(next) == 1 && !del {
			r.told(e) // some of the old ones may have died, but none of them is left
		}
		r.put(e, next)
		if e.row.Suspect {
			r.oweGroup(e)
		}
	default:
		if !sameGroup(group, next) {
			r.put(e, next)
		}
		r.suspect(e, RuleGroup)
		r.oweGroup(e)
	}
}

// oweOrder owes a dump that gives the order of an IPv6 route's legs, which decides
// over flows: notifications of a change begin with the leg that changed (N23).
func (r *Replica) oweOrder(e *entry) {
	if k := e.row.Key; k.Family == unix.AF_INET6 && len(e.row.Group) > 0 &&
		r.route.Decode(e.row.Group[0]) == nil && len(r.route.Legs) > 1 && r.route.NexthopID == 0 {
		r.owe(netstate.KindRoute, scope{family: k.Family, table: k.ID}, RuleGroup)
	}
}

// oweGroup owes a dump that gives the whole group of a route: a filter by
// interface would leave some of its entries out.
func (r *Replica) oweGroup(e *entry) {
	r.owe(netstate.KindRoute, scope{family: e.row.Key.Family, table: e.row.Key.ID}, RuleGroup)
}

func sameGroup(a, b [][]byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

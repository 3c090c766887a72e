package agent

import (
	"antiphon/agent/resolve"
	"antiphon/hwmodel"
	"antiphon/netstate"
	"antiphon/transport"
)

const (
	// maxFates bounds the rows whose fate waits to be told; what is beyond can be
	// asked for.
	maxFates = 4096
	// maxItems is how many counters, fates or neighbours one message carries.
	maxItems = 4096
)

// outbox holds what waits for the shim, each kind merged with what is there
// already, so that a slow session makes it no larger.
type outbox struct {
	asks      []*transport.Ask  // as many as barriers
	dumps     []*transport.Dump // as many as the replica owes: one per kind and filter
	credit    uint32
	acked     uint64 // the last Ack sent
	ack       uint64
	used      [][]byte
	counters  map[counterKey]*transport.Counter // as many as rows
	dirty     map[netstate.Key]struct{}         // rows whose fate may have changed
	fates     []*transport.Fate
	overflown uint64 // fates not told
}

type counterKey struct {
	kind   uint32
	digest uint64
	dense  uint32
}

// next returns the message to send now, nil if there is none: first what the
// shim waits for.
func (o *outbox) next() *transport.FromAgent {
	switch {
	case len(o.asks) > 0:
		m := o.asks[0]
		o.asks = o.asks[1:]
		return &transport.FromAgent{Msg: &transport.FromAgent_Ask{Ask: m}}
	case o.credit > 0:
		n := o.credit
		o.credit = 0
		return &transport.FromAgent{Msg: &transport.FromAgent_Credit{Credit: &transport.Credit{Bytes: n}}}
	case len(o.dumps) > 0:
		m := o.dumps[0]
		o.dumps = o.dumps[1:]
		return &transport.FromAgent{Msg: &transport.FromAgent_Dump{Dump: m}}
	case o.ack > o.acked:
		o.acked = o.ack
		return &transport.FromAgent{Msg: &transport.FromAgent_Ack{Ack: &transport.Ack{Programmed: o.ack}}}
	case len(o.used) > 0:
		n := min(len(o.used), maxItems)
		m := &transport.Use{Neighbors: o.used[:n]}
		o.used = o.used[n:]
		return &transport.FromAgent{Msg: &transport.FromAgent_Use{Use: m}}
	case len(o.fates) > 0:
		n := min(len(o.fates), maxItems)
		m := &transport.Fates{Fates: o.fates[:n]}
		o.fates = o.fates[n:]
		return &transport.FromAgent{Msg: &transport.FromAgent_Fates{Fates: m}}
	case len(o.counters) > 0:
		m := &transport.Counters{}
		for k, v := range o.counters {
			if len(m.Counters) == maxItems {
				break
			}
			m.Counters = append(m.Counters, v)
			delete(o.counters, k)
		}
		return &transport.FromAgent{Msg: &transport.FromAgent_Counters{Counters: m}}
	}
	return nil
}

func (o *outbox) acknowledge(programmed uint64) { o.ack = max(o.ack, programmed) }

// count tells a counter; the latest reading of each is what counts.
func (o *outbox) count(m *transport.Counter) {
	if o.counters == nil {
		o.counters = map[counterKey]*transport.Counter{}
	}
	o.counters[counterKey{m.Kind, m.Digest, m.DenseId}] = m
}

// fate notes that a row's fate may have changed.
func (o *outbox) fate(k netstate.Key) {
	if o.dirty == nil {
		o.dirty = map[netstate.Key]struct{}{}
	}
	if len(o.dirty) >= maxFates {
		o.overflown++
		return
	}
	o.dirty[k] = struct{}{}
}

// resolveFates tells the fates of the rows that changed, now that the device has
// what it takes.
func (o *outbox) resolveFates(r *resolve.Resolver) {
	for k := range o.dirty {
		if len(o.fates) >= maxFates {
			o.overflown++
			break
		}
		m := &transport.Fate{Key: k.AppendCanonical(nil)}
		f, ok := r.Fate(k)
		if m.Gone = !ok; ok {
			m.Fate = uint32(f.Standing)
			if f.Reason != hwmodel.ReasonNone {
				m.Reason = f.Reason.String()
			}
		}
		o.fates = append(o.fates, m)
	}
	clear(o.dirty)
}

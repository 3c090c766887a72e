package replica

import (
	"antiphon/netstate"
	"antiphon/transport"
)

// Options are a Replica's fixed choices.
type Options struct {
	// Predict makes rows that the kernel may have deleted in silence suspect at
	// once. Without it they stand until the dump that is owed all the same.
	Predict bool
}

// Replica is one mirror. It is not safe for concurrent use.
type Replica struct {
	opt Options
}

// New returns an empty Replica that owes the first snapshot: dumps of all kinds.
func New(opt Options) *Replica { return &Replica{opt: opt} }

// Block takes one block of live notifications or of a dump. An error says which
// message of it is malformed; the session should end then, and Resync follow.
func (r *Replica) Block(seq uint64, b *transport.Block) error { return nil }

// DumpEnd takes the end of a dump: if it verifies, its rows count from now on and
// what it does not mention is removed; otherwise another dump is owed.
func (r *Replica) DumpEnd(seq uint64, e *transport.DumpEnd) error { return nil }

// Settings replaces the settings and returns them as netstate has them.
func (r *Replica) Settings(seq uint64, s *transport.Settings) *netstate.Settings { return nil }

// LastSettings returns the latest settings, nil before the first.
func (r *Replica) LastSettings() *netstate.Settings { return nil }

// Overrun says that notifications were lost. Nothing is deleted; every kind is
// dumped again, and CaughtUp is false until that is done.
func (r *Replica) Overrun(seq uint64, o *transport.Overrun) {}

// Resync is Overrun for a new session: what was in flight is lost as well.
func (r *Replica) Resync() {}

// Event takes a hint: rows of that kind on that link become suspect and a dump is
// owed. Kind 0 means links, routes and nexthops of the interface; interface 0
// makes nothing suspect but owes a whole dump.
func (r *Replica) Event(seq uint64, e *transport.Event) error { return nil }

// RequestAudit owes a whole dump of every kind.
func (r *Replica) RequestAudit() {}

// Changes returns what changed since the last call, each key once, in the order
// in which the keys first changed, with the row as it is now.
func (r *Replica) Changes() []netstate.Change { return nil }

// Dumps returns the dump requests to be sent now. One dump is in flight at a time.
func (r *Replica) Dumps() []*transport.Dump { return nil }

// CaughtUp says that every kind was verified by a dump since New, the last
// Overrun or the last Resync: before that absence means nothing.
func (r *Replica) CaughtUp() bool { return false }

// Settled says that the Replica is caught up, owes no dump, waits for none and
// doubts no row.
func (r *Replica) Settled() bool { return false }

// Pending says for people what keeps Settled from being true; at most a few lines.
func (r *Replica) Pending() []string { return nil }

// Row returns the row of a key, nil if there is none.
func (r *Replica) Row(k netstate.Key) *netstate.Row { return nil }

// Each calls yield with every row of a kind, oldest key first, until it returns
// false. yield must not feed the Replica.
func (r *Replica) Each(k netstate.Kind, yield func(*netstate.Row) bool) {}

// Counts returns the number of rows of each kind, indexed by netstate.Kind.
func (r *Replica) Counts() [KindCount]int { return [KindCount]int{} }

// Suspects returns the number of rows in doubt.
func (r *Replica) Suspects() int { return 0 }

// Stats returns the counts since New.
func (r *Replica) Stats() Stats { return Stats{} }

// KindCount is one more than the highest netstate.Kind.
const KindCount = int(netstate.KindNexthop) + 1

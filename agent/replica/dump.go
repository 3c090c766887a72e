package replica

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"antiphon/netstate"
	"antiphon/transport"
)

// scope is a dump filter; zero fields mean any. Only dumps of routes have one.
type scope struct {
	family     uint8
	table, oif uint32
}

// covers says that a dump of s shows every row that one of t shows, whole.
func (s scope) covers(t scope) bool {
	return (s.family == 0 || s.family == t.family) &&
		(s.table == 0 || s.table == t.table) && (s.oif == 0 || s.oif == t.oif)
}

// has says that a key is in the scope, the interface aside.
func (s scope) has(k netstate.Key) bool {
	return (s.family == 0 || s.family == k.Family) && (s.table == 0 || s.table == k.ID)
}

func (s scope) String() string {
	text := ""
	for _, f := range [...]struct {
		name string
		v    uint32
	}{{"family", uint32(s.family)}, {"table", s.table}, {"oif", s.oif}} {
		if f.v != 0 {
			text += fmt.Sprintf(" %s %d", f.name, f.v)
		}
	}
	return text
}

// debt is a dump that is owed.
type debt struct {
	scope scope
	at    uint64 // clock of the first reason: what the dump must come after
	last  uint64 // clock of the latest reason: if it does not, another one must
	why   Rule   // 0: snapshot or audit
}

// flight is the dump that was requested and has not ended.
type flight struct {
	debt
	id     uint64
	kind   netstate.Kind
	begun  bool
	began  uint64 // clock of its first block
	since  uint64 // keys notified after this win over the dump
	rows   uint64
	bad    string // why it can settle nothing
	staged []*entry
}

func (f *flight) spoil(why string) {
	if f.bad == "" {
		f.bad = why
	}
}

// owe adds a dump to those owed.
func (r *Replica) owe(k netstate.Kind, s scope, why Rule) {
	if k != netstate.KindRoute {
		s = scope{}
	}
	debts := r.debts[k]
	for i := range debts {
		if debts[i].scope.covers(s) {
			debts[i].last = r.clock
			return
		}
	}
	if len(debts) == maxScopes {
		s = scope{}
	}
	keep := debts[:0]
	for _, d := range debts {
		if !s.covers(d.scope) {
			keep = append(keep, d)
		}
	}
	r.debts[k] = append(keep, debt{scope: s, at: r.clock, last: r.clock, why: why})
}

func (r *Replica) owing() bool {
	for k := range r.debts {
		if len(r.debts[k]) > 0 {
			return true
		}
	}
	return false
}

// Dumps returns the dump requests to be sent now. One dump is in flight at a time.
// Every other dump comes after one of links that began after its reason; see
// Replica.barrier.
func (r *Replica) Dumps() []*transport.Dump {
	if r.flight != nil {
		return nil
	}
	if !r.owing() {
		for k := range r.tables {
			if r.tables[k].suspects > 0 { // nobody decides about them: ask again
				r.stats.Stranded++
				r.owe(netstate.Kind(k), scope{}, 0)
			}
		}
	}
	links := len(r.debts[netstate.KindLink]) > 0
	for _, k := range netstate.Kinds[1:] {
		for i, d := range r.debts[k] {
			if d.at <= r.barrier || r.wrong.noBarrier && !links {
				r.debts[k] = append(r.debts[k][:i], r.debts[k][i+1:]...)
				if d.last > r.barrier && !r.wrong.noBarrier {
					// Waiting for the latest reason could take for ever.
					r.debts[k] = append(r.debts[k], debt{scope: d.scope, at: d.last, last: d.last, why: d.why})
				}
				return r.launch(k, d)
			}
			links = true
		}
	}
	if !links {
		return nil
	}
	d := debt{why: RuleHint}
	if owed := r.debts[netstate.KindLink]; len(owed) > 0 {
		d = owed[0]
		r.debts[netstate.KindLink] = nil
	}
	return r.launch(netstate.KindLink, d)
}

func (r *Replica) launch(k netstate.Kind, d debt) []*transport.Dump {
	r.lastDump++
	r.flight = &flight{debt: d, id: r.lastDump, kind: k}
	r.stats.DumpsRequested++
	return []*transport.Dump{{
		Id: r.lastDump, Kind: uint32(k), FilterFamily: uint32(d.scope.family),
		FilterTable: d.scope.table, FilterOif: d.scope.oif,
	}}
}

// begin takes the first block.
func (r *Replica) begin(f *flight) {
	if f.begun {
		f.spoil("it began twice")
		return
	}
	f.begun, f.began, f.since = true, r.clock, r.clock
	if f.kind != netstate.KindLink && !r.wrong.noBarrier {
		f.since = r.barrier
	}
}

// dumped takes one row of the dump in flight. Rows that are as the Replica has
// them cost nothing; others wait for the dump's end.
func (r *Replica) dumped(m netstate.Message) error {
	f := r.flight
	if m.Type < unix.NLMSG_MIN_TYPE {
		return nil // DONE and ERROR: DumpEnd says what they say
	}
	f.rows++
	if m.Flags&unix.NLM_F_DUMP_INTR != 0 {
		f.spoil("the kernel says it was interrupted")
	}
	k, del, err := netstate.KeyOf(m.Raw)
	if errors.Is(err, netstate.ErrNotMirrored) {
		r.stats.Ignored++
		return nil
	}
	if err != nil {
		return err
	}
	if del || k.Kind != f.kind {
		return fmt.Errorf("a dump of kind %s holds a message of type %d", f.kind, m.Type)
	}
	if f.scope.oif != 0 && r.route.Decode(m.Raw) == nil && r.route.NexthopID != 0 {
		return nil // settled by dumps of a table
	}
	e := r.rows[k]
	if e == nil {
		e = r.entry(k)
	}
	if e.mark != f.id {
		e.mark, e.seen, e.staged, e.differs = f.id, 0, nil, false
	}
	group := e.row.Group
	switch {
	case e.differs:
		e.staged = append(e.staged, netstate.Normalize(m.Raw))
	case int(e.seen) < len(group) && (f.scope.oif == 0 || len(group) == 1) &&
		netstate.Equal(k.Kind, group[e.seen], m.Raw) && r.sameOrder(k, group[e.seen], m.Raw):
		e.seen++
	default:
		e.differs = true
		f.staged = append(f.staged, e)
		if e.seen > 0 {
			e.staged = append(e.staged, group[:e.seen]...)
		}
		e.staged = append(e.staged, netstate.Normalize(m.Raw))
	}
	return nil
}

// DumpEnd takes the end of a dump: if it verifies, its rows count from now on and
// what it does not mention is removed; otherwise another dump is owed.
func (r *Replica) DumpEnd(seq uint64, end *transport.DumpEnd) error {
	r.tick(seq)
	f := r.flight
	if f == nil || f.id != end.GetId() {
		r.stats.DumpsForeign++
		return nil
	}
	defer r.endFlight()
	errno := end.GetErrno()
	r.refusal[f.kind] = 0
	switch {
	case errno != 0:
		return r.refused(f, errno)
	case !f.begun:
		f.spoil("it never began")
	case end.GetKind() != uint32(f.kind):
		return fmt.Errorf("dump %d of kind %s ended as kind %d", f.id, f.kind, end.GetKind())
	case end.GetInterrupted():
		f.spoil("the shim says it was interrupted")
	case end.GetRows() != f.rows:
		f.spoil("its count of rows does not match")
	}
	if f.kind == netstate.KindLink && f.begun {
		r.barrier = f.began
		r.recent = slices.DeleteFunc(r.recent, func(h happening) bool { return h.at <= f.began })
	}
	if f.bad != "" && !r.wrong.sweepFailed {
		r.stats.DumpsInterrupted++
		r.owe(f.kind, f.scope, f.why)
		return nil
	}
	r.absentOn[f.kind] = false
	r.settle(f)
	return nil
}

// endFlight ends the dump in flight, whatever came of it.
func (r *Replica) endFlight() {
	if r.flight == nil {
		return
	}
	for _, e := range r.flight.staged {
		e.staged, e.differs = nil, false
	}
	r.flight = nil
}

// refused handles a dump that the kernel would not do.
func (r *Replica) refused(f *flight, errno uint32) error {
	r.stats.DumpsRefused++
	whole := f.scope.table == 0 && f.scope.oif == 0
	switch unix.Errno(errno) {
	case unix.EOPNOTSUPP, unix.EAFNOSUPPORT:
		if whole && f.scope.family == 0 {
			// This kernel has no such thing, so there are no rows of it.
			if !f.begun {
				r.begin(f)
			}
			r.absentOn[f.kind] = true
			r.settle(f)
			return nil
		}
	}
	// ENODEV: the filter's interface is gone; ENOENT: its table is.
	r.refusal[f.kind] = errno
	r.owe(f.kind, scope{}, f.why)
	return nil
}

// Unsupported lists the kinds that the kernel of this session does not know.
func (r *Replica) Unsupported() []netstate.Kind {
	var kinds []netstate.Kind
	for _, k := range netstate.Kinds {
		if r.absentOn[k] {
			kinds = append(kinds, k)
		}
	}
	return kinds
}

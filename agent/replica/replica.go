package replica

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"antiphon/netstate"
	"antiphon/transport"
)

// KindCount is one more than the highest netstate.Kind.
const KindCount = int(netstate.KindNexthop) + 1

const (
	// maxScopes bounds the dumps of one kind that wait; one more and they become
	// one whole dump. Whole dumps are cheap on the host, so few are enough.
	maxScopes = 16
	// maxTombstones bounds the keys remembered as deleted while dumps are owed
	// or in flight. A tombstone takes some 250 bytes; 128k of them are what a
	// kernel can delete in half a second. Beyond, the dump in flight settles
	// nothing and all that are owed begin anew.
	maxTombstones = 1 << 17
	// maxReplay bounds the events remembered for rows that dumps owed or in flight
	// have not delivered yet. Beyond, those dumps begin anew as well.
	maxReplay = 1024
)

// Options are a Replica's fixed choices.
type Options struct {
	// Predict makes rows that the kernel may have deleted in silence suspect at
	// once. Without it they stand until the dump that is owed all the same.
	Predict bool
}

// Replica is one mirror. It is not safe for concurrent use.
type Replica struct {
	opt   Options
	wrong mutation

	// clock counts inputs; seq is the session's number of the current one.
	clock, seq uint64
	rows       map[netstate.Key]*entry
	tables     [KindCount]table
	index      index
	settings   *netstate.Settings

	dirty  []*entry // changed since the last Changes
	absent []*entry // tombstones, until nothing can resurrect them
	tombs  int      // of absent, those that a notification made

	debts    [KindCount][]debt
	flight   *flight
	lastDump uint64
	// barrier is when the last finished dump of links began. Such a dump waits
	// for RTNL, so every change notified before it has taken effect since: the
	// kernel says that a link is down before it flushes the link's routes, and
	// a dump of routes without RTNL in between would still show them.
	barrier uint64
	// recent are the events since the barrier.
	recent []happening
	// lost is when notifications were last lost (or the session began); verified
	// is when the last verified whole dump of each kind began. A kind counts
	// when verified > lost.
	lost     uint64
	verified [KindCount]uint64
	absentOn [KindCount]bool // the kernel does not know the kind
	refusal  [KindCount]uint32

	stats Stats

	// Scratch space.
	keys    []indexKey
	route   netstate.Route
	nexthop netstate.Nexthop
}

// mutation switches rules off, so that tests can show that they notice.
type mutation struct {
	dumpWins, sweepFailed, flushOnSnapshot, keepUndumped, predictDeletes, noBarrier, noReplay bool
}

// New returns an empty Replica that owes the first snapshot: dumps of all kinds.
func New(opt Options) *Replica {
	r := &Replica{opt: opt, clock: 1, lost: 1, rows: map[netstate.Key]*entry{}, index: index{}}
	r.oweAll()
	return r
}

// tick begins an input.
func (r *Replica) tick(seq uint64) {
	r.clock++
	r.seq = seq
}

// Settings replaces the settings and returns them as netstate has them.
func (r *Replica) Settings(seq uint64, s *transport.Settings) *netstate.Settings {
	r.tick(seq)
	n := &netstate.Settings{
		Settings:  make([]netstate.Setting, 0, len(s.GetSettings())),
		Presences: make([]netstate.Presence, 0, len(s.GetPresences())),
	}
	for _, v := range s.GetSettings() {
		n.Settings = append(n.Settings, netstate.Setting{Name: v.GetName(), Value: v.GetValue()})
	}
	for _, p := range s.GetPresences() {
		n.Presences = append(n.Presences, netstate.Presence{
			What: p.GetWhat(), Ifindex: p.GetIfindex(), Family: uint8(p.GetFamily()),
			Ingress: p.GetIngress(), Egress: p.GetEgress(), Detail: p.GetDetail(),
		})
	}
	old := r.settings
	r.settings = n
	if old != nil {
		r.settingsChanged(old, n)
	}
	return n
}

// settingsChanged owes dumps for settings that change what the kernel says about
// routes: the legs that routes by nexthop objects repeat (N12), and whether IPv6
// routes died in silence between the change and its reading (N29).
func (r *Replica) settingsChanged(old, now *netstate.Settings) {
	if changed(old, now, "net.ipv4.nexthop_compat_mode") {
		r.owe(netstate.KindRoute, scope{}, RuleSetting)
	}
	if changed(old, now, skipNotify) {
		r.owe(netstate.KindRoute, scope{family: unix.AF_INET6}, RuleSetting)
	}
}

func changed(old, now *netstate.Settings, name string) bool {
	return settingOf(old, name) != settingOf(now, name)
}

// settingOf returns a setting's value, "" if it is not there.
func settingOf(s *netstate.Settings, name string) string {
	i := slices.IndexFunc(s.Settings, func(x netstate.Setting) bool { return x.Name == name })
	if i < 0 {
		return ""
	}
	return s.Settings[i].Value
}

// LastSettings returns the latest settings, nil before the first.
func (r *Replica) LastSettings() *netstate.Settings { return r.settings }

// Overrun says that notifications were lost. Nothing is deleted; every kind is
// dumped again, and CaughtUp is false until that is done.
func (r *Replica) Overrun(seq uint64, o *transport.Overrun) {
	r.tick(seq)
	r.stats.Overruns++
	r.lose("notifications were lost")
}

// Resync is Overrun for a new session: what was in flight is lost as well.
func (r *Replica) Resync() {
	r.tick(0)
	r.lose("")
	r.endFlight()
}

func (r *Replica) lose(why string) {
	r.lost = r.clock
	if r.flight != nil {
		r.flight.spoil(why)
	}
	if r.wrong.flushOnSnapshot {
		for _, t := range &r.tables {
			for e := t.first; e != nil; e = e.next {
				r.put(e, nil)
			}
		}
	}
	r.oweAll()
}

// RequestAudit owes a whole dump of every kind.
func (r *Replica) RequestAudit() {
	r.clock++
	r.oweAll()
}

// RequestUnannounced owes a dump of what the kernel never tells of: proxy
// neighbours come and go without a notification (N39).
func (r *Replica) RequestUnannounced() {
	r.clock++
	r.owe(netstate.KindNeighbor, scope{}, 0)
}

func (r *Replica) oweAll() {
	for _, k := range netstate.Kinds {
		r.owe(k, scope{}, 0)
	}
}

// Event takes a hint: rows of that kind on that link become suspect and a dump is
// owed. Kind 0 means links, routes and nexthops of the interface; interface 0
// makes nothing suspect but owes a whole dump.
func (r *Replica) Event(seq uint64, ev *transport.Event) error {
	r.tick(seq)
	kinds := []netstate.Kind{netstate.Kind(ev.GetKind())}
	if ev.GetKind() == 0 {
		kinds = []netstate.Kind{netstate.KindLink, netstate.KindNexthop, netstate.KindRoute}
	} else if ev.GetKind() >= uint32(KindCount) {
		return fmt.Errorf("event of kind %d: want 0 to %d", ev.GetKind(), KindCount-1)
	}
	for _, k := range kinds {
		if ev.GetIfindex() != 0 {
			for _, e := range r.onLink(k, ev.GetIfindex()) {
				r.suspect(e, RuleHint)
			}
		}
		r.owe(k, scope{}, RuleHint)
	}
	return nil
}

// onLink returns the rows of a kind that name an interface.
func (r *Replica) onLink(k netstate.Kind, ifindex uint32) []*entry {
	if k == netstate.KindLink {
		if e := r.rows[netstate.Key{Kind: k, ID: ifindex}]; e != nil {
			return []*entry{e}
		}
		return nil
	}
	var on []*entry
	for _, family := range families {
		on = r.index.entries(on, indexKey{by: byLink, kind: k, family: family, id: ifindex})
	}
	return on
}

// trusted says that a kind was verified since notifications were last lost: what
// its rows say may be reasoned with.
func (r *Replica) trusted(k netstate.Kind) bool { return r.verified[k] > r.lost }

// Changes returns what changed since the last call, each key once, in the order
// in which the keys first changed, with the row as it is now.
func (r *Replica) Changes() []netstate.Change {
	if len(r.dirty) == 0 {
		r.reap()
		return nil
	}
	changes := make([]netstate.Change, 0, len(r.dirty))
	for _, e := range r.dirty {
		e.dirty = false
		was, now := e.published, e.row
		if !e.present() {
			now = nil
		}
		e.published = now
		if sameRow(was, now) {
			continue
		}
		changes = append(changes, netstate.Change{Key: e.row.Key, Row: now})
	}
	r.dirty = nil
	r.reap()
	return changes
}

// sameRow says that b tells a reader of a nothing new.
func sameRow(a, b *netstate.Row) bool {
	if a == nil || b == nil || a == b {
		return a == b
	}
	return a.Suspect == b.Suspect && (sameGroup(a.Group, b.Group) ||
		slices.EqualFunc(a.Group, b.Group, func(x, y []byte) bool { return netstate.Equal(a.Key.Kind, x, y) }))
}

// Row returns the row of a key, nil if there is none.
func (r *Replica) Row(k netstate.Key) *netstate.Row {
	if e := r.rows[k]; e != nil && e.present() {
		return e.row
	}
	return nil
}

// Each calls yield with every row of a kind, oldest key first, until it returns
// false. yield must not feed the Replica.
func (r *Replica) Each(k netstate.Kind, yield func(*netstate.Row) bool) {
	if int(k) >= KindCount {
		return
	}
	for e := r.tables[k].first; e != nil; e = e.next {
		if e.present() && !yield(e.row) {
			return
		}
	}
}

// Counts returns the number of rows of each kind, indexed by netstate.Kind.
func (r *Replica) Counts() [KindCount]int {
	var n [KindCount]int
	for k := range n {
		n[k] = r.tables[k].rows
	}
	return n
}

// Suspects returns the number of rows in doubt.
func (r *Replica) Suspects() int {
	n := 0
	for k := range r.tables {
		n += r.tables[k].suspects
	}
	return n
}

// Stats returns the counts since New.
func (r *Replica) Stats() Stats { return r.stats }

// CaughtUp says that every kind was verified by a dump since New, the last
// Overrun or the last Resync: before that absence means nothing.
func (r *Replica) CaughtUp() bool {
	for _, k := range netstate.Kinds {
		if !r.trusted(k) {
			return false
		}
	}
	return true
}

// Settled says that the Replica is caught up, owes no dump, waits for none and
// doubts no row.
func (r *Replica) Settled() bool {
	return r.CaughtUp() && !r.owing() && r.flight == nil && r.Suspects() == 0
}

// Pending says for people what keeps Settled from being true; at most a few lines.
func (r *Replica) Pending() []string {
	var p []string
	for _, k := range netstate.Kinds {
		if !r.trusted(k) {
			p = append(p, fmt.Sprintf("%s: not dumped since the session began or messages were lost", k))
		}
		for _, d := range r.debts[k] {
			p = append(p, fmt.Sprintf("%s: dump owed%s%s", k, d.scope, because(d.why)))
		}
		if n := r.tables[k].suspects; n > 0 {
			p = append(p, fmt.Sprintf("%s: %d suspect", k, n))
		}
		if e := r.refusal[k]; e != 0 {
			p = append(p, fmt.Sprintf("%s: the kernel refused the last dump, errno %d", k, e))
		}
	}
	if f := r.flight; f != nil {
		p = append(p, fmt.Sprintf("%s: dump %d in flight%s", f.kind, f.id, f.scope))
	}
	return p
}

func because(why Rule) string {
	if why == 0 {
		return ""
	}
	return " because of " + why.String()
}

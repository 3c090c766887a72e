package replica

import (
	"golang.org/x/sys/unix"

	"antiphon/netstate"
)

// settle makes a verified dump count: its rows replace, what it does not mention
// goes, doubts older than the dump end; and what was notified meanwhile stands.
func (r *Replica) settle(f *flight) {
	r.stats.DumpsVerified++
	first := !r.CaughtUp()
	swept := r.stats.Swept
	each := func(e *entry) { r.decide(e, f, first) }
	if f.scope.oif == 0 {
		for e := r.tables[f.kind].first; e != nil; e = e.next {
			if f.scope.has(e.row.Key) {
				each(e)
			}
		}
	} else {
		// Rows known on the interface, and those that the dump found there.
		for _, e := range r.inOIF(f.scope) {
			each(e)
		}
		for _, e := range f.staged {
			if e.differs {
				each(e)
			}
		}
	}
	if r.stats.Swept > swept {
		r.stats.Sweeps++
	}
	if f.scope == (scope{}) && f.bad == "" {
		r.verified[f.kind] = f.began
	}
	// What happened since may have happened to the rows that it brought, too.
	if !r.wrong.noReplay {
		for _, h := range r.recent {
			if h.at > f.since {
				r.apply(h)
			}
		}
	}
}

// inOIF returns the routes that the mirror thinks a filter by interface shows.
func (r *Replica) inOIF(s scope) []*entry {
	var found []*entry
	for _, family := range families {
		if s.family == 0 || s.family == family {
			found = append(found, r.routesOn(s.oif, family)...)
		}
	}
	return found
}

// decide settles one key in the scope of a verified dump.
func (r *Replica) decide(e *entry, f *flight, first bool) {
	mentioned := e.mark == f.id
	if e.touched > f.since && !r.wrong.dumpWins {
		e.staged, e.differs = nil, false
		if !e.present() {
			return
		}
		if !mentioned && !r.wrong.keepUndumped {
			r.suspect(e, RuleRace)
		}
		if e.row.Suspect {
			r.owe(f.kind, r.around(e), e.rule)
		}
		return
	}
	if f.scope.oif != 0 && r.byObject(e.row.Group) {
		// Which interface the object uses may have changed: this says nothing.
		if e.staged, e.differs = nil, false; e.row.Suspect {
			r.owe(f.kind, r.around(e), e.rule)
		}
		return
	}
	group, certain := r.verdict(e, f, mentioned)
	e.staged, e.differs = nil, false
	changed := !sameGroup(group, e.row.Group)
	if !changed && !e.present() {
		return
	}
	doubtful := e.row.Suspect && e.doubt > f.since
	if !doubtful {
		r.judge(e, f, first, changed, len(group) == 0)
	}
	if changed {
		if len(group) == 0 {
			r.stats.Swept++
		}
		r.put(e, group)
	}
	if !certain {
		r.suspect(e, RuleGroup)
	}
	if e.row.Suspect {
		r.owe(f.kind, r.around(e), e.rule)
	}
}

// around returns the smallest filter that gives the whole value of a row.
func (r *Replica) around(e *entry) scope {
	if k := e.row.Key; k.Kind == netstate.KindRoute {
		return scope{family: k.Family, table: k.ID}
	}
	return scope{}
}

// judge ends the doubt about a row and keeps the score of the rules.
func (r *Replica) judge(e *entry, f *flight, first, changed, gone bool) {
	switch why := r.trust(e); {
	case why != 0 && changed:
		r.stats.Rules[why].Right++
	case why != 0:
		r.stats.Rules[why].Wrong++
	case !changed || first || unannounced(e.row.Key):
	case f.why == RuleSetting || f.why != 0 && (!gone || !r.opt.Predict):
		r.stats.Rules[f.why].Right++
	case gone:
		r.stats.Silent++
	default:
		r.stats.SilentChanges++
	}
}

// unannounced says that the kernel never tells of a row: proxy neighbours (N39).
func unannounced(k netstate.Key) bool { return k.Kind == netstate.KindNeighbor && k.Flag == 1 }

// verdict gives the group that a dump says a key has. certain is false when a
// dump filtered by interface does not tell.
func (r *Replica) verdict(e *entry, f *flight, mentioned bool) (group [][]byte, certain bool) {
	group = e.row.Group
	switch {
	case f.scope.oif == 0 && !mentioned:
		return nil, true
	case f.scope.oif == 0 && e.differs:
		return e.staged, true
	case f.scope.oif == 0:
		n := min(int(e.seen), len(group))
		return group[:n:n], true
	case mentioned && !e.differs:
		return group, true // the only one, as it was
	}
	// Only entries that use the interface were shown, in order. Those missing died;
	// a new one has no known place among the others.
	shown := e.staged
	if !mentioned {
		shown = nil
	}
	if len(group) == 0 {
		return shown, len(shown) == 0
	}
	var left [][]byte
	certain = true
	for _, raw := range group {
		switch {
		case len(shown) > 0 && netstate.Equal(netstate.KindRoute, raw, shown[0]):
			shown = shown[1:]
			left = append(left, raw)
		case !r.hasLeg(raw, f.scope.oif):
			left = append(left, raw)
		case e.row.Key.Family == unix.AF_INET6 && r.legElsewhere(f.scope.oif):
			// An IPv6 route that lost this leg lives on by the others (N28).
			left = append(left, raw)
			certain = false
		}
	}
	switch {
	case len(shown) > 0:
		return append(left, shown...), false
	case len(left) == len(group):
		return group, certain
	}
	return left, certain
}

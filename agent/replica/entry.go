package replica

import "antiphon/netstate"

// entry returns the entry of a key, a new tombstone if there is none.
func (r *Replica) entry(k netstate.Key) *entry {
	e := r.rows[k]
	if e == nil {
		e = &entry{row: &netstate.Row{Key: k}}
		r.rows[k] = e
		r.tables[k.Kind].push(e)
		r.rest(e)
	}
	return e
}

// rest queues an absent entry for reap.
func (r *Replica) rest(e *entry) {
	if !e.absent {
		e.absent = true
		r.absent = append(r.absent, e)
	}
}

// reap forgets the tombstones that no dump can resurrect any more.
func (r *Replica) reap() {
	keep := r.absent[:0]
	waiting := r.owing() || r.flight != nil
	r.tombs = 0
	for _, e := range r.absent {
		switch {
		case e.present():
			e.absent = false
		case e.dirty || waiting:
			keep = append(keep, e)
			if e.touched != 0 {
				r.tombs++
			}
		default:
			e.absent = false
			delete(r.rows, e.row.Key)
			r.tables[e.row.Key.Kind].remove(e)
		}
	}
	clear(r.absent[len(keep):])
	r.absent = keep
	if len(keep) == 0 {
		r.absent = nil
	}
}

// forget drops tombstones and events although dumps are owed or in flight: those
// must begin anew then.
func (r *Replica) forget(why string) {
	if r.flight != nil {
		r.flight.spoil(why)
	}
	r.recent = nil
	r.barrier = 0
	for k := range r.debts {
		for i := range r.debts[k] {
			r.debts[k][i].at, r.debts[k][i].last = r.clock, r.clock
		}
	}
	r.tombs = 0
	keep := r.absent[:0]
	for _, e := range r.absent {
		if e.present() || !e.dirty {
			e.absent = false
			if !e.present() {
				delete(r.rows, e.row.Key)
				r.tables[e.row.Key.Kind].remove(e)
			}
			continue
		}
		keep = append(keep, e)
	}
	clear(r.absent[len(keep):])
	r.absent = keep
}

func (r *Replica) markDirty(e *entry) {
	if !e.dirty {
		e.dirty = true
		r.dirty = append(r.dirty, e)
	}
}

// put gives a key a new group (nil: it is gone) and draws the consequences for
// other rows. A row that was suspect stays so while it exists.
func (r *Replica) put(e *entry, group [][]byte) {
	old := e.row
	t := &r.tables[old.Key.Kind]
	next := &netstate.Row{Key: old.Key, Group: group, Seq: r.seq, Suspect: old.Suspect && len(group) > 0}
	e.row = next
	switch had := len(old.Group) > 0; {
	case had && len(group) == 0:
		t.rows--
		if old.Suspect {
			t.suspects--
			e.doubt, e.rule = 0, 0
		}
		r.rest(e)
	case !had && len(group) > 0:
		t.rows++
	}
	r.markDirty(e)
	r.keys = r.appendKeys(r.keys[:0], next)
	r.index.reindex(e, r.keys)
	r.consequences(old.Key, old.Group, group)
}

// suspect puts a present row in doubt from now on.
func (r *Replica) suspect(e *entry, why Rule) {
	if !e.present() {
		return
	}
	if why.predicts() {
		if r.wrong.predictDeletes {
			r.put(e, nil)
			return
		}
		if !r.opt.Predict {
			return
		}
	}
	e.doubt = r.clock
	if e.row.Suspect {
		if why == RuleGroup { // the strongest doubt: more than a subset may have died
			e.rule = why
		}
		return
	}
	e.rule = why
	r.stats.Rules[why].Suspects++
	r.tables[e.row.Key.Kind].suspects++
	row := *e.row
	row.Suspect = true
	e.row = &row
	r.markDirty(e)
}

// predicts says that a rule is a guess about silent deletions.
func (r Rule) predicts() bool { return r != RuleGroup && r != RuleRace && r != RuleHint }

// trust ends the doubt about a row.
func (r *Replica) trust(e *entry) Rule {
	if !e.row.Suspect {
		return 0
	}
	r.tables[e.row.Key.Kind].suspects--
	row := *e.row
	row.Suspect = false
	e.row = &row
	r.markDirty(e)
	why := e.rule
	e.doubt, e.rule = 0, 0
	return why
}

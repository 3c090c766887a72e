package replica

import "antiphon/netstate"

// entry is everything known about one key. An entry without a group is a
// tombstone: the key is known to be absent (or only staged by a dump so far).
type entry struct {
	row       *netstate.Row // never nil; Group empty: absent
	published *netstate.Row // what Changes last said; nil: nothing or gone
	prev      *entry        // list of the kind, oldest first
	next      *entry
	refs      []ref    // one per index key of the row
	staged    [][]byte // the dump in flight says this, and it differs
	touched   uint64   // clock of the last notification
	doubt     uint64   // clock at which it last became suspect
	mark      uint64   // id of the last dump that mentioned it
	seen      uint32   // messages of that dump, as long as they equal the group
	rule      Rule     // why it is suspect
	differs   bool     // staged counts, even if empty
	dirty     bool     // in Replica.dirty
	absent    bool     // in Replica.absent
}

func (e *entry) present() bool { return len(e.row.Group) > 0 }

// table holds the entries of a kind in the order in which they came.
type table struct {
	first, last *entry
	rows        int // present entries
	suspects    int
}

func (t *table) push(e *entry) {
	e.prev = t.last
	if t.last == nil {
		t.first = e
	} else {
		t.last.next = e
	}
	t.last = e
}

func (t *table) remove(e *entry) {
	if e.prev == nil {
		t.first = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		t.last = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.prev, e.next = nil, nil
}

// indexKind says what an index is by.
type indexKind uint8

const (
	byLink    indexKind = iota + 1 // id = ifindex: rows of a kind that name it
	byNexthop                      // id = nexthop id: routes and groups that use it
	bySource                       // id = 0, addr = preferred source: IPv6 routes
)

// indexKey names a bucket: rows of one kind and family that name one thing.
type indexKey struct {
	by     indexKind
	kind   netstate.Kind
	family uint8
	id     uint32
	addr   [16]byte
}

// ref is an entry's membership in a bucket.
type ref struct {
	e          *entry
	home       *bucket
	prev, next *ref
}

// bucket is a doubly linked list, so that leaving it costs nothing and its order
// does not depend on hashing.
type bucket struct {
	key         indexKey
	first, last *ref
}

type index map[indexKey]*bucket

func (x index) join(r *ref, k indexKey) {
	b := x[k]
	if b == nil {
		b = &bucket{key: k}
		x[k] = b
	}
	r.home, r.prev = b, b.last
	if b.last == nil {
		b.first = r
	} else {
		b.last.next = r
	}
	b.last = r
}

func (x index) leave(r *ref) {
	b := r.home
	if r.prev == nil {
		b.first = r.next
	} else {
		r.prev.next = r.next
	}
	if r.next == nil {
		b.last = r.prev
	} else {
		r.next.prev = r.prev
	}
	if b.first == nil {
		delete(x, b.key)
	}
}

// entries appends the entries of a bucket.
func (x index) entries(dst []*entry, k indexKey) []*entry {
	b := x[k]
	if b == nil {
		return dst
	}
	for r := b.first; r != nil; r = r.next {
		dst = append(dst, r.e)
	}
	return dst
}

// reindex makes e a member of exactly the buckets that keys names.
func (x index) reindex(e *entry, keys []indexKey) {
	if len(keys) == len(e.refs) {
		same := true
		for i := range keys {
			same = same && e.refs[i].home.key == keys[i]
		}
		if same {
			return
		}
	}
	for i := range e.refs {
		x.leave(&e.refs[i])
	}
	e.refs = nil
	if len(keys) == 0 {
		return
	}
	e.refs = make([]ref, len(keys))
	for i, k := range keys {
		e.refs[i].e = e
		x.join(&e.refs[i], k)
	}
}

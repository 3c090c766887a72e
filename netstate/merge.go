package netstate

import (
	"slices"

	"golang.org/x/sys/unix"
)

// MergeRoute gives the group of a route key after a live notification about it.
// group is the group so far (nil if the key was absent; never changed by this
// function), msg an RTM_NEWROUTE or RTM_DELROUTE of the same key as it came, its
// flags telling what the kernel did: for routes the kernel writes them itself
// (fib_table_insert, fib6_add_rt2node, ip6_route_multipath_add).
//
//	CREATE|EXCL     the key was empty: the group is this message
//	IPv4 CREATE     the first of several; with APPEND the last
//	REPLACE         the first; certain when it was the only one
//	DELROUTE        takes away the one entry that is Equal
//	flags 0         a repetition with other hardware flags (N42)
//
// An IPv6 dump hides entries that stand between two legs of a multipath of their
// metric: fib6_dump_node jumps from the first leg to the last (seen on 6.18:
// 'append KEY dev b' between 'append KEY via' twice). They appear when the
// multipath goes, so taking away or replacing one is never certain.
//
// certain is false where the message does not tell (N17-N27): the group is then
// a guess and the row must be marked suspect until a dump settles it.
func MergeRoute(group [][]byte, msg Message) (newGroup [][]byte, certain bool) {
	if len(msg.Raw) < HeaderBytes+unix.SizeofRtMsg {
		return group, false
	}
	if msg.Type == unix.RTM_DELROUTE {
		return mergeDelete(group, msg)
	}
	if msg.Type != unix.RTM_NEWROUTE {
		return group, false
	}
	row := Normalize(msg.Raw)
	v6 := msg.Payload[0] == unix.AF_INET6
	const change = unix.NLM_F_CREATE | unix.NLM_F_EXCL | unix.NLM_F_REPLACE | unix.NLM_F_APPEND
	switch flags := msg.Flags & change; {
	case flags == unix.NLM_F_CREATE|unix.NLM_F_EXCL:
		return [][]byte{row}, true
	case flags&unix.NLM_F_REPLACE != 0:
		// Several: the kernel replaced the first (IPv4, N18), or the first that
		// is or is not able to be a leg (IPv6), as the message is.
		if len(group) == 0 {
			return [][]byte{row}, false
		}
		out := slices.Clone(group)
		out[0] = row
		return out, len(group) == 1 && !(v6 && hides(group))
	case flags == 0:
		return mergeRepeat(group, row)
	case v6:
		return mergeCreate6(group, row)
	case len(group) == 0:
		// The kernel found aliases that we do not know.
		return [][]byte{row}, false
	case flags&unix.NLM_F_APPEND != 0:
		return append(slices.Clip(group), row), true
	}
	return append([][]byte{row}, group...), true
}

// mergeDelete removes the one entry that msg names (N20). IPv6 may name one leg
// of an entry (N24): which entry is left then, only a dump says.
func mergeDelete(group [][]byte, msg Message) ([][]byte, bool) {
	at := only(group, msg.Raw)
	if at < 0 {
		return group, false
	}
	certain := msg.Payload[0] != unix.AF_INET6 || !hides(group)
	if len(group) == 1 {
		return nil, certain
	}
	return slices.Delete(slices.Clone(group), at, at+1), certain
}

// mergeRepeat puts a message into the place of the entry it repeats.
func mergeRepeat(group [][]byte, row []byte) ([][]byte, bool) {
	at := only(group, row)
	if at < 0 {
		if len(group) == 0 {
			return [][]byte{row}, false
		}
		return group, false
	}
	out := slices.Clone(group)
	out[at] = row
	return out, true
}

// mergeCreate6 is IPv6 without EXCL. A multipath route's notification carries all
// legs (N23) and is sent without EXCL even for the first; any other came to an
// occupied metric: as a new leg, or as an entry of its own (N27).
func mergeCreate6(group [][]byte, row []byte) ([][]byte, bool) {
	if len(group) == 0 {
		return [][]byte{row}, hasAttr(row, unix.RTA_MULTIPATH)
	}
	return [][]byte{row}, false
}

// hides reports whether an IPv6 group may have more entries than a dump shows.
func hides(group [][]byte) bool {
	for _, g := range group {
		if hasAttr(g, unix.RTA_MULTIPATH) {
			return true
		}
	}
	return false
}

// only returns the index of the one entry that is Equal to raw, or -1.
func only(group [][]byte, raw []byte) int {
	at := -1
	for i, g := range group {
		if !Equal(KindRoute, g, raw) {
			continue
		}
		if at >= 0 {
			return -1
		}
		at = i
	}
	return at
}

// hasAttr reports whether a route message carries an attribute at its top.
func hasAttr(raw []byte, typ uint16) bool {
	for it := (attrs{b: raw[HeaderBytes+unix.SizeofRtMsg:]}); it.next(); {
		if it.typ == typ {
			return true
		}
	}
	return false
}

package replica

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"

	"golang.org/x/sys/unix"

	"antiphon/netstate"
)

// kernel is a model of what matters about the real one: it says some deletions
// and not others, and it announces a change before it has taken effect.
type kernel struct {
	rng      *rand.Rand
	links    map[uint32]*mlink
	addrs    map[uint32][]byte // hosts of a link's addresses
	nexthops map[uint32]*mnexthop
	routes   map[netstate.Key][]mroute
	queue    [][]byte // the notification socket
	// pending is the rest of the change that holds RTNL, after its notification.
	pending func()
	// deaths counts how often each key ceased to exist.
	deaths map[netstate.Key]int
}

type mlink struct{ up, carrier bool }

type mnexthop struct {
	oif     uint32
	members []uint32
}

type mroute struct {
	raw  []byte
	oifs []uint32
	nhid uint32
}

// bystander is the link that nothing ever happens to.
const bystander = 5

func newKernel(rng *rand.Rand) *kernel {
	k := &kernel{rng: rng, links: map[uint32]*mlink{}, addrs: map[uint32][]byte{}, nexthops: map[uint32]*mnexthop{},
		routes: map[netstate.Key][]mroute{}, deaths: map[netstate.Key]int{}}
	for id := uint32(1); id <= bystander; id++ {
		k.links[id] = &mlink{true, true}
		k.addrs[id] = []byte{1}
	}
	k.nexthops[bystander] = &mnexthop{oif: bystander}
	for n := range byte(20) {
		k.addRoute(254, 200+n, []uint32{bystander}, 7, 0)
		k.addRoute(254, n, []uint32{1 + uint32(n)%3}, 1, 0)
	}
	k.addRoute(254, 250, nil, 0, bystander)
	k.queue = nil
	return k
}

func (k *kernel) say(raw []byte) { k.queue = append(k.queue, raw) }

func keyOf(raw []byte) netstate.Key {
	key, _, err := netstate.KeyOf(raw)
	if err != nil {
		panic(err)
	}
	return key
}

func (k *kernel) addRoute(table uint32, n byte, oifs []uint32, gw byte, nhid uint32) {
	flags := uint16(unix.NLM_F_CREATE | unix.NLM_F_EXCL)
	raw := routeMsg(unix.RTM_NEWROUTE, flags, table, n, oifs, gw, nhid)
	key := keyOf(raw)
	group := k.routes[key]
	if len(group) > 0 {
		flags = unix.NLM_F_CREATE
		if k.rng.IntN(2) == 0 {
			flags |= unix.NLM_F_APPEND
		}
		raw = routeMsg(unix.RTM_NEWROUTE, flags, table, n, oifs, gw, nhid)
		for _, r := range group {
			if netstate.Equal(netstate.KindRoute, r.raw, raw) {
				return // EEXIST
			}
		}
	}
	r := mroute{raw, oifs, nhid}
	if flags&unix.NLM_F_APPEND != 0 || len(group) == 0 {
		k.routes[key] = append(group, r)
	} else {
		k.routes[key] = append([]mroute{r}, group...)
	}
	k.say(raw)
}

func (k *kernel) replaceRoute(table uint32, n byte, oifs []uint32, gw byte) {
	raw := routeMsg(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, table, n, oifs, gw, 0)
	group := k.routes[keyOf(raw)]
	if len(group) == 0 {
		return
	}
	for _, r := range group {
		if netstate.Equal(netstate.KindRoute, r.raw, raw) {
			return
		}
	}
	group = slices.Clone(group)
	group[0] = mroute{raw, oifs, 0}
	k.routes[keyOf(raw)] = group
	k.say(raw)
}

// kill removes routes without a word.
func (k *kernel) kill(dead func(mroute) bool) {
	for key, group := range k.routes {
		left := slices.DeleteFunc(slices.Clone(group), dead)
		if k.routes[key] = left; len(left) == 0 {
			delete(k.routes, key)
			k.deaths[key]++
		}
	}
}

// flush does to routes what fib_sync_down_dev does: all legs dead, or any leg on
// a link that is deleted.
func (k *kernel) flush(id uint32, any bool) {
	k.kill(func(r mroute) bool {
		if !slices.Contains(r.oifs, id) {
			return false
		}
		for _, o := range r.oifs {
			if l := k.links[o]; o != id && l != nil && l.up {
				return any
			}
		}
		return true
	})
}

// flushNexthops does what nexthop_flush_dev does.
func (k *kernel) flushNexthops(id uint32) {
	for _, n := range slices.Sorted(maps.Keys(k.nexthops)) {
		if h := k.nexthops[n]; h != nil && h.oif == id {
			k.removeNexthop(n, false)
		}
	}
}

func (k *kernel) removeNexthop(id uint32, said bool) {
	delete(k.nexthops, id)
	k.deaths[netstate.Key{Kind: netstate.KindNexthop, ID: id}]++
	if said {
		k.say(nexthopMsg(unix.RTM_DELNEXTHOP, id, 0, nil))
	}
	for _, g := range slices.Sorted(maps.Keys(k.nexthops)) {
		h := k.nexthops[g]
		if h == nil || !slices.Contains(h.members, id) {
			continue
		}
		h.members = slices.DeleteFunc(slices.Clone(h.members), func(m uint32) bool { return m == id })
		if len(h.members) == 0 {
			k.removeNexthop(g, said)
		} else if said {
			k.say(nexthopMsg(unix.RTM_NEWNEXTHOP, g, 0, h.members))
		}
	}
	gone := func() { k.kill(func(r mroute) bool { return r.nhid == id }) }
	if before := k.pending; before != nil {
		k.pending = func() { before(); gone() }
	} else if said {
		k.pending = gone
	} else {
		gone()
	}
}

// finish completes the change that holds RTNL.
func (k *kernel) finish() {
	for k.pending != nil {
		p := k.pending
		k.pending = nil
		p()
	}
}

// step performs one random change.
func (k *kernel) step() {
	k.finish()
	id := 1 + k.rng.Uint32N(4)
	table := []uint32{254, 254, 77}[k.rng.IntN(3)]
	n, gw := byte(k.rng.IntN(40)), byte(1+k.rng.IntN(3))
	l := k.links[id]
	switch op := k.rng.IntN(18); {
	case l == nil:
		k.links[id] = &mlink{true, true}
		k.say(linkMsg(unix.RTM_NEWLINK, id, true, true))
	case op < 4 && l.up:
		oifs := []uint32{id}
		if o := 1 + k.rng.Uint32N(4); k.rng.IntN(3) == 0 && o != id && k.links[o] != nil && k.links[o].up {
			oifs = append(oifs, o)
		}
		if k.rng.IntN(4) == 0 {
			k.replaceRoute(table, n, oifs, gw)
		} else {
			k.addRoute(table, n, oifs, gw, 0)
		}
	case op < 7:
		k.deleteRoute(table, n)
	case op == 7:
		l.up = !l.up
		k.say(linkMsg(unix.RTM_NEWLINK, id, l.up, l.carrier))
		if !l.up {
			k.pending = func() { k.flush(id, false); k.flushNexthops(id) }
		}
	case op == 8:
		l.carrier = !l.carrier
		k.say(linkMsg(unix.RTM_NEWLINK, id, l.up, l.carrier))
		if !l.carrier {
			k.pending = func() { k.flushNexthops(id) }
		}
	case op == 9 && k.rng.IntN(2) == 0:
		k.deleteLink(id, l)
	case op == 10 && len(k.addrs[id]) > 0:
		host := k.addrs[id][0]
		k.addrs[id] = k.addrs[id][1:]
		msg := addrMsg(unix.RTM_DELADDR, id, host)
		k.deaths[keyOf(msg)]++
		k.say(msg)
		if len(k.addrs[id]) == 0 {
			k.pending = func() { k.flush(id, false) }
		}
	case op == 11:
		if host := byte(1 + k.rng.IntN(2)); !slices.Contains(k.addrs[id], host) {
			k.addrs[id] = append(k.addrs[id], host)
			k.say(addrMsg(unix.RTM_NEWADDR, id, host))
		}
	case op < 14:
		k.changeNexthop(id, l)
	case op < 17:
		if h := 1 + k.rng.Uint32N(12); k.nexthops[h] != nil && h != bystander {
			k.addRoute(table, n, nil, 0, h)
		}
	default:
		k.replaceRoute(table, n, []uint32{bystander}, gw)
	}
}

func (k *kernel) deleteRoute(table uint32, n byte) {
	key := keyOf(routeMsg(unix.RTM_NEWROUTE, 0, table, n, []uint32{1}, 1, 0))
	group := k.routes[key]
	if len(group) == 0 {
		return
	}
	i := k.rng.IntN(len(group))
	raw := bytes.Clone(group[i].raw)
	raw[4] = unix.RTM_DELROUTE
	raw[6], raw[7] = 0, 0
	k.say(raw)
	if len(group) == 1 {
		k.deaths[key]++
	}
	k.pending = func() {
		if k.routes[key] = slices.Delete(slices.Clone(group), i, i+1); len(group) == 1 {
			delete(k.routes, key)
		}
	}
}

func (k *kernel) deleteLink(id uint32, l *mlink) {
	if l.up {
		l.up = false
		k.say(linkMsg(unix.RTM_NEWLINK, id, false, l.carrier))
	}
	k.pending = func() {
		k.flush(id, true)
		k.flushNexthops(id)
		for _, host := range k.addrs[id] {
			msg := addrMsg(unix.RTM_DELADDR, id, host)
			k.deaths[keyOf(msg)]++
			k.say(msg)
		}
		delete(k.addrs, id)
		delete(k.links, id)
		msg := linkMsg(unix.RTM_DELLINK, id, false, false)
		k.deaths[keyOf(msg)]++
		k.say(msg)
	}
}

func (k *kernel) changeNexthop(id uint32, l *mlink) {
	h := 6 + k.rng.Uint32N(4) // 6..9 plain, 10..12 groups
	switch {
	case k.nexthops[h] != nil && k.rng.IntN(2) == 0:
		k.removeNexthop(h, true)
	case k.nexthops[h] == nil && l.up && l.carrier:
		k.nexthops[h] = &mnexthop{oif: id}
		k.say(nexthopMsg(unix.RTM_NEWNEXTHOP, h, id, nil))
	case k.nexthops[h] != nil:
		g := 10 + k.rng.Uint32N(3)
		members := []uint32{bystander, h}
		if k.rng.IntN(2) == 0 {
			members = members[1:]
		}
		k.nexthops[g] = &mnexthop{members: members}
		k.say(nexthopMsg(unix.RTM_NEWNEXTHOP, g, 0, members))
	}
}

// rows is what a dump would show now.
func (k *kernel) rows() map[netstate.Key][][]byte {
	rows := map[netstate.Key][][]byte{}
	put := func(raw []byte) { rows[keyOf(raw)] = append(rows[keyOf(raw)], raw) }
	for id, l := range k.links {
		put(linkMsg(unix.RTM_NEWLINK, id, l.up, l.carrier))
	}
	for id, hosts := range k.addrs {
		for _, host := range hosts {
			put(addrMsg(unix.RTM_NEWADDR, id, host))
		}
	}
	for id, h := range k.nexthops {
		put(nexthopMsg(unix.RTM_NEWNEXTHOP, id, h.oif, h.members))
	}
	for _, group := range k.routes {
		for _, r := range group {
			put(r.raw)
		}
	}
	return rows
}

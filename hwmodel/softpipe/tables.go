package softpipe

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"

	"antiphon/hwmodel"
)

// tables is everything a packet looks at. Rows are indexed by slot; row 0 is
// always empty.
type tables struct {
	programmed bool // settings are there
	settings   hwmodel.Settings
	trap       [2]hwmodel.Reason // by family index
	hash       hasher

	// portIface is the interface slot by port, 0 if none. It reaches to the
	// highest declared port.
	portIface []uint32
	declared  []bool
	reverse   bool // some interface wants sources looked up

	ifaces slots[hwmodel.InterfaceID]
	iface  []iface
	neighs slots[hwmodel.NeighborKey]
	neigh  []neigh
	hops   slots[hwmodel.NextHopID]
	hop    []hop
	way    []way // by next hop slot, see way
	stale  bool  // an interface changed: all ways are to be made anew
	groups slots[hwmodel.GroupID]
	group  []group
	legs   [][]hwmodel.Leg // by group slot, as set
	shares [][]leg         // by group slot: the live legs, if several

	counters slots[hwmodel.CounterID]

	// present counts the entries of each table.
	present [hwmodel.TableCount]uint32

	// onlink finds the neighbour slot of a packet's own destination.
	onlink4 map[uint64]uint32 // interface slot << 32 | address
	onlink6 map[onlink6]uint32

	lpm       map[hwmodel.TableID]*table
	route     []route
	freeRoute []uint32

	rules [2]*ruleset // by family index; nil if not programmed

	own      map[netip.Addr]struct{}
	ownSet   addrSet // the IPv4 ones, unless dirty
	ownDirty bool
}

// fam is the index of a family in arrays of two.
func fam(f hwmodel.Family) int {
	if f == hwmodel.IPv6 {
		return 1
	}
	return 0
}

func newTables(ports []hwmodel.PortInfo) tables {
	t := tables{
		ifaces: newSlots(hashNumber[hwmodel.InterfaceID]), neighs: newSlots(hashNeighbor()),
		hops: newSlots(hashNumber[hwmodel.NextHopID]), groups: newSlots(hashNumber[hwmodel.GroupID]),
		counters: newSlots(hashNumber[hwmodel.CounterID]),
		iface:    make([]iface, 1), neigh: make([]neigh, 1), hop: make([]hop, 1), way: make([]way, 1), group: make([]group, 1),
		legs: make([][]hwmodel.Leg, 1), shares: make([][]leg, 1), route: make([]route, 1),
		onlink4: map[uint64]uint32{}, onlink6: map[onlink6]uint32{},
		lpm: map[hwmodel.TableID]*table{}, own: map[netip.Addr]struct{}{}, ownSet: newAddrSet(nil),
	}
	for _, p := range ports {
		if n := int(p.ID) + 1 - len(t.portIface); n > 0 {
			t.portIface = append(t.portIface, make([]uint32, n)...)
			t.declared = append(t.declared, make([]bool, n)...)
		}
		t.declared[p.ID] = p.ID != 0
	}
	return t
}

// hashNeighbor returns a hash that nobody can aim collisions at: hosts choose their
// addresses.
func hashNeighbor() hash[hwmodel.NeighborKey] {
	seed := maphash.MakeSeed()
	return func(k hwmodel.NeighborKey) (uint64, uint32) {
		h := maphash.Comparable(seed, k)
		return h, uint32(h)
	}
}

// iface is the row of a router interface.
type iface struct {
	mac     uint64 // see macBits
	mtu     uint32
	port    hwmodel.PortID
	present bool
	in, out [2]hwmodel.Reason // by family index
	rp      hwmodel.RPMode

	acceptLocal, sourceCheck, redirectTrap bool
}

// neigh is the row of a neighbour. Its key is the slot's.
type neigh struct {
	mac     uint64
	counter uint32
	iface   uint32
	hops    uint32 // the first hop that names it; see hop.next
	present bool
}

// hop is the row of a next hop.
type hop struct {
	iface   uint32
	neigh   uint32 // 0: the packet's own destination
	trap    hwmodel.Reason
	present bool
	// next and prev chain the hops that name the same neighbour.
	next, prev uint32
}

// way is what a packet needs of a next hop that it has no objection to: the rows
// of hop, interface and neighbour in one, half a cache line.
type way struct {
	head    uint64 // the first 8 bytes of the frame: destination MAC, start of source MAC
	tail    uint32 // the 4 after that
	iface   uint32
	counter uint32
	// limit is the longest packet that may go, by family index: 0 if any of the
	// rows objects, so that one comparison says whether to look closer.
	limit [2]uint32
	port  hwmodel.PortID
}

// newWay returns the way out of an interface to a neighbour, without limits.
func newWay(out *iface, to *neigh) way {
	return way{head: to.mac | out.mac<<48, tail: uint32(out.mac >> 16), port: out.port, counter: to.counter}
}

// refresh makes a next hop's way anew. Called whenever one of its rows changed.
func (t *tables) refresh(slot uint32) {
	h := &t.hop[slot]
	out, to := &t.iface[h.iface], &t.neigh[h.neigh]
	w := newWay(out, to)
	w.iface = h.iface
	if h.present && h.trap == hwmodel.ReasonNone && out.present && to.present {
		for f, r := range out.out {
			if r == hwmodel.ReasonNone {
				w.limit[f] = out.mtu
			}
		}
	}
	t.way[slot] = w
}

// refreshNeighbor makes the ways anew that lead to a neighbour.
func (t *tables) refreshNeighbor(slot uint32) {
	for h := t.neigh[slot].hops; h != 0; h = t.hop[h].next {
		t.refresh(h)
	}
}

// chain adds a next hop to those of its neighbour.
func (t *tables) chain(slot uint32) {
	h := &t.hop[slot]
	if h.neigh == 0 {
		return
	}
	first := &t.neigh[h.neigh].hops
	h.next, h.prev = *first, 0
	if *first != 0 {
		t.hop[*first].prev = slot
	}
	*first = slot
}

// unchain takes it out again.
func (t *tables) unchain(slot uint32) {
	h := &t.hop[slot]
	if h.neigh == 0 {
		return
	}
	if h.prev != 0 {
		t.hop[h.prev].next = h.next
	} else {
		t.neigh[h.neigh].hops = h.next
	}
	if h.next != 0 {
		t.hop[h.next].prev = h.prev
	}
}

// group is the row of a group.
type group struct {
	hop     uint32 // the only live leg's, if there is one
	live    uint32 // number of live legs
	counter uint32
	present bool
}

// leg is a live leg: it takes the flows whose hash is up to bound and above its
// predecessor's.
type leg struct {
	bound uint32
	hop   uint32
}

// route is the row of a route: 16 bytes, four to a cache line.
type route struct {
	action  hwmodel.RouteAction
	reason  hwmodel.Reason
	bits    uint8
	group   uint32
	bound   uint32 // MTU - 1; so no MTU is no bound
	counter uint32
}

// tooLong reports whether a packet exceeds the route's MTU.
func (r *route) tooLong(ipLen uint32) bool { return ipLen-1 > r.bound }

// table is one routing table. It lives while it holds routes or a rule names it.
type table struct {
	v4    *lpm4
	v6    *lpm6
	rules int // rules that name it
}

func (t *table) len() int { return t.v4.len() + t.v6.len() }

// find returns the slot of exactly this prefix, 0 if it is not there; then insert
// takes at.
func (t *table) find(p netip.Prefix) (slot, at uint32) {
	if p.Addr().Is4() {
		return t.v4.find(addr4(p.Addr()), uint8(p.Bits()))
	}
	return t.v6.find(p), 0
}

func (t *table) insert(at uint32, p netip.Prefix, slot uint32) {
	if p.Addr().Is4() {
		t.v4.insert(at, addr4(p.Addr()), uint8(p.Bits()), slot)
	} else {
		t.v6.insert(p, slot)
	}
}

func (t *table) remove(p netip.Prefix) {
	if p.Addr().Is4() {
		t.v4.remove(addr4(p.Addr()), uint8(p.Bits()))
	} else {
		t.v6.remove(p)
	}
}

type onlink6 struct {
	addr  [16]byte
	iface uint32
}

// ruleset is a family's rules: as set, and as packets need them.
type ruleset struct {
	set  []hwmodel.Rule
	list []rule
}

// rule is a rule with everything resolved.
type rule struct {
	from, to match
	in       uint32 // interface slot; 0: any
	anyone   bool   // matches every packet
	not      bool
	action   hwmodel.RuleAction
	reason   hwmodel.Reason
	suppress int // results with this many bits or fewer are none; -1: off
	table    *table
}

// addr is an address as two words; IPv4 addresses are in lo, hi is 0.
type addr struct{ hi, lo uint64 }

// match is a prefix: want under mask.
type match struct{ want, mask addr }

func (m *match) holds(a addr) bool {
	return (a.hi^m.want.hi)&m.mask.hi|(a.lo^m.want.lo)&m.mask.lo == 0
}

// matchOf returns the match of a prefix; the zero prefix matches anything.
func matchOf(p netip.Prefix) match {
	if !p.IsValid() {
		return match{}
	}
	if p.Addr().Is4() {
		return match{addr{0, uint64(addr4(p.Masked().Addr()))}, addr{0, uint64(mask4(uint8(p.Bits())))}}
	}
	b := p.Masked().Addr().As16()
	m := match{want: addr{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}}
	m.mask.hi = ^uint64(0) << max(0, 64-p.Bits())
	m.mask.lo = ^uint64(0) << (128 - max(64, p.Bits()))
	return m
}

// suppresses reports whether a result of the rule's table is none.
func (r *rule) suppresses(rt *route) bool {
	return rt.action == hwmodel.RouteForward && int(rt.bits) <= r.suppress
}

func (r *rule) matches(src, dst addr, in uint32) bool {
	if r.anyone {
		return true
	}
	hit := (r.in == 0 || r.in == in) && r.from.holds(src) && r.to.holds(dst)
	return hit != r.not
}

// macBits returns an address as the low 48 bits of a little-endian load.
func macBits(m hwmodel.MAC) uint64 {
	return uint64(binary.LittleEndian.Uint32(m[:4])) | uint64(binary.LittleEndian.Uint16(m[4:]))<<32
}

func macOf(b uint64) (m hwmodel.MAC) {
	binary.LittleEndian.PutUint32(m[:4], uint32(b))
	binary.LittleEndian.PutUint16(m[4:], uint16(b>>32))
	return m
}

func addr4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func netip4(a uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], a)
	return netip.AddrFrom4(b)
}

// addrSet is a hash set of IPv4 addresses other than 0.0.0.0: open addressing, at
// most 1/16 full, so that most addresses are told apart by one look.
type addrSet struct {
	shift uint8
	slot  []uint32
}

func newAddrSet(m map[netip.Addr]struct{}) addrSet {
	s := addrSet{shift: 31}
	for 1<<(32-s.shift) < 16*len(m) {
		s.shift--
	}
	s.slot = make([]uint32, 1<<(32-s.shift))
	for ip := range m {
		if !ip.Is4() || ip.IsUnspecified() {
			continue
		}
		a := addr4(ip)
		i := s.home(a)
		for s.slot[i] != 0 {
			i = (i + 1) & uint32(len(s.slot)-1)
		}
		s.slot[i] = a
	}
	return s
}

func (s *addrSet) home(a uint32) uint32 { return a * 0x9e3779b1 >> (s.shift & 31) }

// may reports whether an address may be in the set; false is certain.
func (s *addrSet) may(a uint32) bool { return s.slot[s.home(a)] != 0 }

func (s *addrSet) has(a uint32) bool {
	for i := s.home(a); ; i = (i + 1) & uint32(len(s.slot)-1) {
		switch s.slot[i] {
		case a:
			return true
		case 0:
			return false
		}
	}
}

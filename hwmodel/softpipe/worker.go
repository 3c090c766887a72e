package softpipe

import (
	"antiphon/hwmodel"
)

// stage is a name of the pipeline list in hwmodel.Device.
type stage uint8

const (
	stageParse stage = iota
	stageInterface
	stageMAC
	stageFamily
	stageHeader
	stageSource
	stageDest
	stageTTL
	stageRules
	stageRoute
	stageGroup
	stageNextHop
	stageEgress
	stageMTU
	stageRedirect
	stageRPF
	stageNeighbor
	stageRewrite
)

func (s stage) String() string {
	return [...]string{"parse", "interface", "mac", "family", "header", "source", "dest", "ttl",
		"rules", "route", "group", "nexthop", "egress", "mtu", "redirect", "rpf", "neighbor", "rewrite"}[s]
}

// packet is what the stages know of a frame. Fields are set by the stage named.
type packet struct {
	length uint32 // parse: bytes received
	in     uint32 // interface: slot
	ipLen  uint32 // header: IP header and payload, bytes
	route  uint32 // rules: slot of the result; the row is in worker.found
	hop    uint32 // group: slot
	out    uint32 // egress: interface slot
	neigh  uint32 // nexthop or neighbor: slot
	rule   uint16 // rules: index of the rule that decided
	stage  stage  // where the first objection came from
}

// list is a list of places in the vector.
type list struct {
	n  int
	at [hwmodel.VectorSize]uint8
}

func (l *list) add(i uint8) {
	l.at[l.n&0xff] = i
	l.n++
}

// each returns the places.
func (l *list) each() []uint8 { return l.at[:l.n] }

// count is one worker's share of a counter.
type count struct{ packets, bytes, last uint64 }

func (c *count) add(bytes uint32, now uint64) {
	c.packets++
	c.bytes += uint64(bytes)
	c.last = now
}

// worker is the working memory of one Run: it belongs to one goroutine at a time.
// A stage is a loop over the places that are still live; it leaves those without
// an objection in the list for the next.
type worker struct {
	t   *tables
	v   *hwmodel.Vector
	now uint64

	// count is this worker's share of all counters, by counter slot; 0 is for
	// what is not counted. Nil while tracing.
	count []count

	pkt  [hwmodel.VectorSize]packet
	live [2]list // by family index

	// Addresses, by family, set by the header stages.
	src4, dst4 [hwmodel.VectorSize]uint32
	src6, dst6 [hwmodel.VectorSize]addr

	// Of the rules stage: places without a result yet, those that the rule at
	// hand matches, and what its table says about them.
	pending, matched list
	slot             [hwmodel.VectorSize]uint32
	found            [hwmodel.VectorSize]route

	ahead ahead
}

// addrs returns a packet's addresses.
func (w *worker) addrs(f int, i uint8) (src, dst addr) {
	if f == 0 {
		return addr{lo: uint64(w.src4[i])}, addr{lo: uint64(w.dst4[i])}
	}
	return w.src6[i], w.dst6[i]
}

// run takes a vector through the pipeline. The caller holds the tables still.
func (w *worker) run(t *tables, v *hwmodel.Vector) {
	if n := len(t.counters.key); len(w.count) < n {
		// To the capacity, so that it happens as rarely as keys grow.
		w.count = more(w.count, cap(t.counters.key)-len(w.count))
	}
	w.stages(t, v)
}

func (w *worker) stages(t *tables, v *hwmodel.Vector) {
	w.t, w.v = t, v
	w.receive()
	for f := range w.live {
		if w.live[f].n == 0 {
			continue
		}
		if f == 0 {
			w.headers4()
		} else {
			w.headers6()
		}
		w.routes(f)
		w.leave(f)
		if f == 0 && t.reverse {
			w.reverse()
		}
		w.send(f)
	}
}

// trap takes a packet out: the host shall have it.
func (w *worker) trap(i uint8, s stage, r hwmodel.Reason) {
	w.v.Reason[i] = r
	w.pkt[i].stage = s
}

// drop takes a packet out for good; c counts it.
func (w *worker) drop(i uint8, s stage, r hwmodel.Reason, c uint32) {
	w.v.Verdict[i] = hwmodel.Drop
	w.v.Reason[i] = r
	w.pkt[i].stage = s
	if w.count != nil {
		w.count[c].add(w.pkt[i].length, w.now)
	}
}

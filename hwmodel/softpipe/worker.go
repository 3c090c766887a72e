package softpipe

import (
	"encoding/binary"

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

// trail is what Trace tells of a packet. Fields are set by the stage named, if
// the packet is examined stage by stage.
type trail struct {
	in    uint32 // interface: slot
	route uint32 // rules: slot of the result
	hop   uint32 // group: slot
	out   uint32 // egress: interface slot
	neigh uint32 // nexthop or neighbor: slot
	rule  uint16 // rules: index of the rule that decided
	stage stage  // where the first objection came from
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

func (c *count) add(bytes int, now uint64) {
	c.packets++
	c.bytes += uint64(bytes)
	c.last = now
}

// worker is the working memory of one Run: it belongs to one goroutine at a time.
//
// The pipeline is three loops over the places that are still live: receive (all
// before the rules), routes (rules and route) and leave (the rest). Those before
// and behind the lookup ask of most packets only whether any stage objects, in few
// comparisons; who fails them is examined, stage by stage, for the first objection.
// Who fails without one goes on all the same: examining is the truth.
type worker struct {
	t   *tables
	v   *hwmodel.Vector
	now uint64

	// count is this worker's share of all counters, by counter slot; 0 is for
	// what is not counted. Nil while tracing.
	count []count
	// tracing has every packet examined.
	tracing bool
	trail   trail // of the packet examined last

	live [2]list // by family index

	// What the stages before the rules found: ingress interface slot, bytes of IP
	// header and payload, destination address by family.
	in    [hwmodel.VectorSize]uint32
	ipLen [hwmodel.VectorSize]uint32
	dst4  [hwmodel.VectorSize]uint32
	dst6  [hwmodel.VectorSize]addr

	// Of the rules stage: places without a result yet, those that the rule at
	// hand matches, and what its table says about them.
	pending, matched list
	entry            [hwmodel.VectorSize]uint32 // see lpm4
	deeper           deeper
	deeper6          deeper6
	found            [hwmodel.VectorSize]route

	// Of the stages behind it: the next hop, and the counters of what the packet
	// goes through.
	hop     [hwmodel.VectorSize]uint32
	length  [hwmodel.VectorSize]uint32 // as received
	counted [3][hwmodel.VectorSize]uint32
}

// addrs returns a packet's addresses.
func (w *worker) addrs(f int, i uint8) (src, dst addr) {
	h := w.v.Frame[i][ethLen:]
	if f == 0 {
		return addr{lo: uint64(binary.BigEndian.Uint32(h[12:]))}, addr{lo: uint64(w.dst4[i])}
	}
	return addr{binary.BigEndian.Uint64(h[8:]), binary.BigEndian.Uint64(h[16:])}, w.dst6[i]
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
		w.routes(f)
		w.leave(f)
	}
}

// trap takes a packet out: the host shall have it.
func (w *worker) trap(i uint8, s stage, r hwmodel.Reason) {
	w.v.Reason[i] = r
	w.trail.stage = s
}

// drop takes a packet out for good; c counts it.
func (w *worker) drop(i uint8, s stage, r hwmodel.Reason, c uint32) {
	w.v.Verdict[i] = hwmodel.Drop
	w.v.Reason[i] = r
	w.trail.stage = s
	if w.count != nil {
		w.count[c].add(len(w.v.Frame[i]), w.now)
	}
}

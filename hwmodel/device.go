package hwmodel

import (
	"context"
	"errors"
)

// ErrUnavailable says that the device cannot be reached now; nothing is known
// about whether a batch in flight was applied: read Entries back.
var ErrUnavailable = errors.New("device unavailable")

// Device is a programmable forwarding device.
//
// The pipeline every device performs, in this order, first objection wins:
//
//	parse      Ethernet; tag → VLANTag; ethertype → NotIP
//	interface  by ingress port: none → NoInterface; Settings absent → NotProgrammed
//	mac        group bit → Broadcast; not the interface's → NotOurMAC
//	family     Settings.Trap4/6; Interface.In4/6
//	header     IPv4: version 4, IHL 5 (else IPOptions), total length ≥ 20 and
//	           ≤ frame, checksum → Malformed. IPv6: version 6, payload length
//	           ≤ frame → Malformed; next header 0 → HopByHop. (IPv6 payload
//	           length 0 with a next header other than 59 → Malformed: jumbo or odd.)
//	source     IPv4: 0.0.0.0, 127/8, multicast, 255.255.255.255 → MartianSource;
//	           OwnAddress and not AcceptLocal → OwnSource.
//	           IPv6: ::, ::1, multicast, fe80::/10 → MartianSource.
//	dest       IPv4: 0.0.0.0, 127/8, multicast, 255.255.255.255 → MartianDest.
//	           IPv6: ::1, multicast, fe80::/10 → MartianDest.
//	ttl        TTL or hop limit ≤ 1 → TTLExpired
//	rules      in order; RuleLookup → longest prefix in the table; throw, no
//	           route and a suppressed route go on; end of list → NoRoute
//	route      RouteTrap → Reason; RouteDrop → Drop(Reason)
//	group      leg by flow hash over live legs; none → NextHopDead
//	nexthop    NextHop.Trap → Reason
//	egress     Interface.Out4/6 of the next hop's interface (missing → NoInterface)
//	mtu        IPv4 total length or IPv6 payload length + 40 > Interface.MTU or
//	           Route.MTU → TooBig (whatever DF says: the kernel fragments)
//	redirect   egress interface == ingress interface: IPv6, or RedirectTrap → RedirectDue
//	rpf        IPv4 only, last because the costliest: if RPFilter is not RPOff or
//	           SourceCheck is set: the source is looked up through the rules as a
//	           destination, as if the answer came in by the egress interface
//	           (rule From matches the packet's destination, To its source, In the
//	           egress interface; net/ipv4/fib_frontend.c __fib_validate_source).
//	           Strict: some live leg of the group must leave by the ingress
//	           interface. Loose: a forwarding route must exist. No route, or a
//	           result that is an error to the kernel (Reason.LookupError) →
//	           ReversePath if RPFilter is not RPOff, else fine. Other traps and
//	           drops → ReversePath.
//	neighbor   (interface, gateway or destination) absent → NeighborUnresolved
//	rewrite    destination MAC neighbour, source MAC egress interface, TTL or hop
//	           limit − 1, IPv4 checksum updated; the frame is cut to 14 + IP length
//
// Everything that objects traps, except RouteDrop and RuleDrop, which drop.
type Device interface {
	// Capabilities declares ports, sizes and features. Constant for a device's life.
	Capabilities(ctx context.Context) (Capabilities, error)
	// Apply performs a batch as one step for packets: sets first, in the order
	// interface, neighbor, nexthop, group, route, rules, own, settings; then
	// deletes in the reverse order. An entry that does not fit or is not
	// supported is refused with a reason, an older value under its key is then
	// removed, and the rest goes on. Setting an equal entry is not an error.
	// Deleting an absent key is not an error. Entries may name others that do
	// not exist (yet): packets that need those trap.
	Apply(ctx context.Context, b *Batch) (Result, error)
	// Entries reads back what the device really holds, in chunks of whole
	// entries; yield returning false ends the read. Table order as in Apply.
	Entries(ctx context.Context, yield func(*Entries) bool) error
	// Counters returns the counters that moved since the given device time
	// (0: all that are not zero) and every port's counters.
	Counters(ctx context.Context, since uint64) (CounterReport, error)
	// Trace runs one frame through the tables without sending or counting it.
	Trace(ctx context.Context, in PortID, frame []byte) (TraceResult, error)
}

// Batch is one atomic change.
type Batch struct {
	Set    Entries
	Delete Keys
}

// Refusal is one entry a device would not take.
type Refusal struct {
	Table  Table
	Reason Reason
	// One of these, by Table.
	Interface InterfaceID
	Neighbor  NeighborKey
	NextHop   NextHopID
	Group     GroupID
	Route     RouteKey
	Family    Family
}

// Result is the outcome of a batch.
type Result struct {
	Refused []Refusal
	// Final holds the last readings of counters whose entries this batch
	// removed or gave another counter.
	Final []Counter
}

// Capabilities is what a device declares.
type Capabilities struct {
	// Name of the model, such as "softpipe".
	Name string
	// Instance differs between any two lives of the device.
	Instance uint64
	Ports    []PortInfo
	// Sizes is the number of entries each table takes; 0 means not supported.
	Sizes [TableCount]uint32
	// HashPolicies4 and HashPolicies6 are bit masks of the multipath hash
	// policies that are computed as the kernel does.
	HashPolicies4, HashPolicies6 uint8
	// MaxLegs is the widest group.
	MaxLegs int
}

// PortInfo is a port as the device knows it.
type PortInfo struct {
	ID   PortID
	Name string
}

// Counter is one reading. An entry counts the packets that were forwarded (for
// RouteDrop: dropped) through it; trapped packets are not counted on entries.
// Values are absolute since the counter's first entry
// was set, and never go back.
type Counter struct {
	ID      CounterID
	Packets uint64
	Bytes   uint64 // from destination MAC on, no FCS, as received
	// LastUsed is nanoseconds of device time (see CounterReport.Now), 0 if never.
	LastUsed uint64
}

// PacketsBytes is a pair of cumulative counts.
type PacketsBytes struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// PortCounters are a port's counts. At rest RX = Forwarded + Trapped + ΣDropped.
// RX, Forwarded, Trapped, Copied and Dropped count on the ingress port with the
// bytes received; TX (which includes Injected) and Injected on the egress port
// with the bytes sent.
type PortCounters struct {
	Port                                         PortID
	RX, TX, Forwarded, Trapped, Injected, Copied PacketsBytes
	// Dropped and TrappedBy are indexed by Reason.
	Dropped   [ReasonCount]PacketsBytes
	TrappedBy [ReasonCount]PacketsBytes
}

// CounterReport is an answer to Device.Counters.
type CounterReport struct {
	// Now is the device's clock, CLOCK_MONOTONIC nanoseconds, read before the
	// counters were: pass it as since next time.
	Now      uint64
	Counters []Counter
	Ports    []PortCounters
}

// TraceStep is one stage of a traced packet.
type TraceStep struct {
	// Stage is a name of the pipeline list in Device.
	Stage string
	// Table and the entry's key as text, empty if the stage looks nothing up.
	Table, Entry string
	// Detail says what was decided.
	Detail string
}

// TraceResult is a traced packet.
type TraceResult struct {
	Steps   []TraceStep
	Verdict Verdict
	Reason  Reason
	// Out and Frame are set when Verdict is Forward.
	Out   PortID
	Frame []byte
}

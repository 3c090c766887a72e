package hwmodel

import "net/netip"

// Identifiers. All are chosen by whoever programs the device (the agent), except
// PortID, which the device declares. Zero is never a valid identifier.
type (
	// PortID is a device port, 1-based, stable while the configuration stays.
	PortID uint16
	// InterfaceID is a router interface.
	InterfaceID uint32
	// NextHopID is one way out: an interface and a gateway.
	NextHopID uint32
	// GroupID is a next hop group; every forwarding route points to one.
	GroupID uint32
	// TableID is a route lookup table; one TableID holds IPv4 and IPv6 prefixes apart.
	TableID uint32
	// CounterID names one life of one counter: never used again for another
	// entry while a device lives. 0 means "not counted".
	CounterID uint64
)

// MAC is a 48-bit Ethernet address in transmission order.
type MAC [6]byte

// MaxGroupLegs bounds the legs of one group, dead ones included.
const MaxGroupLegs = 256

// Table names a kind of entry.
type Table uint8

const (
	TableSettings Table = iota + 1
	TableInterface
	TableNeighbor
	TableNextHop
	TableGroup
	TableRoute
	TableRules
	TableOwnAddress
)

// TableCount is one more than the highest Table.
const TableCount = int(TableOwnAddress) + 1

// String returns the table's name in lower case.
func (t Table) String() string {
	names := [TableCount]string{"", "settings", "interface", "neighbor", "nexthop", "group", "route", "rules", "own-address"}
	if int(t) < TableCount && t > 0 {
		return names[t]
	}
	return "table(?)"
}

// Settings is the one row of device-wide settings. A device without it traps
// everything with ReasonNotProgrammed.
type Settings struct {
	// Trap4 and Trap6 are ReasonNone, or why every packet of that family traps.
	Trap4, Trap6 Reason
	// HashPolicy4 and HashPolicy6 are net.ipv{4,6}.fib_multipath_hash_policy.
	HashPolicy4, HashPolicy6 uint8
	// HashSeed is net.ipv4.fib_multipath_hash_seed. If SeedKnown is false the
	// kernel's seed is random: any live leg by weight, constant per flow, is right.
	HashSeed  uint32
	SeedKnown bool
}

// RPMode is the IPv4 reverse path filter of an interface (RFC 3704), already the
// maximum of "all" and the interface's own value.
type RPMode uint8

const (
	RPOff    RPMode = 0
	RPStrict RPMode = 1
	RPLoose  RPMode = 2
)

// Interface is a router interface on a port.
type Interface struct {
	ID   InterfaceID
	Port PortID
	MAC  MAC
	// MTU in bytes of network-layer packet.
	MTU uint32
	// In4 and In6 are ReasonNone, or why packets of that family that come in
	// here trap. Out4 and Out6 likewise for packets that would leave here: the
	// packet traps at its ingress port.
	In4, In6, Out4, Out6 Reason
	// RPFilter is the IPv4 reverse path filter. Unless it is RPOff the source
	// is looked up through the rules; see Device.
	RPFilter RPMode
	// AcceptLocal lets packets in whose source is an OwnAddress.
	AcceptLocal bool
	// SourceCheck asks for the kernel's full source validation even with
	// RPFilter off (custom rules or custom local routes exist): the source
	// must not look up to anything but a unicast route or no route.
	SourceCheck bool
	// RedirectTrap makes IPv4 packets that would leave by the interface they
	// came in by trap (send_redirects is on). IPv6 ones always trap.
	RedirectTrap bool
}

// NeighborKey identifies a neighbour: an address on an interface.
type NeighborKey struct {
	Interface InterfaceID
	Addr      netip.Addr
}

// Neighbor is a resolved neighbour. One that is absent traps.
type Neighbor struct {
	NeighborKey
	MAC     MAC
	Counter CounterID
}

// NextHop is one way out.
type NextHop struct {
	ID NextHopID
	// Trap, unless ReasonNone, makes packets that choose this next hop trap;
	// then the other fields mean nothing.
	Trap      Reason
	Interface InterfaceID
	// Gateway is the neighbour to send to; the zero Addr means the packet's
	// own destination (a connected route). It may be IPv6 for IPv4 packets
	// (RTA_VIA): the ethertype stays IPv4.
	Gateway netip.Addr
}

// Leg is one member of a group.
type Leg struct {
	NextHop NextHopID
	// Weight is 1..256 (legacy) or 1..65536.
	Weight uint32
	// Dead legs keep their place but take no flows (kernel: upper bound -1).
	Dead bool
}

// Group is a next hop group in the kernel's order. One leg is the common case.
// With several legs the leg is chosen by the kernel's flow hash (03 item 18):
// bounds as fib_rebalance (net/ipv4/fib_semantics.c) over the live legs.
// A group without a live leg traps with ReasonNextHopDead.
type Group struct {
	ID      GroupID
	Legs    []Leg
	Counter CounterID
}

// RouteKey identifies a route.
type RouteKey struct {
	Table  TableID
	Prefix netip.Prefix // masked; IPv4 prefixes are 4-byte addresses
}

// RouteAction is what a route does.
type RouteAction uint8

const (
	// RouteTrap traps with Route.Reason. The zero value.
	RouteTrap RouteAction = iota
	// RouteForward sends through Route.Group.
	RouteForward
	// RouteDrop drops silently with Route.Reason.
	RouteDrop
	// RouteThrow ends this table's lookup: the next rule is tried.
	RouteThrow
)

// Route is one longest-prefix-match entry.
type Route struct {
	RouteKey
	Action RouteAction
	Reason Reason
	Group  GroupID
	// MTU, unless 0, bounds packets by this route in addition to the interface's.
	MTU     uint32
	Counter CounterID
}

// Family is 4 or 6.
type Family uint8

const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// RuleAction is what a policy rule does when its selectors match.
type RuleAction uint8

const (
	// RuleTrap traps with Rule.Reason. The zero value.
	RuleTrap RuleAction = iota
	// RuleLookup looks up Rule.Table; no route or a throw continues with the next rule.
	RuleLookup
	// RuleDrop drops silently.
	RuleDrop
	// RuleNext does nothing: the next rule is tried.
	RuleNext
)

// Rule is one policy rule. The zero Prefix and InterfaceID match anything.
type Rule struct {
	Priority uint32
	From, To netip.Prefix
	In       InterfaceID
	// Not inverts the whole selector (net/core/fib_rules.c fib_rule_match).
	Not    bool
	Action RuleAction
	Reason Reason
	Table  TableID
	// SuppressPrefixLen: a RouteForward with a prefix length <= this is no
	// result; -1 means off. Others are never suppressed: the kernel looks at
	// suppress_prefixlength only after a lookup without an error (net/core/
	// fib_rules.c fib_rules_lookup), and blackholes and the like are errors.
	SuppressPrefixLen int
}

// Rules is the whole ordered rule list of a family; the value is the whole.
// A family without Rules traps with ReasonNotProgrammed; the end of the list
// without a result traps with ReasonNoRoute.
type Rules struct {
	Family Family
	List   []Rule
}

// OwnAddress is an address (local or subnet broadcast) that IPv4 packets must
// not have as source.
type OwnAddress struct {
	Addr netip.Addr
}

// Entries is a set of entries, by table.
type Entries struct {
	Settings   *Settings
	Interfaces []Interface
	Neighbors  []Neighbor
	NextHops   []NextHop
	Groups     []Group
	Routes     []Route
	Rules      []Rules
	Own        []OwnAddress
}

// Keys is a set of entry identities, by table. Settings and Rules are never
// deleted, only replaced.
type Keys struct {
	Interfaces []InterfaceID
	Neighbors  []NeighborKey
	NextHops   []NextHopID
	Groups     []GroupID
	Routes     []RouteKey
	Own        []OwnAddress
}

// Len returns the number of entries.
func (e *Entries) Len() int {
	n := len(e.Interfaces) + len(e.Neighbors) + len(e.NextHops) + len(e.Groups) + len(e.Routes) + len(e.Rules) + len(e.Own)
	if e.Settings != nil {
		n++
	}
	return n
}

// Len returns the number of keys.
func (k *Keys) Len() int {
	return len(k.Interfaces) + len(k.Neighbors) + len(k.NextHops) + len(k.Groups) + len(k.Routes) + len(k.Own)
}

package netstate

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
)

// Kind is a table of mirrored rows. The numbers are stable: they are on the wire
// and in BPF maps.
type Kind uint8

const (
	KindLink     Kind = 1
	KindAddr     Kind = 2
	KindNeighbor Kind = 3
	KindRoute    Kind = 4
	KindRule     Kind = 5
	KindNexthop  Kind = 6
)

// Kinds lists every mirrored kind in dump order: later kinds name earlier ones.
var Kinds = [...]Kind{KindLink, KindAddr, KindNeighbor, KindNexthop, KindRule, KindRoute}

// String returns iproute2's word for the kind.
func (k Kind) String() string {
	switch k {
	case KindLink:
		return "link"
	case KindAddr:
		return "address"
	case KindNeighbor:
		return "neighbor"
	case KindRoute:
		return "route"
	case KindRule:
		return "rule"
	case KindNexthop:
		return "nexthop"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// ParseKind accepts iproute2's words and their usual abbreviations.
func ParseKind(s string) (Kind, error) {
	switch s {
	case "link":
		return KindLink, nil
	case "addr", "address":
		return KindAddr, nil
	case "neigh", "neighbor", "neighbour":
		return KindNeighbor, nil
	case "route":
		return KindRoute, nil
	case "rule":
		return KindRule, nil
	case "nexthop", "nh":
		return KindNexthop, nil
	}
	return 0, fmt.Errorf("unknown kind %q: want link, address, neighbor, route, rule or nexthop", s)
}

// Key is the canonical identity of a mirrored row. Which fields mean something
// depends on the kind; the others are zero.
//
//	link      ID=ifindex
//	address   Family, ID=ifindex, Addr=local address, Len=prefix length;
//	          IPv4 peer addresses fold the peer into Flag (1) and Aux
//	neighbor  Family, ID=ifindex, Addr=destination; Flag=1 for proxy entries
//	nexthop   ID=nexthop id
//	rule      Family, Prio=preference, Addr=first 16 bytes of a hash of all
//	          selectors and actions (several rules may share a preference)
//	route     Family, ID=table, Addr/Len=destination, TOS, Prio=metric;
//	          IPv6 source-specific routes fold the source into Flag (1) and Aux
//
// A route's value is an ordered group (IPv4 aliases, IPv6 same-metric entries).
type Key struct {
	Kind   Kind
	Family uint8 // AF_INET 2, AF_INET6 10, 0 where meaningless
	TOS    uint8
	Len    uint8
	ID     uint32
	Prio   uint32
	Aux    uint32
	Flag   uint8
	Addr   [16]byte // IPv4 in the first four bytes
}

// KeyBytes is the length of a key's canonical encoding.
const KeyBytes = 33

// AppendCanonical appends the canonical encoding: Kind, Family, TOS, Len, then
// ID, Prio, Aux big-endian, Flag, Addr. Its byte order sorts routes by table,
// then metric; the store (later) orders by prefix itself.
func (k Key) AppendCanonical(b []byte) []byte {
	b = append(b, byte(k.Kind), k.Family, k.TOS, k.Len)
	b = binary.BigEndian.AppendUint32(b, k.ID)
	b = binary.BigEndian.AppendUint32(b, k.Prio)
	b = binary.BigEndian.AppendUint32(b, k.Aux)
	b = append(b, k.Flag)
	return append(b, k.Addr[:]...)
}

// Digest is the FNV-1a 64-bit hash of the canonical encoding: the key of the
// object_stats BPF map.
func (k Key) Digest() uint64 {
	h := fnv.New64a()
	var buf [KeyBytes]byte
	h.Write(k.AppendCanonical(buf[:0]))
	return h.Sum64()
}

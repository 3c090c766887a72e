package netstate

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// addrProto is IFA_PROTO (linux/if_addr.h since 5.18).
const addrProto = 11

// HWAddr is a link-layer address of any length the kernel has (MAX_ADDR_LEN).
// It is comparable; the bytes after Len are zero.
type HWAddr struct {
	Len   uint8
	Bytes [32]byte
}

// MAC returns the address if it is of Ethernet's length.
func (h HWAddr) MAC() (mac [6]byte, ok bool) {
	return [6]byte(h.Bytes[:6]), h.Len == 6
}

// String writes hexadecimal bytes with colons, as iproute2 does.
func (h HWAddr) String() string {
	const digits = "0123456789abcdef"
	b := make([]byte, 0, 3*int(h.Len))
	for i, c := range h.Bytes[:min(int(h.Len), len(h.Bytes))] {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, digits[c>>4], digits[c&15])
	}
	return string(b)
}

// hwaddr reads a link-layer address.
func (a *attrs) hwaddr() (h HWAddr) {
	if len(a.val) > len(h.Bytes) {
		a.fail("at most 32 bytes")
		return h
	}
	h.Len = uint8(len(a.val))
	copy(h.Bytes[:], a.val)
	return h
}

// familyBytes is the length of an address of a family, 0 if it has none here.
func familyBytes(family uint8) int {
	switch family {
	case unix.AF_INET:
		return 4
	case unix.AF_INET6:
		return 16
	}
	return 0
}

// addr reads an address of the family.
func (a *attrs) addr(family uint8) netip.Addr {
	n := familyBytes(family)
	if n == 0 || len(a.val) != n {
		a.fail("an address of the message's family")
		return netip.Addr{}
	}
	ip, _ := netip.AddrFromSlice(a.val)
	return ip
}

// prefix makes a prefix of a header's length and an optional address.
func prefix(family uint8, ip netip.Addr, bits uint8) (netip.Prefix, bool) {
	if !ip.IsValid() {
		if bits != 0 {
			return netip.Prefix{}, false
		}
		ip = unspecified(family)
	}
	p := netip.PrefixFrom(ip, int(bits))
	return p, p.IsValid()
}

// unspecified is 0.0.0.0 or ::, the zero Addr for other families.
func unspecified(family uint8) netip.Addr {
	switch family {
	case unix.AF_INET:
		return netip.IPv4Unspecified()
	case unix.AF_INET6:
		return netip.IPv6Unspecified()
	}
	return netip.Addr{}
}

// Addr is an interface address: RTM_NEWADDR, struct ifaddrmsg.
type Addr struct {
	Index     uint32
	Family    uint8
	PrefixLen uint8
	Scope     uint8
	// Flags are IFA_F_*, all 32 bits.
	Flags uint32
	// Local is the interface's own address; Peer is the other end's, or equal
	// to Local where there is none.
	Local, Peer         netip.Addr
	Broadcast, Anycast  netip.Addr
	Label               string
	Proto               uint8
	Metric              uint32 // IFA_RT_PRIORITY
	ValidLft, PreferLft uint32 // seconds when the message was made; ^0 is for ever
	HasLifetimes        bool
	// Unknown is the first attribute type that this decoder does not know, 0 if none.
	Unknown uint16
}

// Decode reads an RTM_NEWADDR or RTM_DELADDR message.
func (d *Addr) Decode(raw []byte) error {
	*d = Addr{}
	_, head, it, err := body(raw, unix.RTM_NEWADDR, unix.RTM_DELADDR, unix.SizeofIfAddrmsg, "address")
	if err != nil {
		return err
	}
	d.Family, d.PrefixLen, d.Flags, d.Scope = head[0], head[1], uint32(head[2]), head[3]
	d.Index = binary.NativeEndian.Uint32(head[4:])
	if familyBytes(d.Family) == 0 {
		return &DecodeError{"address family", HeaderBytes, "AF_INET or AF_INET6"}
	}
	if int(d.PrefixLen) > 8*familyBytes(d.Family) {
		return &DecodeError{"address prefix length", HeaderBytes + 1, "no more than the address has"}
	}
	for it.next() {
		switch it.typ {
		case unix.IFA_ADDRESS:
			d.Peer = it.addr(d.Family)
		case unix.IFA_LOCAL:
			d.Local = it.addr(d.Family)
		case unix.IFA_LABEL:
			d.Label = it.str()
		case unix.IFA_BROADCAST:
			d.Broadcast = it.addr(d.Family)
		case unix.IFA_ANYCAST:
			d.Anycast = it.addr(d.Family)
		case unix.IFA_CACHEINFO:
			if it.size(unix.SizeofIfaCacheinfo) {
				d.PreferLft = binary.NativeEndian.Uint32(it.val)
				d.ValidLft = binary.NativeEndian.Uint32(it.val[4:])
				d.HasLifetimes = true
			}
		case unix.IFA_FLAGS:
			d.Flags = it.u32()
		case unix.IFA_RT_PRIORITY:
			d.Metric = it.u32()
		case addrProto:
			d.Proto = it.u8()
		case unix.IFA_MULTICAST, unix.IFA_TARGET_NETNSID:
		default:
			noteUnknown(&d.Unknown, it.typ)
		}
	}
	if it.err != nil {
		return it.err
	}
	switch {
	case !d.Local.IsValid() && !d.Peer.IsValid():
		return &DecodeError{"address", HeaderBytes, "IFA_LOCAL or IFA_ADDRESS"}
	case !d.Local.IsValid():
		d.Local = d.Peer
	case !d.Peer.IsValid():
		d.Peer = d.Local
	}
	return nil
}

// noteUnknown keeps the first unknown attribute type; type 0 becomes 0xffff so
// that it is seen.
func noteUnknown(first *uint16, typ uint16) {
	if *first == 0 {
		*first = max(typ, 1)
		if typ == 0 {
			*first = 0xffff
		}
	}
}

package netstate

import (
	"encoding/binary"
	"math/bits"

	"golang.org/x/sys/unix"
)

// KeyOf reads the identity of a mirrored row out of a whole message. del says
// that the message removes it (or, for routes, one entry of its group).
// Messages that are no mirrored row give ErrNotMirrored: other types, families
// other than IPv4 and IPv6, AF_BRIDGE links (N31) and FDB entries (N33), link
// messages of AF_INET6 or of wireless events, cached routes (RTM_F_CLONED) and
// multicast forwarding entries (families above 127), and NOARP neighbours of multicast addresses (N39).
// It does not allocate unless it fails otherwise.
func KeyOf(raw []byte) (key Key, del bool, err error) {
	if len(raw) < HeaderBytes {
		return Key{}, false, &DecodeError{"netlink header", 0, "16 bytes"}
	}
	switch typ := binary.NativeEndian.Uint16(raw[4:]); typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		key, err = linkKey(raw)
		return key, typ == unix.RTM_DELLINK, err
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		key, err = addrKey(raw)
		return key, typ == unix.RTM_DELADDR, err
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		key, err = neighborKey(raw)
		return key, typ == unix.RTM_DELNEIGH, err
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		key, err = routeKey(raw)
		return key, typ == unix.RTM_DELROUTE, err
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		key, err = ruleKey(raw)
		return key, typ == unix.RTM_DELRULE, err
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		key, err = nexthopKey(raw)
		return key, typ == unix.RTM_DELNEXTHOP, err
	}
	return Key{}, false, ErrNotMirrored
}

func linkKey(raw []byte) (Key, error) {
	_, head, it, err := body(raw, unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.SizeofIfInfomsg, "link")
	if err != nil {
		return Key{}, err
	}
	if head[0] != unix.AF_UNSPEC {
		return Key{}, ErrNotMirrored
	}
	for it.next() {
		if it.typ == unix.IFLA_WIRELESS {
			return Key{}, ErrNotMirrored
		}
	}
	return Key{Kind: KindLink, ID: binary.NativeEndian.Uint32(head[4:])}, it.err
}

func addrKey(raw []byte) (Key, error) {
	_, head, it, err := body(raw, unix.RTM_NEWADDR, unix.RTM_DELADDR, unix.SizeofIfAddrmsg, "address")
	if err != nil {
		return Key{}, err
	}
	n := familyBytes(head[0])
	if n == 0 {
		return Key{}, ErrNotMirrored
	}
	k := Key{Kind: KindAddr, Family: head[0], Len: head[1], ID: binary.NativeEndian.Uint32(head[4:])}
	var local, peer []byte
	for it.next() {
		if (it.typ == unix.IFA_LOCAL || it.typ == unix.IFA_ADDRESS) && it.size(n) {
			if it.typ == unix.IFA_LOCAL {
				local = it.val
			} else {
				peer = it.val
			}
		}
	}
	if it.err != nil {
		return Key{}, it.err
	}
	if local == nil {
		local = peer
	}
	if local == nil {
		return Key{}, &DecodeError{"address", HeaderBytes, "IFA_LOCAL or IFA_ADDRESS"}
	}
	copy(k.Addr[:], local)
	// One local address may stand towards several IPv4 peers.
	if peer != nil && n == 4 && [4]byte(peer) != [4]byte(local) {
		k.Flag, k.Aux = 1, binary.BigEndian.Uint32(peer)
	}
	return k, nil
}

func neighborKey(raw []byte) (Key, error) {
	_, head, it, err := body(raw, unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH, sizeofNdmsg, "neighbor")
	if err != nil {
		return Key{}, err
	}
	n := familyBytes(head[0])
	if n == 0 || head[11] == unix.RTN_MULTICAST && binary.NativeEndian.Uint16(head[8:]) == unix.NUD_NOARP {
		return Key{}, ErrNotMirrored
	}
	k := Key{Kind: KindNeighbor, Family: head[0], ID: binary.NativeEndian.Uint32(head[4:])}
	if head[10]&unix.NTF_PROXY != 0 {
		k.Flag = 1
	}
	found := false
	for it.next() {
		if it.typ == unix.NDA_DST && it.size(n) {
			copy(k.Addr[:], it.val)
			found = true
		}
	}
	if it.err != nil {
		return Key{}, it.err
	}
	if !found {
		return Key{}, &DecodeError{"neighbor", HeaderBytes, "NDA_DST"}
	}
	return k, nil
}

func routeKey(raw []byte) (Key, error) {
	_, head, it, err := body(raw, unix.RTM_NEWROUTE, unix.RTM_DELROUTE, unix.SizeofRtMsg, "route")
	if err != nil {
		return Key{}, err
	}
	n := familyBytes(head[0])
	flags := binary.NativeEndian.Uint32(head[8:])
	if n == 0 || flags&unix.RTM_F_CLONED != 0 {
		return Key{}, ErrNotMirrored
	}
	k := Key{Kind: KindRoute, Family: head[0], Len: head[1], TOS: head[3], ID: uint32(head[4])}
	if int(head[1]) > 8*n || int(head[2]) > 8*n {
		return Key{}, &DecodeError{"route prefix length", HeaderBytes + 1, "no more than the address has"}
	}
	var src []byte
	for it.next() {
		switch it.typ {
		case unix.RTA_DST:
			if it.size(n) {
				copy(k.Addr[:], it.val)
			}
		case unix.RTA_SRC:
			if it.size(n) {
				src = it.val
			}
		case unix.RTA_TABLE:
			k.ID = it.u32()
		case unix.RTA_PRIORITY:
			k.Prio = it.u32()
		}
	}
	if head[2] > 0 {
		h := newHash().byte(head[2]).bytes(src)
		k.Flag, k.Aux = 1, uint32(h.lo)^uint32(h.lo>>32)
	}
	return k, it.err
}

// ruleKey hashes header and attributes, without preference and without the flags
// that come and go with devices. A rule's message is always written by the same
// kernel function, so equal rules give equal bytes.
func ruleKey(raw []byte) (Key, error) {
	_, head, it, err := body(raw, unix.RTM_NEWRULE, unix.RTM_DELRULE, unix.SizeofRtMsg, "rule")
	if err != nil {
		return Key{}, err
	}
	if familyBytes(head[0]) == 0 {
		return Key{}, ErrNotMirrored
	}
	k := Key{Kind: KindRule, Family: head[0]}
	flags := binary.NativeEndian.Uint32(head[8:]) &^ ruleTransient
	h := newHash().bytes(head[:8]).u32(flags)
	for it.next() {
		if it.typ == unix.FRA_PRIORITY {
			k.Prio = it.u32()
			continue
		}
		h = h.u32(uint32(it.typ) | uint32(len(it.val))<<16).bytes(it.val)
	}
	binary.BigEndian.PutUint64(k.Addr[:], h.hi)
	binary.BigEndian.PutUint64(k.Addr[8:], h.lo)
	return k, it.err
}

func nexthopKey(raw []byte) (Key, error) {
	_, _, it, err := body(raw, unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP, sizeofNhmsg, "nexthop")
	if err != nil {
		return Key{}, err
	}
	k := Key{Kind: KindNexthop}
	for it.next() {
		if it.typ == unix.NHA_ID {
			k.ID = it.u32()
		}
	}
	if it.err == nil && k.ID == 0 {
		return Key{}, &DecodeError{"nexthop", HeaderBytes, "NHA_ID"}
	}
	return k, it.err
}

// hash128 is FNV-1a with 128 bits, written out because hash/fnv allocates.
type hash128 struct{ hi, lo uint64 }

func newHash() hash128 { return hash128{0x6c62272e07bb0142, 0x62b821756295c58d} }

func (h hash128) byte(c byte) hash128 {
	// times the prime 2^88 + 0x13b
	h.lo ^= uint64(c)
	hi, lo := bits.Mul64(h.lo, 0x13b)
	return hash128{hi + h.hi*0x13b + h.lo<<24, lo}
}

func (h hash128) bytes(b []byte) hash128 {
	for _, c := range b {
		h = h.byte(c)
	}
	return h
}

// u32 hashes a number in network byte order.
func (h hash128) u32(v uint32) hash128 {
	return h.byte(byte(v >> 24)).byte(byte(v >> 16)).byte(byte(v >> 8)).byte(byte(v))
}

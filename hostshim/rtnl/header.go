package rtnl

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// headerBytes is sizeof(struct nlmsghdr): length u32, type u16, flags u16,
// sequence u32, port u32, in host byte order.
const headerBytes = unix.SizeofNlMsghdr

// header is what the shim reads of a netlink message.
type header struct {
	length uint32
	typ    uint16
	flags  uint16
	seq    uint32
}

// next splits the first message off b. ok is false when b holds no whole message.
func next(b []byte) (h header, msg, rest []byte, ok bool) {
	if len(b) < headerBytes {
		return h, nil, nil, false
	}
	h = header{
		length: binary.NativeEndian.Uint32(b),
		typ:    binary.NativeEndian.Uint16(b[4:]),
		flags:  binary.NativeEndian.Uint16(b[6:]),
		seq:    binary.NativeEndian.Uint32(b[8:]),
	}
	if h.length < headerBytes || uint64(h.length) > uint64(len(b)) {
		return h, nil, nil, false
	}
	end := min(align(int(h.length)), len(b))
	return h, b[:end], b[end:], true
}

func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

// settingsMayChange tells whether notifications in a datagram can mean that a
// setting or an unmirrored thing changed: links (names, XDP), netconf, tc and
// multicast routes.
func settingsMayChange(b []byte) bool {
	for {
		h, msg, rest, ok := next(b)
		if !ok {
			return false
		}
		switch h.typ {
		case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWNETCONF, unix.RTM_DELNETCONF,
			unix.RTM_NEWQDISC, unix.RTM_DELQDISC, unix.RTM_NEWTCLASS, unix.RTM_DELTCLASS,
			unix.RTM_NEWTFILTER, unix.RTM_DELTFILTER, unix.RTM_NEWCHAIN, unix.RTM_DELCHAIN:
			return true
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			if len(msg) > headerBytes && (msg[headerBytes] == familyIPMR || msg[headerBytes] == familyIP6MR) {
				return true
			}
		}
		b = rest
	}
}

// RTNL_FAMILY_IPMR and RTNL_FAMILY_IP6MR of linux/rtnetlink.h.
const (
	familyIPMR  = 128
	familyIP6MR = 129
)

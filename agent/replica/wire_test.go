package replica

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Messages as the kernel writes them, for the model kernel.

func message(typ, flags uint16, body []byte) []byte {
	m := make([]byte, 16, 16+len(body))
	binary.NativeEndian.PutUint32(m, uint32(16+len(body)))
	binary.NativeEndian.PutUint16(m[4:], typ)
	binary.NativeEndian.PutUint16(m[6:], flags)
	return append(m, body...)
}

func attr(b []byte, typ uint16, val []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(val)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, val...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func u32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func linkMsg(typ uint16, id uint32, up, carrier bool) []byte {
	b := make([]byte, 16)
	binary.NativeEndian.PutUint16(b[2:], unix.ARPHRD_ETHER)
	binary.NativeEndian.PutUint32(b[4:], id)
	var flags uint32
	if up {
		flags |= unix.IFF_UP
	}
	if up && carrier {
		flags |= unix.IFF_RUNNING | unix.IFF_LOWER_UP
	}
	binary.NativeEndian.PutUint32(b[8:], flags)
	return message(typ, 0, attr(b, unix.IFLA_IFNAME, append([]byte("s"), byte('0'+id), 0)))
}

func addrMsg(typ uint16, id uint32, host byte) []byte {
	b := []byte{unix.AF_INET, 24, 0, 0}
	b = append(b, u32(id)...)
	ip := []byte{10, byte(id), 0, host}
	b = attr(b, unix.IFA_ADDRESS, ip)
	return message(typ, 0, attr(b, unix.IFA_LOCAL, ip))
}

func neighMsg(typ uint16, id uint32, host byte, state uint16) []byte {
	b := make([]byte, 12)
	b[0], b[11] = unix.AF_INET, unix.RTN_UNICAST
	binary.NativeEndian.PutUint32(b[4:], id)
	binary.NativeEndian.PutUint16(b[8:], state)
	b = attr(b, unix.NDA_DST, []byte{10, byte(id), 0, host})
	return message(typ, 0, attr(b, unix.NDA_LLADDR, []byte{2, 0, 0, 0, byte(id), host}))
}

func nexthopMsg(typ uint16, id, oif uint32, members []uint32) []byte {
	b := make([]byte, 8)
	if len(members) == 0 {
		b[0] = unix.AF_INET
	}
	b = attr(b, unix.NHA_ID, u32(id))
	if len(members) > 0 {
		var g []byte
		for _, m := range members {
			g = append(append(g, u32(m)...), 0, 0, 0, 0)
		}
		b = attr(b, unix.NHA_GROUP, g)
		b = attr(b, unix.NHA_GROUP_TYPE, []byte{0, 0})
	} else {
		b = attr(b, unix.NHA_OIF, u32(oif))
		b = attr(b, unix.NHA_GATEWAY, []byte{10, byte(oif), 0, 99})
	}
	return message(typ, 0, b)
}

// routeMsg is 9.0.0.n/32 by legs (10.oif.0.gw) or by a nexthop object.
func routeMsg(typ, flags uint16, table uint32, n byte, oifs []uint32, gw byte, nhid uint32) []byte {
	b := make([]byte, 12)
	b[0], b[1], b[4], b[5], b[7] = unix.AF_INET, 32, byte(table), unix.RTPROT_STATIC, unix.RTN_UNICAST
	b = attr(b, unix.RTA_TABLE, u32(table))
	b = attr(b, unix.RTA_DST, []byte{9, 0, 0, n})
	switch {
	case nhid != 0:
		b = attr(b, 30, u32(nhid))
	case len(oifs) == 1:
		b = attr(b, unix.RTA_GATEWAY, []byte{10, byte(oifs[0]), 0, gw})
		b = attr(b, unix.RTA_OIF, u32(oifs[0]))
	default:
		var legs []byte
		for _, o := range oifs {
			legs = append(legs, 16, 0, 0, 0)
			legs = append(legs, u32(o)...)
			legs = attr(legs, unix.RTA_GATEWAY, []byte{10, byte(o), 0, gw})
		}
		b = attr(b, unix.RTA_MULTIPATH, legs)
	}
	return message(typ, flags, b)
}

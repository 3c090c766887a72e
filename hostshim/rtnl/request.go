package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"antiphon/netstate"
)

// Filter limits a dump; zero fields mean "any". What the kernel cannot filter by
// is not an error here: the kernel refuses it (DumpEnd.errno).
type Filter struct {
	Family uint8
	Table  uint32
	Oif    uint32
}

// ErrRequest means that a dump of something else than a mirrored kind was asked for.
var ErrRequest = errors.New("not a mirrored kind")

// nhaOIF is NHA_OIF of linux/nexthop.h.
const nhaOIF = 5

// request is one RTM_GET* message; a dump of a kind takes one or several.
type request struct {
	typ   uint16
	flags uint16
	body  []byte
	// optional requests may be refused as unsupported without spoiling the dump:
	// the whole kind was asked for and this kernel lacks one family.
	optional bool
	// table: the kernel answers ENOENT when the table does not exist, which is
	// an empty table.
	table bool
}

// requests returns what to ask the kernel for all rows of a kind.
func requests(kind netstate.Kind, f Filter) ([]request, error) {
	switch kind {
	case netstate.KindLink:
		body := make([]byte, unix.SizeofIfInfomsg)
		if f.Oif == 0 {
			return []request{{typ: unix.RTM_GETLINK, flags: unix.NLM_F_DUMP, body: body}}, nil
		}
		// A dump cannot filter by index; a plain request answers one row.
		binary.NativeEndian.PutUint32(body[4:], f.Oif)
		return []request{{typ: unix.RTM_GETLINK, flags: unix.NLM_F_ACK, body: body}}, nil
	case netstate.KindNexthop:
		body := make([]byte, 8) // struct nhmsg
		if f.Oif != 0 {
			body = attr32(body, nhaOIF, f.Oif)
		}
		return []request{{typ: unix.RTM_GETNEXTHOP, flags: unix.NLM_F_DUMP, body: body}}, nil
	case netstate.KindAddr, netstate.KindNeighbor, netstate.KindRule, netstate.KindRoute:
	default:
		return nil, fmt.Errorf("%w: %v", ErrRequest, kind)
	}
	families := []uint8{f.Family}
	if f.Family == 0 {
		families = []uint8{unix.AF_INET, unix.AF_INET6}
	}
	var list []request
	for _, family := range families {
		r := request{flags: unix.NLM_F_DUMP, optional: f.Family == 0}
		switch kind {
		case netstate.KindAddr:
			r.typ, r.body = unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg)
			binary.NativeEndian.PutUint32(r.body[4:], f.Oif)
		case netstate.KindRule:
			r.typ, r.body = unix.RTM_GETRULE, make([]byte, unix.SizeofRtMsg) // struct fib_rule_hdr has its shape
		case netstate.KindRoute:
			r.typ, r.body = unix.RTM_GETROUTE, make([]byte, unix.SizeofRtMsg)
			if f.Table != 0 {
				r.body, r.table = attr32(r.body, unix.RTA_TABLE, f.Table), true
			}
			if f.Oif != 0 {
				r.body = attr32(r.body, unix.RTA_OIF, f.Oif)
			}
		case netstate.KindNeighbor:
			r.typ, r.body = unix.RTM_GETNEIGH, make([]byte, unix.SizeofNdMsg)
			if f.Oif != 0 {
				r.body = attr32(r.body, unix.NDA_IFINDEX, f.Oif)
			}
			proxy := r
			proxy.body = append([]byte(nil), r.body...)
			r.body[0], proxy.body[0] = family, family
			proxy.body[10] = unix.NTF_PROXY // ndm_flags: proxies are a table of their own
			list = append(list, r, proxy)
			continue
		}
		r.body[0] = family
		list = append(list, r)
	}
	return list, nil
}

// marshal returns the message with its header.
func (r request) marshal(seq uint32) []byte {
	b := make([]byte, headerBytes, headerBytes+len(r.body))
	b = append(b, r.body...)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], r.typ)
	binary.NativeEndian.PutUint16(b[6:], r.flags|unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(b[8:], seq)
	return b
}

func attr32(b []byte, typ uint16, v uint32) []byte {
	b = binary.NativeEndian.AppendUint16(b, 8)
	b = binary.NativeEndian.AppendUint16(b, typ)
	return binary.NativeEndian.AppendUint32(b, v)
}

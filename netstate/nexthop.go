package netstate

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Attributes of linux/nexthop.h that x/sys does not name.
const (
	nhaFDB           = 11
	nhaResGroup      = 12
	nhaResBucket     = 13
	nhaOpFlags       = 14
	nhaGroupStats    = 15
	nhaHWStatsEnable = 16
	nhaHWStatsUsed   = 17

	nhaResGroupBuckets         = 1
	nhaResGroupIdleTimer       = 2
	nhaResGroupUnbalancedTimer = 3
	nhaResGroupUnbalancedTime  = 4
)

// Types of nexthop groups (NEXTHOP_GRP_TYPE_*).
const (
	GroupMultipath = 0
	GroupResilient = 1
)

// sizeofNhmsg is that of struct nhmsg; sizeofNhGrp of struct nexthop_grp.
const (
	sizeofNhmsg = 8
	sizeofNhGrp = 8
)

// GroupMember is one nexthop of a group.
type GroupMember struct {
	ID uint32
	// Weight is 1 to 65536 (256 before 6.12).
	Weight uint32
}

// Nexthop is a nexthop object or group: RTM_NEWNEXTHOP, struct nhmsg. It is
// reused: Decode keeps the memory of Group.
type Nexthop struct {
	ID       uint32
	Family   uint8
	Scope    uint8
	Protocol uint8
	// Flags are RTNH_F_*.
	Flags     uint32
	Blackhole bool
	FDB       bool
	OIF       uint32
	Gateway   netip.Addr
	Encap     bool
	EncapType uint16
	// Group is nil for a single nexthop.
	Group     []GroupMember
	IsGroup   bool
	GroupType uint16
	// Resilient groups: number of buckets, timers in clock ticks of 10 ms, and
	// for how long the group has been out of balance when the message was made.
	Buckets         uint16
	IdleTimer       uint32
	UnbalancedTimer uint32
	UnbalancedTime  uint64
	OpFlags         uint32
	// Unknown is the first attribute type that this decoder does not know, 0 if none.
	Unknown uint16
}

// Decode reads an RTM_NEWNEXTHOP or RTM_DELNEXTHOP message.
func (d *Nexthop) Decode(raw []byte) error {
	*d = Nexthop{Group: d.Group[:0]}
	_, head, it, err := body(raw, unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP, sizeofNhmsg, "nexthop")
	if err != nil {
		return err
	}
	d.Family, d.Scope, d.Protocol = head[0], head[1], head[2]
	d.Flags = binary.NativeEndian.Uint32(head[4:])
	for it.next() {
		switch it.typ {
		case unix.NHA_ID:
			d.ID = it.u32()
		case unix.NHA_GROUP:
			d.group(&it)
		case unix.NHA_GROUP_TYPE:
			d.GroupType = it.u16()
		case unix.NHA_BLACKHOLE:
			d.Blackhole = true
		case unix.NHA_OIF:
			d.OIF = it.u32()
		case unix.NHA_GATEWAY:
			d.Gateway = it.addr(d.Family)
		case unix.NHA_ENCAP_TYPE:
			d.EncapType, d.Encap = it.u16(), true
		case unix.NHA_ENCAP:
			d.Encap = true
		case nhaFDB:
			d.FDB = true
		case nhaResGroup:
			d.resilient(&it)
		case nhaOpFlags:
			d.OpFlags = it.u32()
		case unix.NHA_GROUPS, unix.NHA_MASTER, nhaGroupStats, nhaHWStatsEnable, nhaHWStatsUsed:
		default:
			noteUnknown(&d.Unknown, it.typ)
		}
	}
	if it.err != nil {
		return it.err
	}
	if d.ID == 0 {
		return &DecodeError{"nexthop", HeaderBytes, "NHA_ID"}
	}
	return nil
}

// group reads NHA_GROUP: struct nexthop_grp {u32 id; u8 weight-1, high byte of it;
// u16 reserved}.
func (d *Nexthop) group(it *attrs) {
	if len(it.val)%sizeofNhGrp != 0 {
		it.fail(fmt.Sprintf("a multiple of %d bytes, have %d", sizeofNhGrp, len(it.val)))
		return
	}
	d.IsGroup = true
	for b := it.val; len(b) > 0; b = b[sizeofNhGrp:] {
		d.Group = append(d.Group, GroupMember{
			ID:     binary.NativeEndian.Uint32(b),
			Weight: uint32(b[4]) + uint32(b[5])<<8 + 1,
		})
	}
}

// resilient reads the nested NHA_RES_GROUP.
func (d *Nexthop) resilient(it *attrs) {
	sub := it.nested("nexthop resilient group")
	for sub.next() {
		switch sub.typ {
		case nhaResGroupBuckets:
			d.Buckets = sub.u16()
		case nhaResGroupIdleTimer:
			d.IdleTimer = sub.u32()
		case nhaResGroupUnbalancedTimer:
			d.UnbalancedTimer = sub.u32()
		case nhaResGroupUnbalancedTime:
			d.UnbalancedTime = sub.u64()
		case 0:
		default:
			noteUnknown(&d.Unknown, sub.typ|0x4000)
		}
	}
	it.err = sub.err
}

package netstate

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Attributes of linux/neighbour.h that x/sys does not name.
const (
	ndaProtocol    = 12
	ndaNhID        = 13
	ndaFdbExtAttrs = 14
	ndaFlagsExt    = 15
	ndaStateMask   = 16
	ndaFlagsMask   = 17
)

// sizeofNdmsg is that of struct ndmsg.
const sizeofNdmsg = 12

// Neighbor is an ARP or NDP entry: RTM_NEWNEIGH, struct ndmsg.
type Neighbor struct {
	Index  uint32
	Family uint8
	// Type is RTN_UNICAST, or what the kernel derived from the address.
	Type uint8
	// State is NUD_*.
	State uint16
	// Flags are NTF_*, FlagsExt NTF_EXT_*.
	Flags     uint8
	FlagsExt  uint32
	Dst       netip.Addr
	LLAddr    HWAddr
	HasLLAddr bool
	// Proxy entries (NTF_PROXY) answer for others; they resolve nothing.
	Proxy    bool
	Protocol uint8
	// Unknown is the first attribute type that this decoder does not know, 0 if none.
	Unknown uint16
}

// Decode reads an RTM_NEWNEIGH or RTM_DELNEIGH message of IPv4 or IPv6. It does
// not allocate unless it fails.
func (d *Neighbor) Decode(raw []byte) error {
	*d = Neighbor{}
	_, head, it, err := body(raw, unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH, sizeofNdmsg, "neighbor")
	if err != nil {
		return err
	}
	d.Family = head[0]
	d.Index = binary.NativeEndian.Uint32(head[4:])
	d.State = binary.NativeEndian.Uint16(head[8:])
	d.Flags, d.Type = head[10], head[11]
	d.Proxy = d.Flags&unix.NTF_PROXY != 0
	if familyBytes(d.Family) == 0 {
		return &DecodeError{"neighbor family", HeaderBytes, "AF_INET or AF_INET6"}
	}
	for it.next() {
		switch it.typ {
		case unix.NDA_DST:
			d.Dst = it.addr(d.Family)
		case unix.NDA_LLADDR:
			d.LLAddr = it.hwaddr()
			d.HasLLAddr = len(it.val) > 0
		case ndaProtocol:
			d.Protocol = it.u8()
		case ndaFlagsExt:
			d.FlagsExt = it.u32()
		case unix.NDA_CACHEINFO, unix.NDA_PROBES, unix.NDA_VLAN, unix.NDA_PORT, unix.NDA_VNI,
			unix.NDA_IFINDEX, unix.NDA_MASTER, unix.NDA_LINK_NETNSID, unix.NDA_SRC_VNI,
			ndaNhID, ndaFdbExtAttrs, ndaStateMask, ndaFlagsMask:
		default:
			noteUnknown(&d.Unknown, it.typ)
		}
	}
	if it.err != nil {
		return it.err
	}
	if !d.Dst.IsValid() {
		return &DecodeError{"neighbor", HeaderBytes, "NDA_DST"}
	}
	return nil
}

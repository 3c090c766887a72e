package netstate

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"
)

// Link is a network interface: RTM_NEWLINK, struct ifinfomsg.
type Link struct {
	Index uint32
	Name  string
	// Type is ARPHRD_*; Flags are IFF_*.
	Type                                                                 uint16
	Flags                                                                uint32
	MTU                                                                  uint32
	TxQLen, Group, NumTxQueues, NumRxQueues, Promiscuity, MinMTU, MaxMTU uint32
	// Addr is the link-layer address, Broadcast the one for everybody.
	Addr, Broadcast       HWAddr
	HasAddr, HasBroadcast bool
	// PermAddr is what the hardware came with, Len 0 if it has none.
	PermAddr HWAddr
	// Master is the index of the bridge, VRF or bond it belongs to, 0 if none.
	Master uint32
	// Parent is IFLA_LINK: the interface below, 0 with HasParent for none
	// (tunnels). In another namespace if HasNSID: then LinkNSID is its id, -1
	// where it has none.
	Parent    uint32
	HasParent bool
	LinkNSID  int32
	HasNSID   bool
	// OperState is IF_OPER_*.
	OperState           uint8
	LinkMode            uint8
	Carrier, HasCarrier bool
	ProtoDown           bool
	// Kind is rtnl_link_ops' name ("veth"), SlaveKind that of the master's.
	Kind, SlaveKind string
	AltNames        []string
	Alias           string
	Qdisc           string
	// PhysPort is IFLA_PHYS_PORT_NAME; ParentDev "bus/name" of the device behind it.
	PhysPort                 string
	PhysPortID, PhysSwitchID HWAddr
	ParentBus, ParentDev     string
	// XDPMode is XDP_ATTACHED_*, 0 if none; XDPProg the program's id.
	XDPMode uint8
	XDPProg uint32
	// VLANID and VLANProtocol of a VLAN link; VRFTable of a VRF.
	VLANID, VLANProtocol uint16
	VRFTable             uint32
}

// PortAltName begins the alternative name that makes a netdev the representor of
// a device port: "antiphon-swp1" is that of port swp1, whatever its name becomes.
const PortAltName = "antiphon-"

// Port is the device port that the link is the representor of, "" if none.
func (d *Link) Port() string {
	port := ""
	for _, a := range d.AltNames {
		if p, ok := strings.CutPrefix(a, PortAltName); ok {
			port = p
		}
	}
	return port
}

// Decode reads an RTM_NEWLINK or RTM_DELLINK message. Attributes it does not
// know are of no concern: a link's are too many, and what changes a packet's
// fate arrives as settings and presences.
func (d *Link) Decode(raw []byte) error {
	*d = Link{AltNames: d.AltNames[:0]}
	_, head, it, err := body(raw, unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.SizeofIfInfomsg, "link")
	if err != nil {
		return err
	}
	d.Type = binary.NativeEndian.Uint16(head[2:])
	d.Index = binary.NativeEndian.Uint32(head[4:])
	d.Flags = binary.NativeEndian.Uint32(head[8:])
	for it.next() {
		switch it.typ {
		case unix.IFLA_IFNAME:
			d.Name = it.str()
		case unix.IFLA_MTU:
			d.MTU = it.u32()
		case unix.IFLA_TXQLEN:
			d.TxQLen = it.u32()
		case unix.IFLA_GROUP:
			d.Group = it.u32()
		case unix.IFLA_NUM_TX_QUEUES:
			d.NumTxQueues = it.u32()
		case unix.IFLA_NUM_RX_QUEUES:
			d.NumRxQueues = it.u32()
		case unix.IFLA_PROMISCUITY:
			d.Promiscuity = it.u32()
		case unix.IFLA_MIN_MTU:
			d.MinMTU = it.u32()
		case unix.IFLA_MAX_MTU:
			d.MaxMTU = it.u32()
		case unix.IFLA_ADDRESS:
			d.Addr, d.HasAddr = it.hwaddr(), true
		case unix.IFLA_BROADCAST:
			d.Broadcast, d.HasBroadcast = it.hwaddr(), true
		case unix.IFLA_PERM_ADDRESS:
			d.PermAddr = it.hwaddr()
		case unix.IFLA_MASTER:
			d.Master = it.u32()
		case unix.IFLA_LINK:
			d.Parent, d.HasParent = it.u32(), true
		case unix.IFLA_LINK_NETNSID:
			d.LinkNSID, d.HasNSID = int32(it.u32()), true
		case unix.IFLA_OPERSTATE:
			d.OperState = it.u8()
		case unix.IFLA_LINKMODE:
			d.LinkMode = it.u8()
		case unix.IFLA_CARRIER:
			d.Carrier, d.HasCarrier = it.u8() != 0, true
		case unix.IFLA_PROTO_DOWN:
			d.ProtoDown = it.u8() != 0
		case unix.IFLA_QDISC:
			d.Qdisc = it.str()
		case unix.IFLA_IFALIAS:
			d.Alias = it.str()
		case unix.IFLA_PHYS_PORT_NAME:
			d.PhysPort = it.str()
		case unix.IFLA_PHYS_PORT_ID:
			d.PhysPortID = it.hwaddr()
		case unix.IFLA_PHYS_SWITCH_ID:
			d.PhysSwitchID = it.hwaddr()
		case unix.IFLA_PARENT_DEV_NAME:
			d.ParentDev = it.str()
		case unix.IFLA_PARENT_DEV_BUS_NAME:
			d.ParentBus = it.str()
		case unix.IFLA_LINKINFO:
			d.linkinfo(&it)
		case unix.IFLA_PROP_LIST:
			d.properties(&it)
		case unix.IFLA_XDP:
			d.xdp(&it)
		}
	}
	return it.err
}

// linkinfo reads the nested IFLA_LINKINFO.
func (d *Link) linkinfo(it *attrs) {
	sub := it.nested("link info")
	for sub.next() {
		switch sub.typ {
		case unix.IFLA_INFO_KIND:
			d.Kind = sub.str()
		case unix.IFLA_INFO_SLAVE_KIND:
			d.SlaveKind = sub.str()
		case unix.IFLA_INFO_DATA:
			// The kernel writes the kind first.
			d.infoData(&sub)
		}
	}
	it.err = sub.err
}

func (d *Link) infoData(it *attrs) {
	sub := it.nested("link info data")
	for sub.next() {
		switch {
		case d.Kind == "vlan" && sub.typ == unix.IFLA_VLAN_ID:
			d.VLANID = sub.u16()
		case d.Kind == "vlan" && sub.typ == unix.IFLA_VLAN_PROTOCOL:
			d.VLANProtocol = sub.be16()
		case d.Kind == "vrf" && sub.typ == unix.IFLA_VRF_TABLE:
			d.VRFTable = sub.u32()
		}
	}
	it.err = sub.err
}

// properties reads the nested IFLA_PROP_LIST.
func (d *Link) properties(it *attrs) {
	sub := it.nested("link property")
	for sub.next() {
		if sub.typ == unix.IFLA_ALT_IFNAME {
			d.AltNames = append(d.AltNames, sub.str())
		}
	}
	it.err = sub.err
}

// xdp reads the nested IFLA_XDP.
func (d *Link) xdp(it *attrs) {
	sub := it.nested("link xdp")
	for sub.next() {
		switch sub.typ {
		case unix.IFLA_XDP_ATTACHED:
			d.XDPMode = sub.u8()
		case unix.IFLA_XDP_PROG_ID:
			d.XDPProg = sub.u32()
		}
	}
	it.err = sub.err
}

package netstate

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Attributes of linux/fib_rules.h since 6.12 that x/sys does not name.
const (
	fraDSCP          = 25
	fraFlowlabel     = 26
	fraFlowlabelMask = 27
	fraSportMask     = 28
	fraDportMask     = 29
	fraDSCPMask      = 30
)

// Flags of struct fib_rule_hdr (linux/fib_rules.h).
const (
	RulePermanent   = 0x1
	RuleInvert      = 0x2
	RuleUnresolved  = 0x4
	RuleIIFDetached = 0x8
	RuleOIFDetached = 0x10
	RuleFindSaddr   = 0x10000
	// ruleTransient flags change without being part of what the rule says.
	ruleTransient = RulePermanent | RuleUnresolved | RuleIIFDetached | RuleOIFDetached
)

// Actions of a rule (FR_ACT_*).
const (
	RuleToTable     = 1
	RuleGoto        = 2
	RuleNop         = 3
	RuleBlackhole   = 6
	RuleUnreachable = 7
	RuleProhibit    = 8
)

// PortRange is an inclusive range of ports; the zero range matches everything.
type PortRange struct{ Start, End uint16 }

// Rule is a policy rule: RTM_NEWRULE, struct fib_rule_hdr.
type Rule struct {
	Family uint8
	// Action is one of the Rule* actions.
	Action uint8
	// Flags are RuleInvert and the others.
	Flags    uint32
	Priority uint32
	Table    uint32
	Protocol uint8
	// From and To: a length of 0 matches everything.
	From, To netip.Prefix
	IIF, OIF string
	TOS      uint8
	// DSCP and its mask are 6 bits, not shifted; a rule with DSCP has TOS 0.
	HasDSCP        bool
	DSCP, DSCPMask uint8
	HasFlowlabel   bool
	Flowlabel      uint32
	FlowlabelMask  uint32
	Mark, MarkMask uint32
	// HasMark says FRA_FWMARK or FRA_FWMASK was there; without mask it is all ones.
	HasMark bool
	IPProto uint8
	Sport   PortRange
	Dport   PortRange
	// Masks over the ports, since 6.15; 0 is none.
	SportMask, DportMask uint16
	HasUIDRange          bool
	UIDStart, UIDEnd     uint32
	TunID                uint64
	L3MDev               bool
	// Goto is the preference to jump to.
	Goto uint32
	// SuppressPrefixLen is -1 for none, as is SuppressIfGroup.
	SuppressPrefixLen int32
	SuppressIfGroup   int32
	Realm             uint32
	// Unknown is the first attribute type that this decoder does not know, 0 if none.
	Unknown uint16
}

// Invert reports whether the whole selector is negated (`ip rule add not`).
func (d *Rule) Invert() bool { return d.Flags&RuleInvert != 0 }

// Decode reads an RTM_NEWRULE or RTM_DELRULE message of IPv4 or IPv6.
func (d *Rule) Decode(raw []byte) error {
	*d = Rule{SuppressPrefixLen: -1, SuppressIfGroup: -1, DSCPMask: 0x3f, MarkMask: ^uint32(0)}
	_, head, it, err := body(raw, unix.RTM_NEWRULE, unix.RTM_DELRULE, unix.SizeofRtMsg, "rule")
	if err != nil {
		return err
	}
	d.Family, d.TOS, d.Table, d.Action = head[0], head[3], uint32(head[4]), head[7]
	d.Flags = binary.NativeEndian.Uint32(head[8:])
	if familyBytes(d.Family) == 0 {
		return &DecodeError{"rule family", HeaderBytes, "AF_INET or AF_INET6"}
	}
	var from, to netip.Addr
	for it.next() {
		switch it.typ {
		case unix.FRA_DST:
			to = it.addr(d.Family)
		case unix.FRA_SRC:
			from = it.addr(d.Family)
		case unix.FRA_PRIORITY:
			d.Priority = it.u32()
		case unix.FRA_TABLE:
			d.Table = it.u32()
		case unix.FRA_GOTO:
			d.Goto = it.u32()
		case unix.FRA_SUPPRESS_PREFIXLEN:
			d.SuppressPrefixLen = int32(it.u32())
		case unix.FRA_SUPPRESS_IFGROUP:
			d.SuppressIfGroup = int32(it.u32())
		case unix.FRA_PROTOCOL:
			d.Protocol = it.u8()
		case unix.FRA_FLOW:
			d.Realm = it.u32()
		case unix.FRA_PAD:
		default:
			d.selector(&it)
		}
	}
	if it.err != nil {
		return it.err
	}
	var ok bool
	if d.To, ok = prefix(d.Family, to, head[1]); !ok {
		return &DecodeError{"rule destination length", HeaderBytes + 1, "no more than the address has"}
	}
	if d.From, ok = prefix(d.Family, from, head[2]); !ok {
		return &DecodeError{"rule source length", HeaderBytes + 2, "no more than the address has"}
	}
	return nil
}

// selector reads an attribute that says which packets the rule is for.
func (d *Rule) selector(it *attrs) {
	switch it.typ {
	case unix.FRA_IIFNAME:
		d.IIF = it.str()
	case unix.FRA_OIFNAME:
		d.OIF = it.str()
	case unix.FRA_FWMARK:
		d.Mark, d.HasMark = it.u32(), true
	case unix.FRA_FWMASK:
		d.MarkMask, d.HasMark = it.u32(), true
	case fraDSCP:
		d.DSCP, d.HasDSCP = it.u8(), true
	case fraDSCPMask:
		d.DSCPMask = it.u8()
	case fraFlowlabel:
		d.Flowlabel, d.HasFlowlabel = it.be32(), true
	case fraFlowlabelMask:
		d.FlowlabelMask = it.be32()
	case unix.FRA_IP_PROTO:
		d.IPProto = it.u8()
	case unix.FRA_SPORT_RANGE:
		d.Sport = it.portRange()
	case unix.FRA_DPORT_RANGE:
		d.Dport = it.portRange()
	case fraSportMask:
		d.SportMask = it.u16()
	case fraDportMask:
		d.DportMask = it.u16()
	case unix.FRA_UID_RANGE:
		if it.size(8) {
			d.UIDStart = binary.NativeEndian.Uint32(it.val)
			d.UIDEnd = binary.NativeEndian.Uint32(it.val[4:])
			d.HasUIDRange = true
		}
	case unix.FRA_TUN_ID:
		d.TunID = it.be64()
	case unix.FRA_L3MDEV:
		d.L3MDev = it.u8() != 0
	default:
		noteUnknown(&d.Unknown, it.typ)
	}
}

// portRange reads struct fib_rule_port_range, host byte order.
func (a *attrs) portRange() (r PortRange) {
	if a.size(4) {
		r.Start = binary.NativeEndian.Uint16(a.val)
		r.End = binary.NativeEndian.Uint16(a.val[2:])
	}
	return r
}

package ipjson

import (
	"fmt"
	"net/netip"

	"antiphon/netstate"

	"golang.org/x/sys/unix"
)

// Rule is an element of `ip -j rule show`.
func Rule(r *netstate.Rule) Object {
	o := Object{{"priority", r.Priority}}
	if r.Invert() {
		o.add("not", nil)
	}
	if r.From.Bits() > 0 {
		end(&o, "src", "srclen", r.From)
	} else {
		o.add("src", "all")
	}
	if r.To.Bits() > 0 {
		end(&o, "dst", "dstlen", r.To)
	}
	if r.TOS != 0 {
		o.add("tos", netstate.TOSName(r.TOS))
	}
	if r.HasMark {
		o.add("fwmark", hex(r.Mark))
		if r.MarkMask != ^uint32(0) {
			o.add("fwmask", hex(r.MarkMask))
		}
	}
	device(&o, "iif", r.IIF, r.Flags&netstate.RuleIIFDetached != 0)
	device(&o, "oif", r.OIF, r.Flags&netstate.RuleOIFDetached != 0)
	if r.L3MDev {
		o.add("l3mdev", nil)
	}
	if r.HasUIDRange {
		o.add("uid_start", r.UIDStart)
		o.add("uid_end", r.UIDEnd)
	}
	if r.IPProto != 0 {
		o.add("ipproto", netstate.IPProtoName(r.IPProto))
	}
	ports(&o, "sport", r.Sport, r.SportMask)
	ports(&o, "dport", r.Dport, r.DportMask)
	if r.TunID != 0 {
		o.add("tun_id", r.TunID)
	}
	if r.Table != 0 {
		o.add("table", netstate.TableName(r.Table))
		if r.SuppressPrefixLen != -1 {
			o.add("suppress_prefixlen", r.SuppressPrefixLen)
		}
		if r.SuppressIfGroup != -1 {
			o.add("suppress_ifgroup", groupName(uint32(r.SuppressIfGroup)))
		}
	}
	if r.Realm != 0 {
		if from := r.Realm >> 16; from != 0 {
			o.add("flow_from", realmName(from))
		}
		o.add("flow_to", realmName(r.Realm&0xffff))
	}
	action(&o, r)
	if r.Protocol != unix.RTPROT_UNSPEC && r.Protocol != unix.RTPROT_KERNEL {
		o.add("protocol", netstate.ProtocolName(r.Protocol))
	}
	newSelectors(&o, r)
	return o
}

func end(o *Object, key, length string, p netip.Prefix) {
	o.add(key, address(p.Addr()))
	if !p.IsSingleIP() {
		o.add(length, p.Bits())
	}
}

func device(o *Object, key, name string, detached bool) {
	if name == "" {
		return
	}
	o.add(key, name)
	if detached {
		o.add(key+"_detached", nil)
	}
}

func ports(o *Object, key string, r netstate.PortRange, mask uint16) {
	if r == (netstate.PortRange{}) {
		return
	}
	if r.Start != r.End {
		o.add(key+"_start", r.Start)
		o.add(key+"_end", r.End)
		return
	}
	o.add(key, r.Start)
	if mask != 0 && mask != 0xffff {
		o.add(key+"_mask", hex(uint32(mask)))
	}
}

func action(o *Object, r *netstate.Rule) {
	switch r.Action {
	case netstate.RuleToTable:
	case netstate.RuleGoto:
		if r.Goto != 0 {
			o.add("goto", r.Goto)
		} else {
			o.add("goto", "none")
		}
		if r.Flags&netstate.RuleUnresolved != 0 {
			o.add("unresolved", nil)
		}
	case netstate.RuleNop:
		o.add("nop", nil)
	default:
		o.add("action", netstate.RouteTypeName(r.Action))
	}
}

// newSelectors are those that iproute2 6.1 does not know.
func newSelectors(o *Object, r *netstate.Rule) {
	if r.HasDSCP {
		o.add("dscp", fmt.Sprint(r.DSCP))
		if r.DSCPMask != 0x3f {
			o.add("dscp_mask", hex(uint32(r.DSCPMask)))
		}
	}
	if r.HasFlowlabel {
		o.add("flowlabel", hex(r.Flowlabel))
		if r.FlowlabelMask != 0xfffff && r.FlowlabelMask != 0 {
			o.add("flowlabel_mask", hex(r.FlowlabelMask))
		}
	}
}

// hex is C's %#x, which writes 0 as "0".
func hex(v uint32) string {
	if v == 0 {
		return "0"
	}
	return fmt.Sprintf("%#x", v)
}

package presence

import (
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"antiphon/hostshim/netdev"
	"antiphon/transport"
)

// Of linux/netfilter/nf_tables.h and linux/netfilter.h.
const (
	nftGetChain     = unix.NFNL_SUBSYS_NFTABLES<<8 | 4  // NFT_MSG_GETCHAIN
	nftGetFlowtable = unix.NFNL_SUBSYS_NFTABLES<<8 | 23 // NFT_MSG_GETFLOWTABLE

	nftaTable     = 1 // NFTA_CHAIN_TABLE, NFTA_FLOWTABLE_TABLE
	nftaChainName = 3
	nftaChainHook = 4
	nftaFlowName  = 2
	nftaFlowHook  = 3

	nftaHookNum  = 1 // NFTA_HOOK_HOOKNUM, NFTA_FLOWTABLE_HOOK_NUM
	nftaHookDev  = 3 // NFTA_HOOK_DEV; NFTA_FLOWTABLE_HOOK_DEVS is nested there
	nftaHookDevs = 4 // NFTA_HOOK_DEVS
	nftaDevName  = 1 // NFTA_DEVICE_NAME

	protoINET, protoIPv4, protoARP, protoNetdev, protoBridge, protoIPv6 = 1, 2, 3, 5, 7, 10

	hookInetIngress = 5 // NF_INET_INGRESS
	hookDevEgress   = 1 // NF_NETDEV_EGRESS
)

// hookNames are those of enum nf_inet_hooks.
var hookNames = [...]string{"prerouting", "input", "forward", "output", "postrouting", "ingress"}

// hook is where a base chain or a flowtable hangs.
type hook struct {
	present     bool
	family      uint8
	table, name string
	num         uint32
	devs        []string
	// anyDev: it also hangs on devices that it does not name one by one.
	anyDev bool
}

// nftables finds base chains on any hook of ip, ip6, inet, netdev and bridge, and
// flowtables. arp chains cannot touch what is forwarded.
func (r *Reader) nftables(links []netdev.Link) (list []*transport.Presence, _ error) {
	if r.netfilter == nil {
		return nil, nil
	}
	for _, q := range []struct {
		typ   netlink.HeaderType
		parse func([]byte) (hook, error)
	}{{nftGetChain, parseChain}, {nftGetFlowtable, parseFlowtable}} {
		replies, err := r.netfilter.Execute(netlink.Message{
			Header: netlink.Header{Type: q.typ, Flags: netlink.Request | netlink.Dump},
			Data:   []byte{unix.NFPROTO_UNSPEC, unix.NFNETLINK_V0, 0, 0},
		})
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil, nil // no nf_tables in this kernel
		}
		if err != nil {
			return list, err
		}
		for _, m := range replies {
			h, err := q.parse(m.Data)
			if err != nil {
				return list, err
			}
			list = append(list, h.presences(links)...)
		}
	}
	return list, nil
}

// presences says whom a hook can touch.
func (h hook) presences(links []netdev.Link) []*transport.Presence {
	if !h.present {
		return nil
	}
	hooked := fmt.Sprintf("hook %d", h.num)
	if int(h.num) < len(hookNames) {
		hooked = "hook " + hookNames[h.num]
	}
	family, detail := uint32(0), ""
	switch h.family {
	case protoARP:
		return nil
	case protoIPv4:
		family, detail = unix.AF_INET, fmt.Sprintf("table ip %s chain %s %s", h.table, h.name, hooked)
	case protoIPv6:
		family, detail = unix.AF_INET6, fmt.Sprintf("table ip6 %s chain %s %s", h.table, h.name, hooked)
	case protoINET:
		detail = fmt.Sprintf("table inet %s chain %s %s", h.table, h.name, hooked)
	case protoBridge:
		detail = fmt.Sprintf("table bridge %s chain %s %s", h.table, h.name, hooked)
	default:
		detail = fmt.Sprintf("table netdev %s chain %s", h.table, h.name)
	}
	egress := h.family == protoNetdev && h.num == hookDevEgress
	onDevice := h.family == protoNetdev || h.family == protoINET && h.num == hookInetIngress
	if !onDevice || h.anyDev {
		return []*transport.Presence{global("nftables", family, detail)}
	}
	var list []*transport.Presence
	for _, dev := range h.devs {
		for _, l := range links {
			if l.Name == dev {
				list = append(list, &transport.Presence{What: "nftables", Ifindex: l.Index, Family: family,
					Ingress: !egress, Egress: egress, Detail: detail + " device " + dev})
			}
		}
	}
	return list
}

// nfgenmsgBytes is sizeof(struct nfgenmsg): family, version, resource id.
const nfgenmsgBytes = 4

func parseChain(b []byte) (hook, error) {
	return parseHook(b, nftaChainName, nftaChainHook, func(d *netlink.AttributeDecoder, h *hook) {
		switch d.Type() {
		case nftaHookDev:
			h.device(d.String())
		case nftaHookDevs:
			d.Nested(h.devices)
		}
	})
}

func parseFlowtable(b []byte) (hook, error) {
	h, err := parseHook(b, nftaFlowName, nftaFlowHook, func(d *netlink.AttributeDecoder, h *hook) {
		if d.Type() == nftaHookDev {
			d.Nested(h.devices)
		}
	})
	// A flowtable takes packets at the ingress of its devices, whatever its family.
	h.family, h.num, h.name = protoNetdev, 0, "flowtable "+h.name
	return h, err
}

// parseHook reads a chain or flowtable message without its netlink header.
// Attributes of nf_tables are big-endian.
func parseHook(b []byte, nameAttr, hookAttr uint16, more func(*netlink.AttributeDecoder, *hook)) (hook, error) {
	if len(b) < nfgenmsgBytes {
		return hook{}, fmt.Errorf("nf_tables message of %d bytes, want %d", len(b), nfgenmsgBytes)
	}
	h := hook{family: b[0]}
	d, err := netlink.NewAttributeDecoder(b[nfgenmsgBytes:])
	if err != nil {
		return hook{}, fmt.Errorf("nf_tables message: %w", err)
	}
	for d.Next() {
		switch d.Type() {
		case nftaTable:
			h.table = d.String()
		case nameAttr:
			h.name = d.String()
		case hookAttr:
			h.present = true
			d.Nested(func(n *netlink.AttributeDecoder) error {
				for n.Next() {
					if v := n.Bytes(); n.Type() == nftaHookNum && len(v) == 4 {
						h.num = uint32(v[0])<<24 | uint32(v[1])<<16 | uint32(v[2])<<8 | uint32(v[3])
					}
					more(n, &h)
				}
				return nil
			})
		}
	}
	if err := d.Err(); err != nil {
		return hook{}, fmt.Errorf("nf_tables message: %w", err)
	}
	return h, nil
}

// device adds a device; a chain with one device names it in both attributes.
func (h *hook) device(name string) {
	if !slices.Contains(h.devs, name) {
		h.devs = append(h.devs, name)
	}
}

// devices reads NFTA_HOOK_DEVS. Anything but a name (a prefix, say) is any device.
func (h *hook) devices(d *netlink.AttributeDecoder) error {
	for d.Next() {
		if d.Type() == nftaDevName {
			h.device(d.String())
		} else {
			h.anyDev = true
		}
	}
	return nil
}

// Package ipjson writes mirrored rows as iproute2's `ip -j` does: the same keys
// in the same order with values of the same types. It knows no agent and opens
// nothing; callers add their own keys behind. The reference is iproute2 6.1
// without -d; what that version does not know is written as later ones do.
//
// Left out, because a link message does not carry them or the mirror does not
// ask for them: vfinfo_list, proto_down_reason, and an XDP program's name and tag.
package ipjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"

	"antiphon/netstate"
)

// Field is one member of an Object. Value is a string, number, bool, nil,
// Object, []Object or []string.
type Field struct {
	Key   string
	Value any
}

// Object is a JSON object whose members keep their order.
type Object []Field

// Set replaces the member of that key, or adds it at the end.
func (o *Object) Set(key string, value any) {
	for i := range *o {
		if (*o)[i].Key == key {
			(*o)[i].Value = value
			return
		}
	}
	o.add(key, value)
}

// Get returns the member of that key.
func (o Object) Get(key string) (value any, ok bool) {
	for _, f := range o {
		if f.Key == key {
			return f.Value, true
		}
	}
	return nil, false
}

func (o *Object) add(key string, value any) { *o = append(*o, Field{key, value}) }

// MarshalJSON writes the members in order.
func (o Object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, f := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(f.Key)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(f.Value)
		if err != nil {
			return nil, fmt.Errorf("member %s: %w", f.Key, err)
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// Context is what rows say by reference. The zero Context works: links are
// called ifN, and flags stay as their messages had them.
type Context struct {
	// Link returns a link by index, nil if there is none.
	Link func(index uint32) *netstate.Link
	// IgnoreLinkdown is ignore_routes_with_linkdown of a link for a family, the
	// setting of "all" included.
	IgnoreLinkdown func(index uint32, family uint8) bool
}

func (c Context) link(index uint32) *netstate.Link {
	if c.Link == nil {
		return nil
	}
	return c.Link(index)
}

// name is a link's name; "ifN" for an unknown one and "*" for 0, as iproute2's
// ll_index_to_name.
func (c Context) name(index uint32) string {
	if index == 0 {
		return "*"
	}
	if l := c.link(index); l != nil {
		return l.Name
	}
	return fmt.Sprintf("if%d", index)
}

// legFlags is a leg's flags as a dump would have them now.
func (c Context) legFlags(flags uint8, index uint32, family uint8) uint8 {
	l := c.link(index)
	if l == nil {
		return flags
	}
	return netstate.LegFlags(flags, l.Flags, c.IgnoreLinkdown != nil && c.IgnoreLinkdown(index, family))
}

// address writes an address as inet_ntop does: unlike netip, the C library
// writes the IPv4-compatible ::a.b.c.d with dots.
func address(ip netip.Addr) string {
	if ip.Is6() && !ip.Is4In6() {
		b := ip.As16()
		if [12]byte(b[:12]) == [12]byte{} && (b[12] != 0 || b[13] != 0) {
			return "::" + netip.AddrFrom4([4]byte(b[12:])).String()
		}
	}
	return ip.String()
}

// prefix writes a route's destination or source: without length if it is a host.
func prefix(p netip.Prefix) string {
	if p.IsSingleIP() {
		return address(p.Addr())
	}
	return fmt.Sprintf("%s/%d", address(p.Addr()), p.Bits())
}

// hardware writes a link-layer address: that of a tunnel is an IP address.
func hardware(h netstate.HWAddr, linkType uint16) string {
	switch {
	case h.Len == 4 && (linkType == arphrdTunnel || linkType == arphrdSIT || linkType == arphrdIPGRE):
		return netip.AddrFrom4([4]byte(h.Bytes[:4])).String()
	case h.Len == 16 && (linkType == arphrdTunnel6 || linkType == arphrdIP6GRE):
		return address(netip.AddrFrom16([16]byte(h.Bytes[:16])))
	}
	return h.String()
}

package remote

import (
	"fmt"
	"math"
	"net/netip"

	"antiphon/hwmodel"
)

// codec carries the first thing that was wrong through a whole message, with
// the path of the field. The functions of encode.go and decode.go go on after
// an error; whoever calls the outermost looks at err.
type codec struct{ err error }

func (c *codec) fail(field, format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...))
	}
}

// within runs f for a part of a message, whose errors get the part's name.
func within[A, B any](c *codec, field string, in A, f func(*codec, A) B) B {
	before := c.err
	out := f(c, in)
	if before == nil && c.err != nil {
		c.err = fmt.Errorf("%s.%w", field, c.err)
	}
	return out
}

// each runs f for every element of a repeated field. It stops at an error.
func each[A, B any](c *codec, field string, in []A, f func(*codec, A) B) []B {
	if len(in) == 0 || c.err != nil {
		return nil
	}
	out := make([]B, len(in))
	for i, a := range in {
		if out[i] = f(c, a); c.err != nil {
			c.err = fmt.Errorf("%s[%d].%w", field, i, c.err)
			return nil
		}
	}
	return out
}

// number narrows a number of the wire to one that is at most limit.
func number[T ~uint8 | ~uint16](c *codec, field string, value uint32, limit T) T {
	if value > uint32(limit) {
		c.fail(field, "%d, expected at most %d", value, limit)
		return 0
	}
	return T(value)
}

func (c *codec) reason(field string, value uint32) hwmodel.Reason {
	return number(c, field, value, hwmodel.Reason(hwmodel.ReasonCount-1))
}

func (c *codec) port(field string, value uint32) hwmodel.PortID {
	return number(c, field, value, hwmodel.PortID(math.MaxUint16))
}

func (c *codec) table(field string, value uint32) hwmodel.Table {
	if value == 0 {
		c.fail(field, "0, expected a table")
	}
	return number(c, field, value, hwmodel.Table(hwmodel.TableCount-1))
}

func (c *codec) family(field string, value uint32) hwmodel.Family {
	if value != uint32(hwmodel.IPv4) && value != uint32(hwmodel.IPv6) {
		c.fail(field, "%d, expected 4 or 6", value)
	}
	return hwmodel.Family(value)
}

func (c *codec) mac(field string, value []byte) (mac hwmodel.MAC) {
	if copy(mac[:], value); len(value) != len(mac) {
		c.fail(field, "%d bytes, expected %d", len(value), len(mac))
	}
	return mac
}

// addr reads an address, or none if optional.
func (c *codec) addr(field string, value []byte, optional bool) netip.Addr {
	a, ok := netip.AddrFromSlice(value)
	switch {
	case ok, optional && len(value) == 0:
		return a
	case optional:
		c.fail(field, "%d bytes, expected none, 4 or 16", len(value))
	default:
		c.fail(field, "%d bytes, expected 4 or 16", len(value))
	}
	return a
}

// putAddr writes an address, or nothing for none.
func (c *codec) putAddr(field string, a netip.Addr) []byte {
	if a.Zone() != "" {
		c.fail(field, "address %s has a zone: devices know none", a)
	}
	return a.AsSlice()
}

// prefix reads a prefix, or none if optional.
func (c *codec) prefix(field string, p *Prefix, optional bool) netip.Prefix {
	if p == nil {
		if !optional {
			c.fail(field, "missing")
		}
		return netip.Prefix{}
	}
	a := c.addr(field+".addr", p.Addr, false)
	if int64(p.Bits) > int64(a.BitLen()) {
		c.fail(field+".bits", "%d, expected at most %d", p.Bits, a.BitLen())
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, int(p.Bits))
}

// putPrefix writes a prefix, or nothing for the zero one.
func (c *codec) putPrefix(field string, p netip.Prefix) *Prefix {
	if p == (netip.Prefix{}) {
		return nil
	}
	if !p.IsValid() {
		c.fail(field, "invalid prefix")
		return nil
	}
	return &Prefix{Addr: c.putAddr(field, p.Addr()), Bits: uint32(p.Bits())}
}

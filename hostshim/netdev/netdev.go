// Package netdev reads what settings and presences need to know of the links of
// a namespace, in one dump: names, which of them are ports, per-interface
// sysctls (the kernel puts all of them in the dump), attached XDP programs.
package netdev

import (
	"errors"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"antiphon/netstate"
)

// Link is one network device.
type Link struct {
	Index  uint32
	Name   string
	Port   bool   // carries an altname "antiphon-…"
	Kind   string // IFLA_INFO_KIND, "" for plain devices
	Master uint32
	XDP    bool // a program is attached, by whatever means
	// Conf4 and Conf6 are the interface's sysctls in the order of
	// linux/ip.h IPV4_DEVCONF_* (from 1) and linux/ipv6.h DEVCONF_* (from 0);
	// nil when the protocol is not on the interface.
	Conf4, Conf6 []uint32
}

// tries is how often an interrupted dump is repeated.
const tries = 8

// ErrInterrupted means that links changed during every attempt to list them.
var ErrInterrupted = errors.New("links keep changing")

// rtextFilterSkipStats is RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h.
const rtextFilterSkipStats = 8

// List dumps the links over a NETLINK_ROUTE connection.
func List(c *netlink.Conn) ([]Link, error) {
	for range tries {
		links, interrupted, err := list(c)
		if err != nil {
			return nil, fmt.Errorf("list links: %w", err)
		}
		if !interrupted {
			return links, nil
		}
	}
	return nil, ErrInterrupted
}

func list(c *netlink.Conn) (links []Link, interrupted bool, err error) {
	e := netlink.NewAttributeEncoder()
	e.Uint32(unix.IFLA_EXT_MASK, rtextFilterSkipStats)
	attrs, err := e.Encode()
	if err != nil {
		return nil, false, err
	}
	replies, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request | netlink.Dump},
		Data:   append(make([]byte, unix.SizeofIfInfomsg), attrs...),
	})
	if err != nil {
		return nil, false, err
	}
	for _, m := range replies {
		interrupted = interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
		if m.Header.Type != unix.RTM_NEWLINK {
			continue
		}
		l, err := parse(m.Data)
		if err != nil {
			return nil, false, err
		}
		links = append(links, l)
	}
	return links, interrupted, nil
}

// Attributes of linux/if_link.h that x/sys does not name.
const (
	iflaXDPAttached = 2 // IFLA_XDP_ATTACHED
	iflaInetConf    = 1 // IFLA_INET_CONF
	iflaInet6Conf   = 2 // IFLA_INET6_CONF
)

// parse reads an RTM_NEWLINK without its netlink header.
func parse(b []byte) (Link, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return Link{}, fmt.Errorf("link: message of %d bytes, want %d", len(b), unix.SizeofIfInfomsg)
	}
	var l Link
	d, err := netlink.NewAttributeDecoder(b[unix.SizeofIfInfomsg:])
	if err != nil {
		return Link{}, fmt.Errorf("link: %w", err)
	}
	l.Index = d.ByteOrder.Uint32(b[4:])
	for d.Next() {
		switch d.Type() {
		case unix.IFLA_IFNAME:
			l.Name = d.String()
		case unix.IFLA_MASTER:
			l.Master = d.Uint32()
		case unix.IFLA_PROP_LIST:
			d.Nested(func(n *netlink.AttributeDecoder) error {
				for n.Next() {
					if n.Type() == unix.IFLA_ALT_IFNAME && strings.HasPrefix(n.String(), netstate.PortAltName) {
						l.Port = true
					}
				}
				return nil
			})
		case unix.IFLA_LINKINFO:
			d.Nested(func(n *netlink.AttributeDecoder) error {
				for n.Next() {
					if n.Type() == unix.IFLA_INFO_KIND {
						l.Kind = n.String()
					}
				}
				return nil
			})
		case unix.IFLA_XDP:
			d.Nested(func(n *netlink.AttributeDecoder) error {
				for n.Next() {
					if n.Type() == iflaXDPAttached && n.Uint8() != 0 {
						l.XDP = true
					}
				}
				return nil
			})
		case unix.IFLA_AF_SPEC:
			d.Nested(func(n *netlink.AttributeDecoder) error {
				for n.Next() {
					switch n.Type() {
					case unix.AF_INET:
						n.Nested(words(&l.Conf4, iflaInetConf))
					case unix.AF_INET6:
						n.Nested(words(&l.Conf6, iflaInet6Conf))
					}
				}
				return nil
			})
		}
	}
	if err := d.Err(); err != nil {
		return Link{}, fmt.Errorf("link %d: %w", l.Index, err)
	}
	return l, nil
}

// words reads attribute typ as an array of u32.
func words(to *[]uint32, typ uint16) func(*netlink.AttributeDecoder) error {
	return func(d *netlink.AttributeDecoder) error {
		for d.Next() {
			if d.Type() != typ {
				continue
			}
			b := d.Bytes()
			*to = make([]uint32, len(b)/4)
			for i := range *to {
				(*to)[i] = d.ByteOrder.Uint32(b[4*i:])
			}
		}
		return nil
	}
}

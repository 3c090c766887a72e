package sim

import (
	"errors"
	"fmt"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"antiphon/hwmodel/port"
)

// lobby is a namespace of our own in which netdevs are made before they move to
// where they belong, and from which they are watched wherever they go: it gives
// those namespaces an id, hears their link notifications and asks about their
// links by that id. So nothing of ours holds a namespace alive that its owner
// deletes, and nothing but the netdevs can be seen there.
type lobby struct {
	ns  *os.File
	req *netlink.Conn
}

func newLobby() (*lobby, error) {
	ns, err := newPrivateNetns()
	if err != nil {
		return nil, err
	}
	req, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: int(ns.Fd()), Strict: true})
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	return &lobby{ns: ns, req: req}, nil
}

func (l *lobby) Close() error { return errors.Join(l.req.Close(), l.ns.Close()) }

// listen subscribes to the link notifications of every namespace with an id.
func (l *lobby) listen() (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: int(l.ns.Fd())})
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	if err := conn.SetOption(netlink.ListenAllNSID, true); err != nil {
		conn.Close()
		return nil, fmt.Errorf("listen to all namespaces: %w", err)
	}
	if err := conn.JoinGroup(unix.RTNLGRP_LINK); err != nil {
		conn.Close()
		return nil, fmt.Errorf("subscribe to link notifications: %w", err)
	}
	return conn, nil
}

// makeTAP makes a TAP, under whatever name, in the lobby.
func (l *lobby) makeTAP() (tap *port.TAP, err error) {
	err = inNetns(l.ns, func() error {
		for i := 0; ; i++ {
			tap, err = port.CreateTAP(fmt.Sprintf("end%d", i))
			if !errors.Is(err, unix.EBUSY) {
				return err
			}
		}
	})
	return tap, err
}

// makeCable makes two packet sockets that are plugged into each other.
func (l *lobby) makeCable() (fds [2]int, err error) {
	names := [2]string{}
	for i := 0; ; i++ {
		names = [2]string{fmt.Sprintf("cable%da", i), fmt.Sprintf("cable%db", i)}
		if err = l.makeVeth(names[0], names[1]); !errors.Is(err, unix.EEXIST) {
			break
		}
	}
	if err != nil {
		return fds, fmt.Errorf("make cable: %w", err)
	}
	err = inNetns(l.ns, func() error {
		for i, name := range names {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("make cable: %w", err)
			}
			if err := setFlags(name, unix.IFF_UP|unix.IFF_NOARP, unix.IFF_UP|unix.IFF_NOARP); err != nil {
				return fmt.Errorf("make cable: %w", err)
			}
			fd, err := port.OpenPacket(name)
			if err != nil {
				return fmt.Errorf("make cable: %w", err)
			}
			fds[i] = fd
		}
		return nil
	})
	return fds, err
}

// linkRequest is an ifinfomsg with attributes.
func linkRequest(index int32, attrs func(*netlink.AttributeEncoder)) ([]byte, error) {
	msg := make([]byte, unix.SizeofIfInfomsg)
	netlinkOrder.PutUint32(msg[4:], uint32(index))
	ae := netlink.NewAttributeEncoder()
	attrs(ae)
	data, err := ae.Encode()
	return append(msg, data...), err
}

// change sends a request that answers with nothing but an acknowledgement.
func (l *lobby) change(kind netlink.HeaderType, flags netlink.HeaderFlags, data []byte) error {
	_, err := l.req.Execute(netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   data,
	})
	return err
}

// IFLA_LINKINFO of a veth (include/uapi/linux/veth.h).
const vethInfoPeer = 1

func (l *lobby) makeVeth(a, b string) error {
	data, err := linkRequest(0, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.IFLA_IFNAME, a)
		ae.Nested(unix.IFLA_LINKINFO, func(ae *netlink.AttributeEncoder) error {
			ae.String(unix.IFLA_INFO_KIND, "veth")
			ae.Nested(unix.IFLA_INFO_DATA, func(ae *netlink.AttributeEncoder) error {
				peer, err := linkRequest(0, func(ae *netlink.AttributeEncoder) { ae.String(unix.IFLA_IFNAME, b) })
				ae.Bytes(vethInfoPeer, peer)
				return err
			})
			return nil
		})
	})
	if err != nil {
		return err
	}
	return l.change(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, data)
}

// altnameRequest is a link's message with an alternative name to add or remove.
func altnameRequest(index int32, name string) ([]byte, error) {
	return linkRequest(index, func(ae *netlink.AttributeEncoder) {
		ae.Nested(unix.IFLA_PROP_LIST, func(ae *netlink.AttributeEncoder) error {
			ae.String(unix.IFLA_ALT_IFNAME, name)
			return nil
		})
	})
}

// addAltname gives a link of the lobby another name.
func (l *lobby) addAltname(index int32, name string) error {
	data, err := altnameRequest(index, name)
	if err != nil {
		return err
	}
	return l.change(unix.RTM_NEWLINKPROP, netlink.Create|netlink.Excl, data)
}

// move sends a link of the lobby to another namespace under its final name.
func (l *lobby) move(index int32, ns *os.File, name string) error {
	data, err := linkRequest(index, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.IFLA_NET_NS_FD, uint32(ns.Fd()))
		ae.String(unix.IFLA_IFNAME, name)
	})
	if err != nil {
		return err
	}
	return l.change(unix.RTM_NEWLINK, 0, data)
}

// linkState is what matters about a link.
type linkState struct {
	index int32
	flags uint32
}

// link asks about a link by name; nsid -1 is the lobby itself.
func (l *lobby) link(nsid int32, name string) (linkState, error) {
	data, err := linkRequest(0, func(ae *netlink.AttributeEncoder) {
		if nsid >= 0 {
			ae.Int32(unix.IFLA_TARGET_NETNSID, nsid)
		}
		ae.String(unix.IFLA_IFNAME, name)
	})
	if err != nil {
		return linkState{}, err
	}
	replies, err := l.req.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request},
		Data:   data,
	})
	if err != nil {
		return linkState{}, err
	}
	for _, r := range replies {
		if index, flags, ok := parseLink(r); ok {
			return linkState{index, flags}, nil
		}
	}
	return linkState{}, fmt.Errorf("link %s: the kernel's answer is no link", name)
}

// parseLink reads the index and the flags of a link message.
func parseLink(m netlink.Message) (index int32, flags uint32, ok bool) {
	if m.Header.Type != unix.RTM_NEWLINK && m.Header.Type != unix.RTM_DELLINK || len(m.Data) < unix.SizeofIfInfomsg {
		return 0, 0, false
	}
	return int32(netlinkOrder.Uint32(m.Data[4:])), netlinkOrder.Uint32(m.Data[8:]), true
}

// nsid returns the lobby's id of a namespace, giving it one if it has none.
func (l *lobby) nsid(ns *os.File) (int32, error) {
	for {
		id, err := l.getNSID(ns)
		if err != nil || id >= 0 {
			return id, err
		}
		ae := netlink.NewAttributeEncoder()
		ae.Uint32(unix.NETNSA_FD, uint32(ns.Fd()))
		ae.Int32(unix.NETNSA_NSID, -1)
		data, err := ae.Encode()
		if err != nil {
			return 0, err
		}
		err = l.change(unix.RTM_NEWNSID, 0, append(make([]byte, 4), data...))
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return 0, fmt.Errorf("give a namespace an id: %w", err)
		}
	}
}

// getNSID returns -1 for a namespace without an id.
func (l *lobby) getNSID(ns *os.File) (int32, error) {
	ae := netlink.NewAttributeEncoder()
	ae.Uint32(unix.NETNSA_FD, uint32(ns.Fd()))
	data, err := ae.Encode()
	if err != nil {
		return 0, err
	}
	replies, err := l.req.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETNSID, Flags: netlink.Request},
		Data:   append(make([]byte, 4), data...), // struct rtgenmsg, aligned
	})
	if err != nil {
		return 0, fmt.Errorf("ask for a namespace's id: %w", err)
	}
	for _, r := range replies {
		if r.Header.Type != unix.RTM_NEWNSID || len(r.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(r.Data[4:])
		if err != nil {
			return 0, err
		}
		for ad.Next() {
			if ad.Type() == unix.NETNSA_NSID {
				return ad.Int32(), nil
			}
		}
	}
	return 0, errors.New("ask for a namespace's id: the kernel's answer has none")
}

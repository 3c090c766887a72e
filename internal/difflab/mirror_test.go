package difflab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"antiphon/hostshim/netdev"
	"antiphon/netstate"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// state is all of a router that the resolver is told.
type state struct {
	rows     map[netstate.Key]*netstate.Row
	settings *netstate.Settings
	links    map[string]linkState
}

type linkState struct {
	up, lower bool
	mtu       int
}

func equalRows(a, b *netstate.Row) bool {
	return slices.EqualFunc(a.Group, b.Group, func(x, y []byte) bool { return netstate.Equal(a.Key.Kind, x, y) })
}

// difference names what a state differs in from another, for people.
func (s state) difference(o state) string {
	var b strings.Builder
	for _, c := range s.since(o) {
		if c.Key.Kind == netstate.KindNeighbor {
			continue
		}
		fmt.Fprintf(&b, "%v %+v there: %v; ", c.Key.Kind, c.Key, c.Row != nil)
	}
	for i, v := range s.settings.Settings {
		if i >= len(o.settings.Settings) || o.settings.Settings[i] != v {
			fmt.Fprintf(&b, "%s=%s; ", v.Name, v.Value)
		}
	}
	return b.String()
}

// same reports whether nothing differs but what the frames themselves may have
// done to neighbours.
func (s state) same(o state) bool {
	count := func(s state) (n int) {
		for k := range s.rows {
			if k.Kind != netstate.KindNeighbor {
				n++
			}
		}
		return n
	}
	for k, r := range s.rows {
		if k.Kind != netstate.KindNeighbor && (o.rows[k] == nil || !equalRows(r, o.rows[k])) {
			return false
		}
	}
	return count(s) == count(o) && slices.Equal(s.settings.Settings, o.settings.Settings)
}

// since returns the changes that lead from an older state to this one, deletions
// first, then in dump order.
func (s state) since(old state) (changes []netstate.Change) {
	for k := range old.rows {
		if s.rows[k] == nil {
			changes = append(changes, netstate.Change{Key: k})
		}
	}
	for k, r := range s.rows {
		if o := old.rows[k]; o == nil || !equalRows(o, r) {
			changes = append(changes, netstate.Change{Key: k, Row: r})
		}
	}
	rank := func(c netstate.Change) int {
		if c.Row == nil {
			return -1
		}
		return slices.Index(netstate.Kinds[:], c.Key.Kind)
	}
	slices.SortFunc(changes, func(a, b netstate.Change) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return slices.Compare(a.Key.AppendCanonical(nil), b.Key.AppendCanonical(nil))
	})
	return changes
}

// dumps are the request and its size for each kind.
func dumpOf(kind netstate.Kind) (typ uint16, size int) {
	switch kind {
	case netstate.KindLink:
		return unix.RTM_GETLINK, unix.SizeofIfInfomsg
	case netstate.KindAddr:
		return unix.RTM_GETADDR, unix.SizeofIfAddrmsg
	case netstate.KindNeighbor:
		return unix.RTM_GETNEIGH, unix.SizeofNdMsg
	case netstate.KindNexthop:
		return unix.RTM_GETNEXTHOP, 8
	case netstate.KindRule:
		return unix.RTM_GETRULE, unix.SizeofRtMsg
	case netstate.KindRoute:
		return unix.RTM_GETROUTE, unix.SizeofRtMsg
	}
	panic("no dump of " + kind.String())
}

// dumpRows reads all rows of a kind.
func dumpRows(c *netlink.Conn, kind netstate.Kind) (map[netstate.Key]*netstate.Row, error) {
	typ, size := dumpOf(kind)
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, size),
	})
	if err != nil {
		return nil, fmt.Errorf("dump %v: %w", kind, err)
	}
	rows := map[netstate.Key]*netstate.Row{}
	for _, m := range msgs {
		raw, err := m.MarshalBinary()
		if err != nil {
			return nil, err
		}
		clear(raw[6:16]) // flags, sequence number, port: a row has none
		k, _, err := netstate.KeyOf(raw)
		if err == netstate.ErrNotMirrored {
			continue
		} else if err != nil {
			return nil, err
		}
		if rows[k] == nil {
			rows[k] = &netstate.Row{Key: k}
		}
		rows[k].Group = append(rows[k].Group, raw)
	}
	return rows, nil
}

// read dumps everything.
func (w *world) read(t testing.TB) state {
	t.Helper()
	s := state{rows: map[netstate.Key]*netstate.Row{}, links: map[string]linkState{}, settings: &netstate.Settings{}}
	for _, kind := range netstate.Kinds {
		rows, err := dumpRows(w.conn, kind)
		if err != nil {
			t.Fatal(err)
		}
		for k, r := range rows {
			s.rows[k] = r
			if kind == netstate.KindLink {
				var l netstate.Link
				if err := l.Decode(r.Group[0]); err != nil {
					t.Fatal(err)
				}
				s.links[l.Name] = linkState{l.Flags&unix.IFF_UP != 0, l.Flags&unix.IFF_LOWER_UP != 0, int(l.MTU)}
			}
		}
	}
	err := w.dut.Do(func() error {
		links, err := netdev.List(w.conn)
		if err != nil {
			return err
		}
		values, presences, err := w.reader.Read(links)
		for _, v := range values {
			s.settings.Settings = append(s.settings.Settings, netstate.Setting{Name: v.Name, Value: v.Value})
		}
		for _, p := range presences {
			s.settings.Presences = append(s.settings.Presences, netstate.Presence{What: p.What, Ifindex: p.Ifindex, Family: uint8(p.Family),
				Ingress: p.Ingress, Egress: p.Egress, Detail: p.Detail})
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// carriers reports which links run, and whether the kernel has looked at all of
// their carriers: until then a link loses what is sent.
func carriers(rows map[netstate.Key]*netstate.Row) (running map[uint32]bool, seen bool) {
	running = map[uint32]bool{}
	for k, r := range rows {
		if k.Kind != netstate.KindLink {
			continue
		}
		flags := binary.NativeEndian.Uint32(r.Group[0][netstate.HeaderBytes+8:])
		running[k.ID] = flags&unix.IFF_UP != 0 && flags&unix.IFF_LOWER_UP != 0
		if (flags&unix.IFF_RUNNING != 0) != running[k.ID] {
			return nil, false
		}
	}
	return running, true
}

// settled reports whether the kernel has done what it does some time later: look
// at carriers, and put IPv6 addresses into the local table.
func (s state) settled() bool {
	running, seen := carriers(s.rows)
	if !seen {
		return false
	}
	for k := range s.rows {
		if k.Kind == netstate.KindAddr && k.Family == unix.AF_INET6 && running[k.ID] {
			host := netstate.Key{Kind: netstate.KindRoute, Family: unix.AF_INET6, ID: unix.RT_TABLE_LOCAL, Len: 128, Addr: k.Addr}
			if s.rows[host] == nil {
				return false
			}
		}
	}
	return true
}

// settle reads the state once the kernel has come to rest.
func (w *world) settle(t testing.TB) state {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		// What changes before the dump is in it; what changes later is announced.
		for _, fd := range w.events {
			if err := forget(fd); err != nil {
				t.Fatal(err)
			}
		}
		wires, err := dumpRows(w.far, netstate.KindLink)
		if err != nil {
			t.Fatal(err)
		}
		s := w.read(t)
		if _, seen := carriers(wires); seen && s.settled() {
			return s
		}
		left := time.Until(deadline)
		if left <= 0 {
			t.Fatalf("the router does not settle: %+v", s.links)
		}
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(w.events[0]), Events: unix.POLLIN}, {Fd: int32(w.events[1]), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
	}
}

// listen opens a socket that hears of links and of IPv6 routes.
func listen() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, err
	}
	groups := uint32(1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1))
	return fd, unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups})
}

// forget reads what a socket has to say and forgets it.
func forget(fd int) error {
	var buf [1 << 16]byte
	for {
		switch _, _, err := unix.Recvfrom(fd, buf[:], 0); {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR):
			return err
		}
	}
}

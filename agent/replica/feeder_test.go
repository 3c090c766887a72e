package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"antiphon/internal/netnstest"
	"antiphon/netstate"
	"antiphon/transport"
)

// feeder is the smallest possible shim: a notification socket, a dump socket, and
// what they say straight into a Replica.
type feeder struct {
	t          *testing.T
	live, dump int
	r          *Replica
	seq        uint64
	nlseq      uint32
	buf        []byte
}

func newFeeder(t *testing.T, ns *netnstest.NS, r *Replica) *feeder {
	t.Helper()
	f := &feeder{t: t, r: r, buf: make([]byte, 1<<20)}
	err := ns.Do(func() error {
		for _, fd := range []*int{&f.live, &f.dump} {
			var err error
			if *fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE); err != nil {
				return err
			}
			if err := unix.Bind(*fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
				return err
			}
			if err := unix.SetsockoptInt(*fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
				return err
			}
		}
		for _, g := range []int{unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_NEXTHOP} {
			if err := unix.SetsockoptInt(f.live, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
				return fmt.Errorf("join group %d: %w", g, err)
			}
		}
		return unix.SetsockoptInt(f.live, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(f.live); unix.Close(f.dump) })
	return f
}

// drain feeds every notification that is there.
func (f *feeder) drain() {
	f.t.Helper()
	for {
		n, _, err := unix.Recvfrom(f.live, f.buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		f.seq++
		if errors.Is(err, unix.ENOBUFS) {
			f.r.Overrun(f.seq, &transport.Overrun{Count: 1})
			continue
		}
		if err == nil {
			err = f.r.Block(f.seq, &transport.Block{Bytes: f.buf[:n]})
		}
		if err != nil {
			f.t.Fatal(err)
		}
	}
}

// await drains until cond holds, sleeping in poll.
func (f *feeder) await(what string, cond func() bool) {
	f.t.Helper()
	for f.drain(); !cond(); f.drain() {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(f.live), Events: unix.POLLIN}}, 5000)
		if n == 0 && err == nil {
			f.t.Fatalf("no notification for 5 s while waiting for %s", what)
		}
	}
}

// request builds the dump request. Sizes of the fixed headers: struct ifinfomsg,
// ifaddrmsg, ndmsg, rtmsg, fib_rule_hdr, nhmsg.
func request(d *transport.Dump, seq uint32) []byte {
	types := [KindCount]uint16{0, unix.RTM_GETLINK, unix.RTM_GETADDR, unix.RTM_GETNEIGH, unix.RTM_GETROUTE, unix.RTM_GETRULE, unix.RTM_GETNEXTHOP}
	sizes := [KindCount]int{0, 16, 8, 12, 12, 12, 8}
	msg := make([]byte, 16+sizes[d.GetKind()])
	msg[16] = byte(d.GetFilterFamily())
	attr := func(typ uint16, v uint32) {
		msg = binary.NativeEndian.AppendUint16(msg, 8)
		msg = binary.NativeEndian.AppendUint16(msg, typ)
		msg = binary.NativeEndian.AppendUint32(msg, v)
	}
	if d.GetFilterTable() != 0 {
		attr(unix.RTA_TABLE, d.GetFilterTable())
	}
	if d.GetFilterOif() != 0 {
		attr(unix.RTA_OIF, d.GetFilterOif())
	}
	binary.NativeEndian.PutUint32(msg, uint32(len(msg)))
	binary.NativeEndian.PutUint16(msg[4:], types[d.GetKind()])
	binary.NativeEndian.PutUint16(msg[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	binary.NativeEndian.PutUint32(msg[8:], seq)
	return msg
}

// perform does one dump as the kernel gives it.
func (f *feeder) perform(d *transport.Dump) {
	f.t.Helper()
	block := func(first bool, b []byte) {
		f.seq++
		if err := f.r.Block(f.seq, &transport.Block{Dump: d.GetId(), Kind: d.GetKind(), First: first, Bytes: b}); err != nil {
			f.t.Fatal(err)
		}
	}
	end := &transport.DumpEnd{Id: d.GetId(), Kind: d.GetKind()}
	block(true, nil)
	f.nlseq++
	if err := unix.Sendto(f.dump, request(d, f.nlseq), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		f.t.Fatal(err)
	}
	for done := false; !done; {
		n, _, err := unix.Recvfrom(f.dump, f.buf, 0)
		if err != nil {
			f.t.Fatal(err)
		}
		rows := 0 // bytes of rows
		for rest := f.buf[:n]; len(rest) > 0; {
			m, next, err := netstate.NextMessage(rest)
			if err != nil {
				f.t.Fatal(err)
			}
			end.Interrupted = end.Interrupted || m.Flags&unix.NLM_F_DUMP_INTR != 0
			if err, ok := m.Errno(); ok {
				done = true
				var errno unix.Errno
				if errors.As(err, &errno) {
					end.Errno = uint32(errno)
				}
			} else {
				end.Rows++
				rows = n - len(next)
			}
			rest = next
		}
		block(false, f.buf[:rows])
	}
	f.drain()
	f.seq++
	if err := f.r.DumpEnd(f.seq, end); err != nil {
		f.t.Fatal(err)
	}
}

// settle performs what the Replica owes until it owes nothing.
func (f *feeder) settle() {
	f.t.Helper()
	for range 200 {
		f.drain()
		for _, d := range f.r.Dumps() {
			f.perform(d)
		}
		f.r.Changes()
		if f.r.Settled() {
			return
		}
	}
	f.t.Fatalf("not settled: %q", f.r.Pending())
}

// rowsOf copies a Replica's rows.
func rowsOf(r *Replica) map[netstate.Key]*netstate.Row {
	rows := map[netstate.Key]*netstate.Row{}
	for _, k := range netstate.Kinds {
		r.Each(k, func(row *netstate.Row) bool {
			rows[row.Key] = row
			return true
		})
	}
	return rows
}

// diffRows says in which rows two mirrors differ.
func diffRows(have, want map[netstate.Key]*netstate.Row) []string {
	var diffs []string
	same := func(a, b *netstate.Row) bool {
		if len(a.Group) != len(b.Group) {
			return false
		}
		for i := range a.Group {
			if !netstate.Equal(a.Key.Kind, a.Group[i], b.Group[i]) {
				return false
			}
		}
		return true
	}
	for k, row := range have {
		if w := want[k]; w == nil {
			diffs = append(diffs, fmt.Sprintf("%v: not in the kernel", k))
		} else if !same(row, w) {
			diffs = append(diffs, fmt.Sprintf("%v: have %x, kernel %x", k, row.Group, w.Group))
		}
	}
	for k := range want {
		if have[k] == nil {
			diffs = append(diffs, fmt.Sprintf("%v: missing", k))
		}
	}
	slices.Sort(diffs)
	return diffs
}

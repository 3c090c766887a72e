package rtnl

import (
	"fmt"
	"syscall"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// DefaultBuffer is the receive buffer of the notification socket in bytes: at it
// nothing was lost against writers at full speed (some 300k messages).
const DefaultBuffer = 64 << 20

// groups of the notification socket. One socket, because only messages of one
// socket are ordered against each other.
var groups = [...]uint32{
	unix.RTNLGRP_LINK,
	unix.RTNLGRP_NEIGH,
	unix.RTNLGRP_TC,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	unix.RTNLGRP_IPV4_MROUTE, unix.RTNLGRP_IPV6_MROUTE,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
	unix.RTNLGRP_NEXTHOP,
	unix.RTNLGRP_NSID,
}

// Live is the notification socket. Wait may run beside the other methods; those
// are for one goroutine.
type Live struct {
	conn   *netlink.Conn
	raw    syscall.RawConn
	buffer int
	batch  *batch
}

// OpenLive opens the notification socket in a namespace (netns.NS.Fd) with a
// receive buffer of so many bytes, past net.core.rmem_max if privileges allow.
func OpenLive(ns, buffer int) (*Live, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: ns, Strict: true})
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	l := &Live{conn: conn, batch: newBatch(slotBytes)}
	if err := l.prepare(buffer); err != nil {
		conn.Close()
		return nil, err
	}
	return l, nil
}

func (l *Live) prepare(buffer int) (err error) {
	if err := l.conn.SetReadBuffer(buffer); err != nil {
		return fmt.Errorf("rtnetlink receive buffer: %w", err)
	}
	if l.buffer, err = l.conn.ReadBuffer(); err != nil {
		return fmt.Errorf("rtnetlink receive buffer: %w", err)
	}
	for _, g := range groups {
		if err := l.conn.JoinGroup(g); err != nil {
			return fmt.Errorf("join rtnetlink group %d: %w", g, err)
		}
	}
	if l.raw, err = l.conn.SyscallConn(); err != nil {
		return fmt.Errorf("rtnetlink socket: %w", err)
	}
	return nil
}

// Buffer is the size of the receive buffer as the kernel accounts it, in bytes:
// no more than this many bytes were queued at any moment.
func (l *Live) Buffer() int { return l.buffer }

// Close closes the socket and ends Wait.
func (l *Live) Close() error { return l.conn.Close() }

// Wait blocks until there is something to read or the socket is closed.
func (l *Live) Wait() error {
	return l.raw.Read(func(fd uintptr) bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0
	})
}

// Result is what a Read found.
type Result struct {
	// Drained: the kernel had nothing more queued.
	Drained bool
	// Lost counts losses: the socket overflowed, or a datagram did not fit. The
	// messages of the same Read may be older than the loss; the socket must be
	// read until Drained before what follows can be trusted, because it stays
	// congested until then.
	Lost uint64
	// Settings: a setting or an unmirrored thing may have changed.
	Settings bool
}

// Read appends queued datagrams, whole, to block until its capacity is used up or
// nothing is queued. It does not block.
func (l *Live) Read(block []byte) ([]byte, Result, error) {
	var r Result
	for {
		var full bool
		if block, full = l.batch.take(block, &r); full {
			return block, r, nil
		}
		var errno unix.Errno
		if err := l.raw.Control(func(fd uintptr) { errno = l.batch.receive(int(fd)) }); err != nil {
			return block, r, fmt.Errorf("read rtnetlink: %w", err)
		}
		switch errno {
		case 0, unix.EINTR:
		case unix.EAGAIN:
			r.Drained = true
			return block, r, nil
		case unix.ENOBUFS:
			// Older messages are still queued; reading goes on.
			r.Lost++
		default:
			return block, r, fmt.Errorf("read rtnetlink: %w", errno)
		}
	}
}

const (
	// slots is how many datagrams one recvmmsg takes: enough to make the system
	// call vanish.
	slots = 64
	// slotBytes is room for one notification. An attribute ends at 64 KiB, so a
	// route with thousands of legs fits; a link with hundreds of virtual
	// functions may not: then slots grow, up to maxSlotBytes. Pages that nothing
	// was ever received into take no memory.
	slotBytes    = 128 << 10
	maxSlotBytes = 1 << 20
	// slotSkew keeps slots off the same cache sets.
	slotSkew = 4096 + 5*64
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [unsafe.Sizeof(uintptr(0)) - 4]byte
}

// batch is the receive buffers of recvmmsg and the datagrams in them that were
// not taken yet.
type batch struct {
	memory []byte
	size   int
	msgs   [slots]mmsghdr
	iovs   [slots]unix.Iovec
	from   [slots]unix.RawSockaddrNetlink
	at, n  int
}

func newBatch(size int) *batch {
	b := &batch{}
	b.resize(size)
	return b
}

func (b *batch) resize(size int) {
	stride := size + slotSkew
	b.memory, b.size = make([]byte, slots*stride), size
	for i := range b.msgs {
		b.iovs[i].Base = &b.memory[i*stride]
		b.iovs[i].SetLen(size)
		h := &b.msgs[i].hdr
		h.Iov = &b.iovs[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&b.from[i]))
	}
}

// receive fills the batch, which must be empty.
func (b *batch) receive(fd int) unix.Errno {
	for i := range b.msgs {
		b.msgs[i].hdr.Namelen = unix.SizeofSockaddrNetlink
	}
	b.at, b.n = 0, 0
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.msgs[0])), slots,
		unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
	if errno == 0 {
		b.n = int(n)
	}
	return errno
}

// take moves datagrams from the batch to block; full means that the next one does
// not fit. Only the kernel (port 0) is believed.
func (b *batch) take(block []byte, r *Result) (_ []byte, full bool) {
	stride := b.size + slotSkew
	grow := 0
	for ; b.at < b.n; b.at++ {
		m := &b.msgs[b.at]
		if b.from[b.at].Pid != 0 {
			continue
		}
		if m.hdr.Flags&unix.MSG_TRUNC != 0 {
			r.Lost++
			grow = max(grow, int(m.n))
			continue
		}
		d := b.memory[b.at*stride:][:m.n]
		if cap(block)-len(block) < len(d) {
			return block, true
		}
		r.Settings = r.Settings || settingsMayChange(d)
		block = append(block, d...)
	}
	if grow > 0 && b.size < maxSlotBytes {
		b.at, b.n = 0, 0
		b.resize(min(max(2*b.size, grow), maxSlotBytes))
	}
	return block, false
}

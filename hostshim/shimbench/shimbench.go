// Package shimbench measures the shim's road from the kernel to a null sink
// against bare loops that do no more than receive, in the same namespace. It is
// for the benchmark harness and for tests; the product does not use it.
package shimbench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"antiphon/hostshim"
	"antiphon/hostshim/rtnl"
	"antiphon/netstate"
	"antiphon/transport"
)

// Rate is what one run took.
type Rate struct {
	// Items counts messages (Bare counts datagrams, which are messages here).
	Items int
	Bytes int
	// CPU is the user and system time of the process.
	CPU time.Duration
}

// PerSecond is items per CPU second.
func (r Rate) PerSecond() float64 { return float64(r.Items) / r.CPU.Seconds() }

// measure runs f and takes its CPU time.
func measure(f func(*Rate) error) (r Rate, err error) {
	before, err := cpu()
	if err != nil {
		return r, err
	}
	if err := f(&r); err != nil {
		return r, err
	}
	after, err := cpu()
	r.CPU = after - before
	return r, err
}

func cpu() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("CPU time: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// Fill adds n IPv4 blackhole routes to the main table of a namespace
// (netns.NS.Fd), or deletes them, in batches of one system call.
func Fill(ns, n int, del bool) error {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: ns})
	if err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	const batch = 512
	var b []byte
	for i := 0; i < n; i++ {
		b = appendRoute(b, uint32(i), del)
		if (i+1)%batch != 0 && i+1 != n {
			continue
		}
		var inner error
		if err := raw.Control(func(fd uintptr) {
			if inner = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); inner != nil {
				return
			}
			// Without NLM_F_ACK the kernel answers errors only.
			var answer [4096]byte
			if m, _, err := unix.Recvfrom(int(fd), answer[:], unix.MSG_DONTWAIT); err == nil && m >= 20 {
				inner = unix.Errno(-int32(binary.NativeEndian.Uint32(answer[16:])))
			}
		}); err != nil {
			return err
		}
		if inner != nil {
			return fmt.Errorf("fill routes up to %d: %w", i, inner)
		}
		b = b[:0]
	}
	return nil
}

// appendRoute appends RTM_NEWROUTE or RTM_DELROUTE of blackhole 10.0.0.0/32 + i.
func appendRoute(b []byte, i uint32, del bool) []byte {
	const length = unix.SizeofNlMsghdr + unix.SizeofRtMsg + 8
	typ, flags := uint16(unix.RTM_NEWROUTE), uint16(unix.NLM_F_REQUEST|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	if del {
		typ, flags = unix.RTM_DELROUTE, unix.NLM_F_REQUEST
	}
	b = binary.NativeEndian.AppendUint32(b, length)
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = append(b, make([]byte, 8)...)
	b = append(b, unix.AF_INET, 32, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_BLACKHOLE, 0, 0, 0, 0)
	b = binary.NativeEndian.AppendUint16(b, 8)
	b = binary.NativeEndian.AppendUint16(b, unix.RTA_DST)
	return binary.BigEndian.AppendUint32(b, 10<<24+i)
}

// RawDump reads an IPv4 route dump of the main table and looks at nothing but its
// end. Items stays 0: nobody counts.
func RawDump(ns int) (Rate, error) {
	return measure(func(r *Rate) error {
		c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: ns, Strict: true})
		if err != nil {
			return err
		}
		defer c.Close()
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		body := make([]byte, unix.SizeofRtMsg)
		body[0] = unix.AF_INET
		body = append(body, 8, 0, unix.RTA_TABLE, 0, unix.RT_TABLE_MAIN, 0, 0, 0)
		if _, err := c.Send(netlink.Message{Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request | netlink.Dump}, Data: body}); err != nil {
			return err
		}
		buf := make([]byte, 1<<20)
		var inner error
		err = raw.Read(func(fd uintptr) bool {
			for {
				n, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
				if err == unix.EAGAIN {
					return false
				}
				if inner = err; err != nil {
					return true
				}
				r.Bytes += n
				// NLMSG_DONE with its status ends the last datagram.
				const done = unix.SizeofNlMsghdr + 4
				if n >= done && binary.NativeEndian.Uint16(buf[n-done+4:]) == unix.NLMSG_DONE && binary.NativeEndian.Uint32(buf[n-done:]) == done {
					return true
				}
			}
		})
		return errors.Join(err, inner)
	})
}

// MirrorDump is the same dump the shim's way: Mirror and Dumper, messages made and
// thrown away.
func MirrorDump(ns int) (Rate, error) {
	live, err := rtnl.OpenLive(ns, rtnl.DefaultBuffer)
	if err != nil {
		return Rate{}, err
	}
	defer live.Close()
	block := make([]byte, 0, transport.MaxBlock)
	return measure(func(r *Rate) error {
		d, err := rtnl.OpenDumper(ns)
		if err != nil {
			return err
		}
		defer d.Close()
		m := hostshim.NewMirror(transport.DefaultCredit, live.Buffer())
		m.Dump(&transport.Dump{Id: 1, Kind: uint32(netstate.KindRoute), FilterFamily: unix.AF_INET, FilterTable: unix.RT_TABLE_MAIN})
		started := false
		return pump(m, live, block, r, func() (bool, error) {
			if dump := m.Dumping(); !started {
				started = true
				if err := d.Start(dump.Kind, dump.Filter); err != nil {
					return false, err
				}
			}
			b, p, err := d.Read(block[:0])
			r.Items += int(p.Rows)
			if err == nil {
				m.Rows(b, p)
			}
			return p.Done, err
		})
	})
}

// pump is the shim's loop with a sink that pays at once. It ends when nothing is
// left to do; Bytes counts what blocks hold.
func pump(m *hostshim.Mirror, live *rtnl.Live, block []byte, r *Rate, readDump func() (bool, error)) error {
	for {
		switch m.Next() {
		case hostshim.Wait:
			return nil
		case hostshim.Send:
			if n := len(m.Out().GetBlock().GetBytes()); n > 0 {
				r.Bytes += n
				m.Credit(uint32(n))
			}
		case hostshim.ReadSettings:
			m.Settings(&transport.Settings{})
		case hostshim.ReadDump:
			if _, err := readDump(); err != nil {
				return err
			}
		case hostshim.ReadLive:
			b, res, err := live.Read(block[:0])
			if err != nil {
				return err
			}
			if res.Lost > 0 {
				return fmt.Errorf("%d losses: the buffer is too small for this run", res.Lost)
			}
			m.Live(b, res)
		}
	}
}

// Live is two notification sockets that hear the same: one read bare, one read
// the shim's way.
type Live struct {
	bare   *bare
	live   *rtnl.Live
	mirror *hostshim.Mirror
	block  []byte
}

// OpenLive opens both in a namespace with buffers of the same size.
func OpenLive(ns, buffer int) (*Live, error) {
	l := &Live{block: make([]byte, 0, transport.MaxBlock)}
	var err error
	if l.live, err = rtnl.OpenLive(ns, buffer); err != nil {
		return nil, err
	}
	if l.bare, err = openBare(ns, buffer); err != nil {
		l.live.Close()
		return nil, err
	}
	l.mirror = hostshim.NewMirror(transport.DefaultCredit, l.live.Buffer())
	return l, nil
}

// Close closes both sockets.
func (l *Live) Close() error { return errors.Join(l.live.Close(), l.bare.conn.Close()) }

// Bare drains the bare socket. Overflow is an error.
func (l *Live) Bare() (Rate, error) { return measure(l.bare.drain) }

// Mirror drains the other one through the core. Items stays 0: the shim does not
// count messages; Bytes are the same for the same messages.
func (l *Live) Mirror() (Rate, error) {
	l.mirror.Readable()
	return measure(func(r *Rate) error { return pump(l.mirror, l.live, l.block, r, nil) })
}

// bare is a recvmmsg loop without parsing.
type bare struct {
	conn *netlink.Conn
	msgs [64]struct {
		hdr unix.Msghdr
		n   uint32
		_   [unsafe.Sizeof(uintptr(0)) - 4]byte
	}
	iovs [64]unix.Iovec
}

func openBare(ns, buffer int) (*bare, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: ns, Groups: 1 << (unix.RTNLGRP_IPV4_ROUTE - 1)})
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	if err := conn.SetReadBuffer(buffer); err != nil {
		conn.Close()
		return nil, err
	}
	b := &bare{conn: conn}
	const slot = 8192
	memory := make([]byte, len(b.msgs)*slot)
	for i := range b.msgs {
		b.iovs[i].Base = &memory[i*slot]
		b.iovs[i].SetLen(slot)
		b.msgs[i].hdr.Iov = &b.iovs[i]
		b.msgs[i].hdr.SetIovlen(1)
	}
	return b, nil
}

func (b *bare) drain(r *Rate) error {
	raw, err := b.conn.SyscallConn()
	if err != nil {
		return err
	}
	var errno unix.Errno
	err = raw.Control(func(fd uintptr) {
		for {
			var n uintptr
			n, _, errno = unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.msgs[0])), uintptr(len(b.msgs)), unix.MSG_DONTWAIT, 0, 0)
			if errno != 0 {
				return
			}
			r.Items += int(n)
			for i := range b.msgs[:n] {
				r.Bytes += int(b.msgs[i].n)
			}
		}
	})
	if err == nil && errno != unix.EAGAIN {
		err = errno
	}
	return err
}

package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"antiphon/netstate"
)

const (
	// dumpRoom is how much of a block must be free to read one more datagram: the
	// kernel fills 32 KiB, more only for a row that needs it.
	dumpRoom = 64 << 10
	// dumpTimeout is how long the kernel may say nothing within a dump. It fills
	// the next buffer inside our own read, so silence means a bug.
	dumpTimeout = 30 * time.Second
)

// Dumper dumps one kind at a time from a socket of its own. It is for one
// goroutine.
type Dumper struct {
	ns      int
	conn    *netlink.Conn
	raw     syscall.RawConn
	seq     uint32
	room    int
	pending []request
	current request
	asked   bool
}

// OpenDumper opens a socket for dumps in a namespace (netns.NS.Fd), which must
// stay open as long as the Dumper.
func OpenDumper(ns int) (*Dumper, error) {
	d := &Dumper{ns: ns, room: dumpRoom}
	if err := d.dial(); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Dumper) dial() (err error) {
	if d.conn, err = netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: d.ns, Strict: true}); err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	if d.raw, err = d.conn.SyscallConn(); err != nil {
		d.conn.Close()
		return fmt.Errorf("rtnetlink socket: %w", err)
	}
	d.asked = false
	return nil
}

// Close closes the socket.
func (d *Dumper) Close() error { return d.conn.Close() }

// Start begins a dump. A dump that is not finished is abandoned. ErrRequest means
// that there is no such dump.
func (d *Dumper) Start(kind netstate.Kind, f Filter) error {
	list, err := requests(kind, f)
	if err != nil {
		return err
	}
	if d.asked {
		// The kernel runs one dump per socket and does not break one off.
		d.conn.Close()
		if err := d.dial(); err != nil {
			return err
		}
	}
	d.pending = list
	return nil
}

// Progress is what one Read added.
type Progress struct {
	// Rows counts the messages appended.
	Rows uint64
	// Done: the dump has ended.
	Done bool
	// Interrupted: the kernel says that the table changed meanwhile, or something
	// was lost. The rows settle nothing.
	Interrupted bool
	// Errno is why the kernel refused or broke off, 0 otherwise.
	Errno unix.Errno
}

// Read appends rows, whole messages as the kernel wrote them, to block until
// its capacity is used up or the dump ends.
func (d *Dumper) Read(block []byte) ([]byte, Progress, error) {
	var p Progress
	for {
		if !d.asked {
			if len(d.pending) == 0 {
				p.Done = true
				return block, p, nil
			}
			if err := d.ask(); err != nil {
				return block, p, err
			}
		}
		if cap(block)-len(block) < d.room {
			return block, p, nil
		}
		datagram, truncated, err := d.receive(block[len(block):cap(block)])
		if errors.Is(err, unix.ENOBUFS) {
			p.Interrupted = true
			continue
		}
		if err != nil {
			return block, p, err
		}
		if truncated {
			p.Interrupted = true
			d.room = min(2*d.room, cap(block))
		}
		rows, s := sift(datagram, d.seq)
		block = block[:len(block)+len(rows)]
		p.Rows += s.rows
		p.Interrupted = p.Interrupted || s.interrupted
		if !s.done {
			continue
		}
		d.asked = false
		if errno := d.verdict(s.errno); errno != 0 {
			d.pending, p.Errno, p.Done = nil, errno, true
			return block, p, nil
		}
	}
}

// verdict decides whether an error ends the dump.
func (d *Dumper) verdict(errno unix.Errno) unix.Errno {
	switch {
	case errno == unix.ENOENT && d.current.table:
		return 0
	case d.current.optional && (errno == unix.EOPNOTSUPP || errno == unix.EAFNOSUPPORT):
		return 0
	}
	return errno
}

// ask sends the next request.
func (d *Dumper) ask() error {
	d.current, d.pending = d.pending[0], d.pending[1:]
	d.seq++
	msg := d.current.marshal(d.seq)
	var inner error
	err := d.raw.Write(func(fd uintptr) bool {
		inner = unix.Sendto(int(fd), msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return !errors.Is(inner, unix.EAGAIN)
	})
	if err = errors.Join(err, inner); err != nil {
		return fmt.Errorf("ask for a dump: %w", err)
	}
	d.asked = true
	return nil
}

// receive reads one datagram into b.
func (d *Dumper) receive(b []byte) (datagram []byte, truncated bool, err error) {
	if err := d.conn.SetReadDeadline(time.Now().Add(dumpTimeout)); err != nil {
		return nil, false, fmt.Errorf("read a dump: %w", err)
	}
	var n, flags int
	var inner error
	err = d.raw.Read(func(fd uintptr) bool {
		n, _, flags, _, inner = unix.Recvmsg(int(fd), b, nil, unix.MSG_DONTWAIT)
		return inner != unix.EAGAIN && inner != unix.EINTR
	})
	if err = errors.Join(err, inner); err != nil {
		return nil, false, fmt.Errorf("read a dump: %w", err)
	}
	return b[:n], flags&unix.MSG_TRUNC != 0, nil
}

// sifted is what a datagram of a dump says besides its rows.
type sifted struct {
	rows        uint64
	done        bool
	interrupted bool
	errno       unix.Errno
}

// sift keeps the rows of a dump's datagram that answer request seq, moving them
// together at the start of b.
func sift(b []byte, seq uint32) (rows []byte, s sifted) {
	kept, at := 0, 0
	for at < len(b) {
		h, msg, _, ok := next(b[at:])
		if !ok {
			// A truncated tail: rows are missing.
			s.interrupted = true
			break
		}
		start := at
		at += len(msg)
		if h.seq != seq {
			continue
		}
		if h.flags&unix.NLM_F_DUMP_INTR != 0 {
			s.interrupted = true
		}
		switch {
		case h.typ == unix.NLMSG_DONE || h.typ == unix.NLMSG_ERROR:
			s.done = true
			if len(msg) >= headerBytes+4 {
				if code := int32(binary.NativeEndian.Uint32(msg[headerBytes:])); code < 0 && code > -4096 {
					s.errno = unix.Errno(-code)
				}
			}
		case h.typ == unix.NLMSG_OVERRUN:
			s.interrupted = true
		case h.typ >= unix.NLMSG_MIN_TYPE:
			if kept != start {
				copy(b[kept:], msg)
			}
			kept += len(msg)
			s.rows++
		}
	}
	return b[:kept], s
}

// Package feedback tells the kernel what traffic in the device keeps in use.
// Today that is neighbours: without it the kernel would let an entry go stale and
// delete it while the device forwards to it. It never makes an entry.
package feedback

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"antiphon/netstate"
)

// burst is how many requests go in one datagram.
const burst = 256

// Neighbors marks neighbours of a namespace as used. It is for one goroutine.
type Neighbors struct {
	conn *netlink.Conn
	raw  syscall.RawConn
	buf  []byte
}

// Open opens a socket in a namespace (netns.NS.Fd).
func Open(ns int) (*Neighbors, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: ns})
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("rtnetlink socket: %w", err)
	}
	return &Neighbors{conn: conn, raw: raw}, nil
}

// Close closes the socket.
func (n *Neighbors) Close() error { return n.conn.Close() }

// Use marks neighbours, given as canonical netstate keys, as used: the kernel
// probes those that are stale. Entries that do not exist (any more) are left
// alone; keys that are not of neighbours are reported after the others are done.
func (n *Neighbors) Use(keys [][]byte) error {
	var errs []error
	for len(keys) > 0 {
		n.buf = n.buf[:0]
		for i := 0; i < burst && len(keys) > 0; i++ {
			var err error
			if n.buf, err = appendUse(n.buf, keys[0]); err != nil {
				errs = append(errs, err)
			}
			keys = keys[1:]
		}
		if len(n.buf) > 0 {
			errs = append(errs, n.send())
		}
	}
	return errors.Join(errs...)
}

// send writes the requests and takes the refusals off the socket: a neighbour
// that has gone is none of our business.
func (n *Neighbors) send() error {
	var inner error
	err := n.raw.Control(func(fd uintptr) {
		if inner = unix.Sendto(int(fd), n.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); inner != nil {
			return
		}
		var refusals [4096]byte
		for {
			if _, _, err := unix.Recvfrom(int(fd), refusals[:], unix.MSG_DONTWAIT); err != nil && err != unix.ENOBUFS && err != unix.EINTR {
				return
			}
		}
	})
	if err = errors.Join(err, inner); err != nil {
		return fmt.Errorf("mark neighbours as used: %w", err)
	}
	return nil
}

// appendUse appends RTM_NEWNEIGH with NTF_USE and without NLM_F_CREATE for a key
// (netstate.Key.AppendCanonical: kind, family, tos, len, u32 id at 4, u8 flag at
// 16, address at 17).
func appendUse(b, key []byte) ([]byte, error) {
	if len(key) != netstate.KeyBytes {
		return b, fmt.Errorf("key of %d bytes, want %d", len(key), netstate.KeyBytes)
	}
	family, addr := key[1], 0
	switch family {
	case unix.AF_INET:
		addr = 4
	case unix.AF_INET6:
		addr = 16
	}
	if kind := netstate.Kind(key[0]); kind != netstate.KindNeighbor || addr == 0 || key[16] != 0 {
		return b, fmt.Errorf("key of kind %v, family %d, flag %d is not one of a resolved neighbour", kind, family, key[16])
	}
	const head = unix.SizeofNlMsghdr + unix.SizeofNdMsg
	at := len(b)
	b = append(b, make([]byte, head)...)
	m := b[at:]
	binary.NativeEndian.PutUint16(m[4:], unix.RTM_NEWNEIGH)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST)
	m[unix.SizeofNlMsghdr] = family
	binary.NativeEndian.PutUint32(m[unix.SizeofNlMsghdr+4:], binary.BigEndian.Uint32(key[4:]))
	m[unix.SizeofNlMsghdr+10] = unix.NTF_USE
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+addr))
	b = binary.NativeEndian.AppendUint16(b, unix.NDA_DST)
	b = append(b, key[17:17+addr]...)
	binary.NativeEndian.PutUint32(b[at:], uint32(len(b)-at))
	return b, nil
}

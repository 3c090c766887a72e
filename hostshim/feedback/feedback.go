// Package feedback tells the kernel what traffic in the device keeps in use.
// Today that is neighbours: without it the kernel would never learn that a stale
// one is needed, and would not ask whether it is still there. It makes no entry,
// changes none, and wakes only those that a packet of the kernel's would wake.
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

const (
	// burst is how many requests go in one datagram: the answers to all of them
	// fit into a socket's default buffer.
	burst = 64
	// maxAnswer is longer than any answer about one neighbour.
	maxAnswer = 4096
	// ntfExtManaged is NTF_EXT_MANAGED (linux/neighbour.h).
	ntfExtManaged = 1
)

// Neighbors marks neighbours of a namespace as used. It is for one goroutine.
type Neighbors struct {
	conn *netlink.Conn
	raw  syscall.RawConn
	gets []byte
	uses []byte
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

// Use says that packets went to neighbours, given as canonical netstate keys: the
// kernel begins to probe those that are stale (STALE to DELAY, as with a packet of
// its own; net/core/neighbour.c neigh_event_send). All others are left alone: a
// valid one needs nothing, one that is gone must not come back. Keys that are not
// of neighbours are reported after the others are done.
//
// Each is looked at first, because NTF_USE does more than it says: it takes the
// permanence off a permanent entry, whose address is then forgotten, and the mark
// off one that a routing daemon owns.
func (n *Neighbors) Use(keys [][]byte) error {
	var errs []error
	for len(keys) > 0 {
		n.gets, n.uses = n.gets[:0], n.uses[:0]
		for i := 0; i < burst && len(keys) > 0; i++ {
			var err error
			if n.gets, err = appendGet(n.gets, keys[0]); err != nil {
				errs = append(errs, err)
			}
			keys = keys[1:]
		}
		errs = append(errs, n.ask(n.gets, func(answer []byte) { n.uses = appendUse(n.uses, answer) }))
		errs = append(errs, n.ask(n.uses, func([]byte) {}))
	}
	return errors.Join(errs...)
}

// ask sends requests in one datagram and takes the answers off the socket; the
// kernel has given all of them when the send returns. Refusals come as messages
// too: a neighbour that has gone is none of our business.
func (n *Neighbors) ask(requests []byte, answer func([]byte)) error {
	if len(requests) == 0 {
		return nil
	}
	var inner error
	err := n.raw.Control(func(fd uintptr) {
		if inner = unix.Sendto(int(fd), requests, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); inner != nil {
			return
		}
		var buf [maxAnswer]byte
		for {
			got, _, err := unix.Recvfrom(int(fd), buf[:], unix.MSG_DONTWAIT)
			switch err {
			case nil:
				answer(buf[:got])
			case unix.ENOBUFS, unix.EINTR:
			default:
				return
			}
		}
	})
	if err = errors.Join(err, inner); err != nil {
		return fmt.Errorf("mark neighbours as used: %w", err)
	}
	return nil
}

// appendGet appends RTM_GETNEIGH for a key (netstate.Key.AppendCanonical: kind,
// family, tos, len, u32 id at 4, u8 flag at 16, address at 17).
func appendGet(b, key []byte) ([]byte, error) {
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
	return appendRequest(b, unix.RTM_GETNEIGH, family, binary.BigEndian.Uint32(key[4:]), 0, key[17:17+addr]), nil
}

// appendUse appends RTM_NEWNEIGH with NTF_USE and without NLM_F_CREATE if the
// answer is a neighbour that a packet would wake.
func appendUse(b, answer []byte) []byte {
	var d netstate.Neighbor
	if len(answer) < unix.SizeofNlMsghdr || binary.NativeEndian.Uint16(answer[4:]) != unix.RTM_NEWNEIGH || d.Decode(answer) != nil {
		return b
	}
	if d.State&unix.NUD_STALE == 0 || d.Proxy || d.FlagsExt&ntfExtManaged != 0 {
		return b
	}
	return appendRequest(b, unix.RTM_NEWNEIGH, d.Family, d.Index, unix.NTF_USE|d.Flags&unix.NTF_EXT_LEARNED, d.Dst.AsSlice())
}

// appendRequest appends a message with struct ndmsg and NDA_DST.
func appendRequest(b []byte, typ uint16, family uint8, index uint32, flags uint8, addr []byte) []byte {
	const head = unix.SizeofNlMsghdr + unix.SizeofNdMsg
	at := len(b)
	b = append(b, make([]byte, head)...)
	m := b[at:]
	binary.NativeEndian.PutUint16(m[4:], typ)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST)
	m[unix.SizeofNlMsghdr] = family
	binary.NativeEndian.PutUint32(m[unix.SizeofNlMsghdr+4:], index)
	m[unix.SizeofNlMsghdr+10] = flags
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(addr)))
	b = binary.NativeEndian.AppendUint16(b, unix.NDA_DST)
	b = append(b, addr...)
	binary.NativeEndian.PutUint32(b[at:], uint32(len(b)-at))
	return b
}

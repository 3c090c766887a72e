package port

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"antiphon/hwmodel"
)

// Receive memory. Most frames fit a slot; the tail of a longer one goes to the
// spill and both are then copied into a buffer of MaxFrame bytes that the slot
// keeps. So memory stays compact, and nothing is allocated per frame.
const (
	// slotRoom is the frame bytes of a slot: 1500 and tags, with much to spare.
	slotRoom = 2048
	// headroom is for the VLAN tag that a packet socket gives apart.
	headroom = 4
	// slotStride is no power of two, lest all first lines share a cache set.
	slotStride = headroom + slotRoom + 60
)

// File is an Endpoint on a descriptor: a TAP queue, or a packet socket as made
// by OpenPacket.
type File struct {
	name   string
	file   *os.File
	conn   syscall.RawConn
	fd     int
	packet bool // packet socket, else TAP
	lost   atomic.Uint64

	slots []byte
	spill []byte
	large [hwmodel.VectorSize][]byte
	// Of the Receive under way: kept here so that fill is one closure for ever.
	fill   func(fd uintptr) bool
	frames [][]byte
	got    int
	err    error
	// segments is what is left of a packet that the kernel had merged.
	segments segmenter
}

// NewFile makes an endpoint of a descriptor, which it owns from now on, also if
// it fails. The name is for messages.
func NewFile(fd int, name string) (*File, error) {
	packet, err := checkDescriptor(fd)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("endpoint %s: %w", name, err)
	}
	f := &File{
		name: name, file: os.NewFile(uintptr(fd), name), fd: fd, packet: packet,
		slots: make([]byte, hwmodel.VectorSize*slotStride),
		spill: make([]byte, MaxFrame-slotRoom),
	}
	if f.conn, err = f.file.SyscallConn(); err != nil {
		f.file.Close()
		return nil, fmt.Errorf("endpoint %s: %w", name, err)
	}
	f.fill = f.fillFrames
	return f, nil
}

// checkDescriptor says whether fd is a packet socket or a TAP queue, and that
// it is set up as this package reads it.
func checkDescriptor(fd int) (packet bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, fmt.Errorf("fstat: %w", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err != nil {
			return false, fmt.Errorf("socket domain: %w", err)
		}
		if domain != unix.AF_PACKET {
			return false, fmt.Errorf("socket of domain %d, expected a packet socket", domain)
		}
		if on, err := unix.GetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR); err != nil || on == 0 {
			return false, errors.New("packet socket without PACKET_VNET_HDR")
		}
		return true, nil
	case unix.S_IFCHR:
		ifr, err := unix.NewIfreq("")
		if err != nil {
			return false, err
		}
		if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil {
			return false, fmt.Errorf("not an attached tap queue: %w", err)
		}
		const mask = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR
		if flags := ifr.Uint16(); flags&mask != unix.IFF_TAP|unix.IFF_NO_PI {
			return false, fmt.Errorf("tap queue with flags %#x, expected IFF_TAP and IFF_NO_PI without IFF_VNET_HDR", flags)
		}
		return false, nil
	}
	return false, fmt.Errorf("descriptor of mode %#o is neither a tap queue nor a packet socket", st.Mode)
}

// Receive implements Endpoint.
func (f *File) Receive(frames [][]byte) (int, error) {
	f.frames, f.got, f.err = frames[:min(len(frames), hwmodel.VectorSize)], 0, nil
	err := f.conn.Read(f.fill)
	switch {
	case err == nil:
		return f.got, f.err
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, os.ErrClosed):
		return 0, err
	case f.fillFrames(0):
		// The runtime does not wait on a descriptor that polls as nothing but
		// an error; reading says which.
		return f.got, f.err
	}
	return 0, fmt.Errorf("%s: wait: %w", f.name, err)
}

// fillFrames reads until the vector is full or the queue is empty. False means
// that there was nothing: the runtime waits and calls again.
func (f *File) fillFrames(uintptr) bool {
	for f.got < len(f.frames) {
		frame, err := f.next(f.got)
		switch {
		case err == nil && frame == nil: // thrown away
		case err == nil:
			f.frames[f.got] = frame
			f.got++
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return f.got > 0
		case f.got > 0: // it comes again
			return true
		case err == unix.EBADFD:
			f.err = fmt.Errorf("%s: %w: %w", f.name, ErrGone, err)
			return true
		default:
			f.err = fmt.Errorf("%s: receive: %w", f.name, err)
			return true
		}
	}
	return true
}

// next reads one frame into the slot's memory.
func (f *File) next(slot int) ([]byte, error) {
	if f.packet {
		return f.nextPacket(slot)
	}
	room := f.room(slot)
	iov := [2]unix.Iovec{vec(room), vec(f.spill)}
	n, _, errno := unix.Syscall(unix.SYS_READV, uintptr(f.fd), uintptr(unsafe.Pointer(&iov)), 2)
	if errno != 0 {
		return nil, errno
	}
	return f.gather(slot, room, int(n)), nil
}

// room returns the slot's frame bytes, headroom left out.
func (f *File) room(slot int) []byte {
	return f.slots[slot*slotStride+headroom:][:slotRoom:slotRoom]
}

// gather returns the n bytes that were read into a slot's room and the spill.
func (f *File) gather(slot int, room []byte, n int) []byte {
	if n <= slotRoom {
		return room[:n]
	}
	frame := f.largeRoom(slot)[headroom:][:n]
	copy(frame, room)
	copy(frame[slotRoom:], f.spill)
	return frame
}

// largeRoom returns the slot's buffer for long frames, headroom included.
func (f *File) largeRoom(slot int) []byte {
	if f.large[slot] == nil {
		f.large[slot] = make([]byte, headroom+MaxFrame)
	}
	return f.large[slot]
}

// Send implements Endpoint.
func (f *File) Send(frame []byte) error {
	if len(frame) == 0 {
		return errors.New("empty frame")
	}
	var header [virtioHeader]byte // all zero: nothing left to do for the kernel
	iov := [2]unix.Iovec{vec(header[:]), vec(frame)}
	first, count := &iov[0], 2
	if !f.packet {
		first, count = &iov[1], 1
	}
	for {
		_, _, errno := unix.Syscall(unix.SYS_WRITEV, uintptr(f.fd), uintptr(unsafe.Pointer(first)), uintptr(count))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// vec describes b, which is not empty, to the kernel.
func vec(b []byte) unix.Iovec {
	return unix.Iovec{Base: &b[0], Len: uint64(len(b))}
}

// Interrupt implements Endpoint.
func (f *File) Interrupt() error { return f.file.SetReadDeadline(time.Unix(0, 1)) }

// Close implements Endpoint.
func (f *File) Close() error { return f.file.Close() }

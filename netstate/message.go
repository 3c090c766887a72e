package netstate

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// HeaderBytes is the length of struct nlmsghdr.
const HeaderBytes = unix.SizeofNlMsghdr

// Message is one netlink message. Its slices alias the block it was cut from.
type Message struct {
	Type, Flags uint16
	Seq, PID    uint32
	// Raw is the whole message, header included, padding excluded.
	Raw []byte
	// Payload is Raw without the header.
	Payload []byte
}

// DecodeError says which bytes could not be read.
type DecodeError struct {
	// What names the message or attribute, such as "route attribute 5".
	What string
	// Offset counts from the start of the message (or block, for NextMessage).
	Offset int
	// Want says what should have been there.
	Want string
}

func (e *DecodeError) Error() string {
	return fmt.Sprintf("%s at offset %d: want %s", e.What, e.Offset, e.Want)
}

// ErrNotMirrored is what KeyOf answers for a well-formed message that is no
// mirrored row: another type, an FDB entry, a bridge port's view of a link, a
// cached or multicast route.
var ErrNotMirrored = errors.New("not a mirrored row")

// nlaTypeMask leaves out NLA_F_NESTED and NLA_F_NET_BYTEORDER.
const nlaTypeMask = 0x3fff

// align4 rounds up as NLMSG_ALIGN, RTA_ALIGN and RTNH_ALIGN do.
func align4(n int) int { return (n + 3) &^ 3 }

// NextMessage cuts the first message off a block of messages, each starting at a
// multiple of four. rest is empty after the last one. The padding after the last
// message may be missing, as it may in what the kernel sends. An empty block is
// an error: callers loop while len(rest) > 0.
func NextMessage(block []byte) (m Message, rest []byte, err error) {
	if len(block) < HeaderBytes {
		return Message{}, nil, &DecodeError{"netlink header", 0, fmt.Sprintf("%d bytes, have %d", HeaderBytes, len(block))}
	}
	n := uint64(binary.NativeEndian.Uint32(block))
	if n < HeaderBytes || n > uint64(len(block)) {
		return Message{}, nil, &DecodeError{"nlmsg_len", 0, fmt.Sprintf("%d to %d, have %d", HeaderBytes, len(block), n)}
	}
	m = Message{
		Type:    binary.NativeEndian.Uint16(block[4:]),
		Flags:   binary.NativeEndian.Uint16(block[6:]),
		Seq:     binary.NativeEndian.Uint32(block[8:]),
		PID:     binary.NativeEndian.Uint32(block[12:]),
		Raw:     block[:n:n],
		Payload: block[HeaderBytes:n:n],
	}
	return m, block[min(align4(int(n)), len(block)):], nil
}

// Errno reads the outcome an NLMSG_ERROR or NLMSG_DONE message carries: nil for
// success and for a DONE without a status. ok is false for other messages.
func (m Message) Errno() (err error, ok bool) {
	if m.Type != unix.NLMSG_ERROR && m.Type != unix.NLMSG_DONE {
		return nil, false
	}
	if len(m.Payload) < 4 {
		if m.Type == unix.NLMSG_DONE && len(m.Payload) == 0 {
			return nil, true
		}
		return &DecodeError{"netlink error", HeaderBytes, "4 bytes"}, true
	}
	code := int32(binary.NativeEndian.Uint32(m.Payload))
	switch {
	case code == 0:
		return nil, true
	case code > 0 || code < -4095:
		// The kernel's IS_ERR_VALUE range. Some dumps end with a positive count.
		if m.Type == unix.NLMSG_DONE && code > 0 {
			return nil, true
		}
		return &DecodeError{"netlink error", HeaderBytes, "an errno"}, true
	}
	return unix.Errno(-code), true
}

// Normalize returns a copy of a message as Row.Group holds it: nlmsg_flags, seq
// and pid zeroed. raw is one whole message (Message.Raw).
func Normalize(raw []byte) []byte {
	out := make([]byte, len(raw))
	copy(out, raw)
	if len(out) >= HeaderBytes {
		clear(out[6:HeaderBytes])
	}
	return out
}

// attrs walks the attributes of a message or of a nested attribute. Errors are
// sticky: the first one ends the walk.
type attrs struct {
	b    []byte // what is walked
	off  int    // next attribute's offset in b
	base int    // offset of b in the message, for errors
	what string // "route", "route metric"

	typ uint16 // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
	at  int    // offset of val in b
	val []byte
	err error
}

// next steps to the next attribute and reports whether there is one.
func (a *attrs) next() bool {
	if a.err != nil || a.off >= len(a.b) {
		return false
	}
	rest := a.b[a.off:]
	if len(rest) < unix.SizeofNlAttr {
		a.err = &DecodeError{a.what + " attributes", a.base + a.off, "an attribute header of 4 bytes"}
		return false
	}
	n := int(binary.NativeEndian.Uint16(rest))
	if n < unix.SizeofNlAttr || n > len(rest) {
		a.err = &DecodeError{a.what + " attribute length", a.base + a.off, fmt.Sprintf("4 to %d, have %d", len(rest), n)}
		return false
	}
	a.typ = binary.NativeEndian.Uint16(rest[2:]) & nlaTypeMask
	a.at = a.off + unix.SizeofNlAttr
	a.val = rest[unix.SizeofNlAttr:n:n]
	a.off += align4(n)
	return true
}

// nested walks the current attribute's value.
func (a *attrs) nested(what string) attrs {
	return attrs{b: a.val, base: a.base + a.at, what: what}
}

// fail records that the current attribute is not what it should be.
func (a *attrs) fail(want string) {
	if a.err == nil {
		a.err = &DecodeError{fmt.Sprintf("%s attribute %d", a.what, a.typ), a.base + a.at, want}
	}
}

// size requires a value of exactly n bytes.
func (a *attrs) size(n int) bool {
	if len(a.val) != n {
		a.fail(fmt.Sprintf("%d bytes, have %d", n, len(a.val)))
		return false
	}
	return true
}

func (a *attrs) u8() uint8 {
	if !a.size(1) {
		return 0
	}
	return a.val[0]
}

func (a *attrs) u16() uint16 {
	if !a.size(2) {
		return 0
	}
	return binary.NativeEndian.Uint16(a.val)
}

func (a *attrs) u32() uint32 {
	if !a.size(4) {
		return 0
	}
	return binary.NativeEndian.Uint32(a.val)
}

func (a *attrs) be16() uint16 {
	if !a.size(2) {
		return 0
	}
	return binary.BigEndian.Uint16(a.val)
}

func (a *attrs) be32() uint32 {
	if !a.size(4) {
		return 0
	}
	return binary.BigEndian.Uint32(a.val)
}

func (a *attrs) be64() uint64 {
	if !a.size(8) {
		return 0
	}
	return binary.BigEndian.Uint64(a.val)
}

func (a *attrs) u64() uint64 {
	if !a.size(8) {
		return 0
	}
	return binary.NativeEndian.Uint64(a.val)
}

// str reads a NUL-terminated string; the NUL may be missing.
func (a *attrs) str() string { return string(cstring(a.val)) }

func cstring(b []byte) []byte {
	for i, c := range b {
		if c == 0 {
			return b[:i]
		}
	}
	return b
}

// body checks type and fixed header of raw and returns the header and a walk
// over the attributes after it. size is that of the fixed header.
func body(raw []byte, newType, delType uint16, size int, what string) (typ uint16, head []byte, it attrs, err error) {
	if len(raw) < HeaderBytes+size {
		return 0, nil, attrs{}, &DecodeError{what + " message", 0, fmt.Sprintf("at least %d bytes, have %d", HeaderBytes+size, len(raw))}
	}
	if n := binary.NativeEndian.Uint32(raw); uint64(n) != uint64(len(raw)) {
		return 0, nil, attrs{}, &DecodeError{what + " nlmsg_len", 0, fmt.Sprintf("%d, have %d", len(raw), n)}
	}
	typ = binary.NativeEndian.Uint16(raw[4:])
	if typ != newType && typ != delType {
		return 0, nil, attrs{}, &DecodeError{what + " nlmsg_type", 4, fmt.Sprintf("%d or %d, have %d", newType, delType, typ)}
	}
	start := HeaderBytes + align4(size)
	head = raw[HeaderBytes : HeaderBytes+size]
	it = attrs{base: start, what: what}
	if len(raw) > start {
		it.b = raw[start:]
	}
	return typ, head, it, nil
}

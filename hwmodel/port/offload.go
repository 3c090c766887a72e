package port

import (
	"encoding/binary"
	"math/bits"
)

const ethernetHeader = 14

// Flags and types of struct virtio_net_hdr (linux/virtio_net.h).
const (
	virtioNeedsChecksum = 1
	virtioTCP4          = 1
	virtioTCP6          = 4
	virtioUDP           = 5
	virtioECN           = 0x80
)

// offload is the work that a sender on this machine left to its netdev.
type offload struct {
	// checksum: the 16 bits at start+field hold the sum of the pseudo header;
	// what is missing is the sum from start to the end of the frame.
	checksum     bool
	start, field int
	// kind is 0 or how the frame is to be cut into frames of size payload bytes.
	kind byte
	size int
}

// parseOffload reads a virtio_net_hdr in native byte order.
func parseOffload(header []byte) offload {
	order := binary.NativeEndian
	return offload{
		checksum: header[0]&virtioNeedsChecksum != 0,
		kind:     header[1] &^ virtioECN,
		size:     int(order.Uint16(header[4:])),
		start:    int(order.Uint16(header[6:])),
		field:    int(order.Uint16(header[8:])),
	}
}

// complete finishes the frame's checksum, as skb_checksum_help in
// net/core/dev.c does.
func (o offload) complete(frame []byte) {
	if !o.checksum || o.start+o.field+2 > len(frame) {
		return
	}
	binary.BigEndian.PutUint16(frame[o.start+o.field:], unzero(fold(onesSum(frame[o.start:], 0))))
}

// segmenter cuts a merged packet into the frames it stands for, as
// tcp_gso_segment (net/ipv4/tcp_offload.c) and __udp_gso_segment
// (net/ipv4/udp_offload.c) do.
type segmenter struct {
	merged  []byte // a copy of the packet; memory is reused
	offload offload
	l3      int // offset of the IP header
	headers int // length of all headers
	done    int // payload bytes cut off so far
}

// start takes a packet that is to be cut. False means that it is not, or that
// it is of a kind that is not understood (tunnels): it stays whole.
func (s *segmenter) start(frame []byte, o offload) bool {
	if o.kind == 0 || !o.checksum || o.size == 0 {
		return false
	}
	l3 := ethernetHeader
	for l3+4 <= len(frame) && isTag(binary.BigEndian.Uint16(frame[l3-2:])) {
		l3 += 4
	}
	protocol, l4 := transport(frame, l3)
	if l4 == 0 || l4 != o.start {
		return false
	}
	headers := l4 + 8
	switch {
	case protocol == 6 && (o.kind == virtioTCP4 || o.kind == virtioTCP6) && len(frame) >= l4+20:
		if headers = l4 + int(frame[l4+12]>>4)*4; headers < l4+20 {
			return false
		}
	case protocol == 17 && o.kind == virtioUDP:
	default:
		return false
	}
	if headers >= len(frame) || l4+o.field+2 > headers {
		return false
	}
	*s = segmenter{merged: append(s.merged[:0], frame...), offload: o, l3: l3, headers: headers}
	return true
}

func isTag(ethertype uint16) bool { return ethertype == 0x8100 || ethertype == 0x88a8 }

// transport returns the protocol and offset of the header that follows the IP
// header at l3, or zeros.
func transport(frame []byte, l3 int) (protocol byte, l4 int) {
	switch ethertype := binary.BigEndian.Uint16(frame[l3-2:]); {
	case ethertype == 0x0800 && len(frame) >= l3+20 && frame[l3]&15 >= 5:
		return frame[l3+9], l3 + int(frame[l3]&15)*4
	case ethertype == 0x86dd && len(frame) >= l3+40:
		return frame[l3+6], l3 + 40
	}
	return 0, 0
}

// more says whether frames are left.
func (s *segmenter) more() bool { return s.headers+s.done < len(s.merged) }

// length returns the length of the next frame.
func (s *segmenter) length() int {
	return s.headers + min(s.offload.size, len(s.merged)-s.headers-s.done)
}

// next writes the next frame into room, which has its length.
func (s *segmenter) next(room []byte) []byte {
	first := s.done == 0
	index := s.done / s.offload.size
	payload := s.merged[s.headers+s.done:][:len(room)-s.headers]
	copy(room, s.merged[:s.headers])
	copy(room[s.headers:], payload)
	l4 := s.offload.start
	order := binary.BigEndian

	ip := room[s.l3:]
	if ip[0]>>4 == 4 {
		order.PutUint16(ip[2:], uint16(len(ip)))
		order.PutUint16(ip[4:], order.Uint16(ip[4:])+uint16(index))
		order.PutUint16(ip[10:], 0)
		order.PutUint16(ip[10:], fold(onesSum(room[s.l3:l4], 0)))
	} else {
		order.PutUint16(ip[4:], uint16(len(ip)-40))
	}

	segment := room[l4:]
	if s.offload.kind == virtioUDP {
		order.PutUint16(segment[4:], uint16(len(segment)))
	} else {
		order.PutUint32(segment[4:], order.Uint32(segment[4:])+uint32(s.done))
		const fin, psh, cwr = 0x01, 0x08, 0x80
		if !first {
			segment[13] &^= cwr
		}
		if s.headers+s.done+len(payload) < len(s.merged) {
			segment[13] &^= fin | psh
		}
	}
	s.done += len(payload)

	// The checksum field holds the pseudo header's sum with the length of the
	// merged packet: take that length out and put this one in.
	lengths := uint64(^uint16(len(s.merged)-l4)) + uint64(len(segment))
	checksum := fold(onesSum(segment, lengths))
	if s.offload.kind == virtioUDP {
		checksum = unzero(checksum)
	}
	order.PutUint16(segment[s.offload.field:], checksum)
	return room
}

// onesSum adds the big-endian 16-bit words of b to a one's complement sum.
func onesSum(b []byte, sum uint64) uint64 {
	for len(b) >= 8 {
		var carry uint64
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b), 0)
		sum += carry
		b = b[8:]
	}
	for shift := 56; len(b) > 0; shift -= 8 {
		var carry uint64
		sum, carry = bits.Add64(sum, uint64(b[0])<<shift, 0)
		sum += carry
		b = b[1:]
	}
	return sum
}

// fold returns the checksum of a sum.
func fold(sum uint64) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// unzero keeps a checksum from saying that there is none.
func unzero(checksum uint16) uint16 {
	if checksum == 0 {
		return 0xffff
	}
	return checksum
}

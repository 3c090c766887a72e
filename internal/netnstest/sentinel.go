package netnstest

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"testing"
)

// sentinelType is IEEE 802's "local experimental" ethertype: every stack that
// does not know it ignores it.
const sentinelType = 0x88b5

const sentinelMagic = "antiphon-sentinel"

// Sentinel returns a frame no other call returns, for Wire.Send, and the
// predicate that knows it again, for Wire.Until.
func Sentinel() (frame []byte, is func([]byte) bool) {
	frame = []byte{0x02, 0xff, 0xff, 0xff, 0xff, 0xfe, 0x02, 0xff, 0xff, 0xff, 0xff, 0xfd}
	frame = binary.BigEndian.AppendUint16(frame, sentinelType)
	frame = append(frame, sentinelMagic...)
	frame = append(frame, rand.Text()...)
	for len(frame) < 60 {
		frame = append(frame, 0)
	}
	return frame, func(f []byte) bool { return bytes.Equal(f, frame) }
}

func isSentinel(f []byte) bool {
	return len(f) >= 14+len(sentinelMagic) && binary.BigEndian.Uint16(f[12:]) == sentinelType &&
		string(f[14:14+len(sentinelMagic)]) == sentinelMagic
}

// Cable is a veth pair with both ends open: Wire is the tester's, Port the
// router's under test.
type Cable struct {
	Wire, Port *Wire
}

// Fence returns once everything sent on the wires of a kernel router's cables
// has been handled and everything it sent is readable on the wires (Drain).
//
// First a sentinel goes in by each wire and is awaited at the port: a processor
// runs a received frame to its end before it takes the next one, so all earlier
// frames have been forwarded by then. Then one goes out of each port and
// is awaited at the wire, after all the router sent. What was captured at the
// ports meanwhile is thrown away; the frames returned are those of each cable's
// wire, by index. Frames waiting for a neighbour are not waited for.
func Fence(t testing.TB, cables ...Cable) [][][]byte {
	t.Helper()
	for _, c := range cables {
		f, is := Sentinel()
		c.Wire.Send(t, f)
		c.Port.Until(t, is)
	}
	got := make([][][]byte, len(cables))
	for i, c := range cables {
		f, is := Sentinel()
		c.Port.Send(t, f)
		got[i] = c.Wire.Until(t, is)
	}
	return got
}

// IsNoise reports frames that hosts send on their own: ARP, IPv6 neighbour and
// router discovery (hop limit 255, which no forwarded frame has), and multicast
// listener reports (hop limit 1 behind a router alert).
func IsNoise(f []byte) bool {
	if len(f) < 14 {
		return false
	}
	switch binary.BigEndian.Uint16(f[12:]) {
	case 0x0806:
		return true
	case 0x86dd:
	default:
		return false
	}
	const icmp, hopByHop = 58, 0
	if len(f) < 14+40+1 {
		return false
	}
	ip, payload := f[14:54], f[54:]
	switch next, hops := ip[6], ip[7]; {
	case next == icmp && hops == 255:
		return payload[0] >= 133 && payload[0] <= 137
	case next == hopByHop && hops == 1 && len(payload) > 8 && payload[0] == icmp:
		return payload[8] >= 130 && payload[8] <= 132 || payload[8] == 143
	}
	return false
}

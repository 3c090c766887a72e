package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"antiphon/internal/netnstest"
)

// burst is how many frames a stream sends before it waits for the device.
const burst = 8

// flowMark begins the payload of every frame that the tests send.
const flowMark = "antiphon-e2e"

// stream is numbered UDP frames from the host behind one port to the host behind
// another, and what became of each.
type stream struct {
	name     string
	in, out  int
	src, dst netip.Addr
	// before and after are the frame as it is sent and as it is to be delivered.
	before, after []byte
	// trapped and delivered count, by number, the captures at the representor of
	// the port where it came in and at the wire where it is to come out.
	trapped, delivered []int
}

// newStream builds a stream; the kernel and the device must make the same of it:
// new MAC addresses and one hop less.
func newStream(in, out int, src, dst string) *stream {
	s := &stream{name: src + " → " + dst, in: in, out: out, src: netip.MustParseAddr(src), dst: netip.MustParseAddr(dst)}
	s.before = s.frame(hostMAC(in), portMAC(in), 64)
	s.leaves(out)
	return s
}

// leaves tells the stream by which port it is to leave from now on; 0: by none.
func (s *stream) leaves(out int) {
	if s.out = out; out > 0 {
		s.after = s.frame(portMAC(out), hostMAC(out), 63)
	}
}

func (s *stream) frame(from, to [6]byte, hops uint8) []byte {
	eth := &layers.Ethernet{SrcMAC: from[:], DstMAC: to[:], EthernetType: layers.EthernetTypeIPv4}
	udp := &layers.UDP{SrcPort: 4000, DstPort: 4001}
	var ip gopacket.SerializableLayer
	if s.src.Is4() {
		h := &layers.IPv4{Version: 4, TTL: hops, Protocol: layers.IPProtocolUDP, SrcIP: s.src.AsSlice(), DstIP: s.dst.AsSlice()}
		udp.SetNetworkLayerForChecksum(h)
		ip = h
	} else {
		h := &layers.IPv6{Version: 6, HopLimit: hops, NextHeader: layers.IPProtocolUDP, SrcIP: s.src.AsSlice(), DstIP: s.dst.AsSlice()}
		udp.SetNetworkLayerForChecksum(h)
		ip, eth.EthernetType = h, layers.EthernetTypeIPv6
	}
	buf := gopacket.NewSerializeBuffer()
	payload := number([]byte(flowMark+"________"), 0)
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, udp, gopacket.Payload(payload)); err != nil {
		panic(err) // a stream that cannot be built is a mistake in the test
	}
	return buf.Bytes()
}

// number writes n and its complement at the end, so that checksums stay as they are.
func number(frame []byte, n int) []byte {
	end := frame[len(frame)-8:]
	binary.BigEndian.PutUint32(end, uint32(n))
	binary.BigEndian.PutUint32(end[4:], ^uint32(n))
	return frame
}

// is returns a frame's number if it is one of the template's.
func is(frame, template []byte) (int, bool) {
	if len(frame) != len(template) {
		return 0, false
	}
	n := int(binary.BigEndian.Uint32(frame[len(frame)-8:]))
	return n, bytes.Equal(frame, number(bytes.Clone(template), n))
}

// traffic sends streams in step with each other and captures everywhere. It is
// bounded by the device: a burst goes out when the one before it was taken.
type traffic struct {
	t       *testing.T
	cables  []netnstest.Cable
	seen    []*netnstest.Wire // at the representors: what trapped
	streams []*stream
	next    int // number of each stream's next frame
	// strays are captured frames that nobody sent or that are not where they belong.
	strays []string
	// errors counts ICMP errors about the streams' frames by the port where they
	// were captured; nil if there must be none.
	errors map[int]int
	// down is a port that is down, 0 if none is.
	down   int
	parent *testing.T
}

// span is frames from a number up to another.
type span struct{ from, to int }

func newTraffic(l *lab, streams ...*stream) *traffic {
	l.t.Helper()
	tr := &traffic{t: l.t, parent: l.t, streams: streams}
	for n := 1; n <= len(l.hosts); n++ {
		w := l.host(n).Wire(l.t, wireName(n))
		s := l.dut.Wire(l.t, swp(n))
		w.Noise, s.Noise = netnstest.IsNoise, netnstest.IsNoise
		tr.cables = append(tr.cables, netnstest.Cable{Wire: w, Port: l.dut.Wire(l.t, swp(n))})
		tr.seen = append(tr.seen, s)
	}
	return tr
}

// step sends one burst of each stream and waits until the device is done with it:
// a sentinel, which every device must trap, arrives at the representor.
func (tr *traffic) step() {
	tr.t.Helper()
	for in := range tr.send() {
		frame, arrived := netnstest.Sentinel()
		tr.cables[in-1].Wire.Send(tr.t, frame)
		tr.cables[in-1].Port.Until(tr.t, arrived)
	}
	for i, c := range tr.cables {
		tr.collect(i+1, c.Wire.Drain(tr.t))
	}
}

// send sends one burst of each stream and returns the ports they came in by.
func (tr *traffic) send() map[int]bool {
	tr.t.Helper()
	ports := map[int]bool{}
	for _, s := range tr.streams {
		for n := tr.next; n < tr.next+burst; n++ {
			tr.cables[s.in-1].Wire.Send(tr.t, number(bytes.Clone(s.before), n))
		}
		s.trapped = append(s.trapped, make([]int, burst)...)
		s.delivered = append(s.delivered, make([]int, burst)...)
		ports[s.in] = true
	}
	tr.next += burst
	return ports
}

// toNobody sends a burst of each stream that no device is there to take.
func (tr *traffic) toNobody() span {
	tr.t.Helper()
	from := tr.next
	tr.send()
	return span{from, tr.next}
}

// steps sends bursts and waits until all of them has come out.
func (tr *traffic) steps(n int) span {
	tr.t.Helper()
	from := tr.next
	for range n {
		tr.step()
	}
	tr.settle()
	return span{from, tr.next}
}

// during sends while something is done; it is done in another goroutine and must
// not end the test.
func (tr *traffic) during(do func() error) span {
	tr.t.Helper()
	from := tr.next
	done := make(chan error, 1)
	go func() { done <- do() }()
	for {
		tr.step()
		select {
		case err := <-done:
			if err != nil {
				tr.t.Fatal(err)
			}
			tr.settle()
			return span{from, tr.next}
		default:
		}
	}
}

// settle returns when everything sent has been captured.
func (tr *traffic) settle() {
	tr.t.Helper()
	var up []netnstest.Cable
	var ports []int
	for i, c := range tr.cables {
		if i+1 != tr.down {
			up, ports = append(up, c), append(ports, i+1)
		}
	}
	for i, frames := range netnstest.Fence(tr.t, up...) {
		tr.collect(ports[i], frames)
	}
	for i, w := range tr.seen {
		for _, f := range w.Drain(tr.t) {
			tr.note(f, "swp", i+1, func(s *stream) (int, []byte, []int) { return s.in, s.before, s.trapped })
		}
	}
	if len(tr.strays) > 0 {
		tr.t.Errorf("%d frames that nobody sent, the first: %s", len(tr.strays), tr.strays[0])
		tr.strays = nil
	}
}

func (tr *traffic) collect(port int, frames [][]byte) {
	for _, f := range frames {
		tr.note(f, "w", port, func(s *stream) (int, []byte, []int) { return s.out, s.after, s.delivered })
	}
}

func (tr *traffic) note(f []byte, where string, port int, belongs func(*stream) (int, []byte, []int)) {
	for _, s := range tr.streams {
		at, template, counts := belongs(s)
		if n, ok := is(f, template); ok && at == port && n < len(counts) {
			counts[n]++
			return
		}
	}
	if tr.errors != nil && where == "w" && icmpError(f) {
		tr.errors[port]++
		return
	}
	tr.strays = append(tr.strays, fmt.Sprintf("%s%d: %x", where, port, f))
}

// icmpError recognizes an error about a frame of a stream: destination
// unreachable of ICMP or ICMPv6.
func icmpError(f []byte) bool {
	about := bytes.Contains(f, []byte(flowMark))
	return about && len(f) > 54 && (f[12] == 0x08 && f[23] == 1 && f[34] == 3 || f[12] == 0x86 && f[20] == 58 && f[54] == 1)
}

// fate is what must become of frames.
type fate int

const (
	forwards fate = iota // by the device alone
	kernel               // by the kernel
	drops                // by the kernel, which does not let it pass
	moving               // by either, exactly once
	maybe                // by either, or lost on the way: at most once
	vanishes             // in the kernel, before anybody can capture it
)

// counts that a fate allows: trapped and delivered, from and to.
func (f fate) allows(trapped, delivered int) bool {
	switch f {
	case forwards:
		return trapped == 0 && delivered == 1
	case kernel:
		return trapped == 1 && delivered == 1
	case drops:
		return trapped == 1 && delivered == 0
	case moving:
		return trapped <= 1 && delivered == 1
	case maybe:
		return trapped <= 1 && delivered <= 1
	}
	return trapped == 0 && delivered == 0
}

func (f fate) String() string {
	return [...]string{"forwarded by the device alone", "forwarded by the kernel", "dropped by the kernel",
		"forwarded once", "forwarded at most once", "never captured"}[f]
}

// want holds a span of a stream's frames against its fate.
func (tr *traffic) want(when string, s *stream, p span, f fate) {
	tr.t.Helper()
	wrong, first := 0, -1
	for n := p.from; n < p.to; n++ {
		if !f.allows(s.trapped[n], s.delivered[n]) {
			if wrong++; first < 0 {
				first = n
			}
		}
	}
	if wrong > 0 {
		tr.t.Errorf("%s: %s: %d of %d frames are not %v; the first is %d in, trapped %d times, delivered %d times",
			when, s.name, wrong, p.to-p.from, f, first-p.from, s.trapped[first], s.delivered[first])
	}
}

// deliveredIn counts the captures of a stream's frames at its destination.
func (s *stream) deliveredIn(p span) (n int) {
	for _, c := range s.delivered[p.from:p.to] {
		n += c
	}
	return n
}

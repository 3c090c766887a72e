package port

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// merged returns an IPv4 TCP packet as a sender merges it, with its header.
func merged() (frame, header []byte) {
	frame = make([]byte, 14+20+20+2500)
	copy(frame[12:], []byte{8, 0, 0x45, 0, 0, 0, 0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(frame[16:], uint16(len(frame)-14))
	tcp := frame[34:]
	binary.BigEndian.PutUint32(tcp[4:], 0xffffff00)
	tcp[12], tcp[13] = 5<<4, 0x01|0x08|0x10|0x80
	pseudo := ^fold(onesSum(frame[26:34], uint64(6+len(tcp))))
	binary.BigEndian.PutUint16(tcp[16:], pseudo)
	for i := range tcp[20:] {
		tcp[20+i] = byte(i)
	}
	header = make([]byte, virtioHeader)
	header[0], header[1] = virtioNeedsChecksum, virtioTCP4|virtioECN
	for at, v := range map[int]uint16{4: 1000, 6: 34, 8: 16} {
		binary.NativeEndian.PutUint16(header[at:], v)
	}
	return frame, header
}

func TestSegments(t *testing.T) {
	frame, header := merged()
	var s segmenter
	if !s.start(frame, parseOffload(header)) {
		t.Fatal("not understood")
	}
	var payload []byte
	for i := 0; s.more(); i++ {
		f := s.next(make([]byte, s.length()))
		l4 := f[34:]
		flags := []byte{0x10 | 0x80, 0x10, 0x10 | 0x08 | 0x01}[i] // CWR first, FIN and PSH last
		if l4[13] != flags {
			t.Errorf("frame %d: flags %#x, expected %#x", i, l4[13], flags)
		}
		if seq := binary.BigEndian.Uint32(l4[4:]); seq != 0xffffff00+uint32(i)*1000 {
			t.Errorf("frame %d: sequence %#x", i, seq)
		}
		if id := binary.BigEndian.Uint16(f[18:]); id != 0xffff+uint16(i) {
			t.Errorf("frame %d: id %#x", i, id)
		}
		if total := binary.BigEndian.Uint16(f[16:]); int(total) != len(f)-14 {
			t.Errorf("frame %d of %d bytes: total length %d", i, len(f), total)
		}
		if sum := fold(onesSum(f[14:34], 0)); sum != 0 {
			t.Errorf("frame %d: IP checksum is off by %#x", i, sum)
		}
		if sum := fold(onesSum(l4, onesSum(f[26:34], uint64(6+len(l4))))); sum != 0 {
			t.Errorf("frame %d: TCP checksum is off by %#x", i, sum)
		}
		payload = append(payload, l4[20:]...)
	}
	if !bytes.Equal(payload, frame[54:]) {
		t.Error("the payload differs")
	}
}

// Whatever a sender left to do: no panic, and the frames add up to the packet.
func FuzzOffload(f *testing.F) {
	frame, header := merged()
	f.Add(frame, header)
	f.Add(frame[:40], header)
	f.Add(append(append(bytes.Clone(frame[:12]), 0x81, 0, 0, 1), frame[12:]...), header)
	f.Fuzz(func(t *testing.T, frame, header []byte) {
		if len(header) < virtioHeader || len(frame) < ethernetHeader || len(frame) > MaxFrame {
			return
		}
		o := parseOffload(header)
		var s segmenter
		if !s.start(frame, o) {
			o.complete(frame)
			return
		}
		var payload []byte
		for s.more() {
			payload = append(payload, s.next(make([]byte, s.length()))[s.headers:]...)
		}
		if !bytes.Equal(payload, frame[s.headers:]) {
			t.Error("the payload differs")
		}
	})
}

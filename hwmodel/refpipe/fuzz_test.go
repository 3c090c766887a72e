package refpipe_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"antiphon/hwmodel"
	"antiphon/hwmodel/hwtest"
	"antiphon/hwmodel/refpipe"
)

// FuzzRun runs any bytes as a frame through the tables of the lab. Whatever it is:
// nothing panics, a frame that is not forwarded stays as it is, a forwarded one
// differs from it in addresses, hop count and checksum only and loses its padding,
// and a trace tells the same.
func FuzzRun(f *testing.F) {
	r := rand.New(rand.NewPCG(10, 10))
	for range 50 {
		port, frame := hwtest.RandomFrame(r)
		f.Add(uint16(port), uint8(r.IntN(2)), frame)
	}
	f.Fuzz(func(t *testing.T, port uint16, policy uint8, frame []byte) {
		p := refpipe.New(refpipe.Options{})
		if _, err := p.Apply(t.Context(), &hwmodel.Batch{Set: labEntries(policy)}); err != nil {
			t.Fatal(err)
		}
		v := new(hwmodel.Vector)
		v.N, v.In[0], v.Frame[0] = 1, hwmodel.PortID(port), slices.Clone(frame)
		p.Run(v)
		traced, err := p.Trace(t.Context(), hwmodel.PortID(port), frame)
		if err != nil {
			t.Fatal(err)
		}
		if traced.Verdict != v.Verdict[0] || traced.Reason != v.Reason[0] || traced.Out != v.Out[0] {
			t.Fatalf("run %v %v %d, trace %v %v %d", v.Verdict[0], v.Reason[0], v.Out[0], traced.Verdict, traced.Reason, traced.Out)
		}
		if v.Verdict[0] != hwmodel.Forward {
			if !bytes.Equal(v.Frame[0], frame) {
				t.Fatalf("%v frame was changed", v.Verdict[0])
			}
			return
		}
		if !bytes.Equal(v.Frame[0], traced.Frame) {
			t.Fatalf("run % x\ntrace % x", v.Frame[0], traced.Frame)
		}
		checkForwarded(t, frame, v.Frame[0])
	})
}

// checkForwarded undoes what forwarding does and compares.
func checkForwarded(t *testing.T, in, out []byte) {
	t.Helper()
	back := slices.Clone(out)
	copy(back[:12], in)
	switch binary.BigEndian.Uint16(in[12:]) {
	case 0x0800:
		if n := 14 + int(binary.BigEndian.Uint16(in[16:])); len(out) != n {
			t.Fatalf("%d bytes, want %d", len(out), n)
		}
		if sum := onesSum(out[14:34]); sum != 0xffff {
			t.Fatalf("header sums to %#x", sum)
		}
		back[14+8]++
		copy(back[14+10:14+12], in[14+10:])
	case 0x86dd:
		if n := 14 + 40 + int(binary.BigEndian.Uint16(in[18:])); len(out) != n {
			t.Fatalf("%d bytes, want %d", len(out), n)
		}
		back[14+7]++
	default:
		t.Fatal("forwarded what is not IP")
	}
	if !bytes.Equal(back, in[:len(back)]) {
		t.Fatalf("in  % x\nout % x", in, out)
	}
}

// onesSum adds 16-bit words in one's complement.
func onesSum(b []byte) (sum uint32) {
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return sum
}

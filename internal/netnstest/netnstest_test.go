package netnstest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// udp4 is a minimal UDP packet 10.0.1.2 → 10.0.2.2 with a numbered payload.
func udp4(dst, src []byte, n uint32) []byte {
	f := append(append(append([]byte{}, dst...), src...), 8, 0)
	ip := []byte{0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 1, 2, 10, 0, 2, 2}
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	f = append(append(f, ip...), 0, 7, 0, 7, 0, 12, 0, 0)
	return binary.BigEndian.AppendUint32(f, n)
}

// TestRouterFence sends frames through a kernel router and finds every one of
// them, in order, after one fence and without waiting for time to pass.
func TestRouterFence(t *testing.T) {
	dut, out := New(t), New(t)
	dut.Router(t)
	out.Silent(t)
	var cables [2]Cable
	for i := range cables {
		w, p := fmt.Sprintf("w%d", i+1), fmt.Sprintf("swp%d", i+1)
		Veth(t, End{NS: out, Name: w, MAC: MAC(uint16(0x100 + i)), Bare: true}, End{NS: dut, Name: p, MAC: MAC(uint16(0x200 + i))})
		dut.IP(t, fmt.Sprintf("addr add 10.0.%d.1/24 dev %s", i+1, p))
		cables[i] = Cable{Wire: out.Wire(t, w), Port: dut.Wire(t, p)}
		cables[i].Wire.Noise = IsNoise
	}
	dut.IP(t, "neigh add 10.0.2.2 lladdr "+MAC(0x101).String()+" dev swp2 nud permanent")
	if got := dut.ReadSysctl(t, "net/ipv4/ip_forward"); got != "1" {
		t.Fatalf("ip_forward %q", got)
	}
	const n = 500
	for i := range n {
		cables[0].Wire.Send(t, udp4(MAC(0x200), MAC(0x100), uint32(i)))
	}
	got := Fence(t, cables[:]...)
	if len(got[0]) != 0 || len(got[1]) != n {
		t.Fatalf("got %d and %d frames, want 0 and %d", len(got[0]), len(got[1]), n)
	}
	for i, f := range got[1] {
		if binary.BigEndian.Uint32(f[len(f)-4:]) != uint32(i) || f[14+8] != 63 {
			t.Fatalf("frame %d: % x", i, f)
		}
	}
}

// TestTagRestored captures a tagged frame with its tag.
func TestTagRestored(t *testing.T) {
	ns := New(t)
	ns.Silent(t)
	Veth(t, End{NS: ns, Name: "a", MAC: MAC(1), Bare: true}, End{NS: ns, Name: "b", MAC: MAC(2), Bare: true})
	a, b := ns.Wire(t, "a"), ns.Wire(t, "b")
	tagged := append(append(append([]byte{}, MAC(2)...), MAC(1)...), 0x81, 0, 0x60, 5, 0x88, 0xb6)
	tagged = append(tagged, bytes.Repeat([]byte{0xaa}, 46)...)
	a.Send(t, tagged)
	if got := b.Next(t); !bytes.Equal(got, tagged) {
		t.Fatalf("got % x\nwant % x", got, tagged)
	}
	Fence(t, Cable{a, b})
	if got := a.Drain(t); len(got) != 0 {
		t.Fatalf("own frame captured: % x", got)
	}
}

package softpipe_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"

	"antiphon/hwmodel"
	"antiphon/hwmodel/softpipe"
	"antiphon/internal/netnstest"
)

// kernelWeights are the weights of the router's ways out.
var kernelWeights = []uint32{1, 2, 5}

const kernelSeed = 0xcafe1234

// TestMultipathAgainstKernel routes the same frames with the live kernel and with
// the pipe: all must leave by the same port, byte for byte, whatever the leg.
func TestMultipathAgainstKernel(t *testing.T) {
	netnstest.Require(t)
	dut, wire := netnstest.New(t), netnstest.New(t)
	dut.Router(t)
	const seed = "net/ipv4/fib_multipath_hash_seed"
	if err := dut.Do(func() error { _, err := os.Stat("/proc/sys/" + seed); return err }); err != nil {
		t.Skip("needs a kernel with net.ipv4.fib_multipath_hash_seed (6.11):", err)
	}
	dut.Sysctl(t, seed, fmt.Sprint(kernelSeed))

	var cables []netnstest.Cable
	for n := range 1 + len(kernelWeights) {
		swp, w := fmt.Sprintf("swp%d", n), fmt.Sprintf("w%d", n)
		netnstest.Veth(t, netnstest.End{NS: dut, Name: swp, MAC: netnstest.MAC(uint16(n + 1))},
			netnstest.End{NS: wire, Name: w, MAC: netnstest.MAC(uint16(0x81 + n)), Bare: true})
		dut.IP(t, fmt.Sprintf("addr add 10.%d.0.254/24 dev %s", n, swp))
		dut.IP(t, fmt.Sprintf("addr add 2001:db8:%d::fe/64 dev %s nodad", n, swp))
		for _, a := range []string{fmt.Sprintf("10.%d.0.1", n), fmt.Sprintf("2001:db8:%d::1", n)} {
			dut.IP(t, fmt.Sprintf("neigh replace %s lladdr %s dev %s nud permanent", a, netnstest.MAC(uint16(0x81+n)), swp))
		}
		c := netnstest.Cable{Wire: wire.Wire(t, w), Port: dut.Wire(t, swp)}
		c.Wire.Noise = netnstest.IsNoise
		cables = append(cables, c)
	}
	legacy, group := "", ""
	for k, weight := range kernelWeights {
		n := k + 1
		dut.IP(t, fmt.Sprintf("nexthop add id %d via 2001:db8:%d::1 dev swp%d", n, n, n))
		group += fmt.Sprintf("/%d,%d", n, weight)
		legacy += fmt.Sprintf(" nexthop via 10.%d.0.1 dev swp%d weight %d", n, n, weight)
	}
	dut.IP(t, "nexthop add id 100 group "+group[1:])
	dut.IP(t, "route add 20.0.0.0/8"+legacy)
	dut.IP(t, "-6 route add 2001:db8:20::/48 nhid 100")

	for _, policy := range []uint8{0, 1} {
		for _, family := range []hwmodel.Family{hwmodel.IPv4, hwmodel.IPv6} {
			t.Run(fmt.Sprintf("policy %d IPv%d", policy, family), func(t *testing.T) {
				dut.Sysctl(t, fmt.Sprintf("net/ipv%d/fib_multipath_hash_policy", family), fmt.Sprint(policy))
				pipe := softpipe.New(softpipe.Options{Ports: []hwmodel.PortInfo{{ID: 1}, {ID: 2}, {ID: 3}, {ID: 4}}})
				if r, err := pipe.Apply(t.Context(), &hwmodel.Batch{Set: kernelMirror(policy)}); err != nil || len(r.Refused) > 0 {
					t.Fatal(r, err)
				}
				comparePaths(t, pipe, cables, flows(rand.New(rand.NewPCG(7, uint64(policy))), family, 600))
			})
		}
	}
}

// comparePaths sends frames in by the first cable.
func comparePaths(t *testing.T, pipe *softpipe.Pipe, cables []netnstest.Cable, frames [][]byte) {
	used := make([]int, len(cables))
	for batch := range slices.Chunk(frames, 100) { // well below netdev_max_backlog
		cables[0].Wire.Send(t, batch...)
		got := netnstest.Fence(t, cables...)
		v := &hwmodel.Vector{N: len(batch)}
		for i, f := range batch {
			v.In[i], v.Frame[i] = 1, slices.Clone(f)
		}
		pipe.Run(v)
		for i := range batch {
			if v.Verdict[i] != hwmodel.Forward {
				t.Fatalf("frame %x: %v %v", batch[i], v.Verdict[i], v.Reason[i])
			}
			n := v.Out[i] - 1
			used[n]++
			at := slices.IndexFunc(got[n], func(f []byte) bool { return bytes.Equal(f, v.Frame[i]) })
			if at < 0 {
				for k := range got {
					if slices.ContainsFunc(got[k], func(f []byte) bool { return bytes.Equal(f[14:], v.Frame[i][14:]) }) {
						t.Fatalf("frame %x: pipe takes leg %d, kernel %d", batch[i], n, k)
					}
				}
				t.Fatalf("frame %x left the pipe by leg %d as %x; the kernel sent no such frame", batch[i], n, v.Frame[i])
			}
			got[n] = slices.Delete(got[n], at, at+1)
		}
		for n := range got {
			if len(got[n]) > 0 {
				t.Fatalf("kernel also sent by %d: %x", n, got[n])
			}
		}
	}
	for n := 1; n < len(used); n++ {
		if used[n] == 0 {
			t.Errorf("leg %d never used", n)
		}
	}
	t.Logf("flows by leg: %v", used[1:])
}

// kernelMirror is what the namespace holds, in the device's words.
func kernelMirror(policy uint8) hwmodel.Entries {
	e := hwmodel.Entries{Settings: &hwmodel.Settings{HashPolicy4: policy, HashPolicy6: policy, HashSeed: kernelSeed, SeedKnown: true}}
	g4, g6 := hwmodel.Group{ID: 4}, hwmodel.Group{ID: 6}
	for n := range 1 + len(kernelWeights) {
		id := hwmodel.InterfaceID(n + 1)
		e.Interfaces = append(e.Interfaces, hwmodel.Interface{ID: id, Port: hwmodel.PortID(n + 1), MAC: hwmodel.MAC(netnstest.MAC(uint16(n + 1))), MTU: 1500})
		a4, a6 := netip.MustParseAddr(fmt.Sprintf("10.%d.0.1", n)), netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::1", n))
		for i, a := range []netip.Addr{a4, a6} {
			e.Neighbors = append(e.Neighbors, hwmodel.Neighbor{NeighborKey: hwmodel.NeighborKey{Interface: id, Addr: a}, MAC: hwmodel.MAC(netnstest.MAC(uint16(0x81 + n)))})
			e.NextHops = append(e.NextHops, hwmodel.NextHop{ID: hwmodel.NextHopID(10*i + n + 1), Interface: id, Gateway: a})
		}
		if n > 0 {
			w := kernelWeights[n-1]
			g4.Legs = append(g4.Legs, hwmodel.Leg{NextHop: hwmodel.NextHopID(n + 1), Weight: w})
			g6.Legs = append(g6.Legs, hwmodel.Leg{NextHop: hwmodel.NextHopID(10 + n + 1), Weight: w})
		}
	}
	e.Groups = []hwmodel.Group{g4, g6}
	for _, r := range []struct {
		p string
		g hwmodel.GroupID
	}{{"20.0.0.0/8", 4}, {"2001:db8:20::/48", 6}} {
		e.Routes = append(e.Routes, hwmodel.Route{RouteKey: hwmodel.RouteKey{Table: 254, Prefix: netip.MustParsePrefix(r.p)}, Action: hwmodel.RouteForward, Group: r.g})
	}
	main := []hwmodel.Rule{{Action: hwmodel.RuleLookup, Table: 254, SuppressPrefixLen: -1}}
	e.Rules = []hwmodel.Rules{{Family: hwmodel.IPv4, List: main}, {Family: hwmodel.IPv6, List: main}}
	return e
}

// flows makes frames of all kinds that the flow keys tell apart: protocols with
// and without ports, fragments, ICMP errors, extension headers, truncated ones.
func flows(r *rand.Rand, family hwmodel.Family, n int) [][]byte {
	protocols := []byte{6, 17, 17, 33, 132, 136, 50, 51, 47, 4, 41, 1, 58, 2, 89, 115, 137, 255}
	var frames [][]byte
	for i := range n {
		payload := make([]byte, []int{64, 64, 64, 3, 8, 30}[r.IntN(6)])
		for k := range payload {
			payload[k] = byte(r.Uint32())
		}
		proto := protocols[r.IntN(len(protocols))]
		switch {
		case family == hwmodel.IPv4 && i%4 == 0:
			proto, payload[0] = 1, []byte{0, 3, 4, 5, 8, 11, 12, 13}[r.IntN(8)]
		case family == hwmodel.IPv6 && i%4 == 0:
			proto, payload[0] = 58, []byte{1, 2, 3, 4, 5, 128, 129}[r.IntN(7)]
		}
		f := append([]byte{}, netnstest.MAC(1)...)
		f = append(f, netnstest.MAC(0x81)...)
		if family == hwmodel.IPv4 {
			f = append(f, ip4Packet(r, i, proto, payload)...)
		} else {
			f = append(f, ip6Packet(r, i, proto, payload)...)
		}
		frames = append(frames, f)
	}
	return frames
}

func ip4Packet(r *rand.Rand, i int, proto byte, payload []byte) []byte {
	h := append([]byte{8, 0, 0x45, byte(i)}, make([]byte, 18)...)
	ip := h[2:]
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(ip[4:], uint16(i))
	if r.IntN(4) == 0 {
		binary.BigEndian.PutUint16(ip[6:], []uint16{0x2000, 0x2005, 0x0007, 0x4000}[r.IntN(4)])
	}
	ip[8], ip[9] = 64, proto
	binary.BigEndian.PutUint32(ip[12:], 30<<24|r.Uint32()>>8)
	binary.BigEndian.PutUint32(ip[16:], 20<<24|r.Uint32()>>8)
	var s uint32
	for k := 0; k < 20; k += 2 {
		s += uint32(binary.BigEndian.Uint16(ip[k:]))
	}
	s = s&0xffff + s>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(s&0xffff+s>>16))
	return append(h, payload...)
}

func ip6Packet(r *rand.Rand, i int, proto byte, payload []byte) []byte {
	extensions := r.IntN(4)
	if i%8 == 1 {
		extensions = 13 + r.IntN(6) // around what the dissector walks
	}
	for range extensions {
		switch next := proto; kind(r, extensions) {
		case 0: // destination options: one PadN
			payload = append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, payload...)
			proto = 60
		case 1: // fragment
			x := []byte{next, 0, 0, byte(r.IntN(2)), 0, 0, 0, byte(i)}
			binary.BigEndian.PutUint16(x[2:], binary.BigEndian.Uint16(x[2:])|uint16(r.IntN(3))<<3)
			payload = append(x, payload...)
			proto = 44
		case 2: // routing header, type 0, none left
			payload = append([]byte{next, 2, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8}, payload...)
			proto = 43
		}
	}
	h := append([]byte{0x86, 0xdd, 0x60, byte(r.IntN(16)), byte(r.Uint32()), byte(r.Uint32())}, make([]byte, 36)...)
	if r.IntN(4) == 0 {
		h[3], h[4], h[5] = 0, 0, 0
	}
	ip := h[2:]
	binary.BigEndian.PutUint16(ip[4:], uint16(len(payload)))
	ip[6], ip[7] = proto, 64
	src, dst := netip.MustParseAddr("2001:db8:30::").As16(), netip.MustParseAddr("2001:db8:20::").As16()
	for k := 8; k < 16; k++ {
		src[k], dst[k] = byte(r.Uint32()), byte(r.Uint32())
	}
	dst[15] |= 1
	copy(ip[8:], src[:])
	copy(ip[24:], dst[:])
	return append(h, payload...)
}

// kind picks an extension header; long chains are all destination options.
func kind(r *rand.Rand, extensions int) int {
	if extensions > 4 {
		return 0
	}
	return r.IntN(4)
}

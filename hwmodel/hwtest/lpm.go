package hwtest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"antiphon/hwmodel"
)

// testLPM compares lookups in tables of random nested prefixes with a linear
// scan, while routes come and go.
func testLPM(t *testing.T, mk maker) {
	for _, f := range []hwmodel.Family{hwmodel.IPv4, hwmodel.IPv6} {
		t.Run(fmt.Sprintf("IPv%d", f), func(t *testing.T) {
			s := mk(t, Config{Ports: ports()})
			sc := newScene(f)
			// No other routes, and each random one leads to a next hop of its
			// own, known by the MAC address of its neighbour.
			sc.Routes = nil
			s.load(t, sc.Entries)
			r := rand.New(rand.NewPCG(3, uint64(f)))
			const steps = 40
			live := map[hwmodel.RouteKey]int{}
			number := 0
			for range steps {
				var b hwmodel.Batch
				for key := range live {
					if r.IntN(3) == 0 {
						b.Delete.Routes = append(b.Delete.Routes, key)
						delete(live, key)
					}
				}
				gone := map[hwmodel.RouteKey]bool{}
				for _, k := range b.Delete.Routes {
					gone[k] = true
				}
				for range 20 {
					key := hwmodel.RouteKey{Table: mainTable, Prefix: randomPrefix(r, f)}
					if gone[key] {
						continue // deletes win in one batch
					}
					number++
					live[key] = number
					gateway := gatewayOf(f, number)
					b.Set.Neighbors = append(b.Set.Neighbors, hwmodel.Neighbor{
						NeighborKey: hwmodel.NeighborKey{Interface: ifaceOf(3), Addr: gateway}, MAC: numberedMAC(number),
					})
					id := 1000 + number
					b.Set.NextHops = append(b.Set.NextHops, hwmodel.NextHop{ID: hwmodel.NextHopID(id), Interface: ifaceOf(3), Gateway: gateway})
					b.Set.Groups = append(b.Set.Groups, oneLeg(id, hwmodel.NextHopID(id)))
					route := mainRoute("0.0.0.0/0", id)
					route.RouteKey = key
					b.Set.Routes = append(b.Set.Routes, route)
				}
				s.apply(t, b)
				for range 50 {
					pkt := sc.pkt
					pkt.To = randomAddr(r, f)
					want := trapped(hwmodel.ReasonNoRoute)
					if number, ok := scan(live, pkt.To); ok {
						want = forwarded(pkt, 3)
						mac := numberedMAC(number)
						copy(want.Frame, mac[:])
					}
					s.expect(t, sc.in, pkt.Frame(), want)
				}
				if t.Failed() {
					return
				}
			}
		})
	}
}

// scan is the longest prefix match as a child would do it.
func scan(routes map[hwmodel.RouteKey]int, a netip.Addr) (number int, ok bool) {
	longest := -1
	for k, n := range routes {
		if k.Prefix.Contains(a) && k.Prefix.Bits() > longest {
			longest, number = k.Prefix.Bits(), n
		}
	}
	return number, longest >= 0
}

// randomAddr returns one of rather few addresses, so that prefixes nest and hit:
// every byte behind the first is one of four.
func randomAddr(r *rand.Rand, f hwmodel.Family) netip.Addr {
	bytes := [4]byte{0, 1, 0x80, 0xff}
	if f == hwmodel.IPv4 {
		return netip.AddrFrom4([4]byte{10, bytes[r.IntN(4)], bytes[r.IntN(4)], bytes[r.IntN(4)]})
	}
	a := [16]byte{0x20}
	for i := 1; i < 16; i++ {
		a[i] = bytes[r.IntN(2)]
	}
	a[7], a[8], a[15] = bytes[r.IntN(4)], bytes[r.IntN(4)], bytes[r.IntN(4)]
	return netip.AddrFrom16(a)
}

func randomPrefix(r *rand.Rand, f hwmodel.Family) netip.Prefix {
	a := randomAddr(r, f)
	var bits int
	switch r.IntN(4) {
	case 0:
		bits = a.BitLen()
	case 1:
		bits = r.IntN(a.BitLen() + 1)
	default:
		bits = min(8*r.IntN(a.BitLen()/8+1)+r.IntN(3), a.BitLen())
	}
	p, err := a.Prefix(bits)
	must(err)
	return p
}

func numberedMAC(n int) (m hwmodel.MAC) {
	m[0] = 2
	binary.BigEndian.PutUint32(m[2:], uint32(n))
	return m
}

func gatewayOf(f hwmodel.Family, n int) netip.Addr {
	if f == hwmodel.IPv4 {
		return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
	}
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 14: byte(n >> 8), 15: byte(n)})
}

package hwtest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"antiphon/hwmodel"
)

// testRewrite compares forwarded frames byte for byte with frames built anew.
func testRewrite(t *testing.T, mk maker) {
	s := mk(t, Config{Ports: ports()})
	s.load(t, newScene(hwmodel.IPv4).Entries)

	change := func(name string, f hwmodel.Family, mut func(p *Packet)) {
		t.Run(fmt.Sprintf("IPv%d/%s", f, name), func(t *testing.T) {
			sc := newScene(f)
			mut(&sc.pkt)
			s.expect(t, sc.in, sc.pkt.Frame(), forwarded(sc.pkt, 2))
		})
	}
	for _, f := range []hwmodel.Family{hwmodel.IPv4, hwmodel.IPv6} {
		change("udp", f, func(p *Packet) {})
		change("tcp", f, func(p *Packet) { p.Proto = 6 })
		change("icmp", f, func(p *Packet) { p.Proto, p.Payload = 1, []byte{8, 0, 1, 2, 3, 4, 5, 6} })
		change("unknown-protocol", f, func(p *Packet) { p.Proto = 253 })
		change("ttl-2", f, func(p *Packet) { p.TTL = 2 })
		change("ttl-255", f, func(p *Packet) { p.TTL = 255 })
		change("tos", f, func(p *Packet) { p.TOS = 0xb9 })
		change("one-byte", f, func(p *Packet) { p.Proto, p.Payload = 253, []byte{7} })
		change("full-mtu", f, func(p *Packet) { p.Proto, p.Payload = 253, make([]byte, map[hwmodel.Family]int{4: 1480, 6: 1460}[f]) })
		change("padding", f, func(p *Packet) { p.Payload, p.Padding = nil, 18 })
		change("much-padding", f, func(p *Packet) { p.Padding = 300 })
	}
	change("no-payload", hwmodel.IPv4, func(p *Packet) { p.Proto, p.Payload = 253, nil })
	change("no-next-header", hwmodel.IPv6, func(p *Packet) { p.Proto, p.Payload = 59, nil })
	change("no-next-header-padding", hwmodel.IPv6, func(p *Packet) { p.Proto, p.Payload, p.Padding = 59, nil, 20 })
	change("flow-label", hwmodel.IPv6, func(p *Packet) { p.FlowLabel = 0xabcde })
	change("fragment-header", hwmodel.IPv6, func(p *Packet) { p.Proto, p.Payload = 44, []byte{17, 0, 0, 1, 1, 2, 3, 4, 5, 6} })
	change("destination-options", hwmodel.IPv6, func(p *Packet) { p.Proto, p.Payload = 60, []byte{59, 0, 1, 4, 0, 0, 0, 0} })
	change("routing-header", hwmodel.IPv6, func(p *Packet) { p.Proto, p.Payload = 43, []byte{59, 0, 4, 0, 0, 0, 0, 0} })
	change("first-fragment", hwmodel.IPv4, func(p *Packet) { p.Flags, p.ID = 1, 77 })
	change("last-fragment", hwmodel.IPv4, func(p *Packet) { p.Offset, p.ID = 100, 77 })
	change("dont-fragment", hwmodel.IPv4, func(p *Packet) { p.Flags = 2 })
	change("evil-bit", hwmodel.IPv4, func(p *Packet) { p.Flags = 4 })

	t.Run("IPv4/checksums", func(t *testing.T) {
		sc := newScene(hwmodel.IPv4)
		for id := 0; id < 1<<16; id += 7 {
			sc.pkt.ID = uint16(id)
			s.expect(t, sc.in, sc.pkt.Frame(), forwarded(sc.pkt, 2))
		}
	})
	t.Run("IPv4/checksum-zero", func(t *testing.T) {
		sc := newScene(hwmodel.IPv4)
		for id := range 1 << 16 {
			sc.pkt.ID = uint16(id)
			frame := sc.pkt.Frame()
			switch sum := frame[14+10 : 14+12]; binary.BigEndian.Uint16(sum) {
			case 0:
				// 0xffff is the same number in one's complement: it is accepted
				// and never sent (03: ip_decrease_ttl).
				sum[0], sum[1] = 0xff, 0xff
				s.expect(t, sc.in, frame, forwarded(sc.pkt, 2))
			case 0xfeff:
				// One less of TTL makes it 0xffff, which is sent as 0.
				s.expect(t, sc.in, frame, forwarded(sc.pkt, 2))
			}
		}
	})
	t.Run("IPv4/transport-checksum-untouched", func(t *testing.T) {
		sc := newScene(hwmodel.IPv4)
		frame, want := sc.pkt.Frame(), forwarded(sc.pkt, 2)
		frame[14+20+6] ^= 0xff
		want.Frame[14+20+6] ^= 0xff
		s.expect(t, sc.in, frame, want)
	})
	for _, f := range []hwmodel.Family{hwmodel.IPv4, hwmodel.IPv6} {
		t.Run(fmt.Sprintf("IPv%d/connected", f), func(t *testing.T) {
			sc := newScene(f)
			sc.pkt.To = host(f, 5)
			s.expect(t, sc.in, sc.pkt.Frame(), forwarded(sc.pkt, 5))
			sc.pkt.To = host(f, 5).Next()
			s.expect(t, sc.in, sc.pkt.Frame(), trapped(hwmodel.ReasonNeighborUnresolved))
		})
		t.Run(fmt.Sprintf("IPv%d/cut-short", f), func(t *testing.T) {
			sc := newScene(f)
			frame := sc.pkt.Frame()
			for n := range frame {
				want := hwmodel.ReasonMalformed
				s.expect(t, sc.in, frame[:n], trapped(want))
			}
		})
	}
	t.Run("IPv4/via-inet6", func(t *testing.T) {
		sc := newScene(hwmodel.IPv4)
		sc.hop().Gateway = host6(2)
		sc.hop().Interface = ifaceOf(2)
		s.load(t, sc.Entries)
		s.expect(t, sc.in, sc.pkt.Frame(), forwarded(sc.pkt, 2))
		s.apply(t, hwmodel.Batch{Delete: hwmodel.Keys{Neighbors: []hwmodel.NeighborKey{{Interface: ifaceOf(2), Addr: host6(2)}}}})
		s.expect(t, sc.in, sc.pkt.Frame(), trapped(hwmodel.ReasonNeighborUnresolved))
	})
	for _, f := range []hwmodel.Family{hwmodel.IPv4, hwmodel.IPv6} {
		t.Run(fmt.Sprintf("IPv%d/route-mtu", f), func(t *testing.T) {
			sc := newScene(f)
			length := uint32(len(sc.pkt.Frame()) - 14)
			sc.target().MTU = length
			s.load(t, sc.Entries)
			s.expect(t, sc.in, sc.pkt.Frame(), forwarded(sc.pkt, 2))
			sc.target().MTU = length - 1
			s.load(t, sc.Entries)
			s.expect(t, sc.in, sc.pkt.Frame(), trapped(hwmodel.ReasonTooBig))
		})
	}
	t.Run("IPv6/same-interface", func(t *testing.T) {
		sc := newScene(hwmodel.IPv6)
		sc.pkt.To = host6(1)
		s.load(t, sc.Entries)
		s.expect(t, sc.in, sc.pkt.Frame(), trapped(hwmodel.ReasonRedirectDue))
	})
	t.Run("IPv4/same-interface", func(t *testing.T) {
		sc := newScene(hwmodel.IPv4)
		sc.pkt.To = host4(1)
		s.load(t, sc.Entries)
		s.expect(t, sc.in, sc.pkt.Frame(), forwarded(sc.pkt, 1))
	})
}

// testAddresses is which sources and destinations are forwarded: 03, 4, 5, 7, 25, 26.
func testAddresses(t *testing.T, mk maker) {
	s := mk(t, Config{Ports: ports()})
	sc := newScene(hwmodel.IPv4)
	sc.Routes = append(sc.Routes, mainRoute("0.0.0.0/0", 2), mainRoute("::/0", 62))
	s.load(t, sc.Entries)

	good4 := []string{"0.0.0.1", "0.1.2.3", "126.255.255.255", "128.0.0.0", "169.254.1.1", "192.0.2.255", "223.255.255.255", "240.0.0.0", "255.255.255.254"}
	bad4 := []string{"0.0.0.0", "127.0.0.0", "127.255.255.255", "224.0.0.0", "239.255.255.255", "255.255.255.255"}
	good6 := []string{"::2", "::ffff:127.0.0.1", "::ffff:224.0.0.1", "::ffff:10.0.0.1", "1::", "fd00::1", "fe7f::1", "fec0::1", "feff::1"}
	bad6 := []string{"::1", "ff00::", "ff02::1", "ffff::", "fe80::", "fe80::1", "febf:ffff::"}

	each := func(f hwmodel.Family, what string, addrs []string, set func(p *Packet, a netip.Addr), reason hwmodel.Reason) {
		for _, a := range addrs {
			t.Run(fmt.Sprintf("IPv%d/%s/%s", f, what, a), func(t *testing.T) {
				pkt := newScene(f).pkt
				set(&pkt, netip.MustParseAddr(a))
				want := forwarded(pkt, 2)
				if reason != hwmodel.ReasonNone {
					want = trapped(reason)
				}
				s.expect(t, 1, pkt.Frame(), want)
			})
		}
	}
	from := func(p *Packet, a netip.Addr) { p.From = a }
	to := func(p *Packet, a netip.Addr) { p.To = a }
	each(hwmodel.IPv4, "from", good4, from, 0)
	each(hwmodel.IPv4, "from", bad4, from, hwmodel.ReasonMartianSource)
	each(hwmodel.IPv4, "to", good4, to, 0)
	each(hwmodel.IPv4, "to", bad4, to, hwmodel.ReasonMartianDest)
	each(hwmodel.IPv6, "from", good6, from, 0)
	each(hwmodel.IPv6, "from", append(bad6, "::"), from, hwmodel.ReasonMartianSource)
	each(hwmodel.IPv6, "to", append(good6, "::"), to, 0)
	each(hwmodel.IPv6, "to", bad6, to, hwmodel.ReasonMartianDest)
}

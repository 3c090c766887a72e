package demo

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"antiphon/hwmodel"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// flow is one stream of packets from a host.
type flow struct {
	id       uint32
	from     int // host
	src, dst netip.Addr
	sport    uint16
	count    int
	// want is what the case table says of it.
	want hwmodel.Verdict
	// route is the row that carries it: table and prefix.
	table uint32
	dest  netip.Prefix
	// hw and to are filled in by the run: whether the device alone carried it
	// and the host that captured it.
	received counted
	to       int
}

// counted is packets and bytes of frames, from destination MAC on.
type counted struct{ packets, bytes uint64 }

func (c *counted) add(n int) { c.packets++; c.bytes += uint64(n) }

func (c counted) plus(d counted) counted { return counted{c.packets + d.packets, c.bytes + d.bytes} }

// magic begins the payload of every packet of the demo.
const magic = "antiphon demo"

const payloadBytes = len(magic) + 4 + 4 + 200

// plan is what is sent: every kind of route of the configuration.
func plan() []*flow {
	var flows []*flow
	add := func(from int, src, dst string, table uint32, dest string, want hwmodel.Verdict, count int) {
		flows = append(flows, &flow{id: uint32(len(flows) + 1), from: from, src: netip.MustParseAddr(src), dst: netip.MustParseAddr(dst),
			sport: uint16(10000 + 7*len(flows)), count: count, want: want, table: table, dest: netip.MustParsePrefix(dest)})
	}
	const main, second = 254, 100
	add(1, "10.1.0.2", "10.2.0.2", main, "10.2.0.0/24", hwmodel.Forward, 500)
	add(2, "10.2.0.2", "10.1.0.2", main, "10.1.0.0/24", hwmodel.Forward, 500)
	add(1, "10.1.0.2", "198.51.100.7", main, "198.51.100.0/24", hwmodel.Forward, 500)
	for i := range 16 {
		add(1, "10.1.0.2", fmt.Sprintf("203.0.113.%d", i+1), main, "203.0.113.0/24", hwmodel.Forward, 50)
		add(1, "10.1.0.2", fmt.Sprintf("192.0.2.%d", i+1), main, "192.0.2.0/25", hwmodel.Forward, 50)
		add(1, "2001:db8:1::2", fmt.Sprintf("2001:db8:200::%x", i+1), main, "2001:db8:200::/48", hwmodel.Forward, 50)
	}
	add(1, "2001:db8:1::2", "2001:db8:100::7", main, "2001:db8:100::/48", hwmodel.Forward, 300)
	add(1, "10.1.0.2", "100.64.3.4", main, "100.64.0.0/16", hwmodel.Forward, 300)
	add(4, "10.4.0.2", "8.8.8.8", second, "0.0.0.0/0", hwmodel.Forward, 300)          // by the second table
	add(4, "10.4.0.2", "198.51.100.9", main, "198.51.100.0/24", hwmodel.Forward, 300) // throw: back to main
	add(1, "10.1.0.2", "192.0.2.130", main, "192.0.2.128/26", hwmodel.Drop, 100)
	add(1, "10.1.0.2", "192.0.2.200", main, "192.0.2.192/26", hwmodel.Trap, 5)
	add(1, "10.1.0.2", "198.18.0.1", main, "198.18.0.0/24", hwmodel.Trap, 100) // TOS routes: the kernel forwards
	return flows
}

// delivered says whether somebody receives the flow in the end.
func (f *flow) delivered() bool {
	return f.want == hwmodel.Forward || f.dest.String() == "198.18.0.0/24"
}

// frame builds packet n of the flow as it leaves the host.
func (f *flow) frame(n int) ([]byte, error) {
	src, dst := hostMAC(f.from), routerMAC(f.from)
	eth := &layers.Ethernet{SrcMAC: src[:], DstMAC: dst[:], EthernetType: layers.EthernetTypeIPv4}
	udp := &layers.UDP{SrcPort: layers.UDPPort(f.sport), DstPort: 9999}
	var ip gopacket.SerializableLayer
	if f.src.Is4() {
		h := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: f.src.AsSlice(), DstIP: f.dst.AsSlice()}
		udp.SetNetworkLayerForChecksum(h)
		ip = h
	} else {
		h := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: f.src.AsSlice(), DstIP: f.dst.AsSlice()}
		udp.SetNetworkLayerForChecksum(h)
		eth.EthernetType = layers.EthernetTypeIPv6
		ip = h
	}
	payload := make([]byte, payloadBytes)
	copy(payload, magic)
	binary.BigEndian.PutUint32(payload[len(magic):], f.id)
	binary.BigEndian.PutUint32(payload[len(magic)+4:], uint32(n))
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, udp, gopacket.Payload(payload))
	return buf.Bytes(), err
}

// demoPacket returns the flow and number of a captured frame of the demo: plain
// UDP as it was sent, not quoted in an ICMP error. dst is its destination MAC.
func demoPacket(frame []byte) (id, n uint32, dst [6]byte, ok bool) {
	at := 14 + 20 + 8
	switch {
	case len(frame) < 14:
		return 0, 0, dst, false
	case frame[12] == 0x86 && frame[13] == 0xdd:
		at += 20
	case frame[12] != 8 || frame[13] != 0:
		return 0, 0, dst, false
	}
	if len(frame) < at+payloadBytes || string(frame[at:at+len(magic)]) != magic {
		return 0, 0, dst, false
	}
	copy(dst[:], frame)
	at += len(magic)
	return binary.BigEndian.Uint32(frame[at:]), binary.BigEndian.Uint32(frame[at+4:]), dst, true
}

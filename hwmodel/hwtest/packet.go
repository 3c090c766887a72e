package hwtest

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"antiphon/hwmodel"
)

// Packet describes a frame to build. From and To decide the family.
type Packet struct {
	DstMAC, SrcMAC hwmodel.MAC
	From, To       netip.Addr
	// TTL is the hop limit too; TOS the traffic class.
	TTL, TOS  uint8
	FlowLabel uint32
	// Proto is the protocol or next header; with UDP (17) or TCP (6) the ports
	// make a right transport header in front of Payload.
	Proto            uint8
	SrcPort, DstPort uint16
	Payload          []byte
	// ID, Flags (3 bits) and Offset (13 bits) are IPv4's.
	ID, Offset uint16
	Flags      uint8

	// The rest spoils a right frame, in this order.

	Version, IHL uint8 // unless 0
	Length       int   // total or payload length field, unless 0
	BadChecksum  bool
	EtherType    uint16 // unless 0
	Tag          uint16 // VLAN ethertype to insert, unless 0
	Padding      int    // bytes of trailer
	Cut          int    // bytes to keep, unless 0
}

// Frame builds the frame. Broken descriptions panic: they are the test's.
func (p Packet) Frame() []byte {
	var chain []gopacket.SerializableLayer
	eth := &layers.Ethernet{DstMAC: net.HardwareAddr(p.DstMAC[:]), SrcMAC: net.HardwareAddr(p.SrcMAC[:])}
	var network gopacket.NetworkLayer
	if p.From.Is4() {
		eth.EthernetType = layers.EthernetTypeIPv4
		ip := &layers.IPv4{
			Version: 4, TOS: p.TOS, Id: p.ID, Flags: layers.IPv4Flag(p.Flags), FragOffset: p.Offset, TTL: p.TTL,
			Protocol: layers.IPProtocol(p.Proto), SrcIP: p.From.AsSlice(), DstIP: p.To.AsSlice(),
		}
		network, chain = ip, append(chain, eth, ip)
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip := &layers.IPv6{
			Version: 6, TrafficClass: p.TOS, FlowLabel: p.FlowLabel, HopLimit: p.TTL,
			NextHeader: layers.IPProtocol(p.Proto), SrcIP: p.From.AsSlice(), DstIP: p.To.AsSlice(),
		}
		network, chain = ip, append(chain, eth, ip)
	}
	switch {
	case p.Offset != 0:
	case p.Proto == 17:
		l := &layers.UDP{SrcPort: layers.UDPPort(p.SrcPort), DstPort: layers.UDPPort(p.DstPort)}
		must(l.SetNetworkLayerForChecksum(network))
		chain = append(chain, l)
	case p.Proto == 6:
		l := &layers.TCP{SrcPort: layers.TCPPort(p.SrcPort), DstPort: layers.TCPPort(p.DstPort), ACK: true}
		must(l.SetNetworkLayerForChecksum(network))
		chain = append(chain, l)
	}
	buf := gopacket.NewSerializeBuffer()
	must(gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		append(chain, gopacket.Payload(p.Payload))...))
	return p.spoil(buf.Bytes())
}

// spoil applies the lower half of the description to a right frame.
func (p Packet) spoil(f []byte) []byte {
	ip := f[14:]
	var length int // of the packet: gopacket pads short frames
	if p.From.Is4() {
		length = int(binary.BigEndian.Uint16(ip[2:]))
	} else {
		length = 40 + int(binary.BigEndian.Uint16(ip[4:]))
	}
	f = append([]byte(nil), f[:14+length]...)
	ip = f[14:]
	if p.Version != 0 {
		ip[0] = p.Version<<4 | ip[0]&0x0f
	}
	if p.IHL != 0 {
		ip[0] = ip[0]&0xf0 | p.IHL
	}
	if p.From.Is4() {
		if p.Length != 0 {
			binary.BigEndian.PutUint16(ip[2:], uint16(p.Length))
		}
		setChecksum(ip[:20])
		if p.BadChecksum {
			ip[10] ^= 0x55
		}
	} else if p.Length != 0 {
		binary.BigEndian.PutUint16(ip[4:], uint16(p.Length))
	}
	if p.EtherType != 0 {
		binary.BigEndian.PutUint16(f[12:], p.EtherType)
	}
	if p.Tag != 0 {
		tag := binary.BigEndian.AppendUint16(nil, p.Tag)
		f = append(f[:12:12], append(append(tag, 0, 5), f[12:]...)...)
	}
	for i := range p.Padding {
		f = append(f, byte(0xa0+i))
	}
	if p.Cut != 0 {
		f = f[:min(p.Cut, len(f))]
	}
	return f
}

// setChecksum writes the checksum of an IPv4 header without options.
func setChecksum(h []byte) {
	h[10], h[11] = 0, 0
	var sum uint32
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

package difflab

import (
	"net/netip"

	"antiphon/internal/netnstest"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// Addresses of the lab's MACs: port n of the router, and the host on its wire.
func portMAC(n int) []byte { return netnstest.MAC(uint16(0x200 + n)) }
func hostMAC(n int) []byte { return netnstest.MAC(uint16(0x100 + n)) }

// packet describes a UDP packet on its way into port in; the zero value of a
// field means the ordinary.
type packet struct {
	in       int    // ingress port, 1-based
	src, dst string // IP addresses of one family
	ttl      uint8  // 64
	tos      uint8
	id       uint16
	df       bool
	fragment uint16 // offset in units of 8 bytes
	more     bool   // more fragments
	size     int    // payload bytes, 32
	sport    uint16 // 1000
	dport    uint16 // 2000
	flow     uint32 // IPv6 flow label
	options  []layers.IPv4Option
	dmac     []byte
	pad      int                 // trailing bytes after the IP packet
	mangle   func(ip []byte)     // last change to the IP packet
	frame    func([]byte) []byte // last change to the whole frame
}

// bytes builds the frame.
func (p packet) bytes() []byte {
	src, dst := netip.MustParseAddr(p.src), netip.MustParseAddr(p.dst)
	or := func(v, def uint16) uint16 {
		if v == 0 {
			return def
		}
		return v
	}
	eth := &layers.Ethernet{SrcMAC: hostMAC(p.in), DstMAC: portMAC(p.in), EthernetType: layers.EthernetTypeIPv4}
	if p.dmac != nil {
		eth.DstMAC = p.dmac
	}
	udp := &layers.UDP{SrcPort: layers.UDPPort(or(p.sport, 1000)), DstPort: layers.UDPPort(or(p.dport, 2000))}
	size := p.size
	if size == 0 {
		size = 32
	}
	payload := make([]byte, size)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	stack := []gopacket.SerializableLayer{eth}
	ttl := uint8(or(uint16(p.ttl), 64))
	if src.Is4() {
		ip := &layers.IPv4{Version: 4, TTL: ttl, TOS: p.tos, Id: p.id, Protocol: layers.IPProtocolUDP,
			SrcIP: src.AsSlice(), DstIP: dst.AsSlice(), FragOffset: p.fragment, Options: p.options}
		if p.df {
			ip.Flags |= layers.IPv4DontFragment
		}
		if p.more {
			ip.Flags |= layers.IPv4MoreFragments
		}
		udp.SetNetworkLayerForChecksum(ip)
		stack = append(stack, ip)
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip := &layers.IPv6{Version: 6, HopLimit: ttl, TrafficClass: p.tos, FlowLabel: p.flow, NextHeader: layers.IPProtocolUDP,
			SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		udp.SetNetworkLayerForChecksum(ip)
		stack = append(stack, ip)
	}
	stack = append(stack, udp, gopacket.Payload(payload))
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...); err != nil {
		panic(err) // a case that cannot be built is a mistake in the case
	}
	f := append([]byte(nil), buf.Bytes()...)
	if p.mangle != nil {
		p.mangle(f[14:])
	}
	for range p.pad {
		f = append(f, 0xaa)
	}
	if p.frame != nil {
		f = p.frame(f)
	}
	return f
}

// resum recomputes the header checksum of an IPv4 packet.
func resum(ip []byte) {
	ip[10], ip[11] = 0, 0
	var sum uint32
	for i := 0; i+1 < int(ip[0]&15)*4 && i+1 < len(ip); i += 2 {
		sum += uint32(ip[i])<<8 | uint32(ip[i+1])
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	ip[10], ip[11] = byte(^sum>>8), byte(^sum)
}

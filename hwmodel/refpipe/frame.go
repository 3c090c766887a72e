package refpipe

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"antiphon/hwmodel"
)

// packet is a frame as far as its checks passed. Slices point into the frame.
type packet struct {
	eth    layers.Ethernet
	family hwmodel.Family
	ip4    layers.IPv4
	ip6    layers.IPv6
	// ip is the network-layer packet without padding.
	ip       []byte
	src, dst netip.Addr
	ttl      uint8
}

// parseEthernet is the stage "parse".
func (p *packet) parseEthernet(frame []byte) hwmodel.Reason {
	if err := p.eth.DecodeFromBytes(frame, gopacket.NilDecodeFeedback); err != nil {
		return hwmodel.ReasonMalformed
	}
	switch p.eth.EthernetType {
	case layers.EthernetTypeDot1Q, layers.EthernetTypeQinQ:
		return hwmodel.ReasonVLANTag
	case layers.EthernetTypeIPv4:
		p.family = hwmodel.IPv4
	case layers.EthernetTypeIPv6:
		p.family = hwmodel.IPv6
	default:
		return hwmodel.ReasonNotIP
	}
	return hwmodel.ReasonNone
}

// parseIP is the stage "header".
func (p *packet) parseIP() hwmodel.Reason {
	if p.family == hwmodel.IPv4 {
		return p.parseIPv4(p.eth.Payload)
	}
	return p.parseIPv6(p.eth.Payload)
}

// parseIPv4 judges version, header length and total length on the bytes: gopacket
// takes a total length of 0 for "as long as the frame" (segmentation offload).
func (p *packet) parseIPv4(b []byte) hwmodel.Reason {
	if len(b) < 20 || b[0]>>4 != 4 {
		return hwmodel.ReasonMalformed
	}
	if b[0]&0x0f != 5 {
		return hwmodel.ReasonIPOptions
	}
	total := int(binary.BigEndian.Uint16(b[2:]))
	if total < 20 || total > len(b) || checksum(b[:20]) != 0 {
		return hwmodel.ReasonMalformed
	}
	p.ip = b[:total]
	if err := p.ip4.DecodeFromBytes(p.ip, gopacket.NilDecodeFeedback); err != nil {
		return hwmodel.ReasonMalformed
	}
	p.src, _ = netip.AddrFromSlice(p.ip4.SrcIP)
	p.dst, _ = netip.AddrFromSlice(p.ip4.DstIP)
	p.ttl = p.ip4.TTL
	return hwmodel.ReasonNone
}

// parseIPv6 judges what gopacket would take for a jumbogram on the bytes.
func (p *packet) parseIPv6(b []byte) hwmodel.Reason {
	if len(b) < 40 || b[0]>>4 != 6 {
		return hwmodel.ReasonMalformed
	}
	payload, next := int(binary.BigEndian.Uint16(b[4:])), b[6]
	switch {
	case 40+payload > len(b):
		return hwmodel.ReasonMalformed
	case next == protoHopByHop:
		return hwmodel.ReasonHopByHop
	case payload == 0 && next != protoNone:
		return hwmodel.ReasonMalformed
	}
	p.ip = b[:40+payload]
	// gopacket decodes a packet without payload and complains about it anyway.
	if err := p.ip6.DecodeFromBytes(p.ip, gopacket.NilDecodeFeedback); err != nil && payload != 0 {
		return hwmodel.ReasonMalformed
	}
	p.src, _ = netip.AddrFromSlice(p.ip6.SrcIP)
	p.dst, _ = netip.AddrFromSlice(p.ip6.DstIP)
	p.ttl = p.ip6.HopLimit
	return hwmodel.ReasonNone
}

// checksum is the Internet checksum (RFC 1071) of an even number of bytes; over a
// header with a right checksum in it it is 0.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// rewritten returns the frame to send: the stage "rewrite". The IPv4 checksum is
// computed anew, which on a packet that came with a right one is what
// ip_decrease_ttl (include/net/ip.h) arrives at: neither ever yields 0xffff.
func (p *packet) rewritten(from, to hwmodel.MAC) ([]byte, error) {
	eth := p.eth
	eth.SrcMAC, eth.DstMAC = net.HardwareAddr(from[:]), net.HardwareAddr(to[:])
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{ComputeChecksums: true}
	var err error
	if p.family == hwmodel.IPv4 {
		ip := p.ip4
		ip.TTL--
		err = gopacket.SerializeLayers(buf, opts, &eth, &ip, gopacket.Payload(p.ip[20:]))
	} else {
		ip := p.ip6
		ip.HopLimit--
		err = gopacket.SerializeLayers(buf, opts, &eth, &ip, gopacket.Payload(p.ip[40:]))
	}
	if err != nil {
		return nil, err
	}
	return buf.Bytes()[:14+len(p.ip)], nil // without gopacket's padding to 60 bytes
}

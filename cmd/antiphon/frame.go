package main

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"

	"antiphon/transport"
)

const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58

	ethernetLen = 14
	ipv4Len     = 20
	ipv6Len     = 40
	// minFrame is what Ethernet pads to, without FCS.
	minFrame  = 60
	maxPacket = 9216
)

// packet is what a person says of the packet to trace.
type packet struct {
	port                  string
	src, dst              netip.Addr
	family                int // 4 or 6, 0 if not said
	proto, ttl, tos       uint8
	sport, dport          uint16
	length                int // of the IP packet, 0 for the shortest
	smac, dmac            net.HardwareAddr
	hasProto, hasL4, hasL bool
}

// parseTrace reads the words of trace and builds the frame. A destination MAC of
// zero stands for the ingress interface's.
func parseTrace(words []string) (*transport.TraceArgs, error) {
	p := packet{ttl: 64, smac: net.HardwareAddr{2, 0, 0, 0, 0, 1}, dmac: make(net.HardwareAddr, 6)}
	seen := map[string]bool{}
	for i := 0; i < len(words); i++ {
		word := words[i]
		if seen[word] {
			return nil, usage("%q is given twice", word)
		}
		seen[word] = true
		switch word {
		case "ip", "ip4", "ip6":
			if p.family != 0 {
				return nil, usage("ip and ip6 contradict each other")
			}
			if p.family = 4; word == "ip6" {
				p.family = 6
			}
			continue
		}
		if i++; i == len(words) {
			return nil, usage("%.32q is not understood, or lacks its value", word)
		}
		if err := p.set(word, words[i]); err != nil {
			return nil, err
		}
	}
	return p.build()
}

func (p *packet) set(word, value string) (err error) {
	number := func(bits int) uint64 {
		var n uint64
		if n, err = strconv.ParseUint(value, 0, bits); err != nil {
			err = usage("%s %.32q: want a number of %d bits", word, value, bits)
		}
		return n
	}
	address := func() (a netip.Addr) {
		if a, err = netip.ParseAddr(value); err != nil || a.Zone() != "" {
			err = usage("%s %.64q: want an IPv4 or IPv6 address", word, value)
		}
		return a
	}
	mac := func() (m net.HardwareAddr) {
		if m, err = net.ParseMAC(value); err != nil || len(m) != 6 {
			err = usage("%s %.32q: want a MAC address", word, value)
		}
		return m
	}
	switch word {
	case "in":
		p.port = value
	case "src":
		p.src = address()
	case "dst":
		p.dst = address()
	case "proto":
		p.hasProto = true
		if known, ok := map[string]uint8{"tcp": protoTCP, "udp": protoUDP, "icmp": protoICMP, "icmp6": protoICMPv6, "ipv6-icmp": protoICMPv6}[value]; ok {
			p.proto = known
		} else {
			p.proto = uint8(number(8))
		}
	case "sport":
		p.sport, p.hasL4 = uint16(number(16)), true
	case "dport":
		p.dport, p.hasL4 = uint16(number(16)), true
	case "ttl", "hoplimit":
		p.ttl = uint8(number(8))
	case "tos":
		p.tos = uint8(number(8))
	case "len":
		p.length = int(number(16))
		p.hasL = true
	case "smac":
		p.smac = mac()
	case "dmac":
		p.dmac = mac()
	default:
		return usage("%.32q is not understood: want in, ip, ip6, src, dst, proto, sport, dport, ttl, tos, len, smac, dmac", word)
	}
	return err
}

// check completes what was left open and refuses contradictions.
func (p *packet) check() error {
	switch {
	case p.port == "":
		return usage("say where the packet comes in: in PORT")
	case !p.src.IsValid() || !p.dst.IsValid():
		return usage("say where the packet comes from and goes to: src ADDRESS dst ADDRESS")
	case p.src.Is4() != p.dst.Is4():
		return usage("src %s and dst %s are of different families", p.src, p.dst)
	case p.family == 4 && !p.src.Is4(), p.family == 6 && p.src.Is4():
		return usage("ip%d and src %s contradict each other", p.family, p.src)
	}
	if !p.hasProto {
		if p.proto = protoUDP; p.hasL4 {
			p.proto = protoTCP
		}
	}
	if p.hasL4 && p.proto != protoTCP && p.proto != protoUDP {
		return usage("sport and dport need proto tcp or udp")
	}
	shortest := p.header() + p.l4()
	if !p.hasL {
		p.length = shortest
	}
	if p.length < shortest || p.length > maxPacket {
		return usage("len %d: want %d to %d", p.length, shortest, maxPacket)
	}
	return nil
}

func (p *packet) header() int {
	if p.src.Is4() {
		return ipv4Len
	}
	return ipv6Len
}

func (p *packet) l4() int {
	switch p.proto {
	case protoTCP:
		return 20
	case protoUDP, protoICMP, protoICMPv6:
		return 8
	}
	return 0
}

// build makes the frame. Checksums above IP stay zero: no forwarder looks at them.
func (p *packet) build() (*transport.TraceArgs, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	f := make([]byte, max(ethernetLen+p.length, minFrame))
	copy(f, p.dmac)
	copy(f[6:], p.smac)
	ip := f[ethernetLen:]
	if p.src.Is4() {
		binary.BigEndian.PutUint16(f[12:], 0x0800)
		ip[0], ip[1] = 0x45, p.tos
		binary.BigEndian.PutUint16(ip[2:], uint16(p.length))
		ip[8], ip[9] = p.ttl, p.proto
		copy(ip[12:], p.src.AsSlice())
		copy(ip[16:], p.dst.AsSlice())
		binary.BigEndian.PutUint16(ip[10:], checksum(ip[:ipv4Len]))
	} else {
		binary.BigEndian.PutUint16(f[12:], 0x86dd)
		ip[0], ip[1] = 0x60|p.tos>>4, p.tos<<4
		binary.BigEndian.PutUint16(ip[4:], uint16(p.length-ipv6Len))
		ip[6], ip[7] = p.proto, p.ttl
		copy(ip[8:], p.src.AsSlice())
		copy(ip[24:], p.dst.AsSlice())
	}
	l4 := ip[p.header():p.length]
	switch p.proto {
	case protoTCP:
		l4[12], l4[13] = 5<<4, 2 // a SYN
	case protoUDP:
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	case protoICMP:
		l4[0] = 8 // echo request
	case protoICMPv6:
		l4[0] = 128
	}
	if p.proto == protoTCP || p.proto == protoUDP {
		binary.BigEndian.PutUint16(l4, p.sport)
		binary.BigEndian.PutUint16(l4[2:], p.dport)
	}
	return &transport.TraceArgs{Port: p.port, Frame: f}, nil
}

// checksum is the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

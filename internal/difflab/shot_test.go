package difflab

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
)

// flow is a frame in the making.
type flow struct {
	family   int
	in       int
	src, dst netip.Addr
	proto    byte
	tos      byte
	ttl      byte
	id       uint16
	frag     uint16 // IPv4 flags and fragment offset
	label    uint32
	options  []byte // IPv4
	ext      []byte // IPv6 extension headers; the last one's next header is patched in
	extTypes []byte // their types, first to last
	l4       []byte
	size     int // of the IP packet, if larger than what it carries
	pad      int // bytes after the IP packet
	mac      []byte
	vlan     int // tag's vid, or -1
	items    []string
}

func (f *flow) is(items ...string) { f.items = append(f.items, items...) }

const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoGRE    = 47
	protoESP    = 50
	protoICMPv6 = 58
	protoSCTP   = 132
)

// shot makes a frame; most are such that a router forwards them.
func (g *generator) shot() shot {
	f := &flow{family: g.family(), in: g.port(), ttl: 64, vlan: -1, id: uint16(g.Uint32())}
	if g.chance(60) { // ports that are down receive nothing
		for i := 0; g.down[f.in] && i < 8; i++ {
			f.in = g.port()
		}
	}
	g.address(f)
	g.header(f)
	g.transport(f)
	if g.chance(15) {
		g.sizes(f)
	}
	if g.bare[f.family][f.in] {
		f.is("3")
	}
	frame := f.bytes()
	if g.chance(6) {
		f.is(map[int]string{four: "2", six: "malformed IPv6"}[f.family])
		frame = g.mutate(f, frame)
	} else if g.chance(1) {
		f.is("23")
		frame = g.arp(f)
	}
	return shot{in: f.in, frame: frame, items: f.items}
}

// within is an address of a prefix, often of its edges.
func (g *generator) within(prefix string) netip.Addr {
	p := netip.MustParsePrefix(prefix)
	b := p.Masked().Addr().AsSlice()
	mode := g.IntN(6)
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		// Low bits vary most: nested prefixes shall be met.
		high := bit < len(b)*8-12
		var one bool
		switch mode {
		case 0:
			one = false
		case 1:
			one = true
		default:
			one = g.IntN(2) == 1 && (!high || g.IntN(4) == 0)
		}
		if one {
			b[bit/8] |= 0x80 >> (bit % 8)
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func (g *generator) address(f *flow) {
	out := g.port()
	for i := 0; i < 3 && (g.down[out] || out == f.in && g.chance(70)); i++ {
		out = g.port()
	}
	switch k := g.IntN(100); {
	case k < 45 || len(g.prefixes[f.family]) == 0:
		f.dst = netip.MustParseAddr(host(f.family, out, g.anyHost()))
	case k < 92:
		f.dst = g.within(pick(g, g.prefixes[f.family]...))
	default:
		g.specialDestination(f, out)
	}
	switch k := g.IntN(100); {
	case k < 80:
		f.src = netip.MustParseAddr(host(f.family, f.in, 10+g.IntN(90)))
	case k < 87 && len(g.prefixes[f.family]) > 0:
		f.src = g.within(pick(g, g.prefixes[f.family]...))
		f.is(map[int]string{four: "6", six: "25"}[f.family])
	case k < 94:
		f.src = netip.MustParseAddr(host(f.family, g.port(), 10+g.IntN(90)))
	default:
		g.specialSource(f)
	}
	if out == f.in {
		f.is(map[int]string{four: "21", six: "30"}[f.family])
	}
}

func (g *generator) specialDestination(f *flow, out int) {
	if f.family == four {
		f.is("7")
		f.dst = netip.MustParseAddr(pick(g, "255.255.255.255", "127.0.0.1", "0.0.0.0", "0.1.2.3", "169.254.1.1", "240.1.2.3", "224.0.0.9",
			host(four, out, 0), host(four, out, 255), host(four, out, 255), host(four, out, 1), host(four, out, 1)))
		if f.dst.As4()[3] == 255 && f.dst.As4()[0] == 10 {
			f.is("8")
		}
		return
	}
	f.is("26")
	f.dst = netip.MustParseAddr(pick(g, "::", "::1", "fe80::77", "fec0::1", "ff02::1", "ff0e::1", "::ffff:10.0.1.2",
		host(six, out, 0), host(six, out, 1), host(six, out, 1), "2600::1"))
}

func (g *generator) specialSource(f *flow) {
	n := g.port()
	if f.family == four {
		own := pick(g, host(four, n, 1), host(four, n, 255))
		f.src = netip.MustParseAddr(pick(g, own, own, own, "0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.5", "255.255.255.255", "240.1.2.3", "169.254.7.7"))
		if f.src.String() == own {
			f.is("5")
		} else {
			f.is("4")
		}
		return
	}
	f.is("25")
	f.src = netip.MustParseAddr(pick(g, host(six, n, 1), "::", "::1", "fe80::1", "ff02::5", "fd00::1", "::ffff:1.2.3.4", "2002::1", "fec0::5"))
}

func (g *generator) header(f *flow) {
	switch k := g.IntN(100); {
	case k < 4:
		f.ttl = pick(g, byte(0), 1, 1)
		f.is(map[int]string{four: "19", six: "27"}[f.family])
		if f.family == four {
			f.is("16")
		}
	case k < 12:
		f.ttl = pick(g, byte(2), 3, 128, 255)
	}
	if g.chance(35) {
		f.tos = byte(g.Uint32())
		f.is("14")
	}
	if f.family == six {
		if g.chance(60) {
			f.label = g.Uint32() & 0xfffff
		}
		if g.chance(8) {
			g.extensions(f)
		}
		return
	}
	switch k := g.IntN(100); {
	case k < 25:
		f.frag = 0x4000 // don't fragment
	case k < 29:
		f.frag = pick(g, 0x2000, 0x0001, 0x2003, 0x0100, uint16(0x8000))
		f.is("15", "20")
	}
	if g.chance(3) {
		f.options = pick(g, []byte{1, 1, 1, 0}, []byte{7, 7, 4, 0, 0, 0, 0, 0}, []byte{0x94, 4, 0, 0}, []byte{0x83, 7, 4, 10, 0, 2, 2, 0}, []byte{99, 4, 1, 2})
		f.is("11")
	}
	if g.chance(3) { // the checksum's corners
		f.is("24")
		f.id = uint16(g.IntN(4))
	}
}

func (g *generator) extensions(f *flow) {
	f.is("29")
	for range 1 + g.IntN(2) {
		kind := pick(g, byte(0), 60, 60, 43, 44, 44)
		body := pick(g, []byte{1, 4, 0, 0, 0, 0}, []byte{0x1e, 4, 1, 2, 3, 4}, []byte{0x7e, 4, 1, 2, 3, 4}, []byte{0xbe, 4, 1, 2, 3, 4})
		switch kind {
		case 43:
			body = []byte{0, 0, 0, 0, 0, 0}
		case 44:
			body = pick(g, []byte{0, 0, 0, 0, 0, 9}, []byte{0, 1, 0, 0, 0, 9}, []byte{0, 8, 0, 0, 0, 9})
		}
		f.extTypes = append(f.extTypes, kind)
		f.ext = append(append(f.ext, 0, 0), body...)
	}
}

func (g *generator) transport(f *flow) {
	ports := func(length int) []byte {
		b := make([]byte, length)
		binary.BigEndian.PutUint16(b, pick(g, 1000, 1000, 53, uint16(g.Uint32())))
		binary.BigEndian.PutUint16(b[2:], pick(g, 2000, 53, 80, uint16(g.Uint32())))
		return b
	}
	switch k := g.IntN(100); {
	case k < 55:
		f.proto, f.l4 = protoUDP, ports(8)
	case k < 75:
		f.proto, f.l4 = protoTCP, ports(20)
		f.l4[12], f.l4[13] = 0x50, 0x02
	case k < 83:
		f.proto, f.l4 = protoICMP, []byte{pick(g, byte(8), 0, 13), 0, 0, 0, byte(g.Uint32()), byte(g.Uint32()), 0, 1}
		if f.family == six {
			f.proto, f.l4[0] = protoICMPv6, pick(g, byte(128), 129)
		}
	case k < 90:
		g.icmpError(f)
	default:
		f.proto, f.l4 = pick(g, byte(protoGRE), protoESP, protoSCTP, 4, 41, 253, 59), ports(16)
	}
}

// icmpError quotes a packet of the other direction: its addresses count for the
// multipath hash.
func (g *generator) icmpError(f *flow) {
	inner := &flow{family: f.family, in: f.in, src: f.dst, dst: f.src, ttl: 60, vlan: -1, proto: protoUDP, l4: make([]byte, 8)}
	if g.chance(50) {
		inner.dst = netip.MustParseAddr(host(f.family, g.port(), 10+g.IntN(90)))
	}
	binary.BigEndian.PutUint32(inner.l4, g.Uint32())
	f.proto = protoICMP
	f.l4 = []byte{pick(g, byte(3), 11, 12), 1, 0, 0, 0, 0, 0, 0}
	if f.family == six {
		f.proto = protoICMPv6
		f.l4[0] = pick(g, byte(1), 3, 4)
	}
	f.l4 = append(f.l4, inner.bytes()[14:]...)
}

// sizes around the MTUs in use.
func (g *generator) sizes(f *flow) {
	f.is(map[int]string{four: "20", six: "27"}[f.family])
	f.size = pick(g, 600, 1280, 1300, 1400, 1500, g.mtu[f.in]) + g.IntN(3) - 1
	f.size = min(f.size, g.mtu[f.in])
	if g.chance(20) {
		f.pad = 1 + g.IntN(30)
		f.is("2")
	}
}

// bytes builds the frame.
func (f *flow) bytes() []byte {
	dst := f.mac
	if dst == nil {
		dst = portMAC(f.in)
	}
	b := append(append([]byte{}, dst...), hostMAC(f.in)...)
	if f.vlan >= 0 {
		b = append(b, 0x81, 0x00, byte(f.vlan>>8), byte(f.vlan))
	}
	body := append(append([]byte{}, f.l4...), tagMagic+"\x00\x00\x00\x00\x01\x02\x03\x04"...)
	if f.family == four {
		b = append(b, 0x08, 0x00)
		at := len(b)
		head := 20 + len(f.options)
		for head+len(body) < f.size {
			body = append(body, byte(len(body)*7))
		}
		b = append(b, 0x40|byte(head/4), f.tos)
		b = binary.BigEndian.AppendUint16(b, uint16(head+len(body)))
		b = binary.BigEndian.AppendUint16(b, f.id)
		b = binary.BigEndian.AppendUint16(b, f.frag)
		b = append(b, f.ttl, f.proto, 0, 0)
		b = append(append(append(b, f.src.AsSlice()...), f.dst.AsSlice()...), f.options...)
		resum(b[at:])
	} else {
		b = append(b, 0x86, 0xdd)
		for 40+len(f.ext)+len(body) < f.size {
			body = append(body, byte(len(body)*7))
		}
		next := append(append([]byte{}, f.extTypes...), f.proto)
		b = binary.BigEndian.AppendUint32(b, 6<<28|uint32(f.tos)<<20|f.label)
		b = binary.BigEndian.AppendUint16(b, uint16(len(f.ext)+len(body)))
		b = append(b, next[0], f.ttl)
		b = append(append(b, f.src.AsSlice()...), f.dst.AsSlice()...)
		for i := range f.extTypes {
			e := append([]byte{}, f.ext[i*8:i*8+8]...)
			e[0] = next[i+1]
			b = append(b, e...)
		}
	}
	b = append(b, body...)
	for range f.pad {
		b = append(b, 0xaa)
	}
	return b
}

// mutate breaks a frame, mostly in its headers.
func (g *generator) mutate(f *flow, b []byte) []byte {
	ip := b[14:]
	head, at := 20, 2 // of the header's length, and of the length in it
	if f.family == six {
		head, at = 40, 4
	}
	was := binary.BigEndian.Uint16(ip[at:])
	resummed := true
	switch g.IntN(12) {
	case 0, 1:
		f.is("1")
		f.mac = pick(g, portMAC(1+f.in%genPorts), []byte{255, 255, 255, 255, 255, 255}, []byte{1, 0, 0x5e, 0, 0, 9}, []byte{0x33, 0x33, 0, 0, 0, 1})
		return f.bytes()
	case 2, 3:
		f.is("10")
		f.vlan = pick(g, 0, 0, 5, 0x2000)
		return f.bytes()
	case 4:
		ip[0] = byte(g.Uint32()) // version and header length
	case 5: // a length that is not the packet's
		binary.BigEndian.PutUint16(ip[at:], pick(g, was+1, was-1, was-2, was+100, uint16(g.Uint32()), 0, 19))
	case 6:
		resummed = false
		ip[10] ^= byte(1 + g.IntN(255))
	case 7: // a bit anywhere in the header
		ip[g.IntN(head)] ^= 1 << g.IntN(8)
		resummed = g.chance(80)
	case 8: // cut off
		return b[:14+g.IntN(len(b)-14)]
	case 9:
		for range g.IntN(60) {
			b = append(b, 0xbb)
		}
		return b
	case 10: // an ethertype that does not fit
		pair := pick(g, []byte{8, 0}, []byte{0x86, 0xdd}, []byte{0x88, 0x47}, []byte{0x08, 0x06}, []byte{0, 60})
		b[12], b[13] = pair[0], pair[1]
		return b
	case 11:
		for range 4 {
			ip[g.IntN(min(len(ip), head+8))] = byte(g.Uint32())
		}
	}
	// The kernel cuts a packet to the length it claims: not within the tag.
	if claim := binary.BigEndian.Uint16(ip[at:]); claim < was-4 && (claim > 0 || ip[6] == 59) {
		binary.BigEndian.PutUint16(ip[at:], was)
	}
	if f.family == four && resummed && int(ip[0]&15)*4 <= len(ip) && ip[0]&15 >= 5 {
		resum(ip)
	}
	return b
}

// arp asks for the router; the sender is no one that frames go to.
func (g *generator) arp(f *flow) []byte {
	b := append(append([]byte{255, 255, 255, 255, 255, 255}, hostMAC(f.in)...), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(append(b, hostMAC(f.in)...), netip.MustParseAddr(host(four, f.in, 200)).AsSlice()...)
	b = append(append(b, 0, 0, 0, 0, 0, 0), netip.MustParseAddr(host(four, f.in, 1)).AsSlice()...)
	return append(append(b, tagMagic+"\x00\x00\x00\x00"...), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
}

// unhex reads a kept frame.
func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

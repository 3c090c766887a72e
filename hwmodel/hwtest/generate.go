package hwtest

import (
	"math/rand/v2"
	"net/netip"

	"antiphon/hwmodel"
)

// randomEntries returns tables in which most packets of RandomFrame find most of
// what they need, and everything else happens too.
func randomEntries(r *rand.Rand) hwmodel.Entries {
	sc := newScene(hwmodel.IPv4)
	e := sc.Entries
	e.Settings = randomSettings(r)
	counter := hwmodel.CounterID(0)
	count := func() hwmodel.CounterID {
		if r.IntN(2) == 0 {
			return 0
		}
		counter++
		return counter
	}
	for i := range e.Interfaces {
		randomInterface(r, &e.Interfaces[i])
	}
	for i := range e.Neighbors {
		e.Neighbors[i].Counter = count()
	}
	for id := hwmodel.NextHopID(200); id < 210; id++ {
		h := hwmodel.NextHop{ID: id, Interface: ifaceOf(1 + r.IntN(numPorts+1))}
		switch r.IntN(6) {
		case 0:
			h = hwmodel.NextHop{ID: id, Trap: randomReason(r)}
		case 1:
			h.Gateway = host6(1 + r.IntN(numPorts))
		case 2:
		default:
			h.Gateway = host4(1 + r.IntN(numPorts))
		}
		e.NextHops = append(e.NextHops, h)
	}
	for id := hwmodel.GroupID(300); id < 320; id++ {
		g := hwmodel.Group{ID: id, Counter: count()}
		for range r.IntN(6) {
			g.Legs = append(g.Legs, hwmodel.Leg{
				NextHop: randomHop(r), Weight: []uint32{1, 1, 1 + r.Uint32N(256), 1 + r.Uint32N(65536)}[r.IntN(4)], Dead: r.IntN(5) == 0,
			})
		}
		e.Groups = append(e.Groups, g)
	}
	seen := map[hwmodel.RouteKey]bool{}
	for i := range e.Routes {
		seen[e.Routes[i].RouteKey] = true
		e.Routes[i].Counter = count()
	}
	for range r.IntN(120) {
		route := randomRoute(r)
		if seen[route.RouteKey] {
			continue
		}
		seen[route.RouteKey] = true
		route.Counter = count()
		e.Routes = append(e.Routes, route)
	}
	e.Rules = nil
	for _, f := range []hwmodel.Family{hwmodel.IPv4, hwmodel.IPv6} {
		e.Rules = append(e.Rules, randomRules(r, f))
	}
	for n := range r.IntN(4) {
		e.Own = append(e.Own, hwmodel.OwnAddress{Addr: host4(1 + n)})
	}
	return e
}

func randomSettings(r *rand.Rand) *hwmodel.Settings {
	s := &hwmodel.Settings{
		HashPolicy4: uint8(r.IntN(2)), HashPolicy6: uint8(r.IntN(2)), HashSeed: r.Uint32(), SeedKnown: true,
	}
	if r.IntN(20) == 0 {
		s.Trap4 = randomReason(r)
	}
	if r.IntN(20) == 0 {
		s.Trap6 = randomReason(r)
	}
	return s
}

func randomInterface(r *rand.Rand, i *hwmodel.Interface) {
	for _, reason := range []*hwmodel.Reason{&i.In4, &i.In6, &i.Out4, &i.Out6} {
		if r.IntN(15) == 0 {
			*reason = randomReason(r)
		}
	}
	i.MTU = []uint32{1500, 1500, 9000, 100, 60}[r.IntN(5)]
	i.RPFilter = hwmodel.RPMode([]uint8{0, 0, 1, 2}[r.IntN(4)])
	i.AcceptLocal, i.SourceCheck, i.RedirectTrap = r.IntN(3) == 0, r.IntN(3) == 0, r.IntN(2) == 0
}

func randomHop(r *rand.Rand) hwmodel.NextHopID {
	switch r.IntN(5) {
	case 0:
		return hwmodel.NextHopID(200 + r.IntN(10))
	case 1:
		return hwmodel.NextHopID(101 + r.IntN(numPorts))
	case 2:
		return hwmodel.NextHopID(61 + r.IntN(numPorts))
	case 3:
		if r.IntN(4) == 0 {
			return 9999
		}
	}
	return hwmodel.NextHopID(1 + r.IntN(numPorts))
}

func randomRoute(r *rand.Rand) hwmodel.Route {
	f := []hwmodel.Family{hwmodel.IPv4, hwmodel.IPv6}[r.IntN(2)]
	v := hwmodel.Route{RouteKey: hwmodel.RouteKey{Table: hwmodel.TableID(1 + r.IntN(3)), Prefix: randomPrefix(r, f)}}
	switch r.IntN(10) {
	case 0:
		v.Reason = randomReason(r)
	case 1:
		v.Action, v.Reason = hwmodel.RouteDrop, hwmodel.ReasonBlackhole
	case 2:
		v.Action = hwmodel.RouteThrow
	default:
		v.Action = hwmodel.RouteForward
		v.Group = hwmodel.GroupID([]int{1 + r.IntN(numPorts), 61 + r.IntN(numPorts), 101 + r.IntN(numPorts), 300 + r.IntN(21)}[r.IntN(4)])
		if r.IntN(8) == 0 {
			v.MTU = 50 + r.Uint32N(100)
		}
	}
	return v
}

func randomRules(r *rand.Rand, f hwmodel.Family) hwmodel.Rules {
	v := hwmodel.Rules{Family: f}
	prefix := func() (p netip.Prefix) {
		switch r.IntN(6) {
		case 0:
			return randomPrefix(r, f)
		case 1:
			p, err := host(f, 1+r.IntN(numPorts)).Prefix([]int{8, 24, 32}[r.IntN(3)])
			must(err)
			return p
		}
		return p
	}
	for i := range r.IntN(5) {
		rule := hwmodel.Rule{
			Priority: uint32(i), From: prefix(), To: prefix(), Not: r.IntN(6) == 0,
			Action: hwmodel.RuleLookup, Table: hwmodel.TableID(1 + r.IntN(4)), SuppressPrefixLen: -1,
		}
		if r.IntN(6) == 0 {
			rule.In = ifaceOf(1 + r.IntN(numPorts))
		}
		switch r.IntN(12) {
		case 0:
			rule.Action, rule.Reason = hwmodel.RuleTrap, randomReason(r)
		case 1:
			rule.Action, rule.Reason = hwmodel.RuleDrop, hwmodel.ReasonBlackhole
		case 2:
			rule.Action = hwmodel.RuleNext
		case 3:
			rule.SuppressPrefixLen = r.IntN(25)
		}
		v.List = append(v.List, rule)
	}
	if r.IntN(8) != 0 {
		v.List = append(v.List, lookup(mainTable))
	}
	return v
}

func randomReason(r *rand.Rand) hwmodel.Reason {
	return hwmodel.Reason(1 + r.IntN(hwmodel.ReasonCount-1))
}

// RandomFrame returns a frame for the scene (scene.go), right or wrong, and its
// ingress port: 1 to 8, whose interface's address is 02:00:00:00:01:port and whose
// host is 10.0.port.2 and 2001:db8:port::2. Destinations are those, 10/8 and 20::/8.
func RandomFrame(r *rand.Rand) (hwmodel.PortID, []byte) {
	port := 1 + r.IntN(numPorts)
	f := []hwmodel.Family{hwmodel.IPv4, hwmodel.IPv6}[r.IntN(2)]
	p := packetFrom(f, port, target4, target6)
	switch r.IntN(5) {
	case 0:
		p.To = host(f, 1+r.IntN(numPorts))
	case 1, 2, 3:
		p.To = randomAddr(r, f)
	}
	switch r.IntN(4) {
	case 0:
		p.From = randomAddr(r, f)
	case 1:
		p.From = host(f, 1+r.IntN(numPorts))
	}
	p.TTL = []uint8{64, 64, 64, 255, 2}[r.IntN(5)]
	if r.IntN(20) == 0 {
		p.TTL = uint8(r.IntN(2))
	}
	p.TOS, p.FlowLabel, p.ID = uint8(r.Uint32()), r.Uint32N(1<<20), uint16(r.Uint32())
	p.SrcPort, p.DstPort = uint16(r.Uint32()), uint16(r.Uint32())
	p.Proto = []uint8{17, 17, 6, 6, 1, 58, 0, 4, 41, 43, 44, 47, 50, 51, 59, 60, 33, 132, 136, 253}[r.IntN(20)]
	if n := r.IntN(6); n < 4 {
		p.Payload = make([]byte, []int{0, r.IntN(20), 60, r.IntN(200)}[n])
		for i := range p.Payload {
			p.Payload[i] = byte(r.Uint32())
		}
		if len(p.Payload) > 2 && r.IntN(2) == 0 {
			// A plausible chain of headers: types and small lengths.
			p.Payload[0] = []byte{17, 6, 60, 43, 44, 59, 1, 3, 11}[r.IntN(9)]
			p.Payload[1] = byte(r.IntN(3))
		}
	}
	if r.IntN(12) == 0 {
		icmpError(r, f, &p)
	}
	if r.IntN(15) == 0 && f == hwmodel.IPv6 {
		chain(&p, 1+r.IntN(20))
	}
	if r.IntN(10) == 0 {
		p.Flags, p.Offset = uint8(r.IntN(8)), uint16(r.IntN(3))
	}
	if r.IntN(5) == 0 {
		p.Padding = r.IntN(30)
	}
	frame := p.Frame()
	if r.IntN(4) == 0 {
		frame = mutate(r, frame)
	}
	return hwmodel.PortID(port), frame
}

// icmpError makes a packet an ICMP message, mostly an error that quotes another.
func icmpError(r *rand.Rand, f hwmodel.Family, p *Packet) {
	quote := *p
	quote.From, quote.To = p.To, randomAddr(r, f)
	quoted := quote.Frame()[14:]
	p.Proto, p.Payload = 1, []byte{byte(r.IntN(13)), 0, 1, 2, 3, 4, 5, 6}
	if f == hwmodel.IPv6 {
		p.Proto, p.Payload[0] = 58, byte(r.IntN(6))
	}
	if r.IntN(4) == 0 {
		quoted = quoted[:r.IntN(len(quoted))]
	}
	p.Payload = append(p.Payload, quoted...)
}

// chain puts n destination option headers in front of a UDP header: the kernel's
// flow dissector gives up after some.
func chain(p *Packet, n int) {
	var headers []byte
	for i := range n {
		next := byte(60)
		if i == n-1 {
			next = 17
		}
		headers = append(headers, next, 0, 1, 4, 0, 0, 0, 0)
	}
	p.Proto, p.Payload = 60, append(headers, byte(p.SrcPort>>8), byte(p.SrcPort), byte(p.DstPort>>8), byte(p.DstPort), 0, 8, 0, 0)
}

// mutate damages a frame: bytes, bits and length.
func mutate(r *rand.Rand, f []byte) []byte {
	for range 1 + r.IntN(4) {
		switch r.IntN(4) {
		case 0:
			f[r.IntN(len(f))] = byte(r.Uint32())
		case 1:
			f[r.IntN(min(len(f), 60))] ^= 1 << r.IntN(8)
		case 2:
			f = f[:r.IntN(len(f)+1)]
		case 3:
			// What is changed in the header stays right for the checksum.
			if len(f) >= 34 && f[12] == 8 && f[13] == 0 {
				f[14+r.IntN(20)] = byte(r.Uint32())
				setChecksum(f[14:34])
			}
		}
		if len(f) == 0 {
			break
		}
	}
	return f
}

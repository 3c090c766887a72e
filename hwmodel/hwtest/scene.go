package hwtest

import (
	"net/netip"
	"slices"

	"antiphon/hwmodel"
)

// The scene every test starts from: numPorts ports with a router interface each.
//
//	port n: interface 10+n, address 02:00:00:00:01:n, hosts 10.0.n.2 and
//	        2001:db8:n::2 with address 02:00:00:00:02:n as neighbours,
//	        next hop n (via the IPv4 host) and 60+n (via the IPv6 host),
//	        next hop 100+n and group 100+n: connected
//	table 1: 10.0.n.0/24 and 2001:db8:n::/64 to group 100+n;
//	        10.2.0.0/16 to group 2, 2001:db8:f2::/48 to group 62, both by port 2
//
// Its packet goes from port 1's host to 10.2.3.4 or 2001:db8:f2::4.
type scene struct {
	hwmodel.Entries
	pkt Packet
	in  hwmodel.PortID
}

const mainTable hwmodel.TableID = 1

func ifaceOf(port int) hwmodel.InterfaceID { return hwmodel.InterfaceID(10 + port) }
func routerMAC(port int) hwmodel.MAC       { return hwmodel.MAC{2, 0, 0, 0, 1, byte(port)} }
func hostMAC(port int) hwmodel.MAC         { return hwmodel.MAC{2, 0, 0, 0, 2, byte(port)} }
func host4(port int) netip.Addr            { return netip.AddrFrom4([4]byte{10, 0, byte(port), 2}) }
func host6(port int) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, byte(port), 15: 2})
}

func host(f hwmodel.Family, port int) netip.Addr {
	if f == hwmodel.IPv4 {
		return host4(port)
	}
	return host6(port)
}

// viaHost is the next hop and group through a port's host.
func viaHost(f hwmodel.Family, port int) hwmodel.NextHopID {
	if f == hwmodel.IPv4 {
		return hwmodel.NextHopID(port)
	}
	return hwmodel.NextHopID(60 + port)
}

func mainRoute(prefix string, group int) hwmodel.Route {
	return hwmodel.Route{
		RouteKey: hwmodel.RouteKey{Table: mainTable, Prefix: netip.MustParsePrefix(prefix)},
		Action:   hwmodel.RouteForward, Group: hwmodel.GroupID(group),
	}
}

func oneLeg(id int, hop hwmodel.NextHopID) hwmodel.Group {
	return hwmodel.Group{ID: hwmodel.GroupID(id), Legs: []hwmodel.Leg{{NextHop: hop, Weight: 1}}}
}

// target4 and target6 are what the scene's packet goes to.
const (
	prefix4 = "10.2.0.0/16"
	prefix6 = "2001:db8:f2::/48"
	target4 = "10.2.3.4"
	target6 = "2001:db8:f2::4"
)

func newScene(f hwmodel.Family) *scene {
	s := &scene{in: 1}
	for n := 1; n <= numPorts; n++ {
		s.Interfaces = append(s.Interfaces, hwmodel.Interface{
			ID: ifaceOf(n), Port: hwmodel.PortID(n), MAC: routerMAC(n), MTU: 1500,
		})
		connected := hwmodel.NextHopID(100 + n)
		s.NextHops = append(s.NextHops, hwmodel.NextHop{ID: connected, Interface: ifaceOf(n)})
		s.Groups = append(s.Groups, oneLeg(100+n, connected))
		for _, family := range []hwmodel.Family{hwmodel.IPv4, hwmodel.IPv6} {
			h, via := host(family, n), viaHost(family, n)
			s.Neighbors = append(s.Neighbors, hwmodel.Neighbor{
				NeighborKey: hwmodel.NeighborKey{Interface: ifaceOf(n), Addr: h}, MAC: hostMAC(n),
			})
			s.NextHops = append(s.NextHops, hwmodel.NextHop{ID: via, Interface: ifaceOf(n), Gateway: h})
			s.Groups = append(s.Groups, oneLeg(int(via), via))
			bits := 24
			if family == hwmodel.IPv6 {
				bits = 64
			}
			s.Routes = append(s.Routes, mainRoute(netip.PrefixFrom(h, bits).Masked().String(), 100+n))
		}
	}
	s.Routes = append(s.Routes, mainRoute(prefix4, 2), mainRoute(prefix6, 62))
	for _, family := range []hwmodel.Family{hwmodel.IPv4, hwmodel.IPv6} {
		s.Rules = append(s.Rules, hwmodel.Rules{Family: family, List: []hwmodel.Rule{lookup(mainTable)}})
	}
	s.Settings = &hwmodel.Settings{SeedKnown: true, HashSeed: 1}
	s.pkt = packetFrom(f, 1, target4, target6)
	return s
}

// lookup is a rule that matches everything.
func lookup(table hwmodel.TableID) hwmodel.Rule {
	return hwmodel.Rule{Action: hwmodel.RuleLookup, Table: table, SuppressPrefixLen: -1}
}

// packetFrom is a UDP packet from a port's host to one of two destinations.
func packetFrom(f hwmodel.Family, port int, to4, to6 string) Packet {
	p := Packet{
		DstMAC: routerMAC(port), SrcMAC: hostMAC(port), From: host(f, port), To: netip.MustParseAddr(to4),
		TTL: 64, Proto: 17, SrcPort: 1000, DstPort: 2000, Payload: []byte("antiphon"),
	}
	if f == hwmodel.IPv6 {
		p.To = netip.MustParseAddr(to6)
	}
	return p
}

// forwarded is the fate of a packet that leaves by a port to that port's host.
func forwarded(p Packet, out int) fate {
	p.DstMAC, p.SrcMAC = hostMAC(out), routerMAC(out)
	p.TTL--
	p.Padding = 0
	return fate{Verdict: hwmodel.Forward, Out: hwmodel.PortID(out), Frame: p.Frame()}
}

// The parts of the scene its packet meets, for changing; nil if they are gone.

func (s *scene) ingress() *hwmodel.Interface { return s.iface(ifaceOf(1)) }
func (s *scene) egress() *hwmodel.Interface  { return s.iface(ifaceOf(2)) }

func (s *scene) iface(id hwmodel.InterfaceID) *hwmodel.Interface {
	i := slices.IndexFunc(s.Interfaces, func(v hwmodel.Interface) bool { return v.ID == id })
	if i < 0 {
		return new(hwmodel.Interface)
	}
	return &s.Interfaces[i]
}

func (s *scene) family() hwmodel.Family {
	if s.pkt.From.Is4() {
		return hwmodel.IPv4
	}
	return hwmodel.IPv6
}

// route returns the route with this prefix.
func (s *scene) route(prefix string) *hwmodel.Route {
	p := netip.MustParsePrefix(prefix)
	i := slices.IndexFunc(s.Routes, func(v hwmodel.Route) bool { return v.Prefix == p })
	if i < 0 {
		return new(hwmodel.Route)
	}
	return &s.Routes[i]
}

// target is the route of the scene's packet.
func (s *scene) target() *hwmodel.Route {
	if s.family() == hwmodel.IPv4 {
		return s.route(prefix4)
	}
	return s.route(prefix6)
}

// hop is the next hop of the scene's packet.
func (s *scene) hop() *hwmodel.NextHop {
	id := viaHost(s.family(), 2)
	return &s.NextHops[slices.IndexFunc(s.NextHops, func(v hwmodel.NextHop) bool { return v.ID == id })]
}

// group returns a group.
func (s *scene) group(id hwmodel.GroupID) *hwmodel.Group {
	return &s.Groups[slices.IndexFunc(s.Groups, func(v hwmodel.Group) bool { return v.ID == id })]
}

// rules returns the rule list of the packet's family.
func (s *scene) rules() *hwmodel.Rules {
	i := slices.IndexFunc(s.Rules, func(v hwmodel.Rules) bool { return v.Family == s.family() })
	if i < 0 {
		return new(hwmodel.Rules)
	}
	return &s.Rules[i]
}

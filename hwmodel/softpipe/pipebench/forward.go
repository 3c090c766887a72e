package pipebench

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"antiphon/hwmodel"
	"antiphon/hwmodel/softpipe"

	"golang.org/x/sys/unix"
)

// What the forwarding figures are stated for.
const (
	FullTable   = 1_000_000 // routes
	HotPackets  = 1024
	ColdPackets = 65536 // one flow each

	// MaxPasses is how often a packet can be forwarded before its TTL ends: its
	// next hop has the router's own address, so that what went out can come in.
	MaxPasses = 250

	frameLen = 64
	hops     = 64
)

// Forward is a table and packets to forward by it.
type Forward struct {
	routes  []feedRoute // shortest first
	packets [][]byte
	fresh   []byte // all packets as they were made
	pipe    *softpipe.Pipe
	vector  hwmodel.Vector
}

// feedRoute is a route as l3fwd.c reads it: three little-endian words.
type feedRoute struct{ addr, bits, hop uint32 }

// NewForward makes a table of random routes, mostly /24 as in the Internet's, some
// longer, and packets to random routes of it.
func NewForward(routes, packets int) (*Forward, error) {
	r := rand.New(rand.NewPCG(1, 2))
	f := &Forward{routes: makeRoutes(r, routes), pipe: softpipe.New(softpipe.Options{Ports: []hwmodel.PortInfo{{ID: 1}, {ID: 2}}})}
	f.fresh = make([]byte, packets*frameLen)
	buf := make([]byte, packets*frameLen)
	for i := range packets {
		to := f.routes[r.IntN(len(f.routes))]
		makeFrame(f.fresh[i*frameLen:][:frameLen], r, to.addr|r.Uint32()&^mask(to.bits))
		f.packets = append(f.packets, buf[i*frameLen:][:frameLen:frameLen])
	}
	b := f.batch()
	res, err := f.pipe.Apply(context.Background(), b)
	if err == nil && len(res.Refused) > 0 {
		err = fmt.Errorf("refused: %v", res.Refused[0])
	}
	return f, err
}

func mask(bits uint32) uint32 { return uint32(^uint64(0) << (32 - bits)) }

func makeRoutes(r *rand.Rand, n int) []feedRoute {
	lengths := []uint32{24, 24, 24, 24, 24, 24, 23, 22, 22, 21, 20, 19, 18, 17, 16, 24, 24, 24, 28, 32}
	seen := make(map[feedRoute]bool, n)
	var routes []feedRoute
	for len(routes) < n {
		bits := lengths[r.IntN(len(lengths))]
		p := feedRoute{addr: (1<<24 + r.Uint32N(99<<24)) & mask(bits), bits: bits}
		if seen[p] {
			continue
		}
		seen[p] = true
		p.hop = r.Uint32N(hops)
		routes = append(routes, p)
	}
	slices.SortStableFunc(routes, func(a, b feedRoute) int { return cmp.Compare(a.bits, b.bits) })
	return routes
}

func makeFrame(f []byte, r *rand.Rand, dst uint32) {
	m := mac()
	copy(f, m[:])
	copy(f[6:], []byte{2, 0, 0, 0, 0, 9, 8, 0})
	h := f[14:]
	h[0], h[8], h[9] = 0x45, 255, 17
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)))
	binary.BigEndian.PutUint32(h[12:], 200<<24|r.Uint32()>>8)
	binary.BigEndian.PutUint32(h[16:], dst)
	binary.BigEndian.PutUint16(h[20:], uint16(r.Uint32()))
	binary.BigEndian.PutUint16(h[22:], 7) // discard: gopacket has no decoder for it
	binary.BigEndian.PutUint16(h[24:], uint16(len(h)-20))
	var s uint32
	for i := 0; i < 20; i += 2 {
		s += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	s = s&0xffff + s>>16
	binary.BigEndian.PutUint16(h[10:], ^uint16(s&0xffff+s>>16))
}

// mac is the address of the router and of everybody around it.
func mac() hwmodel.MAC { return hwmodel.MAC{2, 0, 0, 0, 0, 1} }

// around is all that is no route.
func around(family hwmodel.Family) hwmodel.Entries {
	e := hwmodel.Entries{
		Settings:   &hwmodel.Settings{},
		Interfaces: []hwmodel.Interface{{ID: 1, Port: 1, MAC: mac(), MTU: 1500}, {ID: 2, Port: 2, MAC: mac(), MTU: 1500}},
		Rules:      []hwmodel.Rules{{Family: family, List: []hwmodel.Rule{{Action: hwmodel.RuleLookup, Table: 254, SuppressPrefixLen: -1}}}},
	}
	for n := range hops {
		gw := netip.AddrFrom4([4]byte{10, 0, 0, byte(n + 1)})
		e.Neighbors = append(e.Neighbors, hwmodel.Neighbor{NeighborKey: hwmodel.NeighborKey{Interface: 2, Addr: gw}, MAC: mac(), Counter: hwmodel.CounterID(n + 1)})
		e.NextHops = append(e.NextHops, hwmodel.NextHop{ID: hwmodel.NextHopID(n + 1), Interface: 2, Gateway: gw})
		e.Groups = append(e.Groups, hwmodel.Group{ID: hwmodel.GroupID(n + 1), Legs: []hwmodel.Leg{{NextHop: hwmodel.NextHopID(n + 1), Weight: 1}}})
	}
	return e
}

func (f *Forward) batch() *hwmodel.Batch {
	e := around(hwmodel.IPv4)
	for i, r := range f.routes {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], r.addr)
		e.Routes = append(e.Routes, hwmodel.Route{
			RouteKey: hwmodel.RouteKey{Table: 254, Prefix: netip.PrefixFrom(netip.AddrFrom4(b), int(r.bits))},
			Action:   hwmodel.RouteForward, Group: hwmodel.GroupID(r.hop + 1), Counter: hwmodel.CounterID(hops + 1 + i)})
	}
	return &hwmodel.Batch{Set: e}
}

// Run forwards all packets, passes times (at most MaxPasses), with softpipe and
// returns how many packets that were and the CPU time of the thread.
func (f *Forward) Run(passes int) (packets int, cpu time.Duration, err error) {
	if passes > MaxPasses {
		return 0, 0, fmt.Errorf("%d passes, at most %d", passes, MaxPasses)
	}
	for i, p := range f.packets {
		copy(p, f.fresh[i*frameLen:])
	}
	v := &f.vector
	for i := range v.In {
		v.In[i] = 1
	}
	lost := 0
	cpu = threadTime(func() {
		for range passes {
			for some := range slices.Chunk(f.packets, hwmodel.VectorSize) {
				v.N = copy(v.Frame[:], some)
				f.pipe.Run(v)
				for i := range v.N {
					if v.Verdict[i] != hwmodel.Forward {
						lost++
					}
				}
			}
		}
	})
	if lost > 0 {
		return 0, 0, fmt.Errorf("%d packets not forwarded, such as the last: %v", lost, v.Reason[v.N-1])
	}
	return passes * len(f.packets), cpu, nil
}

// threadTime returns the CPU time that fn takes on its thread.
func threadTime(fn func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	read := func() time.Duration {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
			panic("pipebench: thread clock: " + err.Error())
		}
		return time.Duration(ts.Nano())
	}
	start := read()
	fn()
	return read() - start
}

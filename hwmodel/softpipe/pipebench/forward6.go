package pipebench

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"antiphon/hwmodel"
	"antiphon/hwmodel/softpipe"
)

// NewForward6 is NewForward for IPv6; there is no C loop for it. The routes are as
// dense as the Internet's: allocations of /29 and /32 in a /12 of each registry, most
// others inside them, half of all /48.
func NewForward6(routes, packets int) (*Forward, error) {
	r := rand.New(rand.NewPCG(1, 2))
	f := &Forward{pipe: softpipe.New(softpipe.Options{Ports: []hwmodel.PortInfo{{ID: 1}, {ID: 2}}})}
	e := around(hwmodel.IPv6)
	prefixes := makePrefixes6(r, routes)
	for i, p := range prefixes {
		e.Routes = append(e.Routes, hwmodel.Route{
			RouteKey: hwmodel.RouteKey{Table: 254, Prefix: p},
			Action:   hwmodel.RouteForward, Group: hwmodel.GroupID(r.IntN(hops) + 1), Counter: hwmodel.CounterID(hops + 1 + i)})
	}
	f.fresh = make([]byte, packets*frameLen)
	buf := make([]byte, packets*frameLen)
	for i := range packets {
		to := prefixes[r.IntN(len(prefixes))]
		makeFrame6(f.fresh[i*frameLen:][:frameLen], r, to)
		f.packets = append(f.packets, buf[i*frameLen:][:frameLen:frameLen])
	}
	res, err := f.pipe.Apply(context.Background(), &hwmodel.Batch{Set: e})
	if err == nil && len(res.Refused) > 0 {
		err = fmt.Errorf("refused: %v", res.Refused[0])
	}
	return f, err
}

func makePrefixes6(r *rand.Rand, n int) []netip.Prefix {
	registries := []uint64{0x2400, 0x2600, 0x2800, 0x2a00, 0x2c00} // /12 each
	lengths := []int{48, 48, 48, 48, 48, 48, 48, 48, 48, 48, 44, 44, 40, 40, 36, 46, 47, 33, 34, 64}
	seen := make(map[netip.Prefix]bool, n)
	var prefixes []netip.Prefix
	var sites []uint64
	add := func(hi uint64, bits int) {
		if p := prefix6(hi, r.Uint64(), bits).Masked(); !seen[p] {
			seen[p] = true
			prefixes = append(prefixes, p)
		}
	}
	for len(prefixes) < n {
		if len(sites) == 0 || r.IntN(8) == 0 {
			bits := []int{29, 32, 32, 32}[r.IntN(4)]
			hi := (registries[r.IntN(len(registries))]<<48 | r.Uint64()>>12) &^ (1<<(64-bits) - 1)
			sites = append(sites, hi)
			add(hi, bits)
			continue
		}
		// Some have many more than others.
		site := sites[int(float64(len(sites))*r.Float64()*r.Float64())]
		add(site|r.Uint64()>>32, lengths[r.IntN(len(lengths))])
	}
	return prefixes
}

func prefix6(hi, lo uint64, bits int) netip.Prefix {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	return netip.PrefixFrom(netip.AddrFrom16(b), bits)
}

func makeFrame6(f []byte, r *rand.Rand, to netip.Prefix) {
	m := mac()
	copy(f, m[:])
	copy(f[6:], []byte{2, 0, 0, 0, 0, 9, 0x86, 0xdd})
	h := f[14:]
	h[0], h[6], h[7] = 0x60, 17, 255
	binary.BigEndian.PutUint16(h[4:], uint16(len(h)-40))
	binary.BigEndian.PutUint64(h[8:], 0x3fff<<48|r.Uint64()>>16)
	binary.BigEndian.PutUint64(h[16:], r.Uint64())
	a := to.Addr().As16() // and behind the prefix anything
	hi := binary.BigEndian.Uint64(a[:8]) | r.Uint64()>>to.Bits()
	binary.BigEndian.PutUint64(h[24:], hi)
	binary.BigEndian.PutUint64(h[32:], r.Uint64())
	binary.BigEndian.PutUint16(h[40:], uint16(r.Uint32()))
	binary.BigEndian.PutUint16(h[42:], 7)
	binary.BigEndian.PutUint16(h[44:], uint16(len(h)-40))
}

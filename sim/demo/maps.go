package demo

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"

	"antiphon/netstate"
)

// objectKey is the key of the object_stats map: kind and digest.
type objectKey struct {
	kind   uint8
	digest uint64
}

func keyOf(k netstate.Key) objectKey { return objectKey{uint8(k.Kind), k.Digest()} }

// readMaps reads object_stats and dense_stats with bpftool.
func (n *network) readMaps(ctx context.Context) (objects map[objectKey]counted, dense map[uint32]counted, err error) {
	objects, dense = map[objectKey]counted{}, map[uint32]counted{}
	err = n.dumpMap(ctx, "object_stats", func(k []byte, c counted) {
		objects[objectKey{k[0], binary.NativeEndian.Uint64(k[8:])}] = c
	})
	if err == nil {
		err = n.dumpMap(ctx, "dense_stats", func(k []byte, c counted) { dense[binary.NativeEndian.Uint32(k)] = c })
	}
	return objects, dense, err
}

func (n *network) dumpMap(ctx context.Context, name string, each func(key []byte, c counted)) error {
	out, err := run(ctx, "bpftool", "-j", "map", "dump", "pinned", filepath.Join(n.state, "bpf", name))
	if err != nil {
		return err
	}
	var rows []struct {
		Key, Value []string
	}
	if err := json.Unmarshal(out, &rows); err != nil {
		return fmt.Errorf("bpftool's dump of %s: %w", name, err)
	}
	for _, r := range rows {
		k, err := unhex(r.Key)
		if err != nil {
			return err
		}
		v, err := unhex(r.Value)
		if err != nil {
			return err
		}
		if len(v) < 16 || len(k) < 4 || name == "object_stats" && len(k) != 16 {
			return fmt.Errorf("%s: a row of %d and %d bytes", name, len(k), len(v))
		}
		each(k, counted{binary.NativeEndian.Uint64(v), binary.NativeEndian.Uint64(v[8:])})
	}
	return nil
}

// unhex reads bpftool's ["0x01","0x02",…].
func unhex(bytes []string) ([]byte, error) {
	var b strings.Builder
	for _, x := range bytes {
		b.WriteString(strings.TrimPrefix(x, "0x"))
	}
	return hex.DecodeString(b.String())
}

func haveBPFTool() bool {
	_, err := exec.LookPath("bpftool")
	return err == nil
}

// expected is what the maps must hold, from what the hosts captured.
type expected struct {
	objects map[objectKey]counted
	names   map[objectKey]string
	// forwarded is by ingress port.
	forwarded map[int]counted
}

// expect adds up the captures of flows that the device alone carried. Packets
// enter the device with the length they have when captured.
func expect(ctx context.Context, n *network, flows []*flow) (*expected, error) {
	e := &expected{map[objectKey]counted{}, map[objectKey]string{}, map[int]counted{}}
	index := map[int]uint32{}
	for i := 1; i <= hosts; i++ {
		var links []struct {
			Index uint32 `json:"ifindex"`
		}
		if err := n.query(ctx, &links, "link", "show", "dev", swp(i)); err != nil {
			return nil, err
		}
		index[i] = links[0].Index
	}
	add := func(k netstate.Key, name string, c counted) {
		e.objects[keyOf(k)] = e.objects[keyOf(k)].plus(c)
		e.names[keyOf(k)] = name
	}
	for _, f := range flows {
		c := f.received
		if f.want.String() == "drop" { // dropped by the device: nobody else can have seen them
			frame, err := f.frame(0)
			if err != nil {
				return nil, err
			}
			c = counted{uint64(f.count), uint64(f.count * len(frame))}
		} else if f.want.String() != "forward" {
			continue
		}
		route := netstate.Key{Kind: netstate.KindRoute, Family: 2, Len: uint8(f.dest.Bits()), ID: f.table}
		if f.dest.Addr().Is6() {
			route.Family, route.Prio = 10, 1024
			if f.dest.Bits() == 64 {
				route.Prio = 256
			}
		}
		copy(route.Addr[:], f.dest.Addr().AsSlice())
		add(route, "route "+prefixText(f.dest)+" table "+tableText(f.table), c)
		if f.want.String() == "drop" {
			continue
		}
		e.forwarded[f.from] = e.forwarded[f.from].plus(c)
		gw := gateway(f)
		neigh := netstate.Key{Kind: netstate.KindNeighbor, Family: 2, ID: index[f.to]}
		if strings.Contains(gw, ":") {
			neigh.Family = 10
		}
		copy(neigh.Addr[:], addrBytes(gw))
		add(neigh, fmt.Sprintf("neighbor %s dev %s", gw, swp(f.to)), c)
		if f.dest.String() == "203.0.113.0/24" {
			add(netstate.Key{Kind: netstate.KindNexthop, ID: 23}, "nexthop 23", c)
		}
	}
	return e, nil
}

// compare returns what differs between maps and expectation.
func (e *expected) compare(objects map[objectKey]counted, dense map[uint32]counted) (equal int, wrong []string) {
	for k, want := range e.objects {
		if got := objects[k]; got != want {
			wrong = append(wrong, fmt.Sprintf("%s: map has %d packets %d bytes, hosts captured %d packets %d bytes",
				e.names[k], got.packets, got.bytes, want.packets, want.bytes))
		} else {
			equal++
		}
	}
	for p, want := range e.forwarded {
		if got := dense[uint32(p)*8+2]; got != want {
			wrong = append(wrong, fmt.Sprintf("%s forwarded: map has %d packets %d bytes, hosts captured %d packets %d bytes",
				swp(p), got.packets, got.bytes, want.packets, want.bytes))
		} else {
			equal++
		}
	}
	return equal, wrong
}

// gateway is the neighbour that a delivered flow left by.
func gateway(f *flow) string {
	switch {
	case f.dest.Contains(f.dst) && f.dest.Bits() == 24 && f.dst.String() == fmt.Sprintf("10.%d.0.2", f.to):
		return f.dst.String()
	case f.dst.Is6(), f.dest.String() == "100.64.0.0/16": // via inet6
		return fmt.Sprintf("2001:db8:%d::2", f.to)
	}
	return fmt.Sprintf("10.%d.0.2", f.to)
}

func addrBytes(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

package e2e

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"antiphon/netstate"
)

// bpfMap reads a pinned map with bpftool: values by key, both as bytes.
func (l *lab) bpfMap(name string) map[string]amount {
	l.t.Helper()
	out, err := exec.Command("bpftool", "-j", "map", "dump", "pinned", l.file("bpf/"+name)).Output()
	if err != nil {
		l.t.Fatalf("bpftool map dump %s: %v", name, err)
	}
	var rows []struct{ Key, Value []string }
	if err := json.Unmarshal(out, &rows); err != nil {
		l.t.Fatalf("bpftool map dump %s: %v", name, err)
	}
	m := map[string]amount{}
	for _, r := range rows {
		value := unhex(l.t, r.Value)
		if len(value) != 32 {
			l.t.Fatalf("%s: a value of %d bytes, want 32", name, len(value))
		}
		a := amount{binary.NativeEndian.Uint64(value), binary.NativeEndian.Uint64(value[8:])}
		if a != (amount{}) {
			m[string(unhex(l.t, r.Key))] = a
		}
	}
	return m
}

// unhex reads bpftool's ["0x01","0x02",…].
func unhex(t testing.TB, words []string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(words, ""), "0x", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// objectKey is the key of object_stats: u8 kind, 7 bytes nothing, u64 digest.
func objectKey(k netstate.Key) string {
	return string(binary.NativeEndian.AppendUint64([]byte{byte(k.Kind), 0, 0, 0, 0, 0, 0, 0}, k.Digest()))
}

func routeKey(prefix string, metric uint32) netstate.Key {
	p := netip.MustParsePrefix(prefix)
	k := netstate.Key{Kind: netstate.KindRoute, Family: 2, Len: uint8(p.Bits()), ID: 254, Prio: metric}
	if p.Addr().Is6() {
		k.Family = 10
	}
	copy(k.Addr[:], p.Addr().AsSlice())
	return k
}

func neighborKey(addr string, ifindex int) netstate.Key {
	a := netip.MustParseAddr(addr)
	k := netstate.Key{Kind: netstate.KindNeighbor, Family: 2, ID: uint32(ifindex)}
	if a.Is6() {
		k.Family = 10
	}
	copy(k.Addr[:], a.AsSlice())
	return k
}

// TestMaps: what the BPF maps hold, read by bpftool, is what was captured, and
// what the kernel counted at the ports; over the death of each process.
func TestMaps(t *testing.T) {
	if _, err := exec.LookPath("bpftool"); err != nil {
		t.Skip("needs bpftool:", err)
	}
	l, tr := restartLab(t)
	// A group whose legs lead to the same place: which of them the kernel takes is
	// its secret, and does not matter.
	l.dut.IP(t, "nexthop add id 5 via "+host4(2)+" dev swp2")
	l.dut.IP(t, "nexthop add id 25 group 2/5")
	l.dut.IP(t, "route replace 203.0.113.0/24 nhid 25")
	for i := range 6 {
		tr.streams = append(tr.streams, newStream(3, 2, host4(3), fmt.Sprintf("203.0.113.%d", i+1)))
	}
	l.barrier()
	tr.steps(steady)
	l.mapsAgree("at first", tr)

	l.dut.Run(t, "nft", "add table inet e2e; add chain inet e2e c { type filter hook forward priority 0; }")
	l.barrier()
	tr.steps(steady)
	l.dut.Run(t, "nft", "flush ruleset")
	l.barrier()
	l.mapsAgree("after some has trapped", tr)

	for _, name := range []string{"shim", "agent", "device"} {
		l.kill9(name)
		l.must("sim", "start", name)
		l.barrier()
		tr.steps(steady)
		l.mapsAgree(name+" died", tr)
	}
}

// mapsAgree waits until a report of the device's has reached the maps, and holds
// them against captures and kernel.
func (l *lab) mapsAgree(when string, tr *traffic) {
	l.t.Helper()
	a := l.rest()
	a.agrees(l.t, false)
	objects, names := map[string]amount{}, map[string]string{}
	count := func(k netstate.Key, name string, n amount) {
		objects[objectKey(k)] = objects[objectKey(k)].plus(n)
		names[objectKey(k)] = name
	}
	swp2, swp4 := l.dut.Index(l.t, "swp2"), l.dut.Index(l.t, "swp4")
	for _, c := range []struct {
		streams []*stream
		rows    map[string]netstate.Key
	}{
		{tr.streams[four : four+1], map[string]netstate.Key{routed4: routeKey(routed4, 0), "nexthop 2": {Kind: netstate.KindNexthop, ID: 2}, host4(2): neighborKey(host4(2), swp2)}},
		{tr.streams[six : six+1], map[string]netstate.Key{routed6: routeKey(routed6, 1024), host6(2): neighborKey(host6(2), swp2)}},
		{tr.streams[beside : beside+1], map[string]netstate.Key{"10.4.0.0/24": routeKey("10.4.0.0/24", 0), host4(4): neighborKey(host4(4), swp4)}},
		{tr.streams[streamCount:], map[string]netstate.Key{"203.0.113.0/24": routeKey("203.0.113.0/24", 0), "nexthop 25": {Kind: netstate.KindNexthop, ID: 25}, host4(2): neighborKey(host4(2), swp2)}},
	} {
		for _, s := range c.streams {
			forwarded, _ := s.captured()
			for name, k := range c.rows {
				count(k, name, forwarded)
			}
		}
	}
	dense := map[string]amount{}
	for n := 1; n <= len(l.hosts); n++ {
		p := a.ports[swp(n)]
		count(netstate.Key{Kind: netstate.KindLink, ID: uint32(l.dut.Index(l.t, swp(n)))}, swp(n), a.kernel[wireName(n)].tx)
		forwarded, _ := tr.captured()
		for slot, want := range []amount{a.kernel[wireName(n)].tx, a.kernel[wireName(n)].rx, forwarded[swp(n)], a.kernel[swp(n)].rx, a.kernel[swp(n)].tx, p.Copied, p.dropped()} {
			key := string(binary.NativeEndian.AppendUint32(nil, uint32(n*8+slot)))
			names[key] = fmt.Sprintf("%s slot %d", swp(n), slot)
			dense[key] = want
		}
	}
	var wrong []string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if wrong = differ(objects, l.bpfMap("object_stats"), names); len(wrong) == 0 {
			wrong = differ(dense, l.bpfMap("dense_stats"), names)
		}
		if len(wrong) == 0 {
			return
		}
	}
	l.t.Errorf("%s: maps differ from captures: %s", when, strings.Join(wrong, "; "))
}

func differ(want, have map[string]amount, names map[string]string) (wrong []string) {
	for k, w := range want {
		if have[k] != w {
			wrong = append(wrong, fmt.Sprintf("%s: %v, captured %v", names[k], have[k], w))
		}
	}
	return wrong
}

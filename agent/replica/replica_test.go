package replica

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"antiphon/netstate"
	"antiphon/transport"
)

// answer performs every dump that is owed, from what the rows of a kind are.
func answer(t testing.TB, r *Replica, rows map[netstate.Kind][][]byte) {
	t.Helper()
	for range 100 {
		d := r.Dumps()
		if len(d) == 0 {
			return
		}
		rows := rows[netstate.Kind(d[0].Kind)]
		reply(t, r, d[0], rows, &transport.DumpEnd{Rows: uint64(len(rows))})
	}
	t.Fatalf("dumps without end: %q", r.Pending())
}

func reply(t testing.TB, r *Replica, d *transport.Dump, rows [][]byte, end *transport.DumpEnd) {
	t.Helper()
	end.Id, end.Kind = d.Id, d.Kind
	if err := r.Block(1, &transport.Block{Dump: d.Id, Kind: d.Kind, First: true, Bytes: bytes.Join(rows, nil)}); err != nil {
		t.Fatal(err)
	}
	if err := r.DumpEnd(1, end); err != nil {
		t.Fatal(err)
	}
}

func live(t testing.TB, r *Replica, raw ...[]byte) {
	t.Helper()
	if err := r.Block(1, &transport.Block{Bytes: bytes.Join(raw, nil)}); err != nil {
		t.Fatal(err)
	}
}

// small is two links, an address, a route each.
func small() map[netstate.Kind][][]byte {
	return map[netstate.Kind][][]byte{
		netstate.KindLink:     {linkMsg(unix.RTM_NEWLINK, 1, true, true), linkMsg(unix.RTM_NEWLINK, 2, true, true)},
		netstate.KindAddr:     {addrMsg(unix.RTM_NEWADDR, 1, 1)},
		netstate.KindNeighbor: {neighMsg(unix.RTM_NEWNEIGH, 1, 9, unix.NUD_REACHABLE)},
		netstate.KindRoute: {
			routeMsg(unix.RTM_NEWROUTE, 0, 254, 1, []uint32{1}, 1, 0),
			routeMsg(unix.RTM_NEWROUTE, 0, 254, 2, []uint32{2}, 1, 0),
		},
	}
}

func settled(t testing.TB) (*Replica, map[netstate.Kind][][]byte) {
	t.Helper()
	r, rows := New(Options{Predict: true}), small()
	r.Settings(1, &transport.Settings{})
	if r.CaughtUp() || r.Settled() {
		t.Fatal("caught up before anything was said")
	}
	answer(t, r, rows)
	if !r.Settled() || len(r.Changes()) != 6 || len(r.Pending()) != 0 {
		t.Fatalf("not settled: %q", r.Pending())
	}
	return r, rows
}

// TestUnverifiedDumps: none of these may remove or add anything.
func TestUnverifiedDumps(t *testing.T) {
	for name, end := range map[string]*transport.DumpEnd{
		"interrupted": {Interrupted: true, Rows: 0},
		"rows lost":   {Rows: 2},
		"refused":     {Errno: uint32(unix.EPERM)},
		"no device":   {Errno: uint32(unix.ENODEV)},
	} {
		t.Run(name, func(t *testing.T) {
			r, rows := settled(t)
			r.RequestAudit()
			reply(t, r, r.Dumps()[0], nil, end)
			if c := r.Changes(); len(c) != 0 {
				t.Errorf("changes after a dump that settles nothing: %v", c)
			}
			if r.Settled() {
				t.Error("settled without another dump")
			}
			if name == "refused" && !strings.Contains(strings.Join(r.Pending(), "\n"), "errno 1") {
				t.Errorf("Pending does not say why: %q", r.Pending())
			}
			answer(t, r, rows)
			if !r.Settled() || len(r.Changes()) != 0 {
				t.Errorf("not settled as before: %q", r.Pending())
			}
		})
	}
}

func TestOverrun(t *testing.T) {
	r, rows := settled(t)
	r.RequestAudit()
	d := r.Dumps()[0]
	if err := r.Block(1, &transport.Block{Dump: d.Id, Kind: d.Kind, First: true}); err != nil {
		t.Fatal(err)
	}
	r.Overrun(2, &transport.Overrun{Count: 1})
	if err := r.DumpEnd(3, &transport.DumpEnd{Id: d.Id, Kind: d.Kind}); err != nil {
		t.Fatal(err)
	}
	if len(r.Changes()) != 0 || r.CaughtUp() {
		t.Fatal("a dump that an overrun fell into counted")
	}
	rows[netstate.KindRoute] = rows[netstate.KindRoute][:1]
	answer(t, r, rows)
	if c := r.Changes(); !r.CaughtUp() || len(c) != 1 || c[0].Row != nil {
		t.Fatalf("after the repair: %v", c)
	}
}

func TestKindUnsupported(t *testing.T) {
	r := New(Options{})
	for d := r.Dumps(); len(d) > 0; d = r.Dumps() {
		end := &transport.DumpEnd{}
		if d[0].Kind == uint32(netstate.KindNexthop) {
			end.Errno = uint32(unix.EOPNOTSUPP)
		}
		reply(t, r, d[0], nil, end)
	}
	if u := r.Unsupported(); !r.Settled() || len(u) != 1 || u[0] != netstate.KindNexthop {
		t.Fatalf("unsupported %v, pending %q", u, r.Pending())
	}
}

// TestFilterRefused: the interface vanished before the dump by it began.
func TestFilterRefused(t *testing.T) {
	r, rows := settled(t)
	live(t, r, linkMsg(unix.RTM_NEWLINK, 1, false, true))
	rows[netstate.KindLink][0] = linkMsg(unix.RTM_NEWLINK, 1, false, true)
	rows[netstate.KindRoute] = rows[netstate.KindRoute][1:]
	saw := false
	for d := r.Dumps(); len(d) > 0; d = r.Dumps() {
		if d[0].FilterOif != 0 {
			saw = true
			reply(t, r, d[0], nil, &transport.DumpEnd{Errno: uint32(unix.ENODEV)})
			continue
		}
		rows := rows[netstate.Kind(d[0].Kind)]
		reply(t, r, d[0], rows, &transport.DumpEnd{Rows: uint64(len(rows))})
	}
	if !saw || !r.Settled() || r.Counts()[netstate.KindRoute] != 1 {
		t.Fatalf("filter used %t, counts %v, pending %q", saw, r.Counts(), r.Pending())
	}
}

func TestMalformed(t *testing.T) {
	r, _ := settled(t)
	err := r.Block(9, &transport.Block{Bytes: []byte{1, 2, 3}})
	if err == nil || !strings.Contains(err.Error(), "block 9, message at offset 0") {
		t.Errorf("error %v", err)
	}
	if err := r.Event(1, &transport.Event{Kind: 99}); err == nil {
		t.Error("an event of no kind was taken")
	}
	r.RequestAudit()
	d := r.Dumps()[0]
	if err := r.Block(10, &transport.Block{Dump: d.Id, Kind: d.Kind}); err == nil {
		t.Error("a dump without its first block was taken")
	}
	if err := r.Block(10, &transport.Block{Dump: d.Id + 1, Kind: d.Kind}); err != nil || r.Stats().DumpsForeign != 1 {
		t.Errorf("a foreign dump: %v", err)
	}
}

func TestEventSuspects(t *testing.T) {
	r, rows := settled(t)
	if err := r.Event(1, &transport.Event{Kind: uint32(netstate.KindRoute), Ifindex: 1}); err != nil {
		t.Fatal(err)
	}
	if c := r.Changes(); len(c) != 1 || !c[0].Row.Suspect || c[0].Key.Addr[3] != 1 {
		t.Fatalf("changes %v", c)
	}
	answer(t, r, rows)
	if c := r.Changes(); !r.Settled() || len(c) != 1 || c[0].Row.Suspect {
		t.Fatalf("changes %v", c)
	}
}

// TestWithoutPrediction: the dump is owed all the same, nothing is suspect.
func TestWithoutPrediction(t *testing.T) {
	r, rows := New(Options{}), small()
	answer(t, r, rows)
	r.Changes()
	live(t, r, linkMsg(unix.RTM_NEWLINK, 1, false, true))
	if r.Suspects() != 0 || r.Settled() {
		t.Fatalf("%d suspects, settled %t", r.Suspects(), r.Settled())
	}
	rows[netstate.KindLink][0] = linkMsg(unix.RTM_NEWLINK, 1, false, true)
	rows[netstate.KindRoute] = nil // filtered by the link that fell: none is left
	answer(t, r, rows)
	if !r.Settled() || r.Counts()[netstate.KindRoute] != 1 {
		t.Fatalf("counts %v, pending %q", r.Counts(), r.Pending())
	}
}

// TestMasterChange is N7 without a kernel that has VRFs: only a VRF flushes routes.
func TestMasterChange(t *testing.T) {
	for kind, want := range map[string]int{"vrf": 1, "bridge": 0, "": 0} {
		r, _ := settled(t)
		master := linkMsg(unix.RTM_NEWLINK, 3, true, true)
		master = attr(master, unix.IFLA_LINKINFO, attr(nil, unix.IFLA_INFO_KIND, []byte(kind)))
		binary.NativeEndian.PutUint32(master, uint32(len(master)))
		slave := attr(linkMsg(unix.RTM_NEWLINK, 1, true, true), unix.IFLA_MASTER, u32(3))
		binary.NativeEndian.PutUint32(slave, uint32(len(slave)))
		live(t, r, master, slave)
		if n := r.Suspects(); n != want {
			t.Errorf("master of kind %q: %d suspects, want %d", kind, n, want)
		}
	}
}

// TestSilentIPv6 is N29.
func TestSilentIPv6(t *testing.T) {
	route := make([]byte, 12)
	route[0], route[1], route[4], route[7] = unix.AF_INET6, 64, 254, unix.RTN_UNICAST
	route = attr(route, unix.RTA_DST, append([]byte{0xfd}, make([]byte, 15)...))
	route = attr(route, unix.RTA_OIF, u32(1))
	for value, want := range map[string]int{"0": 1, "1": 2} {
		r, _ := settled(t)
		r.Settings(1, &transport.Settings{Settings: []*transport.Setting{{Name: "net.ipv6.route.skip_notify_on_dev_down", Value: value}}})
		live(t, r, message(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, route), linkMsg(unix.RTM_NEWLINK, 1, false, true))
		if n := r.Suspects(); n != want {
			t.Errorf("skip_notify %s: %d suspects, want %d", value, n, want)
		}
	}
}

// many is n routes over eight links.
func many(n int) [][]byte {
	rows := make([][]byte, n)
	for i := range rows {
		raw := routeMsg(unix.RTM_NEWROUTE, 0, 254, 0, []uint32{1 + uint32(i%8)}, 1, 0)
		at := bytes.Index(raw, []byte{9, 0, 0, 0})
		binary.BigEndian.PutUint32(raw[at:], 9<<24+uint32(i))
		rows[i] = raw
	}
	return rows
}

// TestUnchangedCostsNothing: an audit of a mirror that is right allocates per dump
// and block, not per route, and so do repeated notifications.
func TestUnchangedCostsNothing(t *testing.T) {
	const n = 10000
	rows := map[netstate.Kind][][]byte{netstate.KindRoute: many(n)}
	r := New(Options{Predict: true})
	answer(t, r, rows)
	r.Changes()
	audit := testing.AllocsPerRun(3, func() {
		r.RequestAudit()
		answer(t, r, rows)
		if c := r.Changes(); c != nil {
			t.Fatalf("%d changes", len(c))
		}
	})
	block := &transport.Block{Bytes: bytes.Join(rows[netstate.KindRoute], nil)}
	repeat := testing.AllocsPerRun(3, func() {
		if err := r.Block(1, block); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("audit %.0f, notifications %.0f allocations for %d routes", audit, repeat, n)
	if audit > 100 || repeat > 10 {
		t.Errorf("audit %.0f, notifications %.0f allocations for %d unchanged routes", audit, repeat, n)
	}
}

// TestMemory bounds what a mirrored route costs.
func TestMemory(t *testing.T) {
	const n, limit = 100_000, 640
	blocks := map[netstate.Kind][][]byte{netstate.KindRoute: many(n)}
	use := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := use()
	r := New(Options{Predict: true})
	answer(t, r, blocks)
	r.Changes()
	per := (use() - before) / n
	runtime.KeepAlive(blocks)
	runtime.KeepAlive(r)
	t.Logf("%d bytes per route, of which the message %d", per, len(blocks[netstate.KindRoute][0]))
	if per > limit {
		t.Errorf("%d bytes per route, at most %d wanted", per, limit)
	}
}

func BenchmarkSnapshot(b *testing.B) {
	rows := map[netstate.Kind][][]byte{netstate.KindRoute: many(100_000)}
	for b.Loop() {
		r := New(Options{Predict: true})
		answer(b, r, rows)
		r.Changes()
	}
}

func BenchmarkAudit(b *testing.B) {
	rows := map[netstate.Kind][][]byte{netstate.KindRoute: many(100_000)}
	r := New(Options{Predict: true})
	answer(b, r, rows)
	r.Changes()
	for b.Loop() {
		r.RequestAudit()
		answer(b, r, rows)
	}
}

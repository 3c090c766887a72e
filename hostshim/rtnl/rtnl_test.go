package rtnl

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"antiphon/internal/netnstest"
	"antiphon/netstate"
)

// open gives a socket pair of kinds in a new namespace.
func open(t *testing.T, buffer int) (*netnstest.NS, *Live, *Dumper) {
	t.Helper()
	ns := netnstest.New(t)
	f, err := os.Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	l, err := OpenLive(int(f.Fd()), buffer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	d, err := OpenDumper(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return ns, l, d
}

// routes adds n blackhole routes with one command.
func routes(t *testing.T, ns *netnstest.NS, n int) {
	t.Helper()
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "route add blackhole 198.%d.%d.%d/32\n", 18+i>>16, i>>8&255, i&255)
	}
	path := filepath.Join(t.TempDir(), "batch")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	ns.Run(t, "ip", "-batch", path)
}

// count returns how many messages of a type whole blocks hold.
func count(t *testing.T, b []byte, typ uint16) (n int) {
	t.Helper()
	for len(b) > 0 {
		m, rest, err := netstate.NextMessage(b)
		if err != nil {
			t.Fatal(err)
		}
		if m.Type == typ {
			n++
		}
		b = rest
	}
	return n
}

// TestLiveSmallBlocks reads everything although a block holds only a few datagrams.
func TestLiveSmallBlocks(t *testing.T) {
	ns, l, _ := open(t, DefaultBuffer)
	if l.Buffer() < DefaultBuffer {
		t.Fatalf("buffer %d", l.Buffer())
	}
	const n = 1000
	routes(t, ns, n)
	if err := l.Wait(); err != nil {
		t.Fatal(err)
	}
	got := 0
	for {
		block, r, err := l.Read(make([]byte, 0, 4096))
		if err != nil || r.Lost != 0 {
			t.Fatalf("%+v %v", r, err)
		}
		got += count(t, block, unix.RTM_NEWROUTE)
		if r.Drained {
			break
		}
	}
	if got != n {
		t.Fatalf("%d routes, want %d", got, n)
	}
}

// TestSlotsGrow: a notification that does not fit is a loss, the next one fits.
func TestSlotsGrow(t *testing.T) {
	ns, l, _ := open(t, DefaultBuffer)
	l.batch = newBatch(32)
	read := func() (block []byte, lost uint64) {
		block = make([]byte, 0, 1<<20)
		for {
			var r Result
			var err error
			if block, r, err = l.Read(block); err != nil {
				t.Fatal(err)
			}
			if lost += r.Lost; r.Drained {
				return block, lost
			}
		}
	}
	read()
	l.batch = newBatch(32)
	ns.IP(t, "route add blackhole 198.51.100.1/32")
	if _, lost := read(); lost == 0 {
		t.Fatal("a cut message was not noticed")
	}
	for range 3 { // slots at least double
		ns.IP(t, "route replace blackhole 198.51.100.1/32 metric 0 proto 99")
		read()
		ns.IP(t, "route del blackhole 198.51.100.1/32")
	}
	if b, lost := read(); lost != 0 || len(b) == 0 {
		t.Fatalf("%d bytes, %d lost", len(b), lost)
	}
}

// TestDumpBlocks dumps through blocks of the least size.
func TestDumpBlocks(t *testing.T) {
	ns, _, d := open(t, 1<<20)
	const n = 3000
	routes(t, ns, n)
	for range 2 { // a dumper is used again
		if err := d.Start(netstate.KindRoute, Filter{Family: unix.AF_INET, Table: 254}); err != nil {
			t.Fatal(err)
		}
		var rows uint64
		got, reads := 0, 0
		for {
			block, p, err := d.Read(make([]byte, 0, dumpRoom))
			if err != nil || p.Interrupted || p.Errno != 0 {
				t.Fatalf("%+v %v", p, err)
			}
			got, rows, reads = got+count(t, block, unix.RTM_NEWROUTE), rows+p.Rows, reads+1
			if p.Done {
				break
			}
		}
		if got != n || rows != n || reads < 3 {
			t.Fatalf("%d routes, %d rows in %d reads", got, rows, reads)
		}
	}
	// An abandoned dump does not disturb the next.
	d.Start(netstate.KindRoute, Filter{})
	d.Read(make([]byte, 0, dumpRoom))
	d.Start(netstate.KindLink, Filter{})
	block, p, err := d.Read(make([]byte, 0, 1<<20))
	if err != nil || p.Interrupted || p.Errno != 0 || count(t, block, unix.RTM_NEWLINK) != int(p.Rows) || p.Rows == 0 {
		t.Fatalf("links after an abandoned dump: %+v %v", p, err)
	}
}

func message(typ, flags uint16, seq uint32, body ...byte) []byte {
	b := request{typ: typ, flags: flags, body: body}.marshal(seq)
	binary.NativeEndian.PutUint16(b[6:], flags)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func TestSift(t *testing.T) {
	row, other := message(24, 2, 7, 1, 2, 3, 4), message(24, 2, 6, 9, 9, 9, 9)
	intr := message(24, 2|unix.NLM_F_DUMP_INTR, 7, 5, 6, 7, 8)
	refused := message(unix.NLMSG_ERROR, 0, 7, binary.NativeEndian.AppendUint32(nil, 0xffffffff&^uint32(unix.ENODEV-1))...)
	for name, c := range map[string]struct {
		in   [][]byte
		want sifted
		keep [][]byte
	}{
		"rows and the end":     {[][]byte{row, row, message(unix.NLMSG_DONE, 2, 7, 0, 0, 0, 0)}, sifted{rows: 2, done: true}, [][]byte{row, row}},
		"another's rows":       {[][]byte{other, row, other, row}, sifted{rows: 2}, [][]byte{row, row}},
		"interrupted":          {[][]byte{intr, row}, sifted{rows: 2, interrupted: true}, [][]byte{intr, row}},
		"refused":              {[][]byte{refused}, sifted{done: true, errno: unix.ENODEV}, nil},
		"overrun":              {[][]byte{message(unix.NLMSG_OVERRUN, 0, 7)}, sifted{interrupted: true}, nil},
		"cut":                  {[][]byte{row, row[:10]}, sifted{rows: 1, interrupted: true}, [][]byte{row}},
		"broken off by an end": {[][]byte{row, message(unix.NLMSG_DONE, 2|unix.NLM_F_DUMP_INTR, 7, 0, 0, 0, 0)}, sifted{rows: 1, done: true, interrupted: true}, [][]byte{row}},
	} {
		rows, s := sift(bytes.Join(c.in, nil), 7)
		if s != c.want || !bytes.Equal(rows, bytes.Join(c.keep, nil)) {
			t.Errorf("%s: %+v % x, want %+v", name, s, rows, c.want)
		}
	}
}

// FuzzSift: whatever the bytes, what is kept is whole messages of our sequence.
func FuzzSift(f *testing.F) {
	f.Add(message(24, 2, 7, 1, 2, 3, 4), uint32(7))
	f.Add(message(unix.NLMSG_DONE, 2, 7, 0, 0, 0, 0), uint32(7))
	f.Add([]byte{17, 0, 0, 0, 24, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9}, uint32(7))
	f.Fuzz(func(t *testing.T, b []byte, seq uint32) {
		settingsMayChange(b)
		rows, s := sift(bytes.Clone(b), seq)
		n := uint64(0)
		for len(rows) > 0 {
			h, _, rest, ok := next(rows)
			if !ok || h.seq != seq || h.typ < unix.NLMSG_MIN_TYPE {
				t.Fatalf("kept % x", rows)
			}
			n, rows = n+1, rest
		}
		if n != s.rows {
			t.Fatalf("%d rows, said %d", n, s.rows)
		}
	})
}

// TestRequests refuses what is not mirrored.
func TestRequests(t *testing.T) {
	if _, err := requests(netstate.Kind(77), Filter{}); err == nil {
		t.Fatal("a dump of kind 77")
	}
}

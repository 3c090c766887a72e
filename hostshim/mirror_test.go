package hostshim

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"antiphon/hostshim/rtnl"
	"antiphon/netstate"
	"antiphon/transport"
)

// dialogue drives a Mirror: sent collects what it sends, one word per message.
type dialogue struct {
	*Mirror
	t    testing.TB
	sent []string
}

func talk(t testing.TB, credit uint32) *dialogue {
	d := &dialogue{Mirror: NewMirror(credit, 1000), t: t}
	d.expect(ReadSettings)
	d.Settings(&transport.Settings{})
	d.expect(ReadLive)
	d.Live(nil, rtnl.Result{Drained: true})
	d.expect(Wait)
	d.sent = nil
	return d
}

// expect sends what is to be sent and checks what comes next.
func (d *dialogue) expect(want Do) {
	if h, ok := d.t.(interface{ Helper() }); ok {
		h.Helper()
	}
	for d.Next() == Send {
		d.sent = append(d.sent, word(d.Out()))
	}
	if got := d.Next(); got != want {
		d.t.Fatalf("next is %d, want %d; sent %v", got, want, d.sent)
	}
}

func (d *dialogue) said(want ...string) {
	d.t.Helper()
	if !slices.Equal(d.sent, want) {
		d.t.Fatalf("said %v, want %v", d.sent, want)
	}
	d.sent = nil
}

func word(m *transport.FromShim) string {
	switch x := m.GetMsg().(type) {
	case *transport.FromShim_Block:
		b := x.Block
		switch {
		case b.GetDump() == 0:
			return "live:" + string(b.GetBytes())
		case b.GetFirst():
			return fmt.Sprintf("begin%d", b.GetDump())
		}
		return fmt.Sprintf("dump%d:%s", b.GetDump(), b.GetBytes())
	case *transport.FromShim_DumpEnd:
		e := x.DumpEnd
		return fmt.Sprintf("end%d rows=%d intr=%v errno=%d", e.GetId(), e.GetRows(), e.GetInterrupted(), e.GetErrno())
	case *transport.FromShim_Settings:
		return "settings"
	case *transport.FromShim_Marker:
		return fmt.Sprintf("marker%d", x.Marker.GetId())
	case *transport.FromShim_Overrun:
		return fmt.Sprintf("overrun%d", x.Overrun.GetCount())
	case *transport.FromShim_Answer:
		return fmt.Sprintf("answer%d", x.Answer.GetId())
	}
	return fmt.Sprintf("%T", m.GetMsg())
}

var drained = rtnl.Result{Drained: true}

func TestDumpOrder(t *testing.T) {
	d := talk(t, 1000)
	d.Dump(&transport.Dump{Id: 5, Kind: uint32(netstate.KindRoute), FilterTable: 9})
	d.expect(ReadDump)
	d.said("begin5") // before the kernel was asked
	if got := d.Dumping(); got != (Dump{5, netstate.KindRoute, rtnl.Filter{Table: 9}}) {
		t.Fatalf("dumping %+v", got)
	}
	d.Readable()
	d.Rows([]byte("a"), rtnl.Progress{Rows: 1})
	d.expect(ReadLive) // turns
	d.Live([]byte("x"), rtnl.Result{})
	d.expect(ReadDump)
	d.Rows([]byte("b"), rtnl.Progress{Rows: 2, Done: true, Interrupted: true})
	d.expect(ReadLive)
	d.Live([]byte("y"), rtnl.Result{})
	d.expect(ReadLive) // not drained yet
	d.Live([]byte("z"), drained)
	d.expect(Wait)
	d.said("dump5:a", "live:x", "dump5:b", "live:y", "live:z", "end5 rows=3 intr=true errno=0")
}

func TestRefusals(t *testing.T) {
	d := talk(t, 1000)
	d.Dump(&transport.Dump{Id: 0, Kind: 1})
	d.Dump(&transport.Dump{Id: 1, Kind: 300})
	d.expect(Wait)
	d.said(fmt.Sprintf("end0 rows=0 intr=false errno=%d", unix.EINVAL), fmt.Sprintf("end1 rows=0 intr=false errno=%d", unix.EINVAL))
	for i := range maxDumps + 1 {
		d.Dump(&transport.Dump{Id: uint64(i + 1), Kind: 1})
	}
	d.expect(ReadDump)
	d.said(fmt.Sprintf("end%d rows=0 intr=false errno=%d", maxDumps+1, unix.EBUSY), "begin1")
	d.Rows(nil, rtnl.Progress{Done: true, Errno: unix.ENODEV})
	d.expect(ReadLive)
	d.Live(nil, drained)
	d.expect(ReadDump)
	d.said(fmt.Sprintf("end1 rows=0 intr=false errno=%d", unix.ENODEV), "begin2")
}

func TestWindow(t *testing.T) {
	d := talk(t, 2)
	d.Readable()
	d.expect(ReadLive)
	d.Live([]byte("abc"), rtnl.Result{})
	d.expect(Wait) // the window is full: the socket is not read
	d.Dump(&transport.Dump{Id: 1, Kind: 1})
	d.Barrier(7)
	d.expect(Wait)
	d.SettingsDue()
	d.expect(ReadSettings) // what makes packets trap is not kept back
	d.Settings(&transport.Settings{Presences: []*transport.Presence{{What: "nftables"}}})
	d.expect(Wait)
	d.Credit(1)
	d.expect(Wait)
	d.Credit(1)
	d.expect(ReadDump)
	d.said("live:abc", "settings", "begin1")
}

func TestBarrierOrder(t *testing.T) {
	d := talk(t, 1000)
	d.Barrier(1)
	d.expect(ReadLive)
	d.Live([]byte("x"), rtnl.Result{})
	d.Barrier(2)
	d.expect(ReadLive)
	d.Live(nil, drained)
	d.expect(ReadSettings) // after the drain
	d.Settings(&transport.Settings{Settings: []*transport.Setting{{Name: "a", Value: "1"}}})
	d.expect(Wait)
	d.said("live:x", "settings", "marker1", "answer1", "marker2", "answer2")
	d.Barrier(3)
	d.expect(ReadLive)
	d.Live(nil, drained)
	d.expect(ReadSettings)
	d.Settings(&transport.Settings{Settings: []*transport.Setting{{Name: "a", Value: "1"}}})
	d.expect(Wait)
	d.said("marker3", "answer3") // unchanged settings are not repeated
}

// TestBarrierUnderChurn: a socket that never runs dry holds a barrier up for no
// more than what was queued.
func TestBarrierUnderChurn(t *testing.T) {
	d := talk(t, 1<<20)
	d.Readable()
	d.Barrier(1)
	for range 4 {
		d.expect(ReadLive)
		d.Live([]byte(strings.Repeat("x", 250)), rtnl.Result{})
	}
	d.expect(ReadSettings)
}

func TestOverrunOrder(t *testing.T) {
	d := talk(t, 1000)
	d.Dump(&transport.Dump{Id: 1, Kind: 1})
	d.expect(ReadDump)
	d.Readable()
	d.Rows([]byte("a"), rtnl.Progress{Rows: 1})
	d.expect(ReadLive)
	d.Barrier(9)
	d.Live([]byte("old"), rtnl.Result{Lost: 1})
	d.expect(ReadDump)
	d.Rows([]byte("b"), rtnl.Progress{Rows: 1, Done: true})
	d.expect(ReadLive)
	d.Live([]byte("older"), drained)
	d.expect(ReadSettings)
	d.Settings(&transport.Settings{})
	d.expect(Wait)
	d.said("begin1", "dump1:a", "live:old", "dump1:b", "live:older", "overrun1", "end1 rows=2 intr=true errno=0", "marker9", "answer9")
}

// TestLaws drives the core with random inputs and a random kernel and checks what
// must hold of everything it says.
func TestLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := NewMirror(rapid.Uint32Range(1, 64).Draw(t, "credit"), 1000)
		credit := m.credit
		var seq, dumps, barriers, asked uint64
		var losing, settled bool // a loss not yet said; settings read since the last drain
		open := map[uint64]bool{}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch m.Next() {
			case Send:
				x := m.Out()
				if x.GetAnswer() == nil {
					if seq++; x.GetSeq() != seq {
						t.Fatalf("seq %d, want %d", x.GetSeq(), seq)
					}
				}
				if b := x.GetBlock(); b != nil {
					credit -= int64(len(b.GetBytes()))
					if b.GetDump() != 0 {
						if b.GetFirst() == open[b.GetDump()] {
							t.Fatalf("dump %d: first %v", b.GetDump(), b.GetFirst())
						}
						open[b.GetDump()] = true
					}
				}
				if e := x.GetDumpEnd(); e != nil {
					if !open[e.GetId()] {
						t.Fatalf("end of dump %d before its beginning", e.GetId())
					}
					delete(open, e.GetId())
				}
				if x.GetOverrun() != nil {
					losing = false
				}
				if x.GetMarker() != nil && (!settled || losing) {
					t.Fatal("marker without a drain and settings")
				}
			case ReadLive:
				if credit <= 0 {
					t.Fatal("reads beyond the window")
				}
				r := rtnl.Result{Drained: rapid.Bool().Draw(t, "drained"), Lost: rapid.Uint64Range(0, 1).Draw(t, "lost")}
				losing = losing || r.Lost > 0
				m.Live([]byte(strings.Repeat("l", rapid.IntRange(0, 20).Draw(t, "live"))), r)
				settled = false
			case ReadDump:
				if credit <= 0 {
					t.Fatal("dumps beyond the window")
				}
				m.Rows([]byte(strings.Repeat("d", rapid.IntRange(0, 20).Draw(t, "rows"))), rtnl.Progress{Done: rapid.Bool().Draw(t, "done")})
			case ReadSettings:
				m.Settings(&transport.Settings{Settings: []*transport.Setting{{Name: "n", Value: fmt.Sprint(rapid.IntRange(0, 1).Draw(t, "value"))}}})
				settled = true
			}
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0:
				m.Readable()
			case 1:
				n := rapid.Uint32Range(1, 40).Draw(t, "paid")
				m.Credit(n)
				credit += int64(n)
			case 2:
				dumps++
				m.Dump(&transport.Dump{Id: dumps, Kind: 1})
			case 3:
				if barriers++; asked < maxBarriers {
					asked++
					m.Barrier(barriers)
				}
			case 4:
				m.SettingsDue()
			}
		}
	})
}

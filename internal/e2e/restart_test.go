package e2e

import (
	"encoding/json"
	"testing"
)

// restartLab is a simulation with streams that go by every kind of row whose
// loss a restart could cause: routes, nexthop objects, a group.
func restartLab(t *testing.T) (*lab, *traffic) {
	l := newLab(t, 4)
	l.up()
	l.bare()
	l.route()
	for _, line := range []string{
		"nexthop add id 2 via " + host4(2) + " dev swp2",
		"nexthop add id 4 via " + host4(4) + " dev swp4",
		"nexthop add id 24 group 2/4",
		"route add " + routed4 + " nhid 2",
		"route add 203.0.113.0/24 nhid 24",
		"-6 route add " + routed6 + " via " + host6(2),
	} {
		l.dut.IP(t, line)
	}
	l.verified()
	return l, newTraffic(l,
		newStream(1, 2, host4(1), "198.51.100.7"),
		newStream(1, 2, host6(1), "2001:db8:100::7"),
		newStream(3, 4, host4(3), host4(4)))
}

func (tr *traffic) all(when string, p span, f fate) {
	tr.t.Helper()
	for _, s := range tr.streams {
		tr.want(when, s, p, f)
	}
}

// rowCounted holds the packets of a stream's route, as the product shows them,
// against the captures.
func (l *lab) rowCounted(when, route string, s *stream) {
	l.t.Helper()
	forwarded, _ := s.captured()
	var rows []struct {
		Dst            string
		Packets, Bytes uint64
	}
	l.ask(&rows, "show", "route", route, "table", "main")
	if len(rows) != 1 || (amount{rows[0].Packets, rows[0].Bytes}) != forwarded {
		l.t.Errorf("%s: %s counts %+v, captured %v", when, route, rows, forwarded)
	}
}

// TestDeviceDies: nothing of the kernel's is lost with the device, nothing stale
// comes out of the next one, and everything is forwarded again.
func TestDeviceDies(t *testing.T) {
	l, tr := restartLab(t)
	tr.all("before", tr.steps(steady), forwards)
	rows, counts := l.rows(), l.rest()
	counts.agrees(t, false)
	tr.accounted(counts)

	for range 2 {
		l.kill9("device")
		l.sameRows("device killed", rows)
		l.wantExit(exitUnreachable, "device.sock", "show", "counters")
		dead := tr.toNobody()
		l.sameRows("frames sent to nobody", rows)
		l.must("sim", "start", "device")
		l.verified()
		l.sameRows("device started", rows)
		back := tr.steps(steady)
		tr.all("while there was no device", dead, vanishes)
		tr.all("device started", back, forwards)
		now := l.rest()
		now.agrees(t, false)
		now.notBefore(t, counts)
		tr.accounted(now)
		counts = now
		l.rowCounted("device started", routed4, tr.streams[four])
		l.rowCounted("device started", routed6, tr.streams[six])
	}
}

// TestAgentAndShimDie: the device goes on without them and loses nothing. What
// the kernel changes meanwhile is caught up with.
func TestAgentAndShimDie(t *testing.T) {
	for _, name := range []string{"agent", "shim"} {
		t.Run(name, func(t *testing.T) {
			l, tr := restartLab(t)
			rows, counts := l.rows(), l.rest()
			tr.all("killed", tr.during(func() error { return l.run("sim", "kill", name) }), forwards)
			tr.all("while it is dead", tr.steps(steady), forwards)
			tr.all("started again", tr.during(func() error {
				if err := l.run("sim", "start", name); err != nil {
					return err
				}
				return l.run("barrier")
			}), forwards)
			tr.all("after", tr.steps(steady), forwards)
			l.verified()
			l.sameRows(name+" started", rows)
			now := l.rest()
			now.agrees(t, false)
			now.notBefore(t, counts)
			tr.accounted(now)
			l.rowCounted(name+" started", routed4, tr.streams[four])
			l.rowCounted(name+" started", routed6, tr.streams[six])

			l.kill9(name)
			l.dut.IP(t, "route replace "+routed4+" via "+host4(4))
			l.dut.IP(t, "-6 route del "+routed6)
			l.dut.IP(t, "nexthop del id 24")
			l.must("sim", "start", name)
			l.verified()
			tr.streams[four].leaves(4)
			tr.errors = map[int]int{}
			p := tr.steps(steady)
			tr.want("changed while dead", tr.streams[four], p, forwards)
			tr.want("changed while dead", tr.streams[six], p, drops)
			tr.want("changed while dead", tr.streams[beside], p, forwards)
		})
	}
}

// TestAllDie: whatever the order in which they come back.
func TestAllDie(t *testing.T) {
	l, tr := restartLab(t)
	tr.all("before", tr.steps(steady), forwards)
	rows, counts := l.rows(), l.rest()
	for _, order := range [][]string{{"shim", "agent", "device"}, {"device", "shim", "agent"}} {
		for _, name := range order {
			l.kill9(name)
		}
		l.sameRows("all killed", rows)
		for _, name := range order {
			l.must("sim", "start", name)
		}
		l.verified()
		tr.all("all started", tr.steps(steady), forwards)
		now := l.rest()
		now.agrees(t, false)
		now.notBefore(t, counts)
		tr.accounted(now)
		counts = now
	}
	var doc struct{ Healthy bool }
	l.ask(&doc, "status")
	if !doc.Healthy {
		t.Error("status says unhealthy")
	}
}

// parse reads a JSON document of a command that may have failed.
func (a answer) parse(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.stdout), into); err != nil {
		t.Errorf("no JSON document: %v: %v", err, a)
	}
}

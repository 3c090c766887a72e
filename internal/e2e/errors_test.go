package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"antiphon/internal/netnstest"
)

// TestUpRefuses: what cannot be meant ends with status 2, names what is wrong,
// and leaves nothing.
func TestUpRefuses(t *testing.T) {
	l := newLab(t, 1)
	l.dut.IP(t, "link add name swp9 type veth peer name other")
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	where := []string{"--netns", l.dut.Name(), "--wire-netns", l.hosts[0].Name(), "--detach"}
	for _, c := range []struct {
		exit  int
		says  string
		flags []string
	}{
		{exitUsage, "swp9", append([]string{"--port", "swp1=w1", "--port", "swp9=w9"}, where...)},
		{exitUsage, "other", append([]string{"--port", "swp1=w1", "--port", "swp2=@other"}, where...)},
		{exitUsage, plain, []string{"--port", "swp1=w1", "--netns", plain, "--detach"}},
		{exitNegative, "/no/such", []string{"--port", "swp1=w1", "--netns", "/no/such/namespace", "--detach"}},
		{exitUsage, "twice", append([]string{"--port", "swp1=w1", "--port", "swp1=w2"}, where...)},
		{exitUsage, "swp1=swp1", append([]string{"--cable", "swp1=swp1"}, where...)},
		{exitUsage, "vsock", append([]string{"--port", "swp1=w1", "--transport", "vsock"}, where...)},
		{exitUsage, "tea=1", append([]string{"--port", "swp1=w1", "--size", "tea=1"}, where...)},
		{exitUsage, "route=0", append([]string{"--port", "swp1=w1", "--size", "route=0"}, where...)},
		{exitUsage, "chrome", append([]string{"--port", "swp1=w1", "--pipe", "chrome"}, where...)},
		{exitUsage, "no port", where},
	} {
		l.wantExit(c.exit, c.says, append([]string{"sim", "up"}, c.flags...)...)
		l.dut.IP(t, "link set swp9 name kept")
		l.nothingLeft()
		l.dut.IP(t, "link set kept name swp9")
	}
	l.must("sim", "down") // nothing is up: fine
}

// TestNobodyThere: status 3 and the socket that does not answer.
func TestNobodyThere(t *testing.T) {
	l := newLab(t, 2)
	for _, args := range [][]string{{"barrier"}, {"show", "route"}, {"show", "counters"}, {"status"}, {"why", "default"}, {"verify"}} {
		l.wantExit(exitUnreachable, l.file("agent.sock"), args...)
		var doc struct {
			Error string
			Exit  int
		}
		if l.cli(append(args, "-j")...).parse(t, &doc); doc.Exit != exitUnreachable || !strings.Contains(doc.Error, "agent.sock") {
			t.Errorf("%v -j: %+v", args, doc)
		}
	}
	l.up()
	l.bare()
	l.route()
	l.barrier()
	for _, args := range [][]string{
		{"show"}, {"show", "tea"}, {"show", "-4", "-6", "route"}, {"show", "route", "10.0.0.1/8"}, {"why"}, {"why", "10.0.0.1/8", "table", "tea"},
		{"barrier", "--timeout", "0s"}, {"sim", "start", "tea"}, {"sim", "start", "agent"}, {"tea"}, {"show", "--tea"},
	} {
		l.wantExit(exitUsage, "", args...)
	}
	l.wantExit(exitNegative, "198.18.0.0/15", "why", "198.18.0.0/15")

	l.must("sim", "kill", "device")
	l.wantExit(exitUnreachable, "device.sock", "barrier")
	l.wantExit(exitUnreachable, "device.sock", "verify")
	l.wantExit(exitNegative, "device", "status")
	l.must("sim", "start", "device")
	l.must("sim", "kill", "shim")
	l.wantExit(exitUnreachable, "shim", "barrier")
	l.wantExit(exitUnreachable, "shim", "verify")
	l.must("sim", "kill", "agent")
	l.wantExit(exitUnreachable, "agent.sock", "barrier")
	l.must("sim", "start", "agent")
	l.must("sim", "start", "shim")
	l.verified()
}

// TestBarrierTimesOut: a process that does not move makes the barrier end with
// status 1, and say what it waits for.
func TestBarrierTimesOut(t *testing.T) {
	l := newLab(t, 2)
	l.up()
	l.bare()
	l.route()
	l.barrier()
	for name, says := range map[string]string{"shim": "shim", "device": "device"} {
		pid := l.pid(name)
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		l.dut.IP(t, "route add 198.51.100.0/24 via "+host4(2))
		a := l.cli("barrier", "--timeout", "700ms", "-j")
		if err := unix.Kill(pid, unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Pending []string
			Error   string
		}
		if a.parse(t, &doc); a.exit != exitNegative || len(doc.Pending) == 0 || !strings.Contains(doc.Error, says) {
			t.Errorf("%s stopped: %v", name, a)
		}
		l.verified()
		l.dut.IP(t, "route del 198.51.100.0/24")
		l.verified()
	}
}

// TestTableFull: what has no room in the device is refused and shown, and its
// traffic goes by the kernel and not by a shorter prefix.
func TestTableFull(t *testing.T) {
	for _, size := range []int{8, 28, 32} { // none of the test's routes fit, few, most
		t.Run(fmt.Sprint(size), func(t *testing.T) { tableFull(t, size, size > 8) })
	}
}

// tableFull fills a table of a size; some says whether any of the test's routes
// find room in it.
func tableFull(t *testing.T, size int, some bool) {
	const routes = 12
	l := newLab(t, 3)
	l.up("--size", fmt.Sprintf("route=%d", size))
	l.bare()
	for n := 1; n <= 3; n++ {
		l.dut.Sysctl(t, "net/ipv6/conf/"+swp(n)+"/disable_ipv6", "1") // IPv4 alone fills the table
		l.dut.IP(t, "link set dev "+swp(n)+" up")
		l.dut.IP(t, fmt.Sprintf("addr add %s/24 dev %s", router4(n), swp(n)))
		l.dut.IP(t, fmt.Sprintf("neigh replace %s lladdr %s dev %s nud permanent", host4(n), macText(hostMAC(n)), swp(n)))
	}
	// The shorter prefix leads elsewhere.
	l.dut.IP(t, "route add 198.51.0.0/16 via "+host4(3))
	l.barrier()
	var streams []*stream
	for i := range routes {
		l.dut.IP(t, fmt.Sprintf("route add 198.51.%d.0/24 via %s", i, host4(2)))
		streams = append(streams, newStream(1, 2, host4(1), fmt.Sprintf("198.51.%d.7", i)))
	}
	streams = append(streams, newStream(1, 3, host4(1), "198.51.200.7"))
	l.verified()
	fates := l.fates()
	tr := newTraffic(l, streams...)
	tr.steps(3)
	refused, forwarded := 0, 0
	for i, s := range streams {
		name := fmt.Sprintf("198.51.%d.0/24", i)
		if i == routes {
			name = "198.51.0.0/16"
		}
		switch fates[name] {
		case "offloaded":
			forwarded++
			tr.want(name, s, span{0, tr.next}, forwards)
			continue
		case "failed":
			refused++
			if e := l.why(name); e[0].Reason != "table-full" {
				t.Errorf("why %s: %+v", name, e)
			}
		case "trapped": // it is in the device, and covers what is not
			if e := l.why(name); e[0].Reason != "covers-refused" {
				t.Errorf("why %s: %+v", name, e)
			}
		default:
			t.Errorf("%s is %q", name, fates[name])
		}
		tr.want(name, s, span{0, tr.next}, kernel)
	}
	if refused == 0 || forwarded > 0 != some {
		t.Errorf("of %d routes %d were refused and %d forward", len(streams), refused, forwarded)
	}
	a := l.rest()
	a.agrees(t, false)
	tr.accounted(a)

	// Room again: what was refused is taken.
	for i := range routes - 1 {
		l.dut.IP(t, fmt.Sprintf("route del 198.51.%d.0/24", i))
	}
	l.verified()
	for name, fate := range l.fates() {
		if some && strings.HasPrefix(name, "198.51.") && fate != "offloaded" {
			t.Errorf("%s is %s though there is room", name, fate)
		}
	}
}

// fates lists what became of each route of the main table.
func (l *lab) fates() map[string]string {
	l.t.Helper()
	var rows []struct{ Dst, Fate string }
	l.ask(&rows, "show", "-4", "route", "table", "main")
	m := map[string]string{}
	for _, r := range rows {
		m[r.Dst] = r.Fate
	}
	return m
}

// TestManyUp: a second simulation in the same folder is refused, one in another
// folder is no trouble.
func TestManyUp(t *testing.T) {
	l := newLab(t, 1)
	l.up()
	l.wantExit(exitUsage, "is up in", "sim", "up", "--detach", "--netns", l.dut.Name(), "--port", "swp7=w7")
	other := &lab{t: t, state: filepath.Join(t.TempDir(), "other"), dut: netnstest.New(t), hosts: []*netnstest.NS{netnstest.New(t)}}
	other.up()
	other.verified()
	l.verified()
}

package difflab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"antiphon/hostshim/sysctl"
	"antiphon/internal/netnstest"
	"antiphon/netstate"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// world is a plain kernel router of genPorts ports, used for one scenario after
// the other.
type world struct {
	*system
	out    *netnstest.NS
	conn   *netlink.Conn // for dumps
	far    *netlink.Conn // the same, at the other end of the cables
	events [2]int        // sockets at both ends that hear of links and IPv6 routes
	reader *sysctl.Reader
	clean  state  // right after it was made
	run    uint16 // counts volleys; part of the tags

	lines, refused int
}

// patience bounds waiting for the kernel to finish what it does by itself.
const patience = 10 * time.Second

func newWorld(t testing.TB) *world {
	w := &world{system: &system{dut: netnstest.New(t)}, out: netnstest.New(t)}
	w.dut.Router(t)
	w.out.Silent(t)
	// A veth whose peer has the same index as itself is told of its carrier up to
	// a second late (linkwatch_urgent_event, net/core/link_watch.c).
	w.out.IP(t, "link add name spare1 type veth peer name spare2")
	for n := 1; n <= genPorts; n++ {
		wire := fmt.Sprintf("w%d", n)
		netnstest.Veth(t, netnstest.End{NS: w.out, Name: wire, MAC: hostMAC(n), Bare: true},
			netnstest.End{NS: w.dut, Name: swp(n), MAC: portMAC(n)})
		w.out.IP(t, fmt.Sprintf("link set dev %s mtu 9000", wire))
		w.dut.IP(t, fmt.Sprintf("link property add dev %s altname antiphon-%s", swp(n), swp(n)))
		w.open(t, w.out, wire, swp(n))
	}
	for i, end := range []struct {
		ns   *netnstest.NS
		conn **netlink.Conn
	}{{w.dut, &w.conn}, {w.out, &w.far}} {
		err := end.ns.Do(func() (err error) {
			if *end.conn, err = netlink.Dial(unix.NETLINK_ROUTE, nil); err != nil {
				return err
			}
			w.events[i], err = listen()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*end.conn).Close(); unix.Close(w.events[i]) })
	}
	err := w.dut.Do(func() (err error) {
		w.reader, err = sysctl.NewReader()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	w.clean = w.settle(t)
	return w
}

// change runs lines, as few processes as keep their order.
func (w *world) change(t testing.TB, lines []string) {
	t.Helper()
	kind := func(line string) string {
		words := strings.Fields(line)
		switch {
		case words[0] != "ip":
			return words[0]
		case words[1] == "-6" || words[1] == "-4" || words[1] == "neigh":
			return "ip " + words[1]
		}
		return "ip"
	}
	for len(lines) > 0 {
		k, n := kind(lines[0]), 1
		for n < len(lines) && kind(lines[n]) == k {
			n++
		}
		var rest []string
		for _, l := range lines[:n] {
			rest = append(rest, strings.TrimSpace(strings.TrimPrefix(l, k)))
		}
		lines = lines[n:]
		switch k {
		case "sysctl":
			w.set(t, rest)
		case "wire":
			w.batch(t, w.out, rest)
		case "ip neigh":
			w.neighbors(t, rest)
		default:
			w.batch(t, w.dut, rest, strings.Fields(k)[1:]...)
		}
	}
}

// batch gives lines to one `ip` that goes on after a refusal.
func (w *world) batch(t testing.TB, ns *netnstest.NS, lines []string, options ...string) {
	t.Helper()
	why, err := ipBatch(ns, lines, options...)
	failed := strings.Count(why, "Command failed")
	w.lines += len(lines)
	w.refused += failed
	if err != nil && failed == 0 {
		t.Fatalf("ip -batch: %v: %s\n%s", err, why, strings.Join(lines, "\n"))
	}
}

// neighbors runs `ip neigh` lines, which end a batch when they are refused.
func (w *world) neighbors(t testing.TB, lines []string) {
	t.Helper()
	for i := range lines {
		lines[i] = "neigh " + lines[i]
	}
	w.lines += len(lines)
	if _, err := ipBatch(w.dut, lines); err == nil {
		return
	}
	for _, l := range lines {
		if _, err := ipBatch(w.dut, []string{l}); err != nil {
			w.refused++
		}
	}
}

func ipBatch(ns *netnstest.NS, lines []string, options ...string) (why string, err error) {
	var stderr strings.Builder
	err = ns.Do(func() error {
		cmd := exec.Command("ip", append(options, "-force", "-batch", "-")...)
		cmd.Stdin, cmd.Stderr = strings.NewReader(strings.Join(lines, "\n")+"\n"), &stderr
		return cmd.Run()
	})
	return stderr.String(), err
}

// set writes sysctls, "path=value".
func (w *world) set(t testing.TB, assignments []string) {
	t.Helper()
	err := w.dut.Do(func() error {
		for _, a := range assignments {
			key, value, _ := strings.Cut(a, "=")
			err := os.WriteFile("/proc/sys/"+key, []byte(value), 0)
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // IPv6 leaves a link of a small MTU
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// restore sets the settings that are not as they were, those with path in their
// names.
func (w *world) restore(t testing.TB, path string) {
	t.Helper()
	now := map[string]string{}
	for _, v := range w.read(t).settings.Settings {
		now[v.Name] = v.Value
	}
	var assignments []string
	for _, v := range w.clean.settings.Settings {
		if key := strings.ReplaceAll(v.Name, ".", "/"); now[v.Name] != v.Value && strings.Contains(key, path) {
			assignments = append(assignments, key+"="+v.Value)
		}
	}
	w.set(t, assignments)
}

// reset takes the router back to what it was when it was made. ok is false if
// that cannot be had.
func (w *world) reset(t testing.TB) (ok bool) {
	t.Helper()
	var wires, lines []string
	for n := 1; n <= genPorts; n++ {
		wires = append(wires, fmt.Sprintf("link set w%d up", n))
		lines = append(lines, fmt.Sprintf("link set %s down mtu 1500", swp(n)), "addr flush dev "+swp(n))
	}
	w.batch(t, w.out, wires)
	w.batch(t, w.dut, append(lines, "nexthop flush"))
	w.restore(t, "/all/") // which sets those of the ports
	w.restore(t, "/")
	w.revert(t, netstate.KindRule, unix.RTM_NEWRULE, unix.RTM_DELRULE)
	w.revert(t, netstate.KindRoute, unix.RTM_NEWROUTE, unix.RTM_DELROUTE)
	for n := range lines {
		lines[n] = fmt.Sprintf("link set %s up", swp(1+n/2))
	}
	w.batch(t, w.dut, lines)
	return w.settle(t).same(w.clean)
}

// revert deletes and restores rows of a kind until they are those of a clean
// router, as far as they stand without links.
func (w *world) revert(t testing.TB, kind netstate.Kind, add, del uint16) {
	t.Helper()
	rows, err := dumpRows(w.conn, kind)
	if err != nil {
		t.Fatal(err)
	}
	// What cannot be done shows when reset compares.
	do := func(typ uint16, flags netlink.HeaderFlags, raw []byte) {
		_, _ = w.conn.Execute(netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request | netlink.Acknowledge | flags},
			Data:   raw[netstate.HeaderBytes:],
		})
	}
	for k, r := range rows {
		if w.clean.rows[k] == nil {
			for _, raw := range r.Group {
				do(del, 0, raw)
			}
		}
	}
	for k, r := range w.clean.rows {
		if k.Kind == kind && kind == netstate.KindRule && rows[k] == nil {
			raw := r.Group[0]
			if k.Prio == 0 { // not in the message; without it the kernel chooses one
				raw = append(slices.Clip(raw), 8, 0, unix.FRA_PRIORITY, 0, 0, 0, 0, 0)
			}
			do(add, netlink.Create|netlink.Excl, raw)
		}
	}
}

// wired are the ports that frames can come in by and leave from.
func (w *world) wired(s state) (live [genPorts + 1]bool, cables []netnstest.Cable, ports []int) {
	for n := 1; n <= genPorts; n++ {
		if l := s.links[swp(n)]; l.up && l.lower {
			live[n] = true
			cables = append(cables, w.cables[n-1])
			ports = append(ports, n)
		}
	}
	return live, cables, ports
}

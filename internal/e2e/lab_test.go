package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"antiphon/internal/netnstest"
)

// TestMain builds the programs once and puts them first in PATH.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	os.Exit(func() int {
		bin, err := os.MkdirTemp("", "antiphon-e2e-bin")
		if err == nil {
			defer os.RemoveAll(bin)
			var out []byte
			if out, err = exec.Command("go", "build", "-o", bin, "antiphon/cmd/...").CombinedOutput(); err != nil {
				err = fmt.Errorf("build the programs: %w\n%s", err, out)
			}
		}
		if err == nil {
			err = os.Setenv("PATH", bin+":"+os.Getenv("PATH"))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// Exit statuses of the command line.
const (
	exitOK          = 0
	exitNegative    = 1
	exitUsage       = 2
	exitUnreachable = 3
)

func swp(n int) string      { return fmt.Sprintf("swp%d", n) }
func wireName(n int) string { return fmt.Sprintf("w%d", n) }
func hostMAC(n int) [6]byte { return [6]byte(netnstest.MAC(uint16(0x100 + n))) }
func portMAC(n int) [6]byte { return [6]byte(netnstest.MAC(uint16(0x200 + n))) }
func macText(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}
func host4(n int) string                { return fmt.Sprintf("10.%d.0.2", n) }
func router4(n int) string              { return fmt.Sprintf("10.%d.0.1", n) }
func host6(n int) string                { return fmt.Sprintf("2001:db8:%d::2", n) }
func router6(n int) string              { return fmt.Sprintf("2001:db8:%d::1", n) }
func lines(s string) []string           { return strings.FieldsFunc(s, func(r rune) bool { return r == '\n' }) }
func (l *lab) host(n int) *netnstest.NS { return l.hosts[n-1] }
func (l *lab) file(name string) string  { return filepath.Join(l.state, name) }
func (l *lab) logOf(name string) []byte { b, _ := os.ReadFile(l.file(name + ".log")); return b }

// lab is one simulation: a router namespace of representors, and a namespace for
// the wire end of each port.
type lab struct {
	t     *testing.T
	state string
	dut   *netnstest.NS
	hosts []*netnstest.NS
}

// newLab makes the namespaces of a simulation with ports swp1, swp2, … whose wire
// ends w1, w2, … are in a host namespace each; nothing is started yet.
func newLab(t *testing.T, ports int) *lab {
	t.Helper()
	l := &lab{t: t, dut: netnstest.New(t), state: filepath.Join(t.TempDir(), "state")}
	l.dut.Router(t)
	for range ports {
		h := netnstest.New(t)
		h.Silent(t)
		l.hosts = append(l.hosts, h)
	}
	return l
}

// up starts the simulation. When the test ends it is taken down, and nothing of
// it may be left.
func (l *lab) up(flags ...string) {
	l.t.Helper()
	args := []string{"sim", "up", "--detach", "--netns", l.dut.Name(), "--wire-netns", l.hosts[0].Name()}
	for n := range l.hosts {
		args = append(args, "--port", swp(n+1)+"="+wireName(n+1))
	}
	l.t.Cleanup(func() {
		if l.t.Failed() {
			l.t.Log(l.logs())
		}
		l.must("sim", "down")
		l.nothingLeft()
	})
	l.must(append(args, flags...)...)
	for n := 1; n <= len(l.hosts); n++ {
		if n > 1 {
			l.hosts[0].IP(l.t, fmt.Sprintf("link set dev %s netns %s", wireName(n), l.host(n).Name()))
		}
		l.dut.IP(l.t, fmt.Sprintf("link set dev %s address %s", swp(n), macText(portMAC(n))))
		l.host(n).IP(l.t, fmt.Sprintf("link set dev %s address %s", wireName(n), macText(hostMAC(n))))
	}
}

// route makes the router know a host behind each port: 10.N.0.2 and
// 2001:db8:N::2, with neighbours that need no resolution.
func (l *lab) route() {
	l.t.Helper()
	for n := 1; n <= len(l.hosts); n++ {
		for _, line := range []string{
			fmt.Sprintf("link set dev %s up", swp(n)),
			fmt.Sprintf("addr add %s/24 dev %s", router4(n), swp(n)),
			fmt.Sprintf("addr add %s/64 dev %s nodad", router6(n), swp(n)),
			fmt.Sprintf("neigh replace %s lladdr %s dev %s nud permanent", host4(n), macText(hostMAC(n)), swp(n)),
			fmt.Sprintf("neigh replace %s lladdr %s dev %s nud permanent", host6(n), macText(hostMAC(n)), swp(n)),
		} {
			l.dut.IP(l.t, line)
		}
	}
}

// bare makes the hosts mere wires: up, and silent but for what the test sends.
func (l *lab) bare() {
	l.t.Helper()
	for n := 1; n <= len(l.hosts); n++ {
		l.host(n).Sysctl(l.t, "net/ipv6/conf/"+wireName(n)+"/disable_ipv6", "1")
		l.host(n).IP(l.t, "link set dev "+wireName(n)+" up")
	}
}

// addressed makes the hosts real ones, whose way out is the router.
func (l *lab) addressed() {
	l.t.Helper()
	for n := 1; n <= len(l.hosts); n++ {
		for _, line := range []string{
			fmt.Sprintf("link set dev %s up", wireName(n)),
			fmt.Sprintf("addr add %s/24 dev %s", host4(n), wireName(n)),
			fmt.Sprintf("addr add %s/64 dev %s nodad", host6(n), wireName(n)),
			fmt.Sprintf("route add default via %s", router4(n)),
			fmt.Sprintf("-6 route add default via %s", router6(n)),
		} {
			l.host(n).IP(l.t, line)
		}
	}
}

// answer is what a command said.
type answer struct {
	stdout, stderr string
	exit           int
}

func (a answer) String() string {
	return fmt.Sprintf("exit %d\nstdout: %s\nstderr: %s", a.exit, a.stdout, a.stderr)
}

// try runs the command line tool.
func (l *lab) try(args ...string) (answer, error) {
	cmd := exec.Command("antiphon", args...)
	cmd.Env = append(os.Environ(), "ANTIPHON_STATE="+l.state)
	// Files: pipes would be held by what runs on in the background.
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp("", "antiphon-e2e")
		if err != nil {
			return answer{}, err
		}
		defer os.Remove(f.Name())
		defer f.Close()
		files[i] = f
	}
	cmd.Stdout, cmd.Stderr = files[0], files[1]
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return answer{}, fmt.Errorf("antiphon %s: %w", strings.Join(args, " "), err)
	}
	a := answer{exit: cmd.ProcessState.ExitCode()}
	for i, to := range []*string{&a.stdout, &a.stderr} {
		text, err := os.ReadFile(files[i].Name())
		if err != nil {
			return answer{}, err
		}
		*to = string(text)
	}
	return a, nil
}

// cli runs the command line tool and returns what it said, whatever that is.
func (l *lab) cli(args ...string) answer {
	l.t.Helper()
	a, err := l.try(args...)
	if err != nil {
		l.t.Fatal(err)
	}
	return a
}

// run is try for a command that must succeed.
func (l *lab) run(args ...string) error {
	a, err := l.try(args...)
	if err == nil && a.exit != exitOK {
		err = fmt.Errorf("antiphon %s: %v", strings.Join(args, " "), a)
	}
	return err
}

// must is cli for a command that must succeed.
func (l *lab) must(args ...string) string {
	l.t.Helper()
	a := l.cli(args...)
	if a.exit != exitOK {
		l.t.Fatalf("antiphon %s: %v\n%s", strings.Join(args, " "), a, l.logs())
	}
	return a.stdout
}

// wantExit runs a command that must end with a status and say something.
func (l *lab) wantExit(exit int, says string, args ...string) {
	l.t.Helper()
	if a := l.cli(args...); a.exit != exit || !strings.Contains(a.stdout+a.stderr, says) {
		l.t.Errorf("antiphon %s: %v\nwant exit %d and %q", strings.Join(args, " "), a, exit, says)
	}
}

// ask runs a command with -j and reads its document.
func (l *lab) ask(into any, args ...string) {
	l.t.Helper()
	text := l.must(append(args, "-j")...)
	if err := json.Unmarshal([]byte(text), into); err != nil {
		l.t.Fatalf("antiphon %s -j: %v\n%s", strings.Join(args, " "), err, text)
	}
}

func (l *lab) barrier() {
	l.t.Helper()
	l.must("barrier")
}

// verified is a barrier after which kernel, agent and device agree.
func (l *lab) verified() {
	l.t.Helper()
	l.barrier()
	var doc struct {
		Checked     map[string]int
		Differences []json.RawMessage
	}
	l.ask(&doc, "verify")
	if len(doc.Differences) != 0 || doc.Checked["route"] == 0 || doc.Checked["device"] == 0 {
		l.t.Errorf("verify: %+v", doc)
	}
}

// logs is the end of what each process said.
func (l *lab) logs() string {
	var b strings.Builder
	for _, name := range []string{"sim", "device", "agent", "shim"} {
		text := l.logOf(name)
		fmt.Fprintf(&b, "--- %s.log\n%s\n", name, text[max(0, len(text)-3000):])
	}
	return b.String()
}

// pid of a process of the simulation.
func (l *lab) pid(name string) int {
	l.t.Helper()
	text, err := os.ReadFile(l.file(name + ".pid"))
	var pid int
	if err == nil {
		_, err = fmt.Sscan(string(text), &pid)
	}
	if err != nil {
		l.t.Fatalf("pid of %s: %v", name, err)
	}
	return pid
}

// kill9 kills a process of the simulation and returns when it is gone.
func (l *lab) kill9(name string) {
	l.t.Helper()
	fd, err := unix.PidfdOpen(l.pid(name), 0)
	if err == nil {
		defer unix.Close(fd)
		err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
	if err == nil {
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
	}
	if err != nil {
		l.t.Fatalf("kill %s: %v", name, err)
	}
}

// nothingLeft looks for what a simulation could leave behind.
func (l *lab) nothingLeft() {
	l.t.Helper()
	if files, err := os.ReadDir(l.state); !errors.Is(err, os.ErrNotExist) {
		l.t.Errorf("the state directory is left: %v %v", files, err)
	}
	for _, ns := range append([]*netnstest.NS{l.dut}, l.hosts...) {
		for _, line := range lines(ns.IP(l.t, "-o link show")) {
			if strings.Contains(line, ": swp") || strings.Contains(line, ": w") {
				l.t.Errorf("a link is left in %s: %s", ns.Name(), line)
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		l.t.Fatal(err)
	}
	sockets, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		l.t.Fatal(err)
	}
	for what, text := range map[string][]byte{"mount": mounts, "socket": sockets} {
		if bytes.Contains(text, []byte(l.state)) {
			l.t.Errorf("a %s under %s is left", what, l.state)
		}
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		l.t.Fatal(err)
	}
	for _, f := range commands {
		// A process may end while we look.
		if text, err := os.ReadFile(f); err == nil && bytes.Contains(text, []byte(l.state)) {
			l.t.Errorf("a process is left: %s %s", f, bytes.ReplaceAll(text, []byte{0}, []byte{' '}))
		}
	}
}

package sim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"antiphon/hwmodel/port"
	"antiphon/internal/netnstest"
	"antiphon/sim"
	"antiphon/transport"
)

// programEnv makes the test binary be `antiphon sim`: the simulation is a
// process that tests kill.
const programEnv = "ANTIPHON_TEST_SIM"

func TestMain(m *testing.M) {
	if os.Getenv(programEnv) == "" {
		os.Exit(m.Run())
	}
	cmd := sim.Command()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "antiphon:", err)
	}
	os.Exit(sim.ExitStatus(err))
}

// rig is a simulation under test: its folders and the names of its namespaces.
type rig struct {
	t               *testing.T
	state, programs string
	dut, wire       string
}

// newRig builds the daemons. Whatever a test leaves is taken down, and the rig
// then checks that nothing is left.
func newRig(t *testing.T) *rig {
	netnstest.Require(t)
	if testing.Short() {
		t.Skip("builds and starts the daemons: not with -short")
	}
	r := &rig{t: t, programs: t.TempDir(), state: filepath.Join(t.TempDir(), "state")}
	out, err := exec.Command("go", "build", "-o", r.programs,
		"antiphon/cmd/antiphond", "antiphon/cmd/antiphon-device", "antiphon/cmd/antiphon-shim").CombinedOutput()
	if err != nil {
		t.Fatalf("build the daemons: %v\n%s", err, out)
	}
	// Unique, and short enough to read.
	unique := fmt.Sprintf("%d-%s", os.Getpid(), strings.ToLower(t.Name()[4:]))
	r.dut, r.wire = "dut"+unique, "wire"+unique
	t.Cleanup(func() {
		r.must("down")
		r.nothingLeft()
	})
	return r
}

// sim runs `antiphon sim` with words and returns its output and exit status.
func (r *rig) sim(words ...string) (string, int) {
	r.t.Helper()
	cmd := exec.Command("/proc/self/exe", words...)
	cmd.Env = append(os.Environ(), programEnv+"=1", "ANTIPHON_STATE="+r.state, "PATH="+r.programs+":"+os.Getenv("PATH"))
	// A file: a pipe would be held by what runs on in the background.
	file, err := os.CreateTemp(r.t.TempDir(), "out")
	if err != nil {
		r.t.Fatal(err)
	}
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file
	err = cmd.Run()
	out, readErr := os.ReadFile(file.Name())
	if readErr != nil {
		r.t.Fatal(readErr)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (r *rig) must(words ...string) {
	r.t.Helper()
	if out, exit := r.sim(words...); exit != 0 {
		r.t.Fatalf("sim %s: exit %d\n%s%s", strings.Join(words, " "), exit, out, r.logs())
	}
}

// wantExit runs a command that must fail, saying something.
func (r *rig) wantExit(want int, says string, words ...string) {
	r.t.Helper()
	out, exit := r.sim(words...)
	if exit != want || !strings.Contains(out, says) {
		r.t.Errorf("sim %s: exit %d, want %d and %q\n%s", strings.Join(words, " "), exit, want, says, out)
	}
}

func (r *rig) up(more ...string) {
	r.t.Helper()
	r.must(append([]string{"up", "--netns", r.dut, "--wire-netns", r.wire,
		"--port", "swp1=w1", "--port", "swp2=w2", "--detach"}, more...)...)
}

// logs is what the daemons said.
func (r *rig) logs() string {
	var b bytes.Buffer
	files, _ := filepath.Glob(filepath.Join(r.state, "*.log"))
	for _, f := range files {
		text, _ := os.ReadFile(f)
		fmt.Fprintf(&b, "--- %s\n%s", filepath.Base(f), text)
	}
	return b.String()
}

// ip runs `ip` in a namespace.
func (r *rig) ip(ns, line string) string {
	r.t.Helper()
	out, err := exec.Command("ip", append([]string{"-n", ns}, strings.Fields(line)...)...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("ip -n %s %s: %v: %s", ns, line, err, out)
	}
	return string(out)
}

func (r *rig) pid(name string) int {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(r.state, name+".pid"))
	if err != nil {
		r.t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		r.t.Fatal(err)
	}
	return pid
}

// kill9 kills a process of the simulation and waits until it is gone.
func (r *rig) kill9(name string) {
	r.t.Helper()
	pid := r.pid(name)
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		r.t.Fatal(err)
	}
	r.awaitEnd(fd)
}

func (r *rig) awaitEnd(pidfd int) {
	r.t.Helper()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 10_000)
	if err != nil || n == 0 {
		r.t.Fatalf("the process did not end: %v", err)
	}
}

// barrier settles carriers and waits for everything to be programmed.
func (r *rig) barrier() {
	r.t.Helper()
	ctx := context.Background()
	if err := port.Settle(ctx, filepath.Join(r.state, "sim.sock")); err != nil {
		r.t.Fatal(err)
	}
	if _, exit, err := transport.Call(ctx, filepath.Join(r.state, "agent.sock"), transport.VerbBarrier, transport.BarrierArgs{}); err != nil || exit != 0 {
		r.t.Fatalf("barrier: exit %d: %v\n%s", exit, err, r.logs())
	}
}

// nothingLeft looks for what a simulation could leave behind.
func (r *rig) nothingLeft() {
	r.t.Helper()
	if _, err := os.Stat(r.state); !errors.Is(err, os.ErrNotExist) {
		files, _ := os.ReadDir(r.state)
		r.t.Errorf("the state directory is left (%v): %v", err, files)
	}
	for _, ns := range []string{r.dut, r.wire} {
		if _, err := os.Stat("/run/netns/" + ns); !errors.Is(err, os.ErrNotExist) {
			r.t.Errorf("namespace %s is left: %v", ns, err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		r.t.Fatal(err)
	}
	for _, what := range []string{r.state, r.dut, r.wire} {
		if bytes.Contains(mounts, []byte(what)) {
			r.t.Errorf("a mount of %s is left", what)
		}
	}
	for _, line := range processes(r.t) {
		if strings.Contains(line, r.state) || strings.Contains(line, r.dut) {
			r.t.Errorf("a process is left: %s", line)
		}
	}
}

// processes returns every command line of the machine.
func processes(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil { // it may have ended meanwhile
			lines = append(lines, strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return lines
}

func TestUpDown(t *testing.T) {
	r := newRig(t)
	r.up("--cable", "swp3=swp4")
	for _, name := range []string{"swp1", "swp2", "swp3", "swp4"} {
		r.ip(r.dut, "link show dev antiphon-"+name)
	}
	r.ip(r.wire, "link show dev w2")
	r.wantExit(2, "is up in", "up", "--netns", r.dut, "--port", "swp9=w9")
	r.barrier()
	r.must("down")
	r.nothingLeft()
	r.must("down")

	r.up("--transport", "tcp", "--pipe", "refpipe", "--size", "route=100")
	r.barrier()
}

func TestForeground(t *testing.T) {
	r := newRig(t)
	cmd := exec.Command("/proc/self/exe", "up", "--netns", r.dut, "--wire-netns", r.wire, "--port", "swp1=w1")
	cmd.Env = append(os.Environ(), programEnv+"=1", "ANTIPHON_STATE="+r.state, "PATH="+r.programs+":"+os.Getenv("PATH"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 64)
	n, err := out.Read(said)
	if err != nil || string(said[:n]) != "ready\n" {
		t.Errorf("said %q, %v\n%s", said[:n], err, r.logs())
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGINT: %v", err)
	}
	r.nothingLeft()
}

func TestKeepsWhatExisted(t *testing.T) {
	r := newRig(t)
	dut := netnstest.New(t)
	if err := os.MkdirAll(r.state, 0o755); err != nil {
		t.Fatal(err)
	}
	mine := filepath.Join(r.state, "notes.txt")
	if err := os.WriteFile(mine, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	forwarding := dut.ReadSysctl(t, "net/ipv4/ip_forward")
	r.must("up", "--netns", dut.Path(), "--wire-netns", r.wire, "--port", "swp1=w1", "--detach")
	if now := dut.ReadSysctl(t, "net/ipv4/ip_forward"); now != forwarding {
		t.Errorf("ip_forward became %s", now)
	}
	r.must("down")
	if _, err := dut.Try("ip", "link", "show", "swp1"); err == nil {
		t.Error("swp1 is left")
	}
	if files, err := os.ReadDir(r.state); err != nil || len(files) != 1 {
		t.Errorf("state directory: %v, %v", files, err)
	}
	if err := os.RemoveAll(r.state); err != nil {
		t.Fatal(err)
	}
}

func TestNameExistsUndoesAll(t *testing.T) {
	r := newRig(t)
	wire := netnstest.New(t)
	wire.IP(t, "link add w2 type veth peer name other")
	r.wantExit(2, "w2", "up", "--netns", r.dut, "--wire-netns", wire.Name(), "--port", "swp1=w1", "--port", "swp2=w2", "--detach")
	r.nothingLeft()
	if _, err := wire.Try("ip", "link", "show", "w1"); err == nil {
		t.Error("w1 is left")
	}
}

func TestDaemonThatCannotStart(t *testing.T) {
	r := newRig(t)
	if err := os.WriteFile(filepath.Join(r.programs, "antiphond"), []byte("#!/bin/sh\necho no device today >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.wantExit(1, "no device today", "up", "--netns", r.dut, "--wire-netns", r.wire, "--port", "swp1=w1", "--detach")
	r.nothingLeft()
}

func TestDownAfterKill(t *testing.T) {
	r := newRig(t)
	for _, dead := range [][]string{{"sim"}, {"device"}, {"agent"}, {"shim"}, {"sim", "device", "agent", "shim"}} {
		r.up()
		for _, name := range dead {
			r.kill9(name)
		}
		if slices.Contains(dead, "sim") {
			r.wantExit(2, "sim down", "up", "--netns", r.dut, "--port", "swp1=w1")
		}
		r.must("down")
		r.nothingLeft()
	}
}

// Without the process that holds the TAPs there are no ports, and so no device.
func TestPortsEndWithTheSimulation(t *testing.T) {
	r := newRig(t)
	r.up()
	device, err := unix.PidfdOpen(r.pid("device"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(device)
	r.kill9("sim")
	r.awaitEnd(device)
	if out := r.ip(r.dut, "link") + r.ip(r.wire, "link"); strings.Contains(out, "swp1") || strings.Contains(out, "w1") {
		t.Errorf("ports without anybody who holds them:\n%s", out)
	}
}

func TestStartKill(t *testing.T) {
	r := newRig(t)
	r.wantExit(3, "no simulation", "kill", "device")
	r.wantExit(2, "agent, device, shim", "start", "engine")
	r.up()
	r.ip(r.wire, "link set w1 up")
	r.ip(r.dut, "link set swp1 up")
	r.barrier()
	for _, name := range []string{"device", "agent", "shim"} {
		r.wantExit(2, "already running", "start", name)
		r.must("kill", name)
		r.wantExit(2, "not running", "kill", name)
		if out := r.ip(r.dut, "link show dev swp1"); strings.Contains(out, "NO-CARRIER") {
			t.Errorf("%s killed: swp1 lost its carrier: %s", name, out)
		}
		r.must("start", name)
		r.barrier()
	}
	// Nobody has to wait for somebody who is not there.
	r.must("kill", "agent")
	r.must("kill", "shim")
	began := time.Now()
	r.must("start", "shim")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("without an agent the shim took %v to start", took)
	}
	r.must("start", "agent")
	r.barrier()
	// A second device is refused while one is attached.
	if a, err := port.Attach(context.Background(), filepath.Join(r.state, "sim.sock")); err == nil {
		a.Close()
		t.Error("two devices at once")
	}
}

// byHand starts a daemon by the command line that is left for people, and returns
// when it answers; ended closes when it is gone.
func (r *rig) byHand(name string) (ended <-chan struct{}) {
	r.t.Helper()
	line, err := os.ReadFile(filepath.Join(r.state, name+".cmd"))
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", "exec "+string(line))
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		cmd.Wait()
		close(done)
	}()
	tick := time.NewTicker(10 * time.Millisecond) // nothing tells of a listener
	defer tick.Stop()
	for {
		conn, err := net.Dial("unix", filepath.Join(r.state, name+".sock"))
		if err == nil {
			conn.Close()
			return done
		}
		select {
		case <-done:
			r.t.Fatalf("%s by hand ended", name)
		case <-tick.C:
		}
	}
}

func TestDaemonsByHand(t *testing.T) {
	r := newRig(t)
	r.up()
	for _, name := range []string{"device", "agent", "shim"} {
		r.must("kill", name)
		r.byHand(name)
		r.wantExit(2, "already running", "start", name)
		r.must("kill", name)
		r.wantExit(2, "not running", "kill", name)
		r.byHand(name)
	}
	r.barrier()
	r.must("down")
	r.nothingLeft()

	// The same when nobody is left but those.
	r.up()
	for _, name := range []string{"device", "agent", "shim"} {
		r.must("kill", name)
	}
	device := r.byHand("device")
	r.byHand("agent")
	r.byHand("shim")
	r.kill9("sim")
	<-device // ends by itself, with its ports
	r.must("down")
	r.nothingLeft()
}

func TestBadInputFindsNothing(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		says  string
		words []string
	}{
		{"no port", []string{"up"}},
		{"vsock", []string{"up", "--port", "a=b", "--transport", "vsock"}},
		{"--bogus", []string{"up", "--bogus"}},
		{"not understood", []string{"down", "now"}},
		{"tea", []string{"up", "--port", "a=b", "--size", "tea=1"}},
		{"twice", []string{"up", "--port", "a=b", "--port", "a=c"}},
	} {
		r.wantExit(2, c.says, c.words...)
	}
	r.nothingLeft()
}

// TestCarriersSettled is the contract at the socket: settle, and both ends agree.
func TestCarriersSettled(t *testing.T) {
	r := newRig(t)
	r.up()
	socket := filepath.Join(r.state, "sim.sock")
	r.ip(r.dut, "link set swp1 up")
	for _, up := range []bool{true, false, true} {
		r.ip(r.wire, "link set w1 "+map[bool]string{true: "up", false: "down"}[up])
		if err := port.Settle(context.Background(), socket); err != nil {
			t.Fatal(err)
		}
		if got := !strings.Contains(r.ip(r.dut, "link show dev swp1"), "NO-CARRIER"); got != up {
			t.Errorf("w1 up %v: swp1 has carrier %v", up, got)
		}
	}
	// Nonsense at the socket hurts nobody.
	conn, err := net.Dial("unixpacket", socket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte(`{"op":"explode"}`)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := port.Settle(context.Background(), socket); err != nil {
		t.Error(err)
	}
}

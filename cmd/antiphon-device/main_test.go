package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"antiphon/hwmodel"
	"antiphon/hwmodel/port"
	"antiphon/hwmodel/remote"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestUsage(t *testing.T) {
	good := []string{"--listen", "unix:///nowhere/d.sock", "--ports", "/nowhere/sim.sock", "--counters", "/nowhere/c"}
	for _, c := range []struct {
		says string
		exit int
		args []string
	}{
		{"unknown flag: --what", 2, append(good, "--what")},
		{`required flag(s) "counters", "listen", "ports" not set`, 2, nil},
		{"--pipe hard: expected softpipe or refpipe", 2, append(good, "--pipe", "hard")},
		{`no table "roads", expected one of group, interface, neighbor, nexthop, own-address, route, rules`, 2, append(good, "--size", "roads=1")},
		{"--size route=0: expected route=N", 2, append(good, "--size", "route=0")},
		{"--size route: expected route=N", 2, append(good, "--size", "route")},
		{`no reason "tea"`, 2, append(good, "--police", "tea=1")},
		{"--police no-route=0: expected PPS", 2, append(good, "--police", "no-route=0")},
		{"--police default=1/0: expected a burst", 2, append(good, "--police", "default=1/0")},
		{"given twice", 2, append(good, "--police", "local=1", "--police", "local=off")},
		{"--log-level", 2, append(good, "--log-level", "loud")},
		{"--listen tcp://x: expected unix:///path", 2, append(good, "--listen", "tcp://x")},
		{"unknown command", 2, append(good, "up")},
		{"cannot reach the ports", 3, good},
	} {
		var stderr bytes.Buffer
		exit := run(t.Context(), c.args, &stderr, &stderr)
		if exit != c.exit || !strings.Contains(stderr.String(), c.says) {
			t.Errorf("%q: exit %d, %s, expected exit %d and %q", c.args, exit, stderr.String(), c.exit, c.says)
		}
	}
}

// cable is a provider of one port: w1 is the wire side, swp1 the host side.
type cable struct{ wire, host *port.TAP }

func (c cable) Attach() ([]port.Lent, error) {
	err := errors.Join(c.wire.Attach(), c.host.Attach())
	return []port.Lent{{ID: 1, Name: "swp1", Wire: c.wire.FD(), Host: c.host.FD()}}, err
}
func (c cable) Detach() error                { return errors.Join(c.wire.Detach(), c.host.Detach()) }
func (c cable) Settle(context.Context) error { return nil }

// newCable makes the TAPs in a fresh network namespace.
func newCable(t *testing.T) cable {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("cannot make a network namespace: %v", err)
	}
	var taps []*port.TAP
	for _, name := range []string{"w1", "swp1"} {
		tap, err := port.CreateTAP(name)
		if err != nil {
			t.Skipf("no TAPs here: %v", err)
		}
		t.Cleanup(func() { tap.Close() })
		check(t, exec.Command("ip", "link", "set", name, "up").Run())
		check(t, tap.Detach())
		taps = append(taps, tap)
	}
	return cable{taps[0], taps[1]}
}

// start serves the cable; stop ends it.
func (c cable) start(t *testing.T, path string) (stop func()) {
	t.Helper()
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- port.Serve(ctx, listener, c) }()
	return func() {
		cancel()
		check(t, <-done)
	}
}

// hostSocket receives frames as the host does at swp1, and sends at w1.
func hostSocket(t *testing.T, name string) int {
	t.Helper()
	link, err := net.InterfaceByName(name)
	check(t, err)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	check(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	check(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0xb588, Ifindex: link.Index})) // 0x88b5
	return fd
}

// A device without entries traps; its counts outlive it; its instance does not.
func TestLives(t *testing.T) {
	c := newCable(t)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	stopSim := c.start(t, file("sim.sock"))
	w1, swp1 := hostSocket(t, "w1"), hostSocket(t, "swp1")
	client, err := remote.NewClient("unix://" + file("device.sock"))
	check(t, err)
	defer client.Close()
	frame := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5}, make([]byte, 50)...)

	instances := map[uint64]bool{}
	for life, pipe := range []string{"softpipe", "refpipe", "softpipe"} {
		ctx, cancel := context.WithCancel(t.Context())
		exit := make(chan int, 1)
		var stderr bytes.Buffer
		go func() {
			exit <- run(ctx, []string{
				"--listen", "unix://" + file("device.sock"), "--ports", file("sim.sock"),
				"--counters", file("device.counters"), "--pipe", pipe, "--size", "route=777",
			}, &stderr, &stderr)
		}()
		capabilities := waitForDevice(t, client)
		if capabilities.Name != pipe || capabilities.Sizes[hwmodel.TableRoute] != 777 || fmt.Sprint(capabilities.Ports) != "[{1 swp1}]" {
			t.Errorf("capabilities %+v", capabilities)
		}
		if instances[capabilities.Instance] {
			t.Error("two lives with one instance")
		}
		instances[capabilities.Instance] = true

		_, err := unix.Write(w1, frame)
		check(t, err)
		got := make([]byte, 100)
		n, err := unix.Read(swp1, got)
		check(t, err)
		if !bytes.Equal(got[:n], frame) {
			t.Errorf("trapped % x, expected % x", got[:n], frame)
		}
		trapped := trappedNotIP(t, client, uint64(life+1))
		if trapped != uint64(life+1) {
			t.Errorf("%d frames trapped as not-ip in %d lives", trapped, life+1)
		}
		if life == 2 {
			stopSim() // the ports go: the device ends by itself
			if e := <-exit; e != 3 || !strings.Contains(stderr.String(), "the owner of the ports has closed the connection") {
				t.Errorf("exit %d: %s", e, stderr.String())
			}
		}
		cancel()
		if life < 2 {
			if e := <-exit; e != 0 {
				t.Errorf("exit %d: %s", e, stderr.String())
			}
		}
	}
}

func waitForDevice(t *testing.T, client *remote.Client) hwmodel.Capabilities {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for {
		capabilities, err := client.Capabilities(ctx)
		if err == nil {
			return capabilities
		}
		if !errors.Is(err, hwmodel.ErrUnavailable) {
			t.Fatal(err)
		}
	}
}

// trappedNotIP reads the counter until it has come to what is expected: a frame
// is seen before it is counted.
func trappedNotIP(t *testing.T, client *remote.Client, want uint64) (got uint64) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		report, err := client.Counters(t.Context(), 0)
		check(t, err)
		if got = report.Ports[0].TrappedBy[hwmodel.ReasonNotIP].Packets; got >= want {
			break
		}
	}
	return got
}

package port_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"antiphon/hwmodel"
	"antiphon/hwmodel/port"
)

// taps is a simulation in small: a provider of ports made of two TAPs each,
// swpN for the host side and wN for the wire side.
type taps struct {
	mu       sync.Mutex
	wire     []*port.TAP
	host     []*port.TAP
	detached chan struct{} // a message for each Detach
	settled  int
}

func newTAPs(t *testing.T, n int) *taps {
	t.Helper()
	s := &taps{detached: make(chan struct{}, 8)}
	for i := 1; i <= n; i++ {
		for _, side := range []struct {
			name string
			to   *[]*port.TAP
		}{{fmt.Sprintf("w%d", i), &s.wire}, {fmt.Sprintf("swp%d", i), &s.host}} {
			tap, err := port.CreateTAP(side.name)
			check(t, err)
			t.Cleanup(func() { tap.Close() })
			check(t, tap.Detach())
			setUp(t, side.name, true)
			*side.to = append(*side.to, tap)
		}
	}
	return s
}

func (s *taps) Attach() (lent []port.Lent, err error) {
	for i := range s.wire {
		err = errors.Join(err, s.wire[i].Attach(), s.host[i].Attach())
		lent = append(lent, port.Lent{
			ID: hwmodel.PortID(i + 1), Name: fmt.Sprintf("swp%d", i+1), Wire: s.wire[i].FD(), Host: s.host[i].FD(),
		})
	}
	return lent, err
}

func (s *taps) Detach() (err error) {
	for i := range s.wire {
		err = errors.Join(err, s.wire[i].Detach(), s.host[i].Detach())
	}
	s.detached <- struct{}{}
	return err
}

func (s *taps) Settle(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled++
	if s.settled > 1 {
		return errors.New("carrier of w1 does not move")
	}
	return nil
}

// serve serves a provider at a socket until the test ends.
func serve(t *testing.T, p port.Provider) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "sim.sock")
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- port.Serve(ctx, listener, p) }()
	t.Cleanup(func() {
		cancel()
		check(t, <-done)
	})
	return path
}

func TestTAPSwitch(t *testing.T) {
	inNetns(t)
	path := serve(t, newTAPs(t, 2))
	a, err := port.Attach(t.Context(), path)
	check(t, err)
	defer a.Close()
	board, err := port.NewBoard(port.Infos(a.Ports))
	check(t, err)
	stop := run(t, a.Ports, board)
	w1, w2, swp1, swp2 := newHost(t, "w1"), newHost(t, "w2"), newHost(t, "swp1"), newHost(t, "swp2")

	const n = 50
	for i := range n {
		w1.send(testFrame(doForward, i, 60+i))
		w1.send(testFrame(doTrap, i, 60))
	}
	for i := range n {
		w2.expect(rewritten(testFrame(doForward, i, 60+i)))
		swp1.expect(testFrame(doTrap, i, 60))
	}
	// What the host sends leaves by the same port, whatever the pipe would say.
	swp2.send(testFrame(doDrop, 1, 60))
	w2.expect(testFrame(doDrop, 1, 60))
	// Nobody takes a frame at a netdev that is down; the loop goes on.
	waitFor(t, func() bool { return board.Counters()[0].Trapped.Packets >= n })
	setUp(t, "w2", false)
	setUp(t, "swp1", false)
	before := board.Counters()[0]
	w1.send(testFrame(doForward, 0, 60))
	w1.send(testFrame(doTrap, 0, 61))
	waitFor(t, func() bool { return board.Counters()[0].RX.Packets >= before.RX.Packets+2 })
	setUp(t, "w2", true)
	setUp(t, "swp1", true)
	w2 = newHost(t, "w2")
	swp1 = newHost(t, "swp1")
	w1.send(testFrame(doForward, 2, 60))
	w1.send(testFrame(doTrap, 2, 61))
	w2.expect(rewritten(testFrame(doForward, 2, 60)))
	swp1.expect(testFrame(doTrap, 2, 61))
	stop()

	for i, c := range board.Counters() {
		balanced(t, c)
		if i == 0 && c.Forwarded.Packets != n+1 {
			t.Errorf("forwarded %d, expected %d", c.Forwarded.Packets, n+1)
		}
		if i == 0 && (c.Dropped[hwmodel.ReasonTxFailed].Packets != 1 || c.Dropped[hwmodel.ReasonTrapUndeliverable].Packets == 0) {
			t.Errorf("dropped %v and %v", c.Dropped[hwmodel.ReasonTxFailed], c.Dropped[hwmodel.ReasonTrapUndeliverable])
		}
		if i == 1 && c.Injected.Packets == 0 {
			t.Errorf("nothing injected at port 2")
		}
	}
	swp2.nothing()
}

// A device that dies, in whatever way, leaves netdevs and carriers; what was
// sent meanwhile is not delivered to the next.
func TestDeadDeviceLeavesNetdevs(t *testing.T) {
	inNetns(t)
	s := newTAPs(t, 1)
	path := serve(t, s)
	w1 := newHost(t, "w1")
	for range 2 {
		a, err := port.Attach(t.Context(), path)
		check(t, err)
		w1.send(testFrame(doTrap, 1, 60)) // waits in the queue
		check(t, a.Close())
		<-s.detached
		for _, name := range []string{"w1", "swp1"} {
			if !exists(name) || !carrier(t, name) {
				t.Fatalf("%s: exists %v, carrier %v", name, exists(name), carrier(t, name))
			}
		}
		w1.send(testFrame(doTrap, 2, 60)) // into nothing
	}
	a, err := port.Attach(t.Context(), path)
	check(t, err)
	defer a.Close()
	board, err := port.NewBoard(port.Infos(a.Ports))
	check(t, err)
	swp1 := newHost(t, "swp1")
	run(t, a.Ports, board)
	w1.send(testFrame(doTrap, 3, 60))
	swp1.expect(testFrame(doTrap, 3, 60))
}

// killedDevice is run by TestKilledDevice in a process of its own.
func TestKilledDeviceHelper(t *testing.T) {
	path := os.Getenv("ANTIPHON_TEST_ATTACH")
	if path == "" {
		t.Skip("runs as a helper of TestKilledDevice")
	}
	a, err := port.Attach(t.Context(), path)
	check(t, err)
	fmt.Println("attached")
	check(t, a.Wait(context.Background()))
}

func TestKilledDevice(t *testing.T) {
	inNetns(t)
	s := newTAPs(t, 1)
	path := serve(t, s)
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledDeviceHelper$", "-test.v")
	cmd.Env = append(os.Environ(), "ANTIPHON_TEST_ATTACH="+path)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	var said strings.Builder
	for buffer := make([]byte, 256); !strings.Contains(said.String(), "attached"); {
		n, err := out.Read(buffer)
		said.Write(buffer[:n])
		if err != nil {
			t.Fatalf("helper: %v: %s", err, said.String())
		}
	}
	check(t, cmd.Process.Kill())
	cmd.Wait()
	<-s.detached
	for _, name := range []string{"w1", "swp1"} {
		if !exists(name) || !carrier(t, name) {
			t.Fatalf("%s: exists %v, carrier %v", name, exists(name), carrier(t, name))
		}
	}
	a, err := port.Attach(t.Context(), path) // the next device finds the place free
	check(t, err)
	check(t, a.Close())
}

func TestTAP(t *testing.T) {
	inNetns(t)
	tap, err := port.CreateTAP("one")
	check(t, err)
	defer tap.Close()
	setUp(t, "one", true)
	if _, err := port.CreateTAP("one"); !errors.Is(err, unix.EBUSY) {
		t.Errorf("second TAP of the name: %v, expected EBUSY", err)
	}
	for _, bad := range []string{"", "a%d", "a-name-that-is-too-long"} {
		if _, err := port.CreateTAP(bad); err == nil {
			t.Errorf("name %q was taken", bad)
		}
	}
	for _, attached := range []bool{true, false} {
		if !attached {
			check(t, tap.Detach())
			check(t, tap.Detach()) // twice is once
		}
		for _, on := range []bool{false, true} {
			check(t, tap.SetCarrier(on))
			if got := carrierFlag(t, "one"); got != on {
				t.Errorf("attached %v: carrier %v, expected %v", attached, got, on)
			}
		}
		check(t, tap.SetCarrier(false))
		if name, err := tap.Name(); err != nil || name != "one" {
			t.Errorf("name %q (%v)", name, err)
		}
		ns, err := tap.NetNS()
		check(t, err)
		var here, there unix.Stat_t
		check(t, unix.Fstat(int(ns.Fd()), &there))
		check(t, unix.Stat("/proc/thread-self/ns/net", &here))
		ns.Close()
		if here.Ino != there.Ino || here.Dev != there.Dev {
			t.Errorf("attached %v: namespace %d, expected %d", attached, there.Ino, here.Ino)
		}
	}
	if carrierFlag(t, "one") {
		t.Error("detaching turned the carrier on")
	}
	check(t, tap.Close())
	if exists("one") {
		t.Error("the netdev lives without a descriptor")
	}
}

// carrierFlag reads the carrier where it changes at once (IFF_RUNNING follows
// when the kernel's link watch runs).
func carrierFlag(t *testing.T, name string) bool {
	t.Helper()
	out, err := exec.Command("ip", "-o", "link", "show", "dev", name).Output()
	check(t, err)
	return !strings.Contains(string(out), "NO-CARRIER")
}

func TestEndpointOfDeletedTAP(t *testing.T) {
	inNetns(t)
	tap, err := port.CreateTAP("gone")
	check(t, err)
	fd, err := unix.Dup(tap.FD())
	check(t, err)
	f, err := port.NewFile(fd, "gone")
	check(t, err)
	defer f.Close()
	check(t, exec.Command("ip", "link", "del", "gone").Run())
	if _, err := f.Receive(make([][]byte, 4)); !errors.Is(err, port.ErrGone) {
		t.Errorf("error %v, expected ErrGone", err)
	}
	if err := f.Send(testFrame(0, 0, 60)); err == nil {
		t.Error("frame sent")
	}
	if _, err := port.NewFile(tap.FD(), "gone"); err == nil || !strings.Contains(err.Error(), "not an attached tap queue") {
		t.Errorf("error %v", err)
	}
}

func TestLongFrames(t *testing.T) {
	inNetns(t)
	s := newTAPs(t, 2)
	for _, name := range []string{"w1", "w2"} {
		check(t, exec.Command("ip", "link", "set", name, "mtu", "9000").Run())
	}
	a, err := port.Attach(t.Context(), serve(t, s))
	check(t, err)
	defer a.Close()
	board, err := port.NewBoard(port.Infos(a.Ports))
	check(t, err)
	run(t, a.Ports, board)
	w1, w2 := newHost(t, "w1"), newHost(t, "w2")
	for _, length := range []int{2047, 2048, 2049, 9014} {
		frame := testFrame(doForward, length, length)
		for i := 18; i < length; i++ {
			frame[i] = byte(i * 7)
		}
		w1.send(frame)
		w2.expect(rewritten(frame))
	}
}

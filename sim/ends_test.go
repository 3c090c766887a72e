package sim

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"antiphon/internal/netnstest"
)

// newEnds makes the netdevs of a simulation, without its processes.
func newEnds(t *testing.T, cfg Config) *simulation {
	t.Helper()
	s, err := tryEnds(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tryEnds(t *testing.T, cfg Config) (*simulation, error) {
	t.Helper()
	cfg.State, cfg.Transport = t.TempDir(), "unix"
	if err := cfg.Check(); err != nil {
		t.Fatal(err)
	}
	s := &simulation{Record: Record{Config: cfg, PID: os.Getpid()}, log: zerolog.Nop()}
	t.Cleanup(func() {
		if s.ends != nil {
			if err := s.ends.Close(); err != nil {
				t.Error(err)
			}
			s.lobby.Close()
		}
		home, err := os.Open("/proc/self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		defer home.Close()
		if err := s.undo(home); err != nil {
			t.Error(err)
		}
	})
	return s, s.makeEnds()
}

func (s *simulation) settle(t *testing.T) {
	t.Helper()
	if err := s.ends.Settle(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// carrier reports whether a link that is up has its carrier.
func carrier(t *testing.T, ns *netnstest.NS, link string) bool {
	t.Helper()
	return !strings.Contains(ns.IP(t, "link show dev "+link), "NO-CARRIER")
}

func wantCarrier(t *testing.T, ns *netnstest.NS, link string, want bool) {
	t.Helper()
	if carrier(t, ns, link) != want {
		t.Errorf("%s: carrier %v, want %v:\n%s", link, !want, want, ns.IP(t, "link show dev "+link))
	}
}

func TestCarriersBothWays(t *testing.T) {
	for _, attached := range []bool{false, true} {
		name := map[bool]string{false: "no device", true: "device attached"}[attached]
		t.Run(name, func(t *testing.T) {
			dut, wire, host := netnstest.New(t), netnstest.New(t), netnstest.New(t)
			s := newEnds(t, Config{Netns: dut.Name(), WireNetns: wire.Name(), Ports: []Port{{Name: "swp1", Wire: "w1"}}})
			if attached {
				if _, err := s.ends.Attach(); err != nil {
					t.Fatal(err)
				}
			}
			if out := dut.IP(t, "link show dev antiphon-swp1"); !strings.Contains(out, "swp1") {
				t.Errorf("altname: %s", out)
			}
			dut.IP(t, "link set swp1 up")
			s.settle(t)
			wantCarrier(t, dut, "swp1", false)
			wire.IP(t, "link set w1 up")
			s.settle(t)
			wantCarrier(t, dut, "swp1", true)
			wantCarrier(t, wire, "w1", true)
			dut.IP(t, "link set swp1 down")
			s.settle(t)
			wantCarrier(t, wire, "w1", false)
			dut.IP(t, "link set swp1 up")

			// Moved (which takes it down), renamed, and still watched.
			wire.IP(t, "link set w1 name eth7 netns "+host.Name())
			s.settle(t)
			wantCarrier(t, dut, "swp1", false)
			host.IP(t, "link set eth7 up")
			s.settle(t)
			wantCarrier(t, dut, "swp1", true)
			dut.IP(t, "link set swp1 down")
			dut.IP(t, "link set swp1 name front")
			dut.IP(t, "link set front up")
			s.settle(t)
			wantCarrier(t, host, "eth7", true)

			if attached {
				if err := s.ends.Detach(); err != nil {
					t.Fatal(err)
				}
				wantCarrier(t, dut, "front", true)
				wantCarrier(t, host, "eth7", true)
			}
			host.IP(t, "link del eth7")
			s.settle(t)
			wantCarrier(t, dut, "front", false)
			// A device that comes now gets the port all the same.
			if lent, err := s.ends.Attach(); err != nil || len(lent) != 1 {
				t.Errorf("attach with a deleted end: %v, %v", lent, err)
			}
		})
	}
}

// TestWatch needs no barrier: notifications alone move the carrier.
func TestWatch(t *testing.T) {
	dut, wire := netnstest.New(t), netnstest.New(t)
	s := newEnds(t, Config{Netns: dut.Name(), WireNetns: wire.Name(), Ports: []Port{{Name: "swp1", Wire: "w1"}}})
	events, err := s.lobby.listen()
	if err != nil {
		t.Fatal(err)
	}
	s.settle(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.ends.watch(ctx, events) }()

	monitor, err := s.lobby.listen() // hears w1's carrier as we do
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	wire.IP(t, "link set w1 up")
	dut.IP(t, "link set swp1 up")
	for !carrier(t, dut, "swp1") || !carrier(t, wire, "w1") {
		if _, err := monitor.Receive(); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCable(t *testing.T) {
	dut := netnstest.New(t)
	two, err := ParseCable("swp3=swp4")
	if err != nil {
		t.Fatal(err)
	}
	s := newEnds(t, Config{Netns: dut.Name(), Ports: two[:]})
	dut.IP(t, "link set swp3 up")
	s.settle(t)
	wantCarrier(t, dut, "swp3", false)
	dut.IP(t, "link set swp4 up")
	s.settle(t)
	wantCarrier(t, dut, "swp3", true)
	lent, err := s.ends.Attach()
	if err != nil || len(lent) != 2 || lent[0].Wire <= 0 || lent[1].Wire <= 0 {
		t.Errorf("attach: %+v, %v", lent, err)
	}
}

func TestNameExists(t *testing.T) {
	dut, wire := netnstest.New(t), netnstest.New(t)
	wire.IP(t, "link add w2 type veth peer name other")
	_, err := tryEnds(t, Config{Netns: dut.Name(), WireNetns: wire.Name(), Ports: []Port{{Name: "swp1", Wire: "w1"}, {Name: "swp2", Wire: "w2"}}})
	if ExitStatus(err) != 2 || !strings.Contains(err.Error(), "w2") {
		t.Errorf("error %v (exit %d), want one about w2 and exit 2", err, ExitStatus(err))
	}
}

func TestAttachNetdev(t *testing.T) {
	dut, wire := netnstest.New(t), netnstest.New(t)
	wire.IP(t, "link add eth0 type veth peer name far")
	wire.IP(t, "link set eth0 up")
	cfg := Config{Netns: dut.Name(), WireNetns: wire.Name(), Ports: []Port{{Name: "swp1", Netdev: "eth0"}}}

	wire.IP(t, "addr add 192.0.2.1/24 dev eth0")
	refused := func(name, why string) {
		t.Run(name, func(t *testing.T) {
			if _, err := tryEnds(t, cfg); ExitStatus(err) != 2 || !strings.Contains(err.Error(), why) {
				t.Errorf("error %v (exit %d), want one about %s and exit 2", err, ExitStatus(err), why)
			}
		})
	}
	refused("address", "192.0.2.1")
	wire.IP(t, "addr flush dev eth0")
	wire.IP(t, "link add br0 type bridge")
	wire.IP(t, "link set eth0 master br0")
	refused("master", "br0")
	wire.IP(t, "link set eth0 nomaster")
	cfg.Ports[0].Netdev = "eth9"
	refused("missing", "eth9")
	cfg.Ports[0].Netdev = "eth0"

	before := wire.IP(t, "-d link show dev eth0")
	t.Run("up", func(t *testing.T) {
		s := newEnds(t, cfg)
		if out := wire.IP(t, "link show dev eth0"); !strings.Contains(out, "NOARP") {
			t.Errorf("the host may speak: %s", out)
		}
		if v := wire.ReadSysctl(t, "net/ipv6/conf/eth0/disable_ipv6"); v != "1" {
			t.Errorf("disable_ipv6 = %s", v)
		}
		second := netnstest.New(t)
		_, err := tryEnds(t, Config{Netns: second.Name(), WireNetns: wire.Name(), Ports: cfg.Ports})
		if ExitStatus(err) != 2 || !strings.Contains(err.Error(), "attach eth0: a simulation has it") {
			t.Errorf("attached twice: error %v (exit %d)", err, ExitStatus(err))
		}
		dut.IP(t, "link set swp1 up")
		s.settle(t)
		wantCarrier(t, dut, "swp1", false)
		wire.IP(t, "link set far up")
		s.settle(t)
		wantCarrier(t, dut, "swp1", true)
		wire.IP(t, "link set far down")
		s.settle(t)
		wantCarrier(t, dut, "swp1", false)
	})
	if after := wire.IP(t, "-d link show dev eth0"); !strings.Contains(after, "promiscuity 0") || strings.Contains(after, "NOARP") || strings.Contains(after, "altname") {
		t.Errorf("not restored:\n%s\nbefore:\n%s", after, before)
	}
	if v := wire.ReadSysctl(t, "net/ipv6/conf/eth0/disable_ipv6"); v != "0" {
		t.Errorf("disable_ipv6 = %s afterwards", v)
	}
}

// A netdev that its owner renames, or deletes and makes again, while it is a port.
func TestAttachedNetdevChanges(t *testing.T) {
	dut, wire := netnstest.New(t), netnstest.New(t)
	wire.IP(t, "link add eth0 type veth peer name far0")
	wire.IP(t, "link add eth1 type veth peer name far1")
	t.Run("up", func(t *testing.T) {
		s := newEnds(t, Config{Netns: dut.Name(), WireNetns: wire.Name(), Ports: []Port{{Name: "swp1", Netdev: "eth0"}, {Name: "swp2", Netdev: "eth1"}}})
		wire.IP(t, "link set eth0 name lan")
		wire.IP(t, "link del eth1")
		wire.IP(t, "link add eth1 type veth peer name far1")
		wire.IP(t, "link set eth1 arp off")
		s.settle(t)
	})
	if lan := wire.IP(t, "link show dev lan"); strings.Contains(lan, "NOARP") || strings.Contains(lan, "altname") {
		t.Errorf("not restored: %s", lan)
	}
	if eth1 := wire.IP(t, "link show dev eth1"); !strings.Contains(eth1, "NOARP") {
		t.Errorf("another netdev was changed: %s", eth1)
	}
}

func TestNamespaces(t *testing.T) {
	netnstest.Require(t)
	path := filepath.Join(t.TempDir(), "ns")
	if err := createNetns(path); err != nil {
		t.Fatal(err)
	}
	if err := createNetns(path); err == nil {
		t.Error("made twice")
	}
	ns, err := openNetns(path)
	if err != nil {
		t.Fatal(err)
	}
	ns.Close()
	for range 2 {
		if err := deleteNetns(path); err != nil {
			t.Error(err)
		}
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openNetns(plain); ExitStatus(err) != 2 {
		t.Errorf("a plain file as namespace: %v", err)
	}
}

// With no device attached an end is looked at by attaching its queue for a
// moment, of which the kernel tells; reacting to that must come to an end.
func TestQuietWithoutADevice(t *testing.T) {
	dut, wire := netnstest.New(t), netnstest.New(t)
	s := newEnds(t, Config{Netns: dut.Name(), WireNetns: wire.Name(), Ports: []Port{{Name: "swp1", Wire: "w1"}}})
	events, err := s.lobby.listen()
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	dut.IP(t, "link set swp1 up")
	heard := 0
	for range 10 {
		// The kernel has queued what an ioctl led to before the ioctl returns.
		if err := events.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		messages, err := events.Receive()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if heard == 0 {
				t.Fatal("no notification of swp1 up")
			}
			wantCarrier(t, dut, "swp1", false)
			return
		} else if err != nil {
			t.Fatal(err)
		}
		heard += len(messages)
		if err := s.ends.react(messages); err != nil {
			t.Fatal(err)
		}
	}
	t.Errorf("still notifications after %d", heard)
}

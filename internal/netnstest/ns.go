package netnstest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Require skips the test unless it runs as root with the tools it needs.
func Require(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs iproute2:", err)
	}
}

// NS is a named network namespace that lives as long as its test.
type NS struct {
	name string
}

// New makes a namespace with a unique name under /run/netns and its loopback up;
// it is deleted when the test ends. Skips without root.
func New(t testing.TB) *NS {
	t.Helper()
	Require(t)
	var id [4]byte
	if _, err := rand.Read(id[:]); err != nil {
		t.Fatal(err)
	}
	n := &NS{name: "antiphon-test-" + hex.EncodeToString(id[:])}
	if out, err := exec.Command("ip", "netns", "add", n.name).CombinedOutput(); err != nil {
		t.Fatalf("ip netns add %s: %v: %s", n.name, err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", n.name).CombinedOutput(); err != nil {
			t.Errorf("ip netns del %s: %v: %s", n.name, err, out)
		}
	})
	n.Run(t, "ip", "link", "set", "lo", "up")
	return n
}

// Name is what `ip netns` calls the namespace.
func (n *NS) Name() string { return n.name }

// Path is the file to setns to.
func (n *NS) Path() string { return filepath.Join("/run/netns", n.name) }

// Do calls fn on an operating system thread of its own inside the namespace.
// Sockets that fn opens stay in the namespace. Goroutines that fn starts do not
// run in it. fn must not call t.Fatal: it returns an error instead.
func (n *NS) Do(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine and takes the
		// changed namespace with it.
		runtime.LockOSThread()
		done <- n.enterAnd(fn)
	}()
	return <-done
}

func (n *NS) enterAnd(fn func() error) error {
	f, err := os.Open(n.Path())
	if err != nil {
		return fmt.Errorf("open namespace: %w", err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %s: %w", n.name, err)
	}
	return fn()
}

// Try runs a command inside the namespace and returns what it printed.
func (n *NS) Try(name string, args ...string) (string, error) {
	var out []byte
	// A child inherits the namespace of the thread that forks it.
	err := n.Do(func() (err error) {
		out, err = exec.Command(name, args...).CombinedOutput()
		return err
	})
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Run is Try that fails the test on an error.
func (n *NS) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := n.Try(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// IP runs `ip` with the words of one line: n.IP(t, "link set swp1 up").
func (n *NS) IP(t testing.TB, line string) string {
	t.Helper()
	return n.Run(t, "ip", strings.Fields(line)...)
}

// Sysctl sets a setting; parts are separated by '/', since interface names may
// contain dots: "net/ipv4/conf/swp1/rp_filter".
func (n *NS) Sysctl(t testing.TB, key, value string) {
	t.Helper()
	err := n.Do(func() error {
		return os.WriteFile("/proc/sys/"+key, []byte(value+"\n"), 0)
	})
	if err != nil {
		t.Fatalf("sysctl %s=%s: %v", key, value, err)
	}
}

// ReadSysctl returns a setting without its line end.
func (n *NS) ReadSysctl(t testing.TB, key string) string {
	t.Helper()
	var b []byte
	err := n.Do(func() (err error) {
		b, err = os.ReadFile("/proc/sys/" + key)
		return err
	})
	if err != nil {
		t.Fatalf("sysctl %s: %v", key, err)
	}
	return strings.TrimSpace(string(b))
}

// Router makes the namespace forward IPv4 and IPv6 and answer deterministically:
// no ICMP rate limits, no duplicate address detection, no router discovery.
// Call it before links are made: they inherit "default".
func (n *NS) Router(t testing.TB) {
	t.Helper()
	n.Silent(t)
	for _, s := range [][2]string{
		{"net/ipv4/ip_forward", "1"},
		{"net/ipv6/conf/all/forwarding", "1"},
		{"net/ipv4/icmp_ratelimit", "0"},
		{"net/ipv6/icmp/ratelimit", "0"},
		{"net/ipv4/conf/all/rp_filter", "0"},
		{"net/ipv4/conf/default/rp_filter", "0"},
	} {
		n.Sysctl(t, s[0], s[1])
	}
}

// Silent stops the namespace's IPv6 from sending on its own: no link-local
// addresses, duplicate address detection or router solicitations on links made
// from now on.
func (n *NS) Silent(t testing.TB) {
	t.Helper()
	for _, s := range [][2]string{
		{"net/ipv6/conf/default/addr_gen_mode", "1"},
		{"net/ipv6/conf/default/accept_dad", "0"},
		{"net/ipv6/conf/all/accept_dad", "0"},
		{"net/ipv6/conf/default/accept_ra", "0"},
		{"net/ipv6/conf/default/router_solicitations", "0"},
	} {
		n.Sysctl(t, s[0], s[1])
	}
}

// Index returns the ifindex of a link.
func (n *NS) Index(t testing.TB, link string) int {
	t.Helper()
	var ifi *net.Interface
	err := n.Do(func() (err error) {
		ifi, err = net.InterfaceByName(link)
		return err
	})
	if err != nil {
		t.Fatalf("link %s in %s: %v", link, n.name, err)
	}
	return ifi.Index
}

// End is one end of a cable.
type End struct {
	NS   *NS
	Name string
	MAC  net.HardwareAddr
	// Bare keeps IPv6 off this end: it is a tester's, and only frames that the
	// test sends leave it.
	Bare bool
}

// MAC returns the n'th locally administered test address 02:00:00:00:hi:lo.
func MAC(n uint16) net.HardwareAddr {
	return net.HardwareAddr{2, 0, 0, 0, byte(n >> 8), byte(n)}
}

// Veth lays a cable between two ends: one queue each way, fixed addresses, no
// offload that would merge frames, delay checksums or hide VLAN tags. Both ends
// are up. The cable goes with the namespaces.
func Veth(t testing.TB, a, b End) {
	t.Helper()
	a.NS.Run(t, "ip", "link", "add", "name", a.Name, "address", a.MAC.String(), "numtxqueues", "1", "numrxqueues", "1",
		"type", "veth", "peer", "name", b.Name, "address", b.MAC.String(), "netns", b.NS.name,
		"numtxqueues", "1", "numrxqueues", "1")
	for _, e := range []End{a, b} {
		if e.Bare {
			e.NS.Sysctl(t, "net/ipv6/conf/"+e.Name+"/disable_ipv6", "1")
		}
		if err := e.NS.Do(func() error { return offloadsOff(e.Name) }); err != nil {
			t.Fatalf("offloads of %s: %v", e.Name, err)
		}
	}
	for _, e := range []End{a, b} {
		e.NS.Run(t, "ip", "link", "set", "dev", e.Name, "up")
	}
}

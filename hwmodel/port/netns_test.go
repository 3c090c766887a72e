package port_test

import (
	"net"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// inNetns moves the test into a fresh network namespace, on a thread of its own
// that dies with the test.
func inNetns(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("cannot make a network namespace: %v", err)
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("no TAPs here: %v", err)
	}
}

// setUp sets a netdev of this namespace up or down.
func setUp(t *testing.T, name string, up bool) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	check(t, err)
	check(t, unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr))
	flags := ifr.Uint16() &^ unix.IFF_UP
	if up {
		flags |= unix.IFF_UP
	}
	ifr.SetUint16(flags)
	check(t, unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
}

// exists and carrier tell about a netdev of this namespace.
func exists(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
}

func carrier(t *testing.T, name string) bool {
	t.Helper()
	link, err := net.InterfaceByName(name)
	check(t, err)
	return link.Flags&net.FlagRunning != 0
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is a packet socket on a netdev: somebody who sends and receives frames
// there like a host would.
type host struct {
	fd int
	t  *testing.T
}

func newHost(t *testing.T, name string) *host {
	t.Helper()
	link, err := net.InterfaceByName(name)
	check(t, err)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	check(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
	check(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	check(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: link.Index}))
	return &host{fd, t}
}

func (h *host) send(frame []byte) {
	h.t.Helper()
	_, err := unix.Write(h.fd, frame)
	check(h.t, err)
}

// expect waits for a frame, passing over those that are not a test's.
func (h *host) expect(want []byte) {
	h.t.Helper()
	buffer := make([]byte, 70000)
	for {
		n, err := unix.Read(h.fd, buffer)
		if err != nil {
			h.t.Fatalf("waiting for frame % x: %v", want, err)
		}
		if !isTestFrame(buffer[:n]) {
			continue
		}
		if string(buffer[:n]) != string(want) {
			h.t.Fatalf("received % x, expected % x", buffer[:n], want)
		}
		return
	}
}

// nothing asserts that no frame of a test waits.
func (h *host) nothing() {
	h.t.Helper()
	buffer := make([]byte, 70000)
	for {
		n, _, err := unix.Recvfrom(h.fd, buffer, unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			return
		}
		check(h.t, err)
		if isTestFrame(buffer[:n]) {
			h.t.Fatalf("received % x, expected nothing", buffer[:n])
		}
	}
}

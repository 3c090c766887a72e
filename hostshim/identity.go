package hostshim

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"antiphon/hostshim/netns"
	"antiphon/transport"
)

// ErrLocked means that another shim mirrors the namespace.
var ErrLocked = errors.New("another shim mirrors this network namespace")

// lock keeps a second shim out of the namespace until ns is closed or the process
// ends. The lock is on the namespace's own inode: it needs no file that could be
// left behind or be different for two users.
func lock(ns *netns.NS) error {
	err := unix.Flock(ns.LockFd(), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrLocked
	}
	if err != nil {
		return fmt.Errorf("lock network namespace: %w", err)
	}
	return nil
}

// hello is who this shim is; the connection number is still to be set.
func hello(ns *netns.NS, features []string) (*transport.Hello, error) {
	_, cookie, err := ns.Identity()
	if err != nil {
		return nil, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("boot id: %w", err)
	}
	host, err := hostID()
	if err != nil {
		return nil, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return nil, fmt.Errorf("clock since boot: %w", err)
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fmt.Errorf("kernel release: %w", err)
	}
	var stream [8]byte
	if _, err := rand.Read(stream[:]); err != nil {
		return nil, fmt.Errorf("stream id: %w", err)
	}
	return &transport.Hello{
		VersionMin:    transport.MinVersion,
		VersionMax:    transport.Version,
		HostId:        host,
		BootId:        strings.TrimSpace(string(boot)),
		Ticket:        uint64(now.Nano()),
		StreamId:      binary.NativeEndian.Uint64(stream[:]),
		NetnsCookie:   cookie,
		KernelRelease: unix.ByteSliceToString(uts.Release[:]),
		Features:      features,
	}, nil
}

// hostID names the host for good: its machine id, else its name.
func hostID() (string, error) {
	if b, err := os.ReadFile("/etc/machine-id"); err == nil {
		if id := strings.TrimSpace(string(b)); id != "" {
			return id, nil
		}
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("host name: %w", err)
	}
	return name, nil
}

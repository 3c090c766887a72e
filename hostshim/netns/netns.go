// Package netns enters network namespaces: by name (as `ip netns` knows it), by
// path, or not at all. It holds one descriptor and no thread.
package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// runDir is where iproute2 binds named namespaces (NETNS_RUN_DIR).
const runDir = "/run/netns"

// NS is an open network namespace. It keeps the namespace alive.
type NS struct {
	file *os.File
	own  bool
}

// Open opens a namespace: "" is the caller's own, a name without a slash is one
// of `ip netns`, anything else is a path such as /proc/PID/ns/net.
func Open(name string) (*NS, error) {
	path := name
	switch {
	case name == "":
		path = "/proc/thread-self/ns/net"
	case !strings.Contains(name, "/"):
		path = filepath.Join(runDir, name)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("network namespace %q: %w", name, err)
	}
	ns := &NS{file: f, own: name == ""}
	if err := ns.Do(func() error { return nil }); err != nil {
		f.Close()
		return nil, fmt.Errorf("network namespace %q: %w", name, err)
	}
	return ns, nil
}

// Fd is the descriptor of the namespace, 0 for the caller's own (the meaning of
// netlink.Config.NetNS).
func (n *NS) Fd() int {
	if n.own {
		return 0
	}
	return int(n.file.Fd())
}

// LockFd is a descriptor of the namespace to flock; it is the same lock for
// everybody who opens the same namespace.
func (n *NS) LockFd() int { return int(n.file.Fd()) }

// Close forgets the namespace.
func (n *NS) Close() error { return n.file.Close() }

// Do calls fn on a thread inside the namespace and waits for it. Sockets that fn
// opens and /proc/thread-self/net belong to the namespace; goroutines that fn
// starts do not run in it.
func (n *NS) Do(fn func() error) error {
	if n.own {
		return fn()
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so that no other
		// goroutine ever runs in a foreign namespace.
		runtime.LockOSThread()
		if err := unix.Setns(n.Fd(), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter: %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}

// Identity returns the inode of the namespace, which names it while it lives,
// and its cookie (SO_NETNS_COOKIE), which is never used again in this boot.
func (n *NS) Identity() (inode, cookie uint64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(n.file.Fd()), &st); err != nil {
		return 0, 0, fmt.Errorf("stat network namespace: %w", err)
	}
	err = n.Do(func() error {
		s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		cookie, err = unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("network namespace cookie: %w", err)
	}
	return st.Ino, cookie, nil
}

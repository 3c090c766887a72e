package port

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TAP is one queue of a TAP netdev that this process made. As long as the queue
// is open the netdev lives, with whatever carrier it was given, be the queue
// attached or not; names and namespaces may change meanwhile.
type TAP struct {
	mu       sync.Mutex
	fd       int
	attached bool
}

// CreateTAP makes a multi-queue TAP in the network namespace of the calling
// thread, with its one queue attached. A name that exists gives an error that
// is unix.EBUSY.
func CreateTAP(name string) (*TAP, error) {
	if name == "" || strings.Contains(name, "%") {
		return nil, fmt.Errorf("create tap: %q is no netdev name", name)
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, fmt.Errorf("create tap: name %q: %w", name, err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("create tap %s: open /dev/net/tun: %w", name, err)
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE | unix.IFF_TUN_EXCL)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("create tap %s: %w", name, err)
	}
	return &TAP{fd: fd, attached: true}, nil
}

// FD is the queue's descriptor, to be lent to a device. It stays the TAP's.
func (t *TAP) FD() int { return t.fd }

// Attach lets frames flow through the queue.
func (t *TAP) Attach() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.setQueue(true)
}

// Detach stops frames and throws away those that wait. The netdev drops what
// the host sends from now on; its carrier stays as it is.
func (t *TAP) Detach() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.setQueue(false)
}

func (t *TAP) setQueue(attach bool) error {
	if t.attached == attach {
		return nil
	}
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return err
	}
	flag := uint16(unix.IFF_DETACH_QUEUE)
	if attach {
		flag = unix.IFF_ATTACH_QUEUE
	}
	ifr.SetUint16(flag)
	if err := unix.IoctlIfreq(t.fd, unix.TUNSETQUEUE, ifr); err != nil {
		return fmt.Errorf("tap queue: attach %v: %w", attach, err)
	}
	t.attached = attach
	return nil
}

// whileAttached runs an ioctl that the kernel answers only on an attached queue.
func (t *TAP) whileAttached(do func() error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.attached {
		return do()
	}
	if err := t.setQueue(true); err != nil {
		return err
	}
	err := do()
	if back := t.setQueue(false); err == nil {
		err = back
	}
	return err
}

// SetCarrier turns the netdev's carrier on or off.
func (t *TAP) SetCarrier(on bool) error {
	return t.whileAttached(func() error {
		var value int32
		if on {
			value = 1
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(t.fd), unix.TUNSETCARRIER, uintptr(unsafe.Pointer(&value))); errno != 0 {
			return fmt.Errorf("tap: set carrier %v: %w", on, errno)
		}
		return nil
	})
}

// Name returns the name the netdev has now.
func (t *TAP) Name() (string, error) {
	var name string
	err := t.whileAttached(func() error {
		ifr, err := unix.NewIfreq("")
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(t.fd, unix.TUNGETIFF, ifr); err != nil {
			return fmt.Errorf("tap: get name: %w", err)
		}
		name = ifr.Name()
		return nil
	})
	return name, err
}

// NetNS returns the network namespace the netdev is in now; the caller closes it.
func (t *TAP) NetNS() (*os.File, error) {
	var ns *os.File
	err := t.whileAttached(func() error {
		fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(t.fd), unix.TUNGETDEVNETNS, 0)
		if errno != 0 {
			return fmt.Errorf("tap: get network namespace: %w", errno)
		}
		unix.CloseOnExec(int(fd))
		ns = os.NewFile(fd, "netns")
		return nil
	})
	return ns, err
}

// Close closes the queue; with the last descriptor of it the netdev goes.
func (t *TAP) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fd < 0 {
		return nil
	}
	fd := t.fd
	t.fd = -1
	return unix.Close(fd)
}

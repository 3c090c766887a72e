package netnstest

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands of the SIOCETHTOOL ioctl that take one word (linux/ethtool.h).
const (
	ethtoolSetRxCsum = 0x15
	ethtoolSetTxCsum = 0x17
	ethtoolSetTSO    = 0x1f
	ethtoolSetGSO    = 0x24
	ethtoolSetFlags  = 0x26 // RXVLAN, TXVLAN, LRO, ...: all off
	ethtoolSetGRO    = 0x2c
)

// offloadsOff is `ethtool -K link tx off rx off tso off gso off gro off rxvlan
// off txvlan off` in the calling thread's namespace. What a driver cannot change
// it keeps.
func offloadsOff(link string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(s)
	for _, cmd := range []uint32{ethtoolSetTSO, ethtoolSetGSO, ethtoolSetGRO, ethtoolSetFlags, ethtoolSetTxCsum, ethtoolSetRxCsum} {
		value := [2]uint32{cmd, 0}
		// struct ifreq: 16 bytes of name, then the data pointer.
		var req struct {
			name [unix.IFNAMSIZ]byte
			data uintptr
			_    [16]byte
		}
		copy(req.name[:unix.IFNAMSIZ-1], link)
		var pin runtime.Pinner
		pin.Pin(&value)
		req.data = uintptr(unsafe.Pointer(&value))
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
		pin.Unpin()
		if errno != 0 && !errors.Is(errno, unix.EOPNOTSUPP) {
			return fmt.Errorf("command %#x: %w", cmd, errno)
		}
	}
	return nil
}

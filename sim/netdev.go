package sim

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ethFlagLRO is ETH_FLAG_LRO (include/uapi/linux/ethtool.h).
const ethFlagLRO = 1 << 15

// attached is an existing netdev that became a port's wire side, and what it
// was before.
type attached struct {
	Name  string `json:"name"`
	Index int    `json:"ifindex"`
	Netns string `json:"netns,omitempty"`
	// NoARP, DisableIPv6, GRO and LRO are the former values.
	NoARP       bool   `json:"noarp"`
	DisableIPv6 string `json:"disable_ipv6"`
	GRO         bool   `json:"gro"`
	LRO         bool   `json:"lro"`
}

// inspectNetdev says why a netdev of the thread's namespace cannot be a port,
// or how it is now.
func inspectNetdev(name string) (attached, error) {
	a := attached{Name: name}
	link, err := net.InterfaceByName(name)
	if err != nil {
		return a, usage("attach %s: no such netdev in the wire namespace", name)
	}
	a.Index = link.Index
	if link.Flags&net.FlagLoopback != 0 {
		return a, usage("attach %s: a loopback cannot be a port", name)
	}
	addrs, err := link.Addrs()
	if err != nil {
		return a, fmt.Errorf("attach %s: read its addresses: %w", name, err)
	}
	for _, addr := range addrs {
		// A link-local IPv6 address comes by itself with every netdev that is up.
		if ip, ok := addr.(*net.IPNet); ok && !(ip.IP.To4() == nil && ip.IP.IsLinkLocalUnicast()) {
			return a, usage("attach %s: it has the address %s; remove it first: the host would answer beside the device", name, addr)
		}
	}
	if master, err := masterOf(link.Index); err != nil {
		return a, fmt.Errorf("attach %s: read its master: %w", name, err)
	} else if master != "" {
		return a, usage("attach %s: it belongs to %s; take it out first", name, master)
	}
	flags, err := getFlags(name)
	if err != nil {
		return a, fmt.Errorf("attach %s: %w", name, err)
	}
	a.NoARP = flags&unix.IFF_NOARP != 0
	ipv6, err := os.ReadFile(disableIPv6(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return a, fmt.Errorf("attach %s: %w", name, err)
	}
	a.DisableIPv6 = strings.TrimSpace(string(ipv6))
	gro, err := ethtool(name, unix.ETHTOOL_GGRO, 0)
	if err != nil {
		return a, fmt.Errorf("attach %s: %w", name, err)
	}
	lro, err := ethtool(name, unix.ETHTOOL_GFLAGS, 0)
	if err != nil {
		return a, fmt.Errorf("attach %s: %w", name, err)
	}
	a.GRO, a.LRO = gro != 0, lro&ethFlagLRO != 0
	return a, nil
}

// silence keeps the host's own stack from speaking on a netdev, and frames as
// they were on the wire. In the thread's namespace.
func (a *attached) silence() error {
	return a.set(true, "1", false, false)
}

// mark is the altname that a netdev has as long as it is some simulation's: the
// kernel gives it once in a namespace, and it goes with the netdev. It does not
// begin as a representor's does.
func (a *attached) mark() string { return fmt.Sprintf("wire-antiphon-%d", a.Index) }

// take marks a netdev of the thread's namespace, unless a simulation has it.
func (a *attached) take() error {
	err := a.changeMark(unix.RTM_NEWLINKPROP, netlink.Create|netlink.Excl)
	if errors.Is(err, unix.EEXIST) {
		return usage("attach %s: a simulation has it already; end that one with antiphon sim down (if it cannot be found: ip link property del dev %s altname %s)", a.Name, a.Name, a.mark())
	} else if err != nil {
		return fmt.Errorf("attach %s: altname %s: %w", a.Name, a.mark(), err)
	}
	return nil
}

func (a *attached) changeMark(kind netlink.HeaderType, flags netlink.HeaderFlags) error {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	data, err := altnameRequest(int32(a.Index), a.mark())
	if err != nil {
		return err
	}
	_, err = conn.Execute(netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Acknowledge | flags}, Data: data,
	})
	return err
}

// isMarked reports whether the netdev with the mark is still there.
func (a *attached) isMarked() (bool, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	data, err := linkRequest(0, func(ae *netlink.AttributeEncoder) { ae.String(unix.IFLA_ALT_IFNAME, a.mark()) })
	if err != nil {
		return false, err
	}
	_, err = conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request}, Data: data,
	})
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	return err == nil, err
}

// restore puts a netdev back as it was, under the name it has now, and takes the
// mark away. One that is gone, or was never marked, is fine. home stands for the
// namespace without a name.
func (a *attached) restore(home *os.File) error {
	ns := home
	if a.Netns != "" {
		named, err := openNetns(a.Netns)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		defer named.Close()
		ns = named
	}
	return inNetns(ns, func() error {
		marked, err := a.isMarked()
		if err != nil || !marked {
			return err
		}
		now := *a
		if link, err := net.InterfaceByIndex(a.Index); err == nil {
			now.Name = link.Name
		}
		if err := now.set(a.NoARP, a.DisableIPv6, a.GRO, a.LRO); err != nil {
			return err
		}
		// Last: who finds it unmarked finds it restored.
		if err := a.changeMark(unix.RTM_DELLINKPROP, 0); err != nil {
			return fmt.Errorf("netdev %s: remove altname %s: %w", now.Name, a.mark(), err)
		}
		return nil
	})
}

func (a *attached) set(noARP bool, ipv6 string, gro, lro bool) error {
	value := uint16(0)
	if noARP {
		value = unix.IFF_NOARP
	}
	errs := []error{setFlags(a.Name, unix.IFF_NOARP, value)}
	if a.DisableIPv6 != "" {
		errs = append(errs, os.WriteFile(disableIPv6(a.Name), []byte(ipv6), 0))
	}
	if a.GRO != gro || a.GRO {
		_, err := ethtool(a.Name, unix.ETHTOOL_SGRO, number(gro))
		errs = append(errs, err)
	}
	if a.LRO {
		flags, err := ethtool(a.Name, unix.ETHTOOL_GFLAGS, 0)
		if err == nil {
			_, err = ethtool(a.Name, unix.ETHTOOL_SFLAGS, flags&^ethFlagLRO|number(lro)*ethFlagLRO)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("netdev %s: %w", a.Name, err)
	}
	return nil
}

func number(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

func disableIPv6(name string) string { return "/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6" }

// masterOf returns the name of the netdev that a netdev of the thread's
// namespace belongs to, empty if none.
func masterOf(index int) (string, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	data, err := linkRequest(int32(index), func(*netlink.AttributeEncoder) {})
	if err != nil {
		return "", err
	}
	replies, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request}, Data: data,
	})
	if err != nil {
		return "", err
	}
	for _, r := range replies {
		if _, _, ok := parseLink(r); !ok {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(r.Data[unix.SizeofIfInfomsg:])
		if err != nil {
			return "", err
		}
		for ad.Next() {
			if ad.Type() != unix.IFLA_MASTER {
				continue
			}
			if master, err := net.InterfaceByIndex(int(ad.Uint32())); err == nil {
				return master.Name, nil
			}
			return "another netdev", nil
		}
	}
	return "", nil
}

func getFlags(name string) (uint16, error) {
	ifr, err := ioctl(name, unix.SIOCGIFFLAGS, func(*unix.Ifreq) {})
	if err != nil {
		return 0, fmt.Errorf("read flags: %w", err)
	}
	return ifr.Uint16(), nil
}

// setFlags sets the masked flags of a netdev in the thread's namespace.
func setFlags(name string, mask, value uint16) error {
	was, err := getFlags(name)
	if err != nil {
		return err
	}
	if _, err := ioctl(name, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) { r.SetUint16(was&^mask | value) }); err != nil {
		return fmt.Errorf("set flags: %w", err)
	}
	return nil
}

// ioctl runs a netdev ioctl in the thread's namespace.
func ioctl(name string, request uint, fill func(*unix.Ifreq)) (*unix.Ifreq, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	fill(ifr)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return ifr, unix.IoctlIfreq(fd, request, ifr)
}

// ethtool runs a command of one value (struct ethtool_value).
func ethtool(name string, command, value uint32) (uint32, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	v := struct{ command, value uint32 }{command, value}
	ifr := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&v)}
	copy(ifr.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); errno != 0 {
		if errno == unix.EOPNOTSUPP {
			return 0, nil
		}
		return 0, fmt.Errorf("ethtool command %#x: %w", command, errno)
	}
	return v.value, nil
}

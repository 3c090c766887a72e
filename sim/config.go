package sim

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"antiphon/hwmodel"
)

// maxPorts bounds the ports of one simulation: a device has no more, and the
// descriptors of all fit into a process's default limit.
const maxPorts = 256

// maxIfName is IFNAMSIZ-1 (include/uapi/linux/if.h).
const maxIfName = 15

// Error is a failure with the exit status of a command that ends in it.
type Error struct {
	Exit int
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// ExitStatus is what the command line ends with.
func (e *Error) ExitStatus() int { return e.Exit }

// usage is the error of a request that cannot be meant: exit status 2.
func usage(format string, args ...any) error {
	return &Error{Exit: 2, Err: fmt.Errorf(format, args...)}
}

// unreachable is the error of something that does not answer: exit status 3.
func unreachable(format string, args ...any) error {
	return &Error{Exit: 3, Err: fmt.Errorf(format, args...)}
}

// ExitStatus returns the exit status that an error of this package asks for, 1
// if it asks for none, 0 for nil.
func ExitStatus(err error) int {
	var e *Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.Exit
	}
	return 1
}

// Port is one port of the simulated device. Exactly one of Wire, Netdev and
// Peer says what it is plugged into.
type Port struct {
	// Name of the port and of its representor.
	Name string `json:"name"`
	// Wire is the name of the cable end made in the wire namespace.
	Wire string `json:"wire,omitempty"`
	// Netdev is an existing netdev of the wire namespace.
	Netdev string `json:"netdev,omitempty"`
	// Peer is another port of this device.
	Peer string `json:"peer,omitempty"`
}

// Config is what `antiphon sim up` was asked for.
type Config struct {
	// State is the state directory, absolute.
	State string `json:"state"`
	Ports []Port `json:"ports"`
	// Netns and WireNetns name network namespaces: as `ip netns` does, or by
	// path if they contain a slash; empty means the caller's.
	Netns     string `json:"netns,omitempty"`
	WireNetns string `json:"wire_netns,omitempty"`
	// Transport between shim and agent: "unix" or "tcp".
	Transport string `json:"transport"`
	// Pipe is the device's pipe, empty for its default.
	Pipe string `json:"pipe,omitempty"`
	// Sizes are table=N arguments for the device.
	Sizes []string `json:"sizes,omitempty"`
	// LogLevel of all processes, empty for their default.
	LogLevel string `json:"log_level,omitempty"`
}

// ParsePort parses the argument of --port: NAME=WIRE or NAME=@NETDEV.
func ParsePort(s string) (Port, error) {
	name, wire, ok := strings.Cut(s, "=")
	if !ok || name == "" || wire == "" {
		return Port{}, usage("--port %q: want NAME=WIRE or NAME=@NETDEV", s)
	}
	p := Port{Name: name}
	if netdev, attach := strings.CutPrefix(wire, "@"); attach {
		p.Netdev = netdev
	} else {
		p.Wire = wire
	}
	for _, n := range []string{p.Name, p.Wire + p.Netdev} {
		if err := checkName(n); err != nil {
			return Port{}, usage("--port %q: %w", s, err)
		}
	}
	return p, nil
}

// ParseCable parses the argument of --cable: NAME=NAME.
func ParseCable(s string) ([2]Port, error) {
	a, b, ok := strings.Cut(s, "=")
	if !ok || a == b {
		return [2]Port{}, usage("--cable %q: want two different port names, NAME=NAME", s)
	}
	for _, n := range []string{a, b} {
		if err := checkName(n); err != nil {
			return [2]Port{}, usage("--cable %q: %w", s, err)
		}
	}
	return [2]Port{{Name: a, Peer: b}, {Name: b, Peer: a}}, nil
}

// checkName is the kernel's dev_valid_name, and nothing that an altname could
// not carry.
func checkName(s string) error {
	switch {
	case s == "" || s == "." || s == "..":
		return fmt.Errorf("%q is no interface name", s)
	case len(s) > maxIfName:
		return fmt.Errorf("interface name %q is longer than %d bytes", s, maxIfName)
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c == '/' || c == ':' || c == 0x7f || c == '%' {
			return fmt.Errorf("interface name %q contains %q", s, c)
		}
	}
	return nil
}

// Check says what is wrong with the configuration, nil if nothing is.
func (c *Config) Check() error {
	if !filepath.IsAbs(c.State) {
		return usage("state directory %q: not an absolute path", c.State)
	}
	if i := strings.IndexAny(c.State, "%?#\n"); i >= 0 {
		return usage("state directory %q: %q would need quoting in the addresses of its sockets", c.State, c.State[i])
	}
	// sun_path takes 107 bytes; the longest name of ours is agent-session.sock.
	if longest := filepath.Join(c.State, "agent-session.sock"); len(longest) > 107 {
		return usage("state directory %q: too long for the sockets in it (%d bytes, at most 107)", c.State, len(longest))
	}
	switch c.Transport {
	case "unix", "tcp":
	case "vsock":
		return usage("--transport vsock: needs a virtual machine on the other side, and certificates this version does not make; use unix or tcp")
	default:
		return usage("--transport %q: want unix or tcp", c.Transport)
	}
	switch c.Pipe {
	case "", "softpipe", "refpipe":
	default:
		return usage("--pipe %q: want softpipe or refpipe", c.Pipe)
	}
	for _, s := range c.Sizes {
		if err := checkSize(s); err != nil {
			return err
		}
	}
	switch {
	case len(c.Ports) == 0:
		return usage("no port: give at least one --port NAME=WIRE or --cable NAME=NAME")
	case len(c.Ports) > maxPorts:
		return usage("%d ports: at most %d", len(c.Ports), maxPorts)
	}
	return c.checkNames()
}

// checkSize checks an argument of --size.
func checkSize(s string) error {
	name, number, ok := strings.Cut(s, "=")
	if n, err := strconv.ParseUint(number, 10, 32); !ok || err != nil || n == 0 {
		return usage("--size %q: want TABLE=N with N from 1 to %d", s, uint32(math.MaxUint32))
	}
	var known []string
	for t := hwmodel.TableSettings; int(t) < hwmodel.TableCount; t++ {
		if t.String() == name {
			return nil
		}
		known = append(known, t.String())
	}
	return usage("--size %q: want one of the tables %s", s, strings.Join(known, ", "))
}

// checkNames finds names that would meet each other.
func (c *Config) checkNames() error {
	type place struct{ netns, name string }
	seen := map[place]string{}
	claim := func(netns, name, as string) error {
		if was, ok := seen[place{netns, name}]; ok {
			return usage("name %q is used twice in one namespace: as %s and as %s", name, was, as)
		}
		seen[place{netns, name}] = as
		return nil
	}
	for _, p := range c.Ports {
		if err := claim(c.Netns, p.Name, "representor of port "+p.Name); err != nil {
			return err
		}
	}
	for _, p := range c.Ports {
		if n := p.Wire + p.Netdev; n != "" {
			if err := claim(c.WireNetns, n, "wire end of port "+p.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// file returns the path of a file in the state directory.
func (c *Config) file(name string) string { return filepath.Join(c.State, name) }

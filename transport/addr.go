package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// socketMode lets the group of the daemon's user in.
const socketMode = 0o660

// maxUnixPath is sizeof(sockaddr_un.sun_path) less its terminating zero.
const maxUnixPath = 107

// endpoint is an address that the net package understands.
type endpoint struct{ network, address string }

// parse reads an address URL.
func parse(raw string) (endpoint, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return endpoint{}, fmt.Errorf("address %q: %w", raw, err)
	}
	switch u.Scheme {
	case "unix":
		path := u.Path
		if u.Host != "" || path == "" || path[0] != '/' {
			return endpoint{}, fmt.Errorf("address %q: want an absolute path, unix:///path", raw)
		}
		if len(path) > maxUnixPath {
			return endpoint{}, fmt.Errorf("address %q: path has %d bytes, a unix socket takes %d", raw, len(path), maxUnixPath)
		}
		return endpoint{"unix", path}, nil
	case "tcp":
		host, port := u.Hostname(), u.Port()
		if _, err := strconv.ParseUint(port, 10, 16); err != nil || (u.Path != "" && u.Path != "/") {
			return endpoint{}, fmt.Errorf("address %q: want tcp://127.0.0.1:port with a port of 0 to 65535", raw)
		}
		if host == "localhost" {
			host = "127.0.0.1"
		}
		ip, err := netip.ParseAddr(host)
		if err != nil {
			return endpoint{}, fmt.Errorf("address %q: host %q is not an IP address", raw, host)
		}
		if !ip.IsLoopback() {
			return endpoint{}, fmt.Errorf("address %q: TCP without TLS is for the loopback only (127.0.0.0/8, ::1)", raw)
		}
		return endpoint{"tcp", net.JoinHostPort(ip.String(), port)}, nil
	case "vsock":
		return endpoint{}, fmt.Errorf("address %q: vsock is not supported yet; use unix:///path or tcp://127.0.0.1:port", raw)
	}
	return endpoint{}, fmt.Errorf("address %q: want unix:///path or tcp://127.0.0.1:port", raw)
}

// Check reports whether an address is one that Listen and Dial take.
func Check(raw string) error {
	_, err := parse(raw)
	return err
}

// URL is the address of a listener in the form that Listen and Dial take.
func URL(l net.Listener) string {
	if a := l.Addr(); a.Network() == "unix" {
		return "unix://" + a.String()
	}
	return "tcp://" + l.Addr().String()
}

// Listen opens an address: unix:///path (mode 0660; a socket that a dead process
// left behind is removed, one that answers is an error) or tcp://127.0.0.1:port
// (port 0 takes a free one; see URL). Closing the listener removes its socket.
func Listen(raw string) (net.Listener, error) {
	e, err := parse(raw)
	if err != nil {
		return nil, err
	}
	if e.network == "tcp" {
		l, err := net.Listen("tcp", e.address)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", raw, err)
		}
		return l, nil
	}
	if err := removeStale(e.address); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", raw, err)
	}
	// A socket's mode at bind is its descriptor's mode less the umask
	// (net/unix/af_unix.c unix_bind_bsd), so it is never open wider than meant.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var inner error
		return errors.Join(c.Control(func(fd uintptr) { inner = unix.Fchmod(int(fd), socketMode) }), inner)
	}}
	l, err := lc.Listen(context.Background(), "unix", e.address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", raw, err)
	}
	if err := os.Chmod(e.address, socketMode); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", raw, err)
	}
	return l, nil
}

// removeStale removes a socket nobody listens on. Anything else at path is left
// alone and is an error.
func removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	c, err := net.DialTimeout("unix", path, connectTimeout)
	if err == nil {
		c.Close()
		return fmt.Errorf("%s: somebody listens there already", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

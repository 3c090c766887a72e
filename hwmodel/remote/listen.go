package remote

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// socketMode is what the sockets of all daemons have: owner and group.
const socketMode = 0o660

// Listen listens at a URL, which is unix:// and a path. A socket that is left
// of an earlier life is replaced, after making sure that nobody answers there.
func Listen(url string) (net.Listener, error) {
	path, err := socketPath(url)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if errors.Is(err, unix.EADDRINUSE) {
		if err := removeStale(path); err != nil {
			return nil, fmt.Errorf("listen at %s: %w", url, err)
		}
		listener, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", url, err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		listener.Close()
		return nil, fmt.Errorf("listen at %s: %w", url, err)
	}
	return listener, nil
}

// removeStale removes a socket at which nobody listens.
func removeStale(path string) error {
	if st, err := os.Lstat(path); err != nil || st.Mode().Type() != os.ModeSocket {
		return errors.Join(errors.New("there is something that is not a socket"), err)
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return errors.New("somebody listens there already")
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

func socketPath(url string) (string, error) {
	path, ok := strings.CutPrefix(url, "unix://")
	if !ok || path == "" {
		return "", fmt.Errorf("device URL %q: expected unix:// and the path of a socket", url)
	}
	return path, nil
}

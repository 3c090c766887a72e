package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// probe asks a daemon for a sign of life: that it takes connections. A question
// would have to wait for whom it needs to answer, who may be dead.
func probe(ctx context.Context, state, name string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(state, name+".sock"))
	if err != nil {
		return err
	}
	return conn.Close()
}

// Start starts a daemon of a simulation again and returns when it answers.
func Start(ctx context.Context, state, name string) error {
	r, err := running(state, name)
	if err != nil {
		return err
	}
	p, err := findDaemon(state, name)
	if err != nil {
		return err
	}
	if p != nil {
		defer p.close()
		return usage("start %s: it is already running (process %d)", name, p.pid)
	}
	if probe(ctx, state, name) == nil {
		return usage("start %s: it is already running: its socket answers, by a process that is none of ours", name)
	}
	ns, err := r.home()
	if err != nil {
		return err
	}
	defer ns.Close()
	cmd, err := launch(state, name, ns)
	if errors.Is(err, unix.EPERM) && r.PID > 0 {
		return fmt.Errorf("%w; enter the simulation's namespaces first: nsenter --user --net --mount --preserve-credentials -t %d", err, r.PID)
	} else if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	return awaitDaemon(ctx, state, name, ended)
}

// Kill kills a daemon without warning, and returns when it is gone.
func Kill(state, name string) error {
	if _, err := running(state, name); err != nil {
		return err
	}
	killed, err := endDaemon(state, name, (*process).kill)
	if killed == 0 && err == nil {
		return usage("kill %s: it is not running", name)
	}
	return err
}

// running loads the record of a simulation that is up.
func running(state, name string) (*Record, error) {
	if !IsDaemon(name) {
		return nil, usage("%q is none of agent, device, shim", name)
	}
	r, err := Load(state)
	if errors.Is(err, os.ErrNotExist) {
		return nil, unreachable("no simulation in %s", state)
	}
	return r, err
}

// simProcess opens the process that holds the simulation, nil if it is gone.
func (r *Record) simProcess() (*process, error) {
	if r.PID <= 0 {
		return nil, nil
	}
	fd, err := unix.PidfdOpen(r.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("open process %d: %w", r.PID, err)
	}
	p := &process{r.PID, fd}
	if started, err := startTimeOf(r.PID); err != nil || started != r.StartTime || p.ended() {
		p.close()
		return nil, nil
	}
	return p, nil
}

// home opens the network namespace in which the simulation was started: the
// daemons live there, whoever starts them.
func (r *Record) home() (*os.File, error) {
	p, err := r.simProcess()
	if err != nil || p == nil {
		return os.Open("/proc/self/ns/net")
	}
	defer p.close()
	return os.Open(fmt.Sprintf("/proc/%d/ns/net", p.pid))
}

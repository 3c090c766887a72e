package sim

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// downTime is how long a simulation may take to take itself down: three
// daemons that all need force.
const downTime = 3*stopTime + killTime

// Down ends a simulation and removes all that it made. None there is fine. It
// works whoever of the simulation's processes is dead.
func Down(state string) error {
	r, err := Load(state)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	home, err := r.home()
	if err != nil {
		return err
	}
	defer home.Close()
	gone, err := r.endSim(state)
	if gone || err != nil {
		return err
	}
	return errors.Join(r.stopDaemons(), r.undo(home))
}

// endSim ends the process that holds the simulation. gone is true if that took
// everything else away too.
func (r *Record) endSim(state string) (gone bool, err error) {
	p, err := r.simProcess()
	if err != nil || p == nil {
		return false, err
	}
	defer p.close()
	if err := p.signal(syscall.SIGTERM); err != nil {
		return false, fmt.Errorf("stop the simulation (process %d): %w", p.pid, err)
	}
	if !p.wait(downTime) {
		if err := p.kill("the simulation"); err != nil {
			return false, err
		}
	}
	left, err := Load(state)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return true, nil
	case err != nil:
		return false, err
	}
	*r = *left
	return false, nil
}

// stopDaemons ends what runs, whoever started it.
func (r *Record) stopDaemons() error {
	var errs []error
	for _, name := range slices.Backward(daemons) {
		_, err := endDaemon(r.State, name, (*process).stop)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// undo removes what was made, when every process is gone. What is not there is
// fine: it can be repeated.
func (r *Record) undo(home *os.File) error {
	var errs []error
	if r.BPFFS != "" {
		if err := unix.Unmount(r.BPFFS, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", r.BPFFS, err))
		}
	}
	for i := range r.Attached {
		errs = append(errs, r.Attached[i].restore(home))
	}
	for _, name := range r.Namespaces {
		errs = append(errs, deleteNetns(name))
	}
	if err := errors.Join(errs...); err != nil {
		return err // sim.json stays: down can be repeated
	}
	return r.removeState()
}

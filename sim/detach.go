package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// runDetached runs this very command line in the background and returns when it
// is ready, or with its error.
func runDetached(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{}
	for _, a := range os.Args[1:] {
		if a != "--detach" && !strings.HasPrefix(a, "--detach=") {
			args = append(args, a)
		}
	}
	// What it says until it is ready goes to our stderr; later to DIR/sim.log.
	cmd := exec.Command(self, append(args, "--detached")...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start in the background: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	said, err := io.ReadAll(out) // ends when it is ready, or dead
	if err != nil {
		return fmt.Errorf("start in the background: %w", err)
	}
	if bytes.Equal(said, []byte("ready\n")) {
		return cmd.Process.Release()
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return &Error{Exit: exit.ExitCode(), Err: ErrSaid}
	case err != nil:
		return fmt.Errorf("the simulation in the background: %w", err)
	}
	return errors.New("the simulation ended before it was ready")
}

// ErrSaid is the error of another process of this program that has printed its own.
var ErrSaid = errors.New("the process that did the work has failed; it has said why")

// leaveParent lets the parent go: from now on the output is a file's.
func (f *upFlags) leaveParent(log zerolog.Logger) {
	if err := redirect(f.cfg.file("sim.log"), os.Stderr); err != nil {
		log.Warn().Err(err).Msg("no log file")
		if err := redirect(os.DevNull, os.Stderr); err != nil {
			return // nothing left to say it to
		}
	}
	if err := redirect(os.DevNull, os.Stdout); err != nil {
		log.Error().Err(err).Msg("cannot let the parent go")
	}
}

// redirect makes a standard file write to another path.
func redirect(path string, standard *os.File) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Dup3(int(f.Fd()), int(standard.Fd()), 0)
}

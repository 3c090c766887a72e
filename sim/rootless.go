package sim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// rootlessEnv marks the process that runs inside the namespaces made for
// somebody who is not root.
const rootlessEnv = "ANTIPHON_ROOTLESS"

// IsRootless reports whether this process is the inner run that Rootless made.
func IsRootless() bool { return os.Getenv(rootlessEnv) != "" }

// Rootless runs this program's command line once more, as root of user, network
// and mount namespaces of its own, if the caller is not root. done is false if
// the caller is root, or is that inner run, and shall go on; otherwise err is
// what the command ends with. What is left out inside is the caller's to say:
// BPF maps and existing netdevs.
func Rootless(ctx context.Context) (done bool, err error) {
	if IsRootless() {
		return false, furnish()
	}
	if os.Geteuid() == 0 {
		return false, nil
	}
	self, err := os.Executable()
	if err != nil {
		return true, err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), rootlessEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	if err := cmd.Start(); err != nil {
		return true, fmt.Errorf("without root a user namespace is needed, and it cannot be made: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return true, &Error{Exit: exit.ExitCode(), Err: ErrSaid}
	}
	return true, err
}

// furnish makes the inner mount namespace a place where network namespaces can
// have names: a /run of its own, with the user's folder in it.
func furnish() error {
	if unix.Access(netnsDir, unix.W_OK) == nil {
		return nil // has been done by an outer command
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	run := filepath.Dir(netnsDir)
	users, err := os.Open(filepath.Join(run, "user"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := unix.Mount("tmpfs", run, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount a private %s: %w", run, err)
	}
	if users != nil {
		defer users.Close()
		if err := os.Mkdir(users.Name(), 0o755); err != nil {
			return err
		}
		source := fmt.Sprintf("/proc/self/fd/%d", users.Fd())
		if err := unix.Mount(source, users.Name(), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("keep %s: %w", users.Name(), err)
		}
	}
	return os.MkdirAll(netnsDir, 0o755)
}

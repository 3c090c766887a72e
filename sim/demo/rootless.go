package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// userNamespace is the environment variable that tells a process it is the demo
// inside its own user, mount and network namespaces.
const userNamespace = "ANTIPHON_DEMO_USERNS"

// ExitNotHere is how the demo inside says that the namespace is of no use.
const ExitNotHere = 77

// notHere is why a tier cannot be had on this machine.
type notHere struct{ err error }

func (n *notHere) Error() string { return n.err.Error() }

// inUserNamespace runs the demo again as root of namespaces of its own.
func inUserNamespace(ctx context.Context, o Options) error {
	if tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		return &notHere{err}
	} else {
		tun.Close()
	}
	cmd := exec.CommandContext(ctx, o.Antiphon, "sim", "demo", "--state", o.State)
	cmd.Env = append(os.Environ(), userNamespace+"=1")
	cmd.Stdout, cmd.Stderr = o.Out, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	err := cmd.Run()
	exit := (*exec.ExitError)(nil)
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == ExitNotHere:
		return &notHere{errors.New("ip netns does not work in it")}
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		return ErrDisagree
	case errors.Is(err, os.ErrPermission), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EINVAL):
		return &notHere{fmt.Errorf("make a user namespace: %w", err)}
	}
	return err
}

// PrepareUserNamespace gives the demo inside a user namespace a /run of its own,
// where `ip netns` can keep names. It reports whether the demo can go on.
func PrepareUserNamespace() bool {
	if os.Getenv(userNamespace) == "" {
		return true
	}
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") == nil && unix.Mount("tmpfs", "/run", "tmpfs", 0, "") == nil
}

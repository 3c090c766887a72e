package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// daemons in the order in which they start; they end in the reverse order.
var daemons = []string{"device", "agent", "shim"}

// programs are the binaries of the daemons.
var programs = map[string]string{"device": "antiphon-device", "agent": "antiphond", "shim": "antiphon-shim"}

const (
	// stopTime is how long a process may take to end by SIGTERM.
	stopTime = 5 * time.Second
	// killTime is how long the kernel may take to end one by SIGKILL.
	killTime = 10 * time.Second
	// answerTime is how long a daemon may take until its socket answers.
	answerTime = 20 * time.Second
	// pollTime is between two tries to reach a socket: the kernel has no way
	// to wait for a listener.
	pollTime = 10 * time.Millisecond
)

// IsDaemon reports whether name is agent, device or shim.
func IsDaemon(name string) bool { return slices.Contains(daemons, name) }

// findProgram looks for a program beside this one, then in PATH.
func findProgram(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), name)
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("find %s: neither beside antiphon nor in PATH", name)
	}
	return filepath.Abs(path)
}

// shellLine quotes a command line for a shell.
func shellLine(args []string) string {
	var b strings.Builder
	for i, a := range args {
		if i > 0 {
			b.WriteByte(' ')
		}
		plain := a != "" && strings.IndexFunc(a, func(c rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,@+", c)
		}) < 0
		if plain {
			b.WriteString(a)
		} else {
			b.WriteString("'" + strings.ReplaceAll(a, "'", `'\''`) + "'")
		}
	}
	return b.String()
}

// commands returns the command line of every daemon.
func (r *Record) commands() (map[string][]string, error) {
	lines := map[string][]string{}
	for name, program := range programs {
		path, err := findProgram(program)
		if err != nil {
			return nil, err
		}
		lines[name] = []string{path}
	}
	add := func(name string, args ...string) { lines[name] = append(lines[name], args...) }
	add("device", "--listen", "unix://"+r.file("device.sock"), "--ports", r.file("sim.sock"), "--counters", r.file("device.counters"))
	if r.Pipe != "" {
		add("device", "--pipe", r.Pipe)
	}
	for _, s := range r.Sizes {
		add("device", "--size", s)
	}
	add("agent", "--listen", r.Listen, "--api", r.file("agent.sock"), "--device", "unix://"+r.file("device.sock"), "--state", r.State)
	add("shim", "--agent", r.Listen, "--api", r.file("shim.sock"))
	if r.Netns != "" {
		add("shim", "--netns", r.Netns)
	}
	if r.BPFFS != "" {
		add("shim", "--bpffs", r.BPFFS)
	}
	if r.LogLevel != "" {
		for _, d := range daemons {
			add(d, "--log-level", r.LogLevel)
		}
	}
	return lines, nil
}

// process is a running process that is ours.
type process struct {
	pid   int
	pidfd int
}

// pidOfFile returns the process id in a PID file, 0 if there is no file.
func pidOfFile(path string) (int, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 0 {
		return 0, fmt.Errorf("%s: %q is no process id", path, strings.TrimSpace(string(data)))
	}
	return pid, nil
}

// pidOfSocket returns the process that listens at a unix socket, 0 if none does.
func pidOfSocket(path string) (int, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return 0, nil
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	var peerErr error
	err = raw.Control(func(fd uintptr) {
		peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, peerErr); err != nil {
		return 0, fmt.Errorf("ask who listens at %s: %w", path, err)
	}
	return int(peer.Pid), nil
}

// openProcess opens a process, if it runs and its command line has all the words
// (so that a PID that was given out again is left alone). It returns nil if not.
func openProcess(pid int, words ...string) (*process, error) {
	if pid == 0 {
		return nil, nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := &process{pid, fd}
	// After the pidfd: what is read is about this very process, unless it has
	// ended meanwhile, and then it is not running.
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	ours := err == nil && len(line) > 0 && !p.ended()
	for _, w := range words {
		ours = ours && bytes.Contains(line, []byte(w))
	}
	if !ours {
		p.close()
		return nil, nil
	}
	return p, nil
}

func (p *process) close() { unix.Close(p.pidfd) }

// ended reports whether the process has ended, reaped by its parent or not.
func (p *process) ended() bool { return p.wait(0) }

// wait waits until the process has ended, and reports whether it did in time.
func (p *process) wait(limit time.Duration) bool {
	end := time.Now().Add(limit)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}, int(max(0, time.Until(end).Milliseconds())))
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n > 0
		}
	}
}

func (p *process) signal(s syscall.Signal) error {
	err := unix.PidfdSendSignal(p.pidfd, s, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// stop ends the process, by force if it must.
func (p *process) stop(name string) error {
	if err := p.signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("stop %s (process %d): %w", name, p.pid, err)
	}
	if p.wait(stopTime) {
		return nil
	}
	return p.kill(name)
}

func (p *process) kill(name string) error {
	if err := p.signal(unix.SIGKILL); err != nil {
		return fmt.Errorf("kill %s (process %d): %w", name, p.pid, err)
	}
	if !p.wait(killTime) {
		return fmt.Errorf("kill %s: process %d is still there", name, p.pid)
	}
	return nil
}

// findDaemon returns a daemon's process, nil if it is not running: the one that
// was started here, or else the one that answers at its socket, whoever started
// it.
func findDaemon(state, name string) (*process, error) {
	pid, err := pidOfFile(filepath.Join(state, name+".pid"))
	if err != nil {
		return nil, err
	}
	if p, err := openProcess(pid, programs[name], state); p != nil || err != nil {
		return p, err
	}
	if pid, err = pidOfSocket(filepath.Join(state, name+".sock")); err != nil {
		return nil, err
	}
	return openProcess(pid, programs[name], state)
}

// endDaemon ends a daemon by a way to end a process, and again as long as there is
// another: somebody may have started one by hand. It returns how many it ended.
func endDaemon(state, name string, end func(*process, string) error) (ended int, err error) {
	for {
		p, err := findDaemon(state, name)
		if p == nil || err != nil {
			return ended, err
		}
		err = end(p, name)
		p.close()
		if err != nil {
			return ended, err
		}
		ended++
	}
}

// launch starts a daemon's command line as a process that outlives this one, in
// a network namespace, and writes its PID file. The caller waits for cmd.
func launch(state, name string, ns *os.File) (*exec.Cmd, error) {
	line, err := os.ReadFile(filepath.Join(state, name+".cmd"))
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(state, name+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command("/bin/sh", "-c", "exec "+strings.TrimSpace(string(line)))
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := inNetns(ns, cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := writeFile(filepath.Join(state, name+".pid"), fmt.Appendf(nil, "%d\n", cmd.Process.Pid)); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return cmd, nil
}

// awaitDaemon waits until a daemon answers; ended closes when its process is gone.
func awaitDaemon(ctx context.Context, state, name string, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	tick := time.NewTicker(pollTime)
	defer tick.Stop()
	for {
		err := probe(ctx, state, name)
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("%s ended at once:\n%s", name, lastLines(filepath.Join(state, name+".log")))
		case <-ctx.Done():
			return unreachable("%s does not answer at its socket: %w", name, err)
		case <-tick.C:
		}
	}
}

// lastLines returns the end of a log, indented.
func lastLines(path string) string {
	const most = 10
	data, err := os.ReadFile(path)
	if err != nil {
		return "    " + err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return "    " + strings.Join(lines[max(0, len(lines)-most):], "\n    ")
}

// startTimeOf returns field 22 of /proc/PID/stat: when a process started.
func startTimeOf(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, field 2, is in parentheses and may contain anything.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields after the name", pid, len(fields))
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
